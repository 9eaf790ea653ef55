"""Devices, addresses, neighbours and forwarding entries from rtnetlink messages, pure; TruncatedError if cut short.

struct ifinfomsg (linux/rtnetlink.h) with IFLA_ (linux/if_link.h), struct ifaddrmsg with IFA_ (linux/if_addr.h),
struct ndmsg with NDA_ (linux/neighbour.h). Reading only, for dumps and events alike; pyroute2 writes these.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

from calico_py.dataplane import nlmsg
from calico_py.model.kernel import Addr, FdbEntry, Link, Neigh
from calico_py.model.net import Address

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30

AF_UNSPEC = 0
AF_BRIDGE = 7

_IFINFOMSG = struct.Struct("=BxHiII")  # family, type, index, flags, change
_IFADDRMSG = struct.Struct("=BBBBI")  # family, prefixlen, flags, scope, index
_NDMSG = struct.Struct("=BxxxiHBB")  # family, ifindex, state, flags, type

# IFLA_
_ADDRESS, _BROADCAST, _IFNAME, _MTU, _MASTER, _LINKINFO, _IFALIAS, _GROUP = 1, 2, 3, 4, 10, 18, 20, 27
_INFO_KIND = 1
_IFLA_EXT_MASK, _RTEXT_FILTER_SKIP_STATS = 29, 1 << 3
SKIP_STATS = nlmsg.pack_u32(_IFLA_EXT_MASK, _RTEXT_FILTER_SKIP_STATS)
"""Of an RTM_GETLINK: without counters, which are half of the answer and most of the kernel's work for it."""

# IFA_
_IFA_ADDRESS, _IFA_LOCAL, _IFA_LABEL = 1, 2, 3
# NDA_
_NDA_DST, _NDA_LLADDR = 1, 2

_IFF_UP = 0x1
_IFF_LOWER_UP = 0x10000
_RT_SCOPE_LINK = 253
NUD_PERMANENT = 0x80
_NO_ADDRESS = bytes(4)


@dataclass(frozen=True, slots=True)
class ParsedLink:
    """A device as a message has it.

    Attributes:
        fallback: an IPv4 tunnel between any and any: for ipip, the device that the kernel itself makes (tunl0),
            whatever its name is now.
    """

    link: Link
    fallback: bool


def pack_link_dump(seq: int) -> bytes:
    """RTM_GETLINK of all devices, without their counters."""
    return _pack_dump(RTM_GETLINK, seq, bytes(_IFINFOMSG.size) + SKIP_STATS)


def pack_addr_dump(seq: int) -> bytes:
    """RTM_GETADDR of all addresses of both families."""
    return _pack_dump(RTM_GETADDR, seq, bytes(_IFADDRMSG.size))


def pack_neigh_dump(seq: int) -> bytes:
    """RTM_GETNEIGH of all ARP and NDP entries."""
    return _pack_dump(RTM_GETNEIGH, seq, bytes(_NDMSG.size))


def pack_fdb_dump(seq: int) -> bytes:
    """RTM_GETNEIGH of all forwarding entries."""
    return _pack_dump(RTM_GETNEIGH, seq, _NDMSG.pack(AF_BRIDGE, 0, 0, 0, 0))


def _pack_dump(kind: int, seq: int, body: bytes) -> bytes:
    return nlmsg.pack_message(kind, nlmsg.NLM_F_REQUEST | nlmsg.NLM_F_DUMP, seq, body)


def parse_link(body: bytes) -> ParsedLink | None:
    """The device of an RTM_NEWLINK or RTM_DELLINK body.

    None for messages of AF_BRIDGE: they tell of a bridge's port, and their RTM_DELLINK removes no device.
    """
    family, _, ifindex, flags, _ = _unpack(_IFINFOMSG, body)
    if family != AF_UNSPEC:
        return None
    attrs = nlmsg.parse_attrs(body, _IFINFOMSG.size)
    kind = nlmsg.parse_attrs(attrs.get(_LINKINFO, b"")).get(_INFO_KIND, b"")
    link = Link(
        name=nlmsg.parse_string(attrs.get(_IFNAME, b"")),
        ifindex=ifindex,
        kind=nlmsg.parse_string(kind),
        mtu=_number(attrs, _MTU),
        up=bool(flags & _IFF_UP),
        running=bool(flags & _IFF_LOWER_UP),
        mac=_mac(attrs.get(_ADDRESS, b"")),
        alias=nlmsg.parse_string(attrs.get(_IFALIAS, b"")),
        group=_number(attrs, _GROUP),
        master=_number(attrs, _MASTER),
    )
    return ParsedLink(link, attrs.get(_ADDRESS) == _NO_ADDRESS and attrs.get(_BROADCAST) == _NO_ADDRESS)


def parse_addr(body: bytes) -> Addr | None:
    """The address of an RTM_NEWADDR or RTM_DELADDR body; None for other families.

    With a peer (point to point) IFA_LOCAL is the device's own address and IFA_ADDRESS the peer's (linux/if_addr.h).
    """
    _, prefixlen, _, scope, ifindex = _unpack(_IFADDRMSG, body)
    attrs = nlmsg.parse_attrs(body, _IFADDRMSG.size)
    address = _address(attrs.get(_IFA_LOCAL) or attrs.get(_IFA_ADDRESS, b""))
    if address is None:
        return None
    interface = IPv4Interface if isinstance(address, IPv4Address) else IPv6Interface
    label = nlmsg.parse_string(attrs.get(_IFA_LABEL, b""))
    return Addr(
        ifindex=ifindex,
        interface=interface((address, prefixlen)),
        link_scope=scope == _RT_SCOPE_LINK,
        label=label if ":" in label else "",  # else it is the device's name, the kernel's default
    )


@dataclass(frozen=True, slots=True)
class ParsedNeigh:
    """A neighbour or forwarding entry, and whether someone set it for good (NUD_PERMANENT, with a MAC)."""

    entry: Neigh | FdbEntry
    permanent: bool


def parse_neigh(body: bytes) -> ParsedNeigh | None:
    """The entry of an RTM_NEWNEIGH or RTM_DELNEIGH body.

    None where it is neither a neighbour with an IP address nor an entry that leads to a remote VTEP.
    """
    family, ifindex, state, _, _ = _unpack(_NDMSG, body)
    attrs = nlmsg.parse_attrs(body, _NDMSG.size)
    dst = _address(attrs.get(_NDA_DST, b""))
    mac = _mac(attrs.get(_NDA_LLADDR, b""))
    if dst is None or (family == AF_BRIDGE and not mac):
        return None
    entry = FdbEntry(ifindex, mac, dst) if family == AF_BRIDGE else Neigh(ifindex, dst, mac)
    return ParsedNeigh(entry, bool(state & NUD_PERMANENT and mac))


def _unpack(header: struct.Struct, body: bytes) -> tuple[int, ...]:
    if len(body) < header.size:
        raise nlmsg.TruncatedError(f"message of {len(body)} bytes, its header alone has {header.size}")
    return header.unpack_from(body)


def _number(attrs: Mapping[int, bytes], kind: int) -> int:
    return nlmsg.parse_u32(attrs[kind]) if kind in attrs else 0


def _mac(payload: bytes) -> str:
    """An Ethernet address; empty for addresses of another length (a tunnel's is its IPv4 source)."""
    return payload.hex(":") if len(payload) == 6 else ""


def _address(payload: bytes) -> Address | None:
    if len(payload) == 4:
        return IPv4Address(payload)
    return IPv6Address(payload) if len(payload) == 16 else None
