"""compute_intent: from all that is known to all that should be. Pure, and whole: nothing is carried over."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from calico_py.model.bgp import LearnedRoutes, ProgramClusterRoutes
from calico_py.model.cluster import ClusterState, Local
from calico_py.model.intent import (
    Candidate,
    Destination,
    Firewall,
    Intent,
    IPIPTunnel,
    Problem,
    RouteClass,
    RouteIntent,
)
from calico_py.model.names import IPIP_DEVICE
from calico_py.model.net import FAMILIES, Address, Network, contains, family, host_network
from calico_py.model.nodes import Node
from calico_py.routing.destinations import Programmers, bgp_route, decide_destination, installs_learned, same_subnet
from calico_py.routing.holders import Holder, find_holders
from calico_py.routing.mesh import compute_advertisements, peer_steps
from calico_py.routing.pools import Pools, select_pools
from calico_py.steps import Steps, finish

IPIP_OVERHEAD = 20  # bytes: one more IPv4 header (RFC 2003)


def compute_intent(state: ClusterState, learned: LearnedRoutes, local: Local) -> Intent:
    """What this node's kernel and speaker should look like.

    Without this node's own Node object, or before it has an address, nothing can be said of others: only the
    problems are returned.
    """
    return finish(intent_steps(state, learned, local))


def intent_steps(state: ClusterState, learned: LearnedRoutes, local: Local) -> Steps[Intent]:
    """The same, with pauses."""
    pools = select_pools(state.pools.values())
    holders = find_holders(state.affinities.values(), state.blocks, local.node)
    programmers, pair_problems = _programmers(state, local)
    problems = (*pools.problems, *holders.problems, *pair_problems)
    me = state.nodes.get(local.node)
    if me is None:
        return Intent(problems=problems)
    view = _View(state, learned, me, pools, programmers)
    return Intent(
        destinations=(yield from _destinations(view, holders.by_prefix)),
        ipip=_ipip(local, me),
        ipip_address_gone=local.ipip_address_gone,
        firewall=_firewall(state, pools, local, me),
        peers=(yield from peer_steps(state, me, local.router_id)) if local.bgp else frozenset(),
        advertisements=compute_advertisements(holders.by_prefix.values(), pools, me) if local.bgp else frozenset(),
        problems=problems,
    )


@dataclass(frozen=True, slots=True)
class _View:
    """What every destination is decided by."""

    state: ClusterState
    learned: LearnedRoutes
    me: Node
    pools: Pools
    programmers: Programmers


def _destinations(view: _View, holders: Mapping[Network, Holder]) -> Steps[dict[Network, Destination]]:
    out: dict[Network, Destination] = {}
    for prefix, holder in holders.items():
        yield
        pool = view.pools.find(prefix)
        if holder.node != view.me.name:
            out[prefix] = decide_destination(
                prefix,
                pool=pool,
                me=view.me,
                remote=view.state.nodes.get(holder.node),
                remote_name=holder.node,
                learned=view.learned.routes.get(prefix),
                programmers=view.programmers,
            )
        elif not holder.borrowed and prefix.num_addresses > 1:
            hole = Candidate(RouteIntent(prefix, RouteClass.BLACKHOLE))
            out[prefix] = Destination(prefix, (hole,), pool=pool.name if pool else "", node=view.me.name)
    out.update((yield from _learned_only(view, holders)))
    return out


def _learned_only(view: _View, holders: Mapping[Network, Holder]) -> Steps[dict[Network, Destination]]:
    """Prefixes that only BGP knows: a router's, a foreign node's. Never one that would capture our own addresses."""
    own = [prefix for prefix, holder in holders.items() if holder.node == view.me.name]
    own += [host_network(address.ip) for address in map(view.me.address, FAMILIES) if address is not None]
    on_link = _on_link(view.state.nodes.values(), view.me)
    out = {}
    for prefix, route in view.learned.routes.items():
        yield
        if prefix in holders:
            continue
        pool = view.pools.find(prefix)
        if not installs_learned(pool, view.programmers):
            continue
        if any(contains(ours, prefix) for ours in own):
            continue
        taken = _takes(prefix, view.me, on_link)
        ways = () if taken else (Candidate(bgp_route(route)),)
        out[prefix] = Destination(prefix, ways, taken, pool=pool.name if pool else "")
    return out


def _on_link(nodes: Iterable[Node], me: Node) -> Mapping[Address, str]:
    """The addresses of the other nodes of this node's subnets, each with the node's name."""
    others = ((node, node.address(fam), me.address(fam)) for node in nodes if node is not me for fam in FAMILIES)
    return {far.ip: node.name for node, far, own in others if far is not None and same_subnet(own, far.ip)}


def _takes(prefix: Network, me: Node, on_link: Mapping[Address, str]) -> str:
    """Whose packets the route would lead astray, in a sentence; empty if nobody's.

    As wide as the subnet it leads nobody astray: the connected route is as long.
    """
    own = me.address(family(prefix))
    if own is None or prefix == own.network or not contains(own.network, prefix):
        return ""
    name = next((name for address, name in on_link.items() if contains(prefix, address)), "")
    why = f"{prefix} holds the address of node {name} on this node's own subnet: what a peer announces is not its way"
    return why if name else ""


def _ipip(local: Local, me: Node) -> IPIPTunnel | None:
    if not local.ipip_receiver or me.ipv4 is None:
        return None
    mtu = local.uplink_mtu.get(4, 1500) - IPIP_OVERHEAD
    return IPIPTunnel(IPIP_DEVICE, local.ipip_address, me.ipv4.ip, mtu)


def _firewall(state: ClusterState, pools: Pools, local: Local, me: Node) -> Firewall:
    own = map(me.address, FAMILIES)
    addresses = (node.address(fam) for node in state.nodes.values() for fam in FAMILIES)
    return Firewall(
        nodes=frozenset(address.ip for address in addresses if address is not None),
        receive_ipip=local.ipip_receiver,
        pools=frozenset(pool.cidr for pool in pools.usable),
        masquerade=frozenset(pool.cidr for pool in pools.usable if pool.nat_outgoing),
        tunnel_address=local.ipip_address,
        own=frozenset(address.ip for address in own if address is not None),
        uplinks=local.uplinks,
        service_mark=local.service_mark,
    )


def _programmers(state: ClusterState, local: Local) -> tuple[Programmers, tuple[Problem, ...]]:
    """Who programs routes without encapsulation; a pair that says nobody or both is a Problem where it matters."""
    felix = state.felix.program_cluster_routes or ProgramClusterRoutes.IPIP_ONLY
    bgp = state.bgp.program_cluster_routes or ProgramClusterRoutes.NO_ENCAP_ONLY
    programmers = Programmers(api=felix.no_encap, bgp=bgp.no_encap and local.bgp)
    concerned = sorted(pool.name for pool in state.pools.values() if not pool.tunnels)
    if programmers.api != programmers.bgp or not concerned:
        return programmers, ()
    who = "both sides; the API's routes are used" if programmers.api else "nobody; they have no routes"
    without = "" if local.bgp else " and this node's backend is none"
    return programmers, (
        Problem(
            "FelixConfiguration",
            "default",
            "ProgramClusterRoutes",
            f"routes without encapsulation (IPPool {', '.join(concerned)}) are left to {who}: FelixConfiguration "
            f"default has spec.programClusterRoutes {felix}, BGPConfiguration default has {bgp}{without}; "
            "set exactly one of them to Enabled or EnabledNoEncapOnly",
        ),
    )
