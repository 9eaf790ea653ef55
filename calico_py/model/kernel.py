"""The seam to the kernel: its objects with its own keys, and the Kernel protocol.

Numbers are the kernel's (ifindex, table, metric). Values are normalised so that what was sent compares equal to
what is dumped: next hops sorted, MACs in lower case, names as given.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, TypeVar

from calico_py.model.net import Address, Interface, Network

TABLE_MAIN = 254
METRIC_IPV4 = 0
METRIC_IPV6 = 1024


@dataclass(frozen=True, slots=True)
class Link:
    """A device (linux/if_link.h).

    Attributes:
        kind: ``ipip``, ``tun``, ``vxlan``, ``veth``, ... or empty for hardware.
        up: IFF_UP. running: IFF_LOWER_UP; for a TUN device a process is attached to it.
        alias: IFLA_IFALIAS. group: IFLA_GROUP.
    """

    name: str
    ifindex: int = 0
    kind: str = ""
    mtu: int = 0
    up: bool = False
    running: bool = False
    mac: str = ""
    alias: str = ""
    group: int = 0
    master: int = 0


@dataclass(frozen=True, slots=True)
class Addr:
    """An address on a device.

    Attributes:
        link_scope: scope link (RT_SCOPE_LINK) rather than global.
        label: IFA_LABEL of an IPv4 address where it is more than the device's name: ``DEVICE:WORD``, 15 characters
            at most. The owner's mark on an address.
    """

    ifindex: int
    interface: Interface
    link_scope: bool = False
    label: str = ""


class RouteType(StrEnum):
    """rtm_type of a route."""

    UNICAST = "unicast"
    BLACKHOLE = "blackhole"
    OTHER = "other"


@dataclass(frozen=True, slots=True, order=True)
class NextHop:
    """One way out of a route: a gateway, a device, or both."""

    ifindex: int
    gateway: Address | None = None
    onlink: bool = False


@dataclass(frozen=True, slots=True)
class RouteKey:
    """What the kernel itself tells two routes apart by."""

    table: int
    dst: Network
    metric: int


@dataclass(frozen=True, slots=True)
class Route:
    """A route (rtnetlink(7)).

    Attributes:
        metric: 0 for IPv4, 1024 for IPv6 where nothing else is meant.
        link_scope: scope link (IPv4 only; False for IPv6).
        mtu: RTAX_MTU in bytes, 0 for none.
    """

    dst: Network
    type: RouteType = RouteType.UNICAST
    next_hops: tuple[NextHop, ...] = ()
    protocol: int = 0
    table: int = TABLE_MAIN
    metric: int = 0
    link_scope: bool = False
    mtu: int = 0
    prefsrc: Address | None = None

    @property
    def key(self) -> RouteKey:
        """Its key in the kernel's table."""
        return RouteKey(self.table, self.dst, self.metric)


@dataclass(frozen=True, slots=True)
class Neigh:
    """An ARP or NDP entry; permanent ones only."""

    ifindex: int
    address: Address
    mac: str


@dataclass(frozen=True, slots=True)
class FdbEntry:
    """A permanent forwarding entry of a VXLAN device: MAC to remote VTEP."""

    ifindex: int
    mac: str
    dst: Address


@dataclass(frozen=True, slots=True)
class Sysctl:
    """A setting under /proc/sys.

    Attributes:
        name: path with slashes, such as ``net/ipv4/conf/eth0/rp_filter``.
    """

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class NftTable:
    """A table of nftables that is wholly ours.

    Attributes:
        family: ``inet``, ``ip``, ``ip6``. rules: what stands between its braces, in nft's syntax; empty in a dump.
        digest: fingerprint of the rules, carried in the table's comment.
    """

    family: str
    name: str
    rules: str = field(default="", compare=False)
    digest: str = ""


KernelObject = Link | Addr | Route | Neigh | FdbEntry | Sysctl | NftTable
K = TypeVar("K", Link, Addr, Route, Neigh, FdbEntry, NftTable)


@dataclass(frozen=True, slots=True)
class Put:
    """Create the object or make it equal (NLM_F_CREATE | NLM_F_REPLACE), atomically where the kernel can."""

    object: KernelObject


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove the object; that it is gone already is success."""

    object: KernelObject


Change = Put | Delete


class KernelError(Exception):
    """The kernel refused a change.

    Attributes:
        errno: the error number; change: what was asked.
    """

    def __init__(self, errno: int, change: Change, message: str) -> None:
        super().__init__(message)
        self.errno = errno
        self.change = change


@dataclass(frozen=True, slots=True)
class KernelEvent:
    """Something changed that may concern us.

    Attributes:
        kind: the type of the object; None means events were lost (ENOBUFS): read everything again.
        object: as in a dump; for a removal, as it was.
    """

    kind: type[KernelObject] | None
    removed: bool = False
    object: KernelObject | None = None


class Kernel(Protocol):
    """A network namespace's kernel state."""

    async def dump(self, kind: type[K]) -> list[K]:
        """All objects of a kind: complete, repeated until no dump was interrupted (NLM_F_DUMP_INTR)."""
        ...

    async def sysctl(self, name: str) -> str | None:
        """The value of a setting, None where the kernel has no such one."""
        ...

    async def send(self, changes: Sequence[Change]) -> list[KernelError | None]:
        """Apply changes in order; one refused change does not stop the others. One answer for each."""
        ...

    def events(self) -> AsyncIterator[KernelEvent]:
        """Changes by anyone, from the call on."""
        ...
