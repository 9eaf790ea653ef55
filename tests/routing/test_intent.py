"""Lists of cluster states; each is expanded five ways, and the Intent must come out the same.

A state is built from objects in some order. compute_intent must not care about that order, about empty objects
beside it, or about what came before.
"""

import ipaddress
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from calico_py.model.bgp import BGPConfiguration, FelixConfiguration, LearnedRoute, LearnedRoutes, Path
from calico_py.model.bgp import ProgramClusterRoutes as Program
from calico_py.model.blocks import AffinityState, Attribute, BlockAffinity, IPAMBlock
from calico_py.model.cluster import ClusterState, Local
from calico_py.model.intent import Candidate, Intent, RouteClass, RouteIntent
from calico_py.model.kinds import BGP_CONFIGURATIONS
from calico_py.model.meta import Meta
from calico_py.model.net import Network
from calico_py.model.nodes import Node
from calico_py.model.pools import EncapMode, IPPool
from calico_py.routing.compute import compute_intent

NET = ipaddress.ip_network
IP = ipaddress.ip_address
LOCAL = Local("node1", ipip_receiver=True, uplink_mtu={4: 1500, 6: 1500})

Obj = Node | IPPool | BlockAffinity | IPAMBlock | BGPConfiguration | FelixConfiguration


def node(name: str, address: str, *, receiver: str | None = "10.244.0.1", ipv6: str | None = None) -> Node:
    return Node(
        Meta(name),
        ipv4=ipaddress.IPv4Interface(address),
        ipv6=ipaddress.IPv6Interface(ipv6) if ipv6 else None,
        ipip_tunnel=ipaddress.IPv4Address(receiver) if receiver else None,
    )


def pool(mode: EncapMode, cidr: str = "10.244.0.0/16", name: str = "pool", created: str = "1") -> IPPool:
    return IPPool(Meta(name, creation_timestamp=created), NET(cidr), ipip_mode=mode)


def claim(holder: str, cidr: str, state: AffinityState = AffinityState.CONFIRMED, created: str = "1") -> BlockAffinity:
    name = f"{holder}-{cidr}".replace("/", "-")
    return BlockAffinity(Meta(name, creation_timestamp=created), NET(cidr), holder, state)


def learned(*pairs: tuple[str, str]) -> LearnedRoutes:
    routes = {}
    for prefix, hop in pairs:
        path = Path(nlri=NET(prefix), peer=IP(hop), next_hop=IP(hop))
        routes[NET(prefix)] = LearnedRoute(NET(prefix), (IP(hop),), path)
    return LearnedRoutes(routes)


def state_of(objects: Sequence[Obj]) -> ClusterState:
    """What reflectors would hold after these objects came in this order."""
    out = ClusterState()
    for obj in objects:
        match obj:
            case Node():
                out = replace(out, nodes={**out.nodes, obj.name: obj})
            case IPPool():
                out = replace(out, pools={**out.pools, obj.name: obj})
            case BlockAffinity():
                out = replace(out, affinities={**out.affinities, obj.meta.name: obj})
            case IPAMBlock():
                out = replace(out, blocks={**out.blocks, obj.cidr: obj})
            case BGPConfiguration():
                out = replace(out, bgp=obj)
            case FelixConfiguration():
                out = replace(out, felix=obj)
    return out


NODES: list[Obj] = [
    node("node1", "192.168.1.11/24"),
    node("node2", "192.168.1.12/24"),
    node("node3", "192.168.2.13/24"),
]
BLOCKS: list[Obj] = [claim("node1", "10.244.1.0/26"), claim("node2", "10.244.2.0/26"), claim("node3", "10.244.3.0/26")]
PATHS = learned(("10.244.2.0/26", "192.168.1.12"), ("10.244.3.0/26", "192.168.2.13"))
API_FED: list[Obj] = [
    FelixConfiguration(Meta("default"), Program.ENABLED),
    BGPConfiguration(Meta("default"), program_cluster_routes=Program.DISABLED),
]


