"""Intent: what this node's kernel and BGP speaker should look like, before anyone looked at the kernel."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address

from calico_py.model.bgp import Advertisement, Peer
from calico_py.model.net import Address, Network

# Route protocols (rtnetlink(7) rtm_protocol): the owner's mark on a route.
PROTO_BOOT = 3  # host routes of pods, as Calico's DeviceRouteProtocol
PROTO_API = 80  # computed from the API; Calico's own number
PROTO_BGP = 81  # learned by BGP


class RouteClass(StrEnum):
    """Who wants a route and how it leaves the node."""

    BLACKHOLE = "blackhole"
    TUNNEL = "tunnel"
    DIRECT = "direct"
    BGP = "bgp"


@dataclass(frozen=True, slots=True)
class RouteIntent:
    """A route in the cluster's terms; plan turns it into the kernel's.

    Attributes:
        via: addresses of the nodes or next hops, sorted; several make an ECMP route; empty for a blackhole.
        device: name of the tunnel device; empty where plan finds the device by looking up ``via`` in the kernel.
    """

    dst: Network
    route_class: RouteClass
    via: tuple[Address, ...] = ()
    device: str = ""

    @property
    def protocol(self) -> int:
        """The route protocol by which the kernel's route is recognised as this class's."""
        return PROTO_BGP if self.route_class == RouteClass.BGP else PROTO_API


@dataclass(frozen=True, slots=True)
class Candidate:
    """A way to a destination.

    Attributes:
        fresh: may be installed now; if not, it is only kept where the kernel has it already.
    """

    route: RouteIntent
    fresh: bool = True


@dataclass(frozen=True, slots=True)
class Destination:
    """A prefix and its ways, best first: plan takes the first that is fresh or that the kernel has already.

    Attributes:
        waiting: why the best way is not (yet) to be had and what it waits for; empty if nothing is missing.
        pool: name of the pool in which it lies, or empty. node: name of the node behind it, or empty.
    """

    dst: Network
    candidates: tuple[Candidate, ...]
    waiting: str = ""
    pool: str = ""
    node: str = ""


@dataclass(frozen=True, slots=True)
class IPIPTunnel:
    """The device tunl0 of this node.

    Attributes:
        address: its one /32 from the pool; None until IPAM has given one.
        local: outer source address, the node's own.
        mtu: bytes, of the device.
    """

    device: str
    address: IPv4Address | None
    local: IPv4Address
    mtu: int


@dataclass(frozen=True, slots=True)
class Firewall:
    """What the table of nftables holds.

    Attributes:
        nodes: addresses of all nodes, the only ones from which tunnel packets are accepted.
        receive_ipip: protocol 4 is accepted at all.
        pools: CIDRs of all pools; masquerade: those with natOutgoing.
        tunnel_address: of tunl0; None while there is none.
        own: this node's addresses, one of a family at most; uplinks: names of the devices that have them.
        service_mark: what kube-proxy sets in the mark of packets that it will masquerade; 0 leaves them to it.
    """

    nodes: frozenset[Address] = frozenset()
    receive_ipip: bool = False
    pools: frozenset[Network] = frozenset()
    masquerade: frozenset[Network] = frozenset()
    tunnel_address: IPv4Address | None = None
    own: frozenset[Address] = frozenset()
    uplinks: frozenset[str] = frozenset()
    service_mark: int = 0


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that a person must mend: shown in status, logged, and made an Event on the object.

    Attributes:
        reason: CamelCase word for the Event. message: names field, found, expected and what to do.
    """

    kind: str
    name: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Intent:
    """All of it; equal inputs give equal intents.

    Attributes:
        ipip_address_gone: an address of ours that is on tunl0 is the node's no more.
    """

    destinations: Mapping[Network, Destination] = field(default_factory=dict)
    ipip: IPIPTunnel | None = None
    ipip_address_gone: bool = False
    firewall: Firewall = field(default_factory=Firewall)
    peers: frozenset[Peer] = frozenset()
    advertisements: frozenset[Advertisement] = frozenset()
    problems: tuple[Problem, ...] = ()
