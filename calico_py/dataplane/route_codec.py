"""Routes to and from rtnetlink messages, pure.

struct rtmsg and the RTA_ attributes of linux/rtnetlink.h, struct rtnexthop for multipath. Kept fast on purpose:
a node of a large cluster replaces and dumps tens of thousands.
"""

import struct
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from calico_py.dataplane import nlmsg
from calico_py.model.kernel import METRIC_IPV6, NextHop, Route, RouteType
from calico_py.model.net import Address, Network

RTM_NEWROUTE = 24
RTM_DELROUTE = 25
RTM_GETROUTE = 26

AF_INET = 2
AF_INET6 = 10

_RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst_len, src_len, tos, table, protocol, scope, type, flags
_NEXTHOP = struct.Struct("=HBBi")  # struct rtnexthop: len, flags, hops, ifindex
_ATTR_I32 = struct.Struct("=HHi")
_ATTR_U32 = struct.Struct("=HHI")

# enum rtattr_type_t
_RTA_DST = 1
_RTA_OIF = 4
_RTA_GATEWAY = 5
_RTA_PRIORITY = 6
_RTA_PREFSRC = 7
_RTA_METRICS = 8
_RTA_MULTIPATH = 9
_RTA_TABLE = 15
_RTA_VIA = 18
_RTAX_MTU = 2

# The kernel dumps RTA_TABLE (8 bytes) and then RTA_DST right behind struct rtmsg (fib_dump_info, rt6_fill_node).
_DST_OFFSET = _RTMSG.size + 8
_DST_LENGTH = {nlmsg.ATTR.pack(length, _RTA_DST): length for length in (8, 20)}

_RT_TABLE_COMPAT = 252  # rtm_table of a table beyond a byte; RTA_TABLE has the number
_RT_SCOPE_UNIVERSE = 0
_RT_SCOPE_LINK = 253
_RTM_F_CLONED = 0x200
_RTNH_F_ONLINK = 4

_RTN_UNICAST = 1
_RTN_BLACKHOLE = 6
_TYPE_NUMBER = {RouteType.UNICAST: _RTN_UNICAST, RouteType.BLACKHOLE: _RTN_BLACKHOLE}
_TYPE = {number: kind for kind, number in _TYPE_NUMBER.items()}


def pack_put(route: Route, seq: int, flags: int) -> bytes:
    """RTM_NEWROUTE that creates the route or replaces the one of its key (fib_table_insert, ip6_route_add).

    Args:
        route: of type unicast or blackhole.
        seq: nlmsg_seq.
        flags: further nlmsg_flags, such as NLM_F_ACK.
    """
    flags |= nlmsg.NLM_F_REQUEST | nlmsg.NLM_F_CREATE | nlmsg.NLM_F_REPLACE
    return nlmsg.pack_message(RTM_NEWROUTE, flags, seq, _pack_body(route))


def pack_delete(route: Route, seq: int, flags: int) -> bytes:
    """RTM_DELROUTE of exactly this route: the kernel compares whatever the message names."""
    return nlmsg.pack_message(RTM_DELROUTE, flags | nlmsg.NLM_F_REQUEST, seq, _pack_body(route))


def pack_dump(seq: int) -> bytes:
    """RTM_GETROUTE of all routes of all families in every table."""
    body = bytes(_RTMSG.size)
    return nlmsg.pack_message(RTM_GETROUTE, nlmsg.NLM_F_REQUEST | nlmsg.NLM_F_DUMP, seq, body)


def _pack_body(route: Route) -> bytes:
    dst, table = route.dst, route.table
    parts = [
        _RTMSG.pack(
            AF_INET if dst.version == 4 else AF_INET6,
            dst.prefixlen,
            0,
            0,
            table if table < 256 else _RT_TABLE_COMPAT,
            route.protocol,
            _RT_SCOPE_LINK if route.link_scope else _RT_SCOPE_UNIVERSE,
            _TYPE_NUMBER[route.type],
            _RTNH_F_ONLINK if len(route.next_hops) == 1 and route.next_hops[0].onlink else 0,
        ),
        _ATTR_U32.pack(8, _RTA_TABLE, table),
        nlmsg.pack_attr(_RTA_DST, dst.network_address.packed),
    ]
    if route.metric:
        parts.append(_ATTR_U32.pack(8, _RTA_PRIORITY, route.metric))
    if len(route.next_hops) == 1:
        hop = route.next_hops[0]
        parts.append(_pack_gateway(dst.version, hop.gateway))
        parts.append(_ATTR_I32.pack(8, _RTA_OIF, hop.ifindex))
    elif route.next_hops:
        hops = b"".join(_pack_next_hop(dst.version, hop) for hop in route.next_hops)
        parts.append(nlmsg.pack_attr(_RTA_MULTIPATH, hops))
    if route.prefsrc is not None:
        parts.append(nlmsg.pack_attr(_RTA_PREFSRC, route.prefsrc.packed))
    if route.mtu:
        parts.append(nlmsg.pack_nested(_RTA_METRICS, nlmsg.pack_u32(_RTAX_MTU, route.mtu)))
    return b"".join(parts)


def _pack_gateway(version: int, gateway: Address | None) -> bytes:
    if gateway is None:
        return b""
    if gateway.version == version:
        return nlmsg.pack_attr(_RTA_GATEWAY, gateway.packed)
    family = AF_INET if gateway.version == 4 else AF_INET6  # struct rtvia: an IPv4 route by way of an IPv6 neighbour
    return nlmsg.pack_attr(_RTA_VIA, struct.pack("=H", family) + gateway.packed)


def _pack_next_hop(version: int, hop: NextHop) -> bytes:
    gateway = _pack_gateway(version, hop.gateway)
    return _NEXTHOP.pack(8 + len(gateway), _RTNH_F_ONLINK if hop.onlink else 0, 0, hop.ifindex) + gateway