def borrowed_block() -> IPAMBlock:
    return IPAMBlock(
        Meta("10-244-2-0-26"),
        ipaddress.IPv4Network("10.244.2.0/26"),
        affinity="host:node2",
        allocations=(0, 1, *[None] * 62),
        unallocated=tuple(range(2, 64)),
        attributes=(Attribute("h1", {"node": "node2"}), Attribute("h2", {"node": "node3"})),
    )


def ways(intent: Intent, prefix: str) -> list[tuple[str, str, bool]]:
    """The candidates of a prefix as (class, via, fresh)."""
    return [
        (c.route.route_class.value, ",".join(map(str, c.route.via)), c.fresh)
        for c in intent.destinations[NET(prefix)].candidates
    ]


# name, objects, learned routes, {prefix: candidates}
STATES: list[tuple[str, list[Obj], LearnedRoutes, dict[str, list[tuple[str, str, bool]]]]] = [
    ("empty", [], LearnedRoutes(), {}),
    (
        "always",
        [*NODES, *BLOCKS, pool(EncapMode.ALWAYS)],
        LearnedRoutes(),
        {
            "10.244.1.0/26": [("blackhole", "", True)],
            "10.244.2.0/26": [("tunnel", "192.168.1.12", True), ("direct", "192.168.1.12", False)],
            "10.244.3.0/26": [("tunnel", "192.168.2.13", True), ("direct", "192.168.2.13", False)],
        },
    ),
    (
        "always, a receiver that is not up",
        [NODES[0], node("node2", "192.168.1.12/24", receiver=None), BLOCKS[0], BLOCKS[1], pool(EncapMode.ALWAYS)],
        PATHS,
        {
            "10.244.1.0/26": [("blackhole", "", True)],
            "10.244.2.0/26": [
                ("tunnel", "192.168.1.12", False),
                ("bgp", "192.168.1.12", False),
                ("direct", "192.168.1.12", False),
            ],
        },
    ),
    (
        "cross-subnet",
        [*NODES, *BLOCKS, pool(EncapMode.CROSS_SUBNET)],
        LearnedRoutes(),
        {
            "10.244.1.0/26": [("blackhole", "", True)],
            "10.244.2.0/26": [("direct", "192.168.1.12", True), ("tunnel", "192.168.1.12", False)],
            "10.244.3.0/26": [("tunnel", "192.168.2.13", True), ("direct", "192.168.2.13", False)],
        },
    ),
    (
        "never, learned",
        [*NODES, *BLOCKS, pool(EncapMode.NEVER)],
        PATHS,
        {
            "10.244.1.0/26": [("blackhole", "", True)],
            "10.244.2.0/26": [
                ("bgp", "192.168.1.12", True),
                ("tunnel", "192.168.1.12", False),
                ("direct", "192.168.1.12", False),
            ],
            "10.244.3.0/26": [
                ("bgp", "192.168.2.13", True),
                ("tunnel", "192.168.2.13", False),
                ("direct", "192.168.2.13", False),
            ],
        },
    ),
    (
        "never, one path missing: an installed tunnel route is kept, none is made",
        [*NODES, *BLOCKS, pool(EncapMode.NEVER)],
        learned(("10.244.2.0/26", "192.168.1.12")),
        {
            "10.244.1.0/26": [("blackhole", "", True)],
            "10.244.2.0/26": [
                ("bgp", "192.168.1.12", True),
                ("tunnel", "192.168.1.12", False),
                ("direct", "192.168.1.12", False),
            ],
            "10.244.3.0/26": [("tunnel", "192.168.2.13", False), ("direct", "192.168.2.13", False)],
        },
    ),
    (
        "never, fed by the API",
        [*NODES, *BLOCKS, pool(EncapMode.NEVER), *API_FED],
        LearnedRoutes(),
        {
            "10.244.1.0/26": [("blackhole", "", True)],
            "10.244.2.0/26": [("direct", "192.168.1.12", True), ("tunnel", "192.168.1.12", False)],
            "10.244.3.0/26": [("tunnel", "192.168.2.13", False)],
        },
    ),
    (
        "never, for a moment nobody's: the two objects of a handover are applied one after the other",
        [
            *NODES,
            *BLOCKS[:2],
            pool(EncapMode.NEVER),
            BGPConfiguration(Meta("default"), program_cluster_routes=Program.DISABLED),
        ],
        PATHS,
        {
            "10.244.1.0/26": [("blackhole", "", True)],
            "10.244.2.0/26": [
                ("tunnel", "192.168.1.12", False),
                ("direct", "192.168.1.12", False),
                ("bgp", "192.168.1.12", False),
            ],
        },
    ),
    (
        "a mode without a data plane changes nothing that is installed",
        [*NODES, *BLOCKS[:2], replace(pool(EncapMode.NEVER), vxlan_mode=EncapMode.ALWAYS)],
        PATHS,
        {
            "10.244.1.0/26": [("blackhole", "", True)],
            "10.244.2.0/26": [
                ("tunnel", "192.168.1.12", False),
                ("direct", "192.168.1.12", False),
                ("bgp", "192.168.1.12", False),
            ],
        },
    ),
    (
        "pending claims and claims under deletion are not routed",
        [
            *NODES,
            claim("node2", "10.244.2.0/26", AffinityState.PENDING),
            claim("node3", "10.244.3.0/26", AffinityState.PENDING_DELETION),
            pool(EncapMode.ALWAYS),
        ],
        LearnedRoutes(),
        {},
    ),
    (
        "a prefix that only BGP knows; not one inside a pool that the API feeds, nor inside an own block",
        [*NODES, BLOCKS[0], pool(EncapMode.ALWAYS)],
        learned(
            ("172.20.0.0/16", "192.168.1.12"), ("10.244.9.0/26", "192.168.1.12"), ("10.244.1.7/32", "192.168.1.12")
        ),
        {"10.244.1.0/26": [("blackhole", "", True)], "172.20.0.0/16": [("bgp", "192.168.1.12", True)]},
    ),
    (
        "a prefix that would take a node off the subnet; not where the node is elsewhere, nor a stranger's address",
        [*NODES, node("node4", "192.168.2.14/32")],
        learned(
            ("192.168.1.12/32", "192.168.1.99"),
            ("192.168.1.8/29", "192.168.1.99"),
            ("192.168.1.77/32", "192.168.1.99"),
            ("192.168.1.11/32", "192.168.1.99"),
            ("192.168.1.10/31", "192.168.1.99"),
            ("192.168.1.0/24", "192.168.1.99"),
            ("192.168.2.13/32", "192.168.1.99"),
            ("192.168.0.0/16", "192.168.1.99"),
        ),
        {
            "192.168.1.12/32": [],
            "192.168.1.8/29": [],
            "192.168.1.77/32": [("bgp", "192.168.1.99", True)],
            "192.168.1.10/31": [("bgp", "192.168.1.99", True)],
            "192.168.1.0/24": [("bgp", "192.168.1.99", True)],  # plan knows that it is connected
            "192.168.2.13/32": [("bgp", "192.168.1.99", True)],
            "192.168.0.0/16": [("bgp", "192.168.1.99", True)],
        },
    ),
    (
        "a borrowed address has a route of its own",
        [*NODES, *BLOCKS, pool(EncapMode.ALWAYS), borrowed_block()],
        LearnedRoutes(),
        {
            "10.244.1.0/26": [("blackhole", "", True)],
            "10.244.2.0/26": [("tunnel", "192.168.1.12", True), ("direct", "192.168.1.12", False)],
            "10.244.2.1/32": [("tunnel", "192.168.2.13", True), ("direct", "192.168.2.13", False)],
            "10.244.3.0/26": [("tunnel", "192.168.2.13", True), ("direct", "192.168.2.13", False)],
        },
    ),
    (
        "IPv6 beside IPv4",
        [
            node("node1", "192.168.1.11/24", ipv6="fd00::11/64"),
            node("node2", "192.168.1.12/24", ipv6="fd00::12/64"),
            claim("node2", "10.244.2.0/26"),
            claim("node2", "fd10::40/122"),
            pool(EncapMode.ALWAYS),
            pool(EncapMode.NEVER, "fd10::/48", "pool6"),
        ],
        learned(("fd10::40/122", "fd00::12")),
        {
            "10.244.2.0/26": [("tunnel", "192.168.1.12", True), ("direct", "192.168.1.12", False)],
            "fd10::40/122": [("bgp", "fd00::12", True), ("tunnel", "fd00::12", False), ("direct", "fd00::12", False)],
        },
    ),
    (
        "a node without an address has no route",
        [NODES[0], Node(Meta("node2")), BLOCKS[1], pool(EncapMode.ALWAYS)],
        LearnedRoutes(),
        {"10.244.2.0/26": []},
    ),
]


