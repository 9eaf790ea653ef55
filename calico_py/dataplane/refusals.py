"""What the kernel refused, in a sentence: the object, the error's meaning, and what to do. Pure."""

import errno
import os

from calico_py.model.kernel import (
    Addr,
    Change,
    Delete,
    FdbEntry,
    KernelError,
    KernelObject,
    Link,
    Neigh,
    NextHop,
    NftTable,
    Put,
    Route,
    RouteType,
    Sysctl,
)

_ADVICE = {
    errno.EPERM: "the agent needs the capability NET_ADMIN",
    errno.EACCES: "the agent needs the capability NET_ADMIN",
    errno.EROFS: "mount the host's /proc/sys into the agent's container",
    errno.ENETUNREACH: "the gateway is on no connected network of that device: check the node's address and subnet",
    errno.EHOSTUNREACH: "the gateway is on no connected network of that device: check the node's address and subnet",
    errno.ENODEV: "the device is gone; the change is made again when it is back",
    errno.ENETDOWN: "the device is down: set it up, or see why it went down",
    errno.EEXIST: "something else has that name or key: remove or rename it",
    errno.EOPNOTSUPP: "this kernel has no support for it: load the module, or use the userspace engine",
    errno.ENOSYS: "install it on the node, or in the agent's image",
    errno.ENOENT: "what it names does not exist on this node",
    errno.EBUSY: "something holds it: it is tried again",
    errno.ENOMEM: "the kernel is out of memory",
    errno.ENOSPC: "a limit of the kernel is reached",
    errno.ENFILE: "a limit of the kernel is reached",
}
_DEFAULT_ADVICE = "it is tried again; if this stays, report it with this line"


def refusal(change: Change, number: int, text: str = "") -> KernelError:
    """The error for a change.

    Args:
        change: what was asked.
        number: errno.
        text: the kernel's or a tool's own words, may be empty.
    """
    verb = "set" if isinstance(change, Put) else "remove"
    meaning = os.strerror(number)
    words = f" ({text})" if text else ""
    advice = _ADVICE.get(number, _DEFAULT_ADVICE)
    return KernelError(
        number, change, f"cannot {verb} {describe(change.object)}: {meaning[0].lower()}{meaning[1:]}{words}; {advice}"
    )


def is_gone(change: Change, number: int) -> bool:
    """Whether the error says that what should be removed is not there: success."""
    gone = (errno.ESRCH, errno.ENODEV, errno.ENOENT, errno.EADDRNOTAVAIL, errno.ENXIO)
    return isinstance(change, Delete) and number in gone


def describe(obj: KernelObject) -> str:
    """An object as people write it, near to what `ip` prints."""
    match obj:
        case Route():
            return _describe_route(obj)
        case Link():
            return f"device {obj.name or f'#{obj.ifindex}'}" + (f" of kind {obj.kind}" if obj.kind else "")
        case Addr():
            return f"address {obj.interface} on device #{obj.ifindex}"
        case Neigh():
            return f"neighbour {obj.address} lladdr {obj.mac} on device #{obj.ifindex}"
        case FdbEntry():
            return f"forwarding entry {obj.mac} dst {obj.dst} on device #{obj.ifindex}"
        case Sysctl():
            return f"setting {obj.name} = {obj.value}"
        case NftTable():
            return f"nftables table {obj.family} {obj.name}"


def _describe_route(route: Route) -> str:
    kind = f"{route.type} " if route.type != RouteType.UNICAST else ""
    hops = "".join(_describe_hop(hop) for hop in route.next_hops)
    return f"route {kind}{route.dst}{hops} proto {route.protocol}"


def _describe_hop(hop: NextHop) -> str:
    via = f" via {hop.gateway}" if hop.gateway is not None else ""
    return f"{via} dev #{hop.ifindex}{' onlink' if hop.onlink else ''}"