class RouteParser:
    """Reads route messages; one object for each dump.

    Routes differ mostly in their destination, so all that a message holds besides is read once and remembered: that
    halves the time of a large dump.
    """

    def __init__(self) -> None:
        self._like: dict[bytes, Route | None] = {}

    def parse(self, body: bytes) -> Route | None:
        """The route of an RTM_NEWROUTE or RTM_DELROUTE body.

        None for what has no RouteKey or is no entry of a table: cached exceptions (RTM_F_CLONED), and routes that the
        kernel tells apart by type of service or by source prefix as well, which never meet one of ours.

        Raises:
            TruncatedError: the message is cut short.
        """
        length = _DST_LENGTH.get(body[_DST_OFFSET : _DST_OFFSET + 4], 0)
        if not length:  # a default route, or attributes in another order
            return _parse(body)
        key = body[:_DST_OFFSET] + body[_DST_OFFSET + length :]
        if key in self._like:
            like = self._like[key]
        else:
            like = self._like[key] = _parse(body)
        if like is None:
            return None
        return Route(
            _network(body[_DST_OFFSET + 4 : _DST_OFFSET + length], body[1]),
            like.type,
            like.next_hops,
            like.protocol,
            like.table,
            like.metric,
            like.link_scope,
            like.mtu,
            like.prefsrc,
        )


def _parse(body: bytes) -> Route | None:
    if len(body) < _RTMSG.size:
        raise nlmsg.TruncatedError(f"route message of {len(body)} bytes, struct rtmsg alone has {_RTMSG.size}")
    family, prefixlen, src_len, tos, table, protocol, scope, kind, flags = _RTMSG.unpack_from(body)
    if flags & _RTM_F_CLONED or tos or src_len or family not in (AF_INET, AF_INET6):
        return None
    attrs = nlmsg.parse_attrs(body, _RTMSG.size)
    route_type = _TYPE.get(kind, RouteType.OTHER)
    next_hops: tuple[NextHop, ...] = ()
    if route_type == RouteType.BLACKHOLE:
        pass  # an IPv6 blackhole is dumped with device lo, which nobody asked for
    elif _RTA_MULTIPATH in attrs:
        next_hops = tuple(sorted(_parse_next_hops(attrs[_RTA_MULTIPATH]), key=_order))
    elif _RTA_OIF in attrs:
        ifindex = nlmsg.parse_u32(attrs[_RTA_OIF])
        next_hops = (NextHop(ifindex, _parse_gateway(attrs), bool(flags & _RTNH_F_ONLINK)),)
    return Route(
        dst=_network(attrs.get(_RTA_DST, bytes(4 if family == AF_INET else 16)), prefixlen),
        type=route_type,
        next_hops=next_hops,
        protocol=protocol,
        table=nlmsg.parse_u32(attrs[_RTA_TABLE]) if _RTA_TABLE in attrs else table,
        metric=nlmsg.parse_u32(attrs[_RTA_PRIORITY]) if _RTA_PRIORITY in attrs else 0,
        link_scope=family == AF_INET and scope == _RT_SCOPE_LINK,
        mtu=_parse_mtu(attrs[_RTA_METRICS]) if _RTA_METRICS in attrs else 0,
        prefsrc=_address(attrs[_RTA_PREFSRC]) if _RTA_PREFSRC in attrs else None,
    )


def _network(dst: bytes, prefixlen: int) -> Network:
    if len(dst) == 4:
        return IPv4Network((int.from_bytes(dst, "big"), prefixlen))
    return IPv6Network((int.from_bytes(dst, "big"), prefixlen))


def _address(packed: bytes) -> Address:
    return IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)


def _parse_gateway(attrs: Mapping[int, bytes]) -> Address | None:
    packed = attrs.get(_RTA_GATEWAY) or attrs.get(_RTA_VIA, b"")[2:]
    return _address(packed) if packed else None


def _order(hop: NextHop) -> tuple[int, int, int, bool]:
    """Next hops in one order whoever wrote them; gateways of both families compare."""
    gateway = hop.gateway
    return (hop.ifindex, 0 if gateway is None else gateway.version, 0 if gateway is None else int(gateway), hop.onlink)


def _parse_next_hops(data: bytes) -> Iterator[NextHop]:
    offset = 0
    while len(data) - offset >= _NEXTHOP.size:
        length, flags, _, ifindex = _NEXTHOP.unpack_from(data, offset)
        if not _NEXTHOP.size <= length <= len(data) - offset:
            raise nlmsg.TruncatedError(f"next hop says {length} bytes, {len(data) - offset} are left")
        attrs = nlmsg.parse_attrs(data[offset + _NEXTHOP.size : offset + length])
        yield NextHop(ifindex, _parse_gateway(attrs), bool(flags & _RTNH_F_ONLINK))
        offset += (length + 3) & ~3


def _parse_mtu(metrics: bytes) -> int:
    mtu = nlmsg.parse_attrs(metrics).get(_RTAX_MTU)
    return nlmsg.parse_u32(mtu) if mtu else 0


def normalise(route: Route) -> Route:
    """The route as a dump gives it back: next hops in order, IPv6's metric and scope, no way out of a blackhole."""
    six = route.dst.version == 6
    return Route(
        dst=route.dst,
        type=route.type,
        next_hops=() if route.type == RouteType.BLACKHOLE else tuple(sorted(route.next_hops, key=_order)),
        protocol=route.protocol,
        table=route.table,
        metric=route.metric or (METRIC_IPV6 if six else 0),
        link_scope=route.link_scope and not six,
        mtu=route.mtu,
        prefsrc=route.prefsrc,
    )