def reversed_order(objects: list[Obj]) -> list[Obj]:
    return objects[::-1]


def shuffled(objects: list[Obj]) -> list[Obj]:
    out = list(objects)
    random.Random(7).shuffle(out)
    return out


def strangers_inserted(objects: list[Obj]) -> list[Obj]:
    """Objects that matter to nobody: a node and a pool without blocks, a deleted claim."""
    gone = replace(claim("node2", "10.244.77.0/26"), deleted=True)
    return [IPPool(Meta("zz-other", creation_timestamp="9"), NET("172.31.0.0/24")), gone, *objects]


def repeated(objects: list[Obj]) -> list[Obj]:
    """The same objects twice, as after a relist."""
    return [*objects, *objects]


EXPANDERS: list[Callable[[list[Obj]], list[Obj]]] = [list, reversed_order, shuffled, strangers_inserted, repeated]


@pytest.mark.parametrize("expand", EXPANDERS)
@pytest.mark.parametrize(("name", "objects", "paths", "expected"), STATES, ids=[s[0] for s in STATES])
def test_candidates(
    name: str,
    objects: list[Obj],
    paths: LearnedRoutes,
    expected: dict[str, list[tuple[str, str, bool]]],
    expand: Callable[[list[Obj]], list[Obj]],
) -> None:
    del name
    intent = compute_intent(state_of(expand(objects)), paths, LOCAL)
    assert {str(prefix): ways(intent, str(prefix)) for prefix in intent.destinations} == expected


