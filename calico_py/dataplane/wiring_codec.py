"""The rtnetlink messages that make, mark and remove a pod's interface, pure.

struct ifinfomsg and IFLA_ (linux/if_link.h, linux/veth.h), struct ifaddrmsg and IFA_ (linux/if_addr.h), struct ndmsg
and NDA_, struct ndtmsg and NDTPA_ (linux/neighbour.h), IPV4_DEVCONF_ (linux/ip.h). Routes are route_codec's.

Every function packs one message, given its sequence number and further flags last, so that a batch can be written down
as a list of partials.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv6Address

from calico_py.dataplane import nlmsg
from calico_py.dataplane.nlmsg import NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST
from calico_py.dataplane.object_codec import SKIP_STATS
from calico_py.model.net import Address, Family, Interface

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_GETADDR = 20, 22
RTM_GETROUTE = 26
RTM_NEWNEIGH = 28
RTM_GETNEIGHTBL, RTM_SETNEIGHTBL = 66, 67

_AF_INET, _AF_INET6 = 2, 10

_IFINFOMSG = struct.Struct("=BxHiII")  # family, type, index, flags, change
_IFADDRMSG = struct.Struct("=BBBBI")  # family, prefixlen, flags, scope, index
_NDMSG = struct.Struct("=BxxxiHBB")  # family, ifindex, state, flags, type
_NDTMSG = struct.Struct("=Bxxx")  # family
_RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst_len, src_len, tos, table, protocol, scope, type, flags
_U32 = struct.Struct("=I")
_U64 = struct.Struct("=Q")

_IFF_UP = 0x1
# IFLA_
_ADDRESS, _IFNAME, _MTU, _LINK, _LINKINFO, _IFALIAS, _AF_SPEC, _GROUP, _NET_NS_FD = 1, 3, 4, 5, 18, 20, 26, 27, 28
_NUM_TX_QUEUES, _NUM_RX_QUEUES = 31, 32
_INFO_KIND, _INFO_DATA = 1, 2
_VETH_INFO_PEER = 1
_INET_CONF = 1  # IFLA_INET_CONF
_INET6_CONF = 2  # IFLA_INET6_CONF
_INET6_ADDR_GEN_MODE = 8  # IFLA_INET6_ADDR_GEN_MODE
_ADDR_GEN_MODE_NONE = 1
# IFA_
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_IFA_F_NODAD = 0x02
_RT_SCOPE_UNIVERSE, _RT_SCOPE_LINK = 0, 253
# NDA_
_NDA_DST, _NDA_LLADDR = 1, 2
NUD_STALE = 0x04
NUD_PERMANENT = 0x80
# NDTA_, NDTPA_
_NDTA_NAME, _NDTA_PARMS = 1, 6
_NDTPA_IFINDEX, _NDTPA_PROXY_DELAY = 1, 13
_RTA_OIF = 4


class DevConf(IntEnum):
    """Settings of a device under net/ipv4/conf, by their numbers in linux/ip.h."""

    FORWARDING = 1
    PROXY_ARP = 3
    RP_FILTER = 8
    ROUTE_LOCALNET = 26


class DevConf6(IntEnum):
    """Settings of a device under net/ipv6/conf, by their numbers in linux/ipv6.h."""

    FORWARDING = 0
    ACCEPT_RA = 3
    PROXY_NDP = 22
    DISABLE_IPV6 = 26


@dataclass(frozen=True, slots=True)
class End:
    """One end of a new pair; mtu in bytes."""

    name: str
    mac: str
    mtu: int


@dataclass(frozen=True, slots=True)
class Pair:
    """A veth pair that exists.

    Attributes:
        ifindex: of the host's end. peer: of the other, in its own namespace.
    """

    ifindex: int
    peer: int


def pack_veth(host: End, peer: End, netns: int, seq: int, flags: int) -> bytes:
    """RTM_NEWLINK of a new pair whose peer is born in the namespace of that descriptor, both ends down."""
    nested = _ifinfo(0) + _pack_end(peer) + nlmsg.pack_u32(_NET_NS_FD, netns)
    data = nlmsg.pack_nested(_INFO_DATA, nlmsg.pack_nested(_VETH_INFO_PEER, nested))
    info = nlmsg.pack_nested(_LINKINFO, nlmsg.pack_string(_INFO_KIND, "veth"), data)
    return _pack(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL | flags, seq, _ifinfo(0), _pack_end(host), info)


def _pack_end(end: End) -> bytes:
    """One queue each way, as Calico has it: else the kernel makes one for each CPU, with its objects in sysfs."""
    return b"".join(
        (
            nlmsg.pack_string(_IFNAME, end.name),
            nlmsg.pack_attr(_ADDRESS, _mac(end.mac)),
            nlmsg.pack_u32(_MTU, end.mtu),
            nlmsg.pack_u32(_NUM_TX_QUEUES, 1),
            nlmsg.pack_u32(_NUM_RX_QUEUES, 1),
        )
    )


def pack_get_link(name: str, seq: int, flags: int) -> bytes:
    """RTM_GETLINK of one device by its name, without its counters."""
    return _pack(RTM_GETLINK, flags, seq, _ifinfo(0), nlmsg.pack_string(_IFNAME, name), SKIP_STATS)


def pack_get_index(ifindex: int, seq: int, flags: int) -> bytes:
    """RTM_GETLINK of one device by its index, without its counters."""
    return _pack(RTM_GETLINK, flags, seq, _ifinfo(ifindex), SKIP_STATS)


def pack_configure(ifindex: int, alias: str, conf: Mapping[DevConf, int], seq: int, flags: int) -> bytes:
    """RTM_SETLINK of alias and IPv4 settings; unlike /proc/sys this needs no mount."""
    settings = (nlmsg.pack_u32(number, value) for number, value in conf.items())
    inet = nlmsg.pack_nested(_AF_INET, nlmsg.pack_nested(_INET_CONF, *settings))
    attributes = (nlmsg.pack_attr(_IFALIAS, alias.encode()), nlmsg.pack_nested(_AF_SPEC, inet))
    return _pack(RTM_SETLINK, flags, seq, _ifinfo(ifindex), *attributes)


def pack_no_link_local(ifindex: int, seq: int, flags: int) -> bytes:
    """RTM_SETLINK: the kernel shall make no link-local IPv6 address of its own when the device comes up."""
    inet6 = nlmsg.pack_nested(_AF_INET6, nlmsg.pack_u8(_INET6_ADDR_GEN_MODE, _ADDR_GEN_MODE_NONE))
    return _pack(RTM_SETLINK, flags, seq, _ifinfo(ifindex), nlmsg.pack_nested(_AF_SPEC, inet6))


def pack_up(ifindex: int, seq: int, flags: int) -> bytes:
    """RTM_SETLINK: up."""
    return _pack(RTM_SETLINK, flags, seq, _IFINFOMSG.pack(0, 0, ifindex, _IFF_UP, _IFF_UP))


def pack_down(ifindex: int, seq: int, flags: int) -> bytes:
    """RTM_SETLINK: down, which takes the device's routes away."""
    return _pack(RTM_SETLINK, flags, seq, _IFINFOMSG.pack(0, 0, ifindex, 0, _IFF_UP))


