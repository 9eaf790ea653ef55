"""The shape of a node's status: the answer to GET /status and what `calico-py status` prints.

Every field is text, number, truth or a list of such, so that dataclasses.asdict makes the JSON.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class AddressStatus:
    """The node's address of one family, empty where it has none, and why."""

    family: int
    address: str
    device: str
    reason: str


@dataclass(frozen=True, slots=True)
class WatchStatus:
    """One kind that is watched."""

    plural: str
    in_sync: bool
    objects: int
    error: str


@dataclass(frozen=True, slots=True)
class ApiStatus:
    """The API server as this node sees it."""

    server: str
    in_sync: bool
    watches: list[WatchStatus]


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """A pool.

    Attributes:
        used: nodes may route into it; else a problem says why not.
        sending: by what this node sends to other nodes' blocks of it, and since when.
    """

    name: str
    cidr: str
    block_size: int
    ipip_mode: str
    vxlan_mode: str
    nat_outgoing: bool
    disabled: bool
    used: bool
    sending: str
    since: str


@dataclass(frozen=True, slots=True)
class BlockStatus:
    """A block of this node, or one of another from which it borrows.

    Attributes:
        in_use: addresses that are allocated, -1 where the block has not been seen.
    """

    cidr: str
    pool: str
    state: str
    size: int
    in_use: int


@dataclass(frozen=True, slots=True)
class TunnelStatus:
    """The IPIP tunnel.

    Attributes:
        phase: of the receiver: down, up, lingering, withdrawn.
        attached: a process carries its packets, or the kernel does.
        senders: nodes that may still send to it.
    """

    device: str
    engine: str
    reason: str
    address: str
    up: bool
    attached: bool
    phase: str
    announced: bool
    senders: list[str]
    problem: str


@dataclass(frozen=True, slots=True)
class MtuStatus:
    """The MTU of pods made now, in bytes, and why."""

    pod: int
    reason: str
    uplinks: dict[str, int]


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """A BGP neighbour and its session.

    Attributes:
        since: RFC 3339 time of the last change of state; empty where there was none.
        received: paths.
        in_sync: its view is complete.
    """

    name: str
    address: str
    as_number: int
    state: str
    since: str
    received: int
    in_sync: bool
    last_error: str


@dataclass(frozen=True, slots=True)
class PathStatus:
    """A prefix learned by BGP.

    Attributes:
        peer: who announced the path that won; reason: by which rule it did.
        as_path: as it is usually written, empty within one AS.
        stale: kept over a restart of the peer or of the speaker.
    """

    prefix: str
    next_hops: list[str]
    peer: str
    as_path: str
    reason: str
    stale: bool


@dataclass(frozen=True, slots=True)
class BgpStatus:
    """BGP on this node; without a backend there are no peers."""

    backend: str
    as_number: int
    router_id: str
    speaker_problem: str
    announced: list[str]
    learned: int
    peers: list[PeerStatus]
    paths: list[PathStatus] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class RouteStatus:
    """A destination.

    Attributes:
        way: tunnel, direct, bgp or blackhole; empty where there is none.
        via: addresses, and the device where it is known.
        state: installed, pending, failed or none.
        waiting: what it waits for, or why it failed; empty if all is well.
    """

    dst: str
    pool: str
    node: str
    way: str
    via: str
    state: str
    waiting: str


@dataclass(frozen=True, slots=True)
class RoutesStatus:
    """All destinations, and how many of them have a route that the kernel has, too."""

    desired: int
    installed: int
    routes: list[RouteStatus]


@dataclass(frozen=True, slots=True)
class SettingStatus:
    """A setting of the host that was changed, and its value before."""

    name: str
    original: str
    given: str


@dataclass(frozen=True, slots=True)
class ProblemStatus:
    """Something that a person must mend."""

    kind: str
    name: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Status:
    """All of it.

    Attributes:
        started, now: RFC 3339 times.
        not_ready: why the node is not ready, empty if it is.
        environment: where pools differ from the environment, and settings that are misspelt.
        without_effect: Calico's settings and fields that do nothing here, with the reason.
    """

    node: str
    version: str
    started: str
    now: str
    not_ready: list[str]
    leader: str
    addresses: list[AddressStatus]
    api: ApiStatus
    pools: list[PoolStatus]
    blocks: list[BlockStatus]
    tunnel: TunnelStatus
    mtu: MtuStatus
    bgp: BgpStatus
    routes: RoutesStatus
    problems: list[ProblemStatus]
    environment: list[str]
    settings_touched: list[SettingStatus]
    without_effect: dict[str, str]
