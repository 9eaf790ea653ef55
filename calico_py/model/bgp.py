"""BGP in the cluster's terms: configuration objects, sessions, announcements, paths and what was learned.

Peer is configuration, Session is live state. How ExaBGP spells any of it is bgp's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from calico_py.model.meta import Meta
from calico_py.model.net import Address, Network

DEFAULT_AS = 64512
DEFAULT_PORT = 179


class ProgramClusterRoutes(StrEnum):
    """Which remote-block routes a side programs (FelixConfiguration: from the API; BGPConfiguration: from BGP)."""

    DISABLED = "Disabled"
    IPIP_ONLY = "EnabledIPIPOnly"
    NO_ENCAP_ONLY = "EnabledNoEncapOnly"
    ENABLED = "Enabled"

    @property
    def no_encap(self) -> bool:
        """Whether routes without encapsulation are that side's."""
        return self in (ProgramClusterRoutes.NO_ENCAP_ONLY, ProgramClusterRoutes.ENABLED)


@dataclass(frozen=True, slots=True)
class BGPConfiguration:
    """Object ``default``, or ``node.NAME`` for one node.

    Attributes:
        as_number, listen_port: None where the object does not say: the object ``default`` does, or Calico's default.
        ignored: names of the fields that the object sets and calico-py does not act on, for status.
    """

    meta: Meta
    as_number: int | None = None
    listen_port: int | None = None
    mesh_enabled: bool = True
    program_cluster_routes: ProgramClusterRoutes | None = None
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FelixConfiguration:
    """Object ``default``: of its fields those that have an effect here.

    Attributes:
        ignored: names of the fields that the object sets and calico-py does not act on, for status.
    """

    meta: Meta
    program_cluster_routes: ProgramClusterRoutes | None = None
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Peer:
    """A BGP neighbour as configuration, complete: equal peers make equal sessions.

    Attributes:
        name: ``Mesh_192_168_1_12`` and the like, Calico's spelling; for people.
        hold_time: seconds.
        restart_time: graceful restart (RFC 4724), seconds; 0 turns the capability off.
        passive: wait for the other side to connect.
        listen_port: where this side listens for the peer (BGPConfiguration listenPort).
        password: TCP MD5 (RFC 2385) or empty.
    """

    name: str
    address: Address
    local_address: Address
    local_as: int
    peer_as: int
    router_id: str
    port: int = DEFAULT_PORT
    hold_time: int = 90
    restart_time: int = 120
    passive: bool = False
    password: str = field(default="", repr=False)
    listen_port: int = DEFAULT_PORT


@dataclass(frozen=True, slots=True)
class Advertisement:
    """One announced prefix to all peers (next hop self) or, where peers is not empty, to those alone."""

    nlri: Network
    next_hop: Address | None = None
    peers: frozenset[Address] = frozenset()
    communities: tuple[str, ...] = ()


class Origin(StrEnum):
    """ORIGIN (RFC 4271 5.1.1), in order of preference."""

    IGP = "igp"
    EGP = "egp"
    INCOMPLETE = "incomplete"


@dataclass(frozen=True, slots=True)
class Path:
    """An announced prefix with its attributes and source: an entry of an Adj-RIB-In (RFC 4271 3.2).

    Attributes:
        peer: address of the neighbour that announced it.
        path_id: of add-path (RFC 7911), 0 without.
        as_path: sequences only; an AS_SET counts as one hop and is given as a tuple inside.
        stale: kept over a graceful restart (RFC 4724) until the peer's End-of-RIB.
    """

    nlri: Network
    peer: Address
    next_hop: Address
    path_id: int = 0
    origin: Origin = Origin.INCOMPLETE
    as_path: tuple[int | tuple[int, ...], ...] = ()
    local_pref: int | None = None
    med: int | None = None
    communities: tuple[str, ...] = ()
    originator_id: str = ""
    cluster_list: tuple[str, ...] = ()
    peer_as: int = 0
    peer_router_id: str = ""
    ebgp: bool = False
    stale: bool = False


@dataclass(frozen=True, slots=True)
class LearnedRoute:
    """The outcome of the decision process for one prefix.

    Attributes:
        next_hops: one or, with equal-cost paths, several; sorted.
        best: the path that won; reason: the rule by which it did, for people.
    """

    nlri: Network
    next_hops: tuple[Address, ...]
    best: Path
    reason: str = ""


@dataclass(frozen=True, slots=True)
class LearnedRoutes:
    """All that BGP has to say to routing: the Loc-RIB, and which peers' views are complete.

    Attributes:
        in_sync: peers whose replay is complete and whose End-of-RIB has come (or 120 s have passed).
    """

    routes: Mapping[Network, LearnedRoute] = field(default_factory=dict)
    in_sync: frozenset[Address] = frozenset()


class SessionState(StrEnum):
    """States of a session (RFC 4271 8.2.2) as far as the speaker tells them."""

    IDLE = "Idle"
    CONNECT = "Connect"
    ESTABLISHED = "Established"


@dataclass(frozen=True, slots=True)
class Session:
    """Live state of a peer.

    Attributes:
        since: Unix time of the last change of state, seconds.
        last_error: why it is not Established, and what to do, in a sentence.
    """

    peer: Address
    state: SessionState
    since: float
    last_error: str = ""
    received: int = 0
    hold_time: int = 0
    restart_time: int = 0