def pack_bury(ifindex: int, name: str, group: int, seq: int, flags: int) -> bytes:
    """RTM_SETLINK: another name and group, and no alias."""
    attributes = (
        nlmsg.pack_string(_IFNAME, name),
        nlmsg.pack_u32(_GROUP, group),
        nlmsg.pack_attr(_IFALIAS, b"\0"),  # an attribute without payload is no attribute
    )
    return _pack(RTM_SETLINK, flags, seq, _ifinfo(ifindex), *attributes)


def pack_delete_group(group: int, seq: int, flags: int) -> bytes:
    """RTM_DELLINK of all devices of a group; ENODEV if it has none."""
    return _pack(RTM_DELLINK, flags, seq, _ifinfo(0), nlmsg.pack_u32(_GROUP, group))


def pack_proxy_delay(ifindex: int, milliseconds: int, seq: int, flags: int) -> bytes:
    """RTM_SETNEIGHTBL of a device: how long a proxy ARP answer waits (net/ipv4/neigh/DEV/proxy_delay)."""
    parameters = nlmsg.pack_nested(
        _NDTA_PARMS,
        nlmsg.pack_u32(_NDTPA_IFINDEX, ifindex),
        nlmsg.pack_attr(_NDTPA_PROXY_DELAY, _U64.pack(milliseconds)),
    )
    name = nlmsg.pack_string(_NDTA_NAME, "arp_cache")
    return _pack(RTM_SETNEIGHTBL, flags, seq, _NDTMSG.pack(_AF_INET), name, parameters)


def pack_address(ifindex: int, interface: Interface, seq: int, flags: int) -> bytes:
    """RTM_NEWADDR; of IPv6 without duplicate address detection, so that it serves at once."""
    address = interface.ip
    scope = _RT_SCOPE_LINK if address.version == 6 and address.is_link_local else _RT_SCOPE_UNIVERSE
    body = _IFADDRMSG.pack(_family(address), interface.network.prefixlen, 0, scope, ifindex)
    attributes = [nlmsg.pack_attr(_IFA_LOCAL, address.packed), nlmsg.pack_attr(_IFA_ADDRESS, address.packed)]
    if address.version == 6:
        attributes.append(nlmsg.pack_u32(_IFA_FLAGS, _IFA_F_NODAD))
    return _pack(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL | flags, seq, body, *attributes)


def pack_get_address(ifindex: int, address: IPv6Address, seq: int, flags: int) -> bytes:
    """RTM_GETADDR of one address of a device; EADDRNOTAVAIL if it has none such."""
    body = _IFADDRMSG.pack(_AF_INET6, 0, 0, 0, ifindex)
    return _pack(RTM_GETADDR, flags, seq, body, nlmsg.pack_attr(_IFA_ADDRESS, address.packed))


