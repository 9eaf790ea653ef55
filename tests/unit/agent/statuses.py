"""Inputs of a status: a node with a pool, two blocks, a peer each of good and bad, and a route of each state."""

from ipaddress import IPv4Address, IPv4Interface, ip_address, ip_interface, ip_network

from calico_py.agent.addresses import Choice
from calico_py.agent.configuration.config import load_config
from calico_py.agent.mtu import MtuChoice
from calico_py.agent.receiver import Phase, Receiver
from calico_py.agent.status.build import StatusInputs
from calico_py.agent.view import Watched
from calico_py.dataplane.converge import Applied
from calico_py.dataplane.ipip import Engine, IPIPStatus
from calico_py.dataplane.plan import RoutePlan
from calico_py.dataplane.sysctls import Touched
from calico_py.model.bgp import Advertisement, FelixConfiguration, Peer, Session, SessionState
from calico_py.model.blocks import AffinityState, Attribute, BlockAffinity, IPAMBlock
from calico_py.model.cluster import ClusterState
from calico_py.model.intent import (
    PROTO_API,
    Destination,
    Firewall,
    Intent,
    IPIPTunnel,
    Problem,
    RouteClass,
    RouteIntent,
)
from calico_py.model.kernel import NextHop, Route
from calico_py.model.meta import Meta
from calico_py.model.net import Network
from calico_py.model.nodes import Node, Sending
from calico_py.model.pools import EncapMode, IPPool

OWN, OTHER, FOREIGN, THIRD, FOURTH = (ip_network(f"10.244.{n}.0/26") for n in range(5))
POOL = IPPool(Meta("pool"), ip_network("10.244.0.0/16"), ipip_mode=EncapMode.ALWAYS, nat_outgoing=True)
UNUSED = IPPool(Meta("unused", creation_timestamp="2026-01-01T00:00:00Z"), ip_network("10.244.0.0/17"))
NODE2, NODE3 = ip_address("192.168.1.12"), ip_address("192.168.1.13")


def block(cidr: Network, owner: str, *holders: str) -> IPAMBlock:
    size = cidr.num_addresses
    allocations = (*range(len(holders)), *(None for _ in range(size - len(holders))))
    attributes = tuple(Attribute("h", {"node": holder}) for holder in holders)
    return IPAMBlock(Meta("b"), cidr, f"host:{owner}", allocations, (), attributes)


def affinity(cidr: Network, node: str, state: AffinityState = AffinityState.CONFIRMED) -> BlockAffinity:
    return BlockAffinity(Meta(f"{node}-{cidr}"), cidr, node, state)


def route(dst: Network) -> Route:
    return Route(dst, next_hops=(NextHop(7, NODE2, onlink=True),), protocol=PROTO_API)


def inputs() -> StatusInputs:
    routes = {found.key: found for found in (route(OTHER), route(THIRD), route(FOURTH))}
    installed = {key: found for key, found in routes.items() if found.dst == OTHER}
    chosen = {dst: RouteIntent(dst, RouteClass.TUNNEL, (NODE2,), "tunl0") for dst in (OTHER, THIRD, FOURTH)}
    failed = next(key for key in routes if key.dst == FOURTH)
    waiting = {FOREIGN: "node node3 has not published its IPv4 address"}
    destinations = {dst: Destination(dst, (), pool="pool", node="node2") for dst in (OTHER, FOREIGN, THIRD, FOURTH)}
    peers = [Peer(f"Mesh_{ip}", ip, ip_address("192.168.1.11"), 64512, 64513, "192.168.1.11") for ip in (NODE2, NODE3)]
    own_node = Node(
        Meta("node1"),
        ipv4=IPv4Interface("192.168.1.11/24"),
        ipip_tunnel=IPv4Address("10.244.0.1"),
        sending={"pool": Sending("IPIP", "2026-01-01T00:00:00Z")},
    )
    claims = [
        affinity(OWN, "node1"),
        affinity(THIRD, "node1", AffinityState.PENDING),
        affinity(OTHER, "node2"),
    ]
    return StatusInputs(
        config=load_config({"CALICO_PY_LOGLEVEL": "x", "CLUSTER_TYPE": "k8s"}, hostname="node1"),
        version="0.1.0",
        now=1_800_000_000,
        started=1_799_999_000,
        server="https://10.96.0.1:443",
        watched=(Watched("nodes", True, 3, ""), Watched("ippools", False, 0, "list ippools: away")),
        state=ClusterState(
            nodes={"node1": own_node},
            pools={"unused": UNUSED, "pool": POOL},
            affinities={claim.meta.name: claim for claim in claims},
            blocks={OWN: block(OWN, "node1", "node1", "node2"), OTHER: block(OTHER, "node2", "node2", "node1")},
            felix=FelixConfiguration(Meta("default"), ignored=("bpfEnabled",)),
        ),
        intent=Intent(
            destinations=destinations,
            ipip=IPIPTunnel("tunl0", IPv4Address("10.244.0.1"), IPv4Address("192.168.1.11"), 1480),
            firewall=Firewall(pools=frozenset({POOL.cidr})),
            peers=frozenset(peers),
            advertisements=frozenset({Advertisement(OWN)}),
        ),
        applied=Applied(
            plan=RoutePlan(routes, chosen, waiting),
            ipip=IPIPStatus(Engine.USERSPACE, "this kernel has no ipip", 7, True, False, IPv4Address("10.244.0.1")),
            installed=installed,
            failures={failed: "the kernel refused it"},
        ),
        choices={4: Choice(ip_interface("192.168.1.11/24"), "Kubernetes' InternalIP of this node", "eth0")},
        receiver=Receiver(Phase.UP, 0),
        senders=frozenset({"node3", "node2"}),
        mtu=MtuChoice(1450, "the uplink's 1500 less VXLAN"),
        uplinks={4: 1500},
        sessions={
            NODE2: Session(NODE2, SessionState.ESTABLISHED, 1_799_999_500, received=4),
            NODE3: Session(NODE3, SessionState.CONNECT, 0, last_error="no TCP connection to 192.168.1.13 port 179"),
        },
        in_sync_peers=frozenset({NODE2}),
        as_number=64512,
        router_id="192.168.1.11",
        learned=4,
        leader="node2",
        not_ready=("no tunnel engine is attached to tunl0",),
        differences=(Problem("IPPool", "pool", "DiffersFromEnvironment", "IPPool pool: spec.ipipMode is Always"),),
        problems=(Problem("IPPool", "unused", "CIDROverlap", "IPPool unused overlaps IPPool pool"),),
        failures=("nft is missing",),
        touched=(Touched("net/ipv4/conf/eth0/rp_filter", "1", "2"),),
        devices={7: "tunl0"},
    )