@pytest.mark.parametrize("after", STATES, ids=[s[0] for s in STATES])
def test_nothing_is_remembered(after: Any) -> None:
    """What was computed before has no bearing: the same state gives an equal Intent."""
    alone = compute_intent(state_of(after[1]), after[2], LOCAL)
    for before in STATES:
        compute_intent(state_of(before[1]), before[2], LOCAL)
        assert compute_intent(state_of(after[1]), after[2], LOCAL) == alone


def test_waiting_names_what_is_missing() -> None:
    objects = [NODES[0], node("node2", "192.168.1.12/24", receiver=None), BLOCKS[1], pool(EncapMode.ALWAYS)]
    waiting = compute_intent(state_of(objects), LearnedRoutes(), LOCAL).destinations[NET("10.244.2.0/26")].waiting
    assert "node2" in waiting
    assert "projectcalico.org/IPv4IPIPTunnelAddr" in waiting
    never = compute_intent(state_of([*NODES, BLOCKS[1], pool(EncapMode.NEVER)]), LearnedRoutes(), LOCAL)
    assert "waiting for BGP" in never.destinations[NET("10.244.2.0/26")].waiting


def test_a_peer_that_announces_a_nodes_address_is_told_of() -> None:
    paths = learned(("192.168.1.12/32", "192.168.1.99"))
    waiting = compute_intent(state_of(NODES), paths, LOCAL).destinations[NET("192.168.1.12/32")].waiting
    assert "192.168.1.12/32 holds the address of node node2" in waiting