def pack_neighbour(ifindex: int, address: Address, mac: str, seq: int, flags: int, *, state: int) -> bytes:
    """RTM_NEWNEIGH of an entry that is permanent, or stale: used at once, and verified by and by."""
    body = _NDMSG.pack(_family(address), ifindex, state, 0, 0)
    attributes = (nlmsg.pack_attr(_NDA_DST, address.packed), nlmsg.pack_attr(_NDA_LLADDR, _mac(mac)))
    return _pack(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE | flags, seq, body, *attributes)


def pack_routes_of(ifindex: int, family: Family, seq: int) -> bytes:
    """RTM_GETROUTE of the routes out of a device; the socket must have NETLINK_GET_STRICT_CHK."""
    body = _RTMSG.pack(_AF_INET if family == 4 else _AF_INET6, 0, 0, 0, 0, 0, 0, 0, 0)
    return _pack(RTM_GETROUTE, NLM_F_DUMP, seq, body, nlmsg.pack_u32(_RTA_OIF, ifindex))


def pack_routes_by(protocol: int, family: Family, seq: int) -> bytes:
    """RTM_GETROUTE of the routes of a protocol; the socket must have NETLINK_GET_STRICT_CHK."""
    body = _RTMSG.pack(_AF_INET if family == 4 else _AF_INET6, 0, 0, 0, 0, protocol, 0, 0, 0)
    return _pack(RTM_GETROUTE, NLM_F_DUMP, seq, body)


def pack_arp_parameters(seq: int) -> bytes:
    """RTM_GETNEIGHTBL of all tables of ARP, with the parameters of each device."""
    return _pack(RTM_GETNEIGHTBL, NLM_F_DUMP, seq, _NDTMSG.pack(_AF_INET))


def parse_proxy_delay(body: bytes) -> tuple[int, int] | None:
    """Of an RTM_NEWNEIGHTBL body: device and its proxy_delay in milliseconds; None where it is of no device.

    Raises:
        nlmsg.TruncatedError: a length does not fit.
    """
    parameters = nlmsg.parse_attrs(nlmsg.parse_attrs(body, _NDTMSG.size).get(_NDTA_PARMS, b""))
    if _NDTPA_IFINDEX not in parameters or len(delay := parameters.get(_NDTPA_PROXY_DELAY, b"")) < _U64.size:
        return None
    return nlmsg.parse_u32(parameters[_NDTPA_IFINDEX]), _U64.unpack_from(delay)[0]


def parse_route_device(body: bytes) -> int:
    """RTA_OIF of a route message's body; 0 for a route of several next hops or none."""
    return nlmsg.parse_u32(nlmsg.parse_attrs(body, _RTMSG.size).get(_RTA_OIF, b""))


def parse_address_device(body: bytes) -> int:
    """The device of an address message's body."""
    ifindex: int = _IFADDRMSG.unpack_from(body)[4]
    return ifindex


def parse_pair(body: bytes) -> Pair:
    """The pair of an RTM_NEWLINK body of a veth.

    Raises:
        nlmsg.TruncatedError: a length does not fit.
    """
    return Pair(
        ifindex=_IFINFOMSG.unpack_from(body)[2],
        peer=nlmsg.parse_u32(nlmsg.parse_attrs(body, _IFINFOMSG.size).get(_LINK, b"")),
    )


def parse_conf(body: bytes) -> dict[int, int]:
    """Of an RTM_NEWLINK body: net/ipv4/conf of the device, by number (IFLA_INET_CONF, an array that begins with 1).

    Raises:
        nlmsg.TruncatedError: a length does not fit.
    """
    return _parse_conf(body, _AF_INET, _INET_CONF, first=1)


def parse_conf6(body: bytes) -> dict[int, int]:
    """The same of net/ipv6/conf (IFLA_INET6_CONF, an array that begins with 0).

    Raises:
        nlmsg.TruncatedError: a length does not fit.
    """
    return _parse_conf(body, _AF_INET6, _INET6_CONF, first=0)


def _parse_conf(body: bytes, family: int, kind: int, *, first: int) -> dict[int, int]:
    specific = nlmsg.parse_attrs(nlmsg.parse_attrs(body, _IFINFOMSG.size).get(_AF_SPEC, b""))
    values = nlmsg.parse_attrs(specific.get(family, b"")).get(kind, b"")
    return {number: value for number, (value,) in enumerate(_U32.iter_unpack(values), start=first)}


def _pack(kind: int, flags: int, seq: int, body: bytes, *attributes: bytes) -> bytes:
    return nlmsg.pack_message(kind, flags | NLM_F_REQUEST, seq, body + b"".join(attributes))


def _ifinfo(ifindex: int) -> bytes:
    return _IFINFOMSG.pack(0, 0, ifindex, 0, 0)


def _family(address: Address) -> int:
    return _AF_INET if address.version == 4 else _AF_INET6


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))
