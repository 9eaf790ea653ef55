"""What the kernel refused, in a sentence: the object, the error's meaning, and what to do. Pure."""

import errno
import os
from collections.abc import Mapping

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

# Routes count in the memory of the container that makes them (cgroup-v2, "memory"); fib_table_insert says ENOBUFS.
_NO_MEMORY = (
    "the kernel gives no more memory: raise the memory limit of the agent's container, or free the node's memory"
)
_NO_GATEWAY = (
    "the gateway is an address of this node itself, or a rule of `ip rule` forbids the way to it: see which node has it"
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
    errno.ENOSYS: "install the package nftables on the node, or in the agent's image",
    errno.ENOENT: "what it names does not exist on this node",
    errno.EBUSY: "something holds it: it is tried again",
    errno.ENOMEM: _NO_MEMORY,
    errno.ENOBUFS: _NO_MEMORY,
    errno.ENOSPC: "a limit of the kernel is reached: its log (dmesg) says which",
    errno.ENFILE: "a limit of the kernel is reached: its log (dmesg) says which",
}
# What the kernel says with the errno (fib_semantics.c, net/ipv6/route.c) means more than the errno.
_ADVICE_BY_WORDS = {
    (errno.EINVAL, "Nexthop has invalid gateway"): _NO_GATEWAY,
    (errno.EINVAL, "Gateway can not be a local address"): _NO_GATEWAY,
    (errno.EACCES, "Nexthop has invalid gateway"): _NO_GATEWAY,
}
_NO_NAMES: Mapping[int, str] = {}
_DEFAULT_ADVICE = "it is tried again; if this stays, report it with this line"
_NFT_ADVICE = (
    "it is tried again; see whether `nft list ruleset` ends on this node: the kernel needs nf_tables with nat and "
    "masquerade, the agent the capability NET_ADMIN"
)


def refusal(change: Change, number: int, text: str = "", *, devices: Mapping[int, str] = _NO_NAMES) -> KernelError:
    """The error for a change.

    Args:
        change: what was asked.
        number: errno.
        text: the kernel's or a tool's own words, may be empty.
        devices: names by ifindex, as far as they are known.
    """
    verb = "set" if isinstance(change, Put) else "remove"
    what = describe(change.object, devices)
    by_nft = isinstance(change.object, NftTable)
    otherwise = _NFT_ADVICE if by_nft else _DEFAULT_ADVICE
    advice = _ADVICE_BY_WORDS.get((number, text)) or _ADVICE.get(number, otherwise)
    meaning = os.strerror(number)
    meaning = meaning[0].lower() + meaning[1:]
    why = text if by_nft and text else f"{meaning} ({text})" if text else meaning  # an errno of nft's is our guess
    return KernelError(number, change, f"cannot {verb} {what}: {why}; {advice}")


def is_gone(change: Change, number: int) -> bool:
    """Whether the error says that what should be removed is not there: success."""
    gone = (errno.ESRCH, errno.ENODEV, errno.ENOENT, errno.EADDRNOTAVAIL, errno.ENXIO)
    return isinstance(change, Delete) and number in gone


def describe(obj: KernelObject, devices: Mapping[int, str] = _NO_NAMES) -> str:
    """An object as people write it, near to what `ip` prints.

    Args:
        obj: any.
        devices: names by ifindex; a device without one is shown by its number.
    """
    match obj:
        case Route():
            return _describe_route(obj, devices)
        case Link():
            return f"device {obj.name or f'#{obj.ifindex}'}" + (f" of kind {obj.kind}" if obj.kind else "")
        case Addr():
            return f"address {obj.interface} on device {_name(obj.ifindex, devices)}"
        case Neigh():
            return f"neighbour {obj.address} lladdr {obj.mac} on device {_name(obj.ifindex, devices)}"
        case FdbEntry():
            return f"forwarding entry {obj.mac} dst {obj.dst} on device {_name(obj.ifindex, devices)}"
        case Sysctl():
            return f"setting {obj.name} = {obj.value}"
        case NftTable():
            return f"nftables table {obj.family} {obj.name}"


def _name(ifindex: int, devices: Mapping[int, str]) -> str:
    return devices.get(ifindex, f"#{ifindex}")


def _describe_route(route: Route, devices: Mapping[int, str]) -> str:
    kind = f"{route.type} " if route.type != RouteType.UNICAST else ""
    hops = "".join(_describe_hop(hop, devices) for hop in route.next_hops)
    return f"route {kind}{route.dst}{hops} proto {route.protocol}"


def _describe_hop(hop: NextHop, devices: Mapping[int, str]) -> str:
    via = f" via {hop.gateway}" if hop.gateway is not None else ""
    return f"{via} dev {_name(hop.ifindex, devices)}{' onlink' if hop.onlink else ''}"