def test_overlapping_pools_leave_the_younger_unused() -> None:
    young = pool(EncapMode.NEVER, "10.244.128.0/17", "young", created="2")
    intent = compute_intent(state_of([*NODES, young, pool(EncapMode.ALWAYS)]), LearnedRoutes(), LOCAL)
    (problem,) = intent.problems
    assert (problem.name, problem.reason) == ("young", "CIDROverlap")
    assert "overlaps with IPPool pool CIDR 10.244.0.0/16" in problem.message
    assert intent.firewall.pools == {NET("10.244.0.0/16")}


def test_the_firewall_knows_what_a_service_s_connections_leave_with() -> None:
    objects = [node("node1", "192.168.1.11/24", ipv6="fd01::11/64"), node("node2", "192.168.1.12/24")]
    tunnel = ipaddress.IPv4Address("10.244.1.1")
    local = replace(LOCAL, ipip_address=tunnel, uplinks=frozenset({"eth0"}), service_mark=0x4000)
    firewall = compute_intent(state_of(objects), LearnedRoutes(), local).firewall
    assert firewall.own == {IP("192.168.1.11"), IP("fd01::11")}
    assert (firewall.tunnel_address, firewall.service_mark) == (tunnel, 0x4000)
    assert firewall.uplinks == {"eth0"}


def test_two_claims_on_one_block_are_named_and_the_older_counts() -> None:
    objects = [*NODES, claim("node2", "10.244.2.0/26"), claim("node3", "10.244.2.0/26", created="2")]
    intent = compute_intent(state_of([*objects, pool(EncapMode.ALWAYS)]), LearnedRoutes(), LOCAL)
    assert intent.problems[0].reason == "DuplicateAffinity"
    assert ways(intent, "10.244.2.0/26")[0] == ("tunnel", "192.168.1.12", True)


@pytest.mark.parametrize(
    ("felix", "bgp", "problem"),
    [
        (None, None, False),
        (Program.ENABLED, Program.DISABLED, False),
        (Program.NO_ENCAP_ONLY, Program.IPIP_ONLY, False),
        (Program.DISABLED, Program.DISABLED, True),
        (Program.ENABLED, Program.ENABLED, True),
    ],
)
def test_a_pair_that_leaves_routes_to_nobody_or_both(felix: Program | None, bgp: Program | None, problem: bool) -> None:
    objects = [
        *NODES,
        pool(EncapMode.NEVER),
        FelixConfiguration(Meta("default"), felix),
        BGPConfiguration(Meta("default"), program_cluster_routes=bgp),
    ]
    intent = compute_intent(state_of(objects), LearnedRoutes(), LOCAL)
    assert [p.reason for p in intent.problems] == (["ProgramClusterRoutes"] if problem else [])
    tunnel_only = [o for o in objects if not isinstance(o, IPPool)] + [pool(EncapMode.ALWAYS)]
    assert not compute_intent(state_of(tunnel_only), LearnedRoutes(), LOCAL).problems


def test_mesh_and_advertisements_do_not_depend_on_the_mode() -> None:
    for mode in EncapMode:
        intent = compute_intent(state_of([*NODES, *BLOCKS, pool(mode)]), LearnedRoutes(), LOCAL)
        assert {str(p.address) for p in intent.peers} == {"192.168.1.12", "192.168.2.13"}
        assert {str(a.nlri) for a in intent.advertisements} == {"10.244.1.0/26"}
    assert not compute_intent(state_of([*NODES, *BLOCKS]), LearnedRoutes(), replace(LOCAL, bgp=False)).peers


def test_both_sides_of_each_session_connect_and_agree() -> None:
    state = state_of(NODES)
    views = {n: compute_intent(state, LearnedRoutes(), replace(LOCAL, node=n)).peers for n in state.nodes}
    for own, other in itertools.combinations(state.nodes.values(), 2):
        assert own.ipv4 is not None
        assert other.ipv4 is not None
        there = next(p for p in views[own.name] if p.address == other.ipv4.ip)
        back = next(p for p in views[other.name] if p.address == own.ipv4.ip)
        assert not there.passive
        assert not back.passive
        assert (there.local_as, there.peer_as) == (back.peer_as, back.local_as)


def test_a_nodes_own_bgp_configuration_overrides_what_it_sets_and_no_more() -> None:
    def config(name: str, **spec: object) -> BGPConfiguration:
        return BGP_CONFIGURATIONS.decode({"metadata": {"name": name}, "spec": spec})

    state = replace(
        state_of([*NODES[:2], config("default", asNumber=65001, listenPort=1179)]),
        node_bgp={
            "node1": config("node.node1", logSeverityScreen="Debug"),
            "node2": config("node.node2", listenPort=2179),
        },
    )
    (peer,) = compute_intent(state, LearnedRoutes(), Local("node1")).peers
    assert (peer.local_as, peer.peer_as, peer.listen_port, peer.port) == (65001, 65001, 1179, 2179)
    bare = replace(state, bgp=config("default"))
    (peer,) = compute_intent(bare, LearnedRoutes(), Local("node1")).peers
    assert (peer.local_as, peer.peer_as, peer.listen_port, peer.port) == (64512, 64512, 179, 2179)


def test_nodes_with_one_address_make_one_session_and_none_with_oneself() -> None:
    """ExaBGP knows a neighbour by its address; which of two it got depended on the order of a set."""
    twice = [replace(node("node3", "192.168.1.12/24"), as_number=65003), node("node4", "192.168.1.11/24")]
    for objects in ([*NODES[:2], *twice], [*twice, *NODES[:2]]):
        (peer,) = compute_intent(state_of(objects), LearnedRoutes(), Local("node1")).peers
        assert (str(peer.address), peer.peer_as) == ("192.168.1.12", 64512)


def test_export_may_be_forbidden_by_the_pool() -> None:
    closed = replace(pool(EncapMode.NEVER), disable_bgp_export=True)
    assert not compute_intent(state_of([*NODES, *BLOCKS, closed]), LearnedRoutes(), LOCAL).advertisements


def test_tunnel_device() -> None:
    intent = compute_intent(state_of(NODES), LearnedRoutes(), LOCAL)
    assert intent.ipip is not None
    assert (intent.ipip.device, str(intent.ipip.local), intent.ipip.mtu) == ("tunl0", "192.168.1.11", 1480)
    assert compute_intent(state_of(NODES), LearnedRoutes(), replace(LOCAL, ipip_receiver=False)).ipip is None


def test_four_thousand_blocks_are_computed_fast(benchmark_seconds: Callable[[Callable[[], object]], float]) -> None:
    prefixes: list[Network] = list(itertools.islice(NET("10.0.0.0/8").subnets(new_prefix=26), 4000))
    nodes: list[Obj] = [NODES[0], *(node(f"n{i}", f"192.168.{i // 250}.{i % 250 + 1}/16") for i in range(1, 1000))]
    blocks: list[Obj] = [claim(f"n{i % 999 + 1}", str(prefix)) for i, prefix in enumerate(prefixes)]
    state = state_of([*nodes[:1], pool(EncapMode.ALWAYS, "10.0.0.0/8")])
    state = replace(
        state,
        nodes={n.name: n for n in nodes if isinstance(n, Node)},
        affinities={b.meta.name: b for b in blocks if isinstance(b, BlockAffinity)},
    )
    assert benchmark_seconds(lambda: compute_intent(state, LearnedRoutes(), LOCAL)) < 1.0


def test_candidate_defaults_to_fresh() -> None:
    assert Candidate(RouteIntent(NET("10.0.0.0/26"), RouteClass.BLACKHOLE)).fresh
