"""What the engine reads of the kernel, over rtnetlink(7): its device, that device's routes, and changes of both.

Reads only. Numbers are of linux/rtnetlink.h, linux/if_link.h and linux/netlink.h. IPv4 routes only: neither IPIP
(RFC 2003) nor flannel's udp backend carries anything else.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

from calico_py.dataplane.tunnel.lookup import Prefix, RouteId

_SOL_NETLINK = 270
_NETLINK_GET_STRICT_CHK = 12
_RTMGRP_LINK = 0x1
_RTMGRP_IPV4_ROUTE = 0x40

_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NLM_F_REQUEST = 0x1
_NLM_F_DUMP = 0x300
_NLM_F_DUMP_INTR = 0x10

_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK = 16, 17, 18
_RTM_NEWROUTE, _RTM_DELROUTE, _RTM_GETROUTE = 24, 25, 26

_IFLA_IFNAME, _IFLA_MTU, _IFLA_LINKINFO, _IFLA_IFALIAS, _IFLA_STATS64 = 3, 4, 18, 20, 23
_IFLA_INFO_KIND = 1
_IFF_UP = 0x1
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_MULTIPATH, _RTA_TABLE = 1, 4, 5, 6, 9, 15
_RTN_UNICAST = 1
_RTM_F_CLONED = 0x200

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: len type flags seq pid
_IFINFO = struct.Struct("=BxHiII")  # ifinfomsg: family type index flags change
_RTMSG = struct.Struct("=BBBBBBBBI")  # rtmsg: family dst_len src_len tos table protocol scope type flags
_ATTRIBUTE = struct.Struct("=HH")
_NEXTHOP = struct.Struct("=HBBi")  # rtnexthop: len flags hops ifindex
_TX_DROPPED = 7  # place in rtnl_link_stats64

_RECEIVE = 1 << 18
_EVENT_BUFFER = 4 << 20  # some thousands of route messages; an overflow costs a dump, no more


@dataclass(frozen=True, slots=True)
class Link:
    """The device as the engine needs to know it.

    Attributes:
        kind: ``tun``, ``ipip``, ...
        tx_dropped: packets that the kernel dropped because the queue was full or nobody was attached.
    """

    ifindex: int
    name: str
    kind: str
    mtu: int
    up: bool
    alias: str
    tx_dropped: int = 0


@dataclass(frozen=True, slots=True)
class LinkEvent:
    """A device came, changed or went (removed)."""

    link: Link
    removed: bool


@dataclass(frozen=True, slots=True)
class RouteEvent:
    """A route came or went; replacing one is told as a new one of the same key.

    Attributes:
        gateways: (ifindex, address) of its next hops; without those that have no gateway.
    """

    prefix: Prefix
    route: RouteId
    gateways: tuple[tuple[int, IPv4Address], ...]
    removed: bool

    def gateway(self, ifindex: int) -> IPv4Address | None:
        """The first next hop by that device, None if the route does not use it."""
        return next((address for device, address in self.gateways if device == ifindex), None)


@dataclass(frozen=True, slots=True)
class Overflow:
    """The kernel had more to tell than the socket holds (ENOBUFS): read everything again."""


Event = LinkEvent | RouteEvent | Overflow


def _attributes(data: bytes, offset: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(type, start, end) of each attribute's value (netlink(7), struct nlattr), until one that is cut off."""
    while offset + 4 <= end:
        size, kind = _ATTRIBUTE.unpack_from(data, offset)
        if size < 4 or offset + size > end:
            return
        yield kind & 0x3FFF, offset + 4, offset + size
        offset += (size + 3) & ~3


def parse_link(data: bytes) -> Link:
    """An RTM_NEWLINK or RTM_DELLINK message from its ifinfomsg on."""
    _, _, ifindex, flags, _ = _IFINFO.unpack_from(data)
    name = kind = alias = ""
    mtu = dropped = 0
    for attribute, start, end in _attributes(data, _IFINFO.size, len(data)):
        if attribute == _IFLA_IFNAME:
            name = data[start:end].rstrip(b"\0").decode()
        elif attribute == _IFLA_MTU:
            mtu = int.from_bytes(data[start:end], "little" if struct.pack("=H", 1)[0] else "big")
        elif attribute == _IFLA_IFALIAS:
            alias = data[start:end].rstrip(b"\0").decode(errors="replace")
        elif attribute == _IFLA_STATS64:
            dropped = struct.unpack_from("=Q", data, start + 8 * _TX_DROPPED)[0]
        elif attribute == _IFLA_LINKINFO:
            for nested, begin, stop in _attributes(data, start, end):
                if nested == _IFLA_INFO_KIND:
                    kind = data[begin:stop].rstrip(b"\0").decode()
    return Link(ifindex, name, kind, mtu, bool(flags & _IFF_UP), alias, dropped)


def parse_route(data: bytes, *, removed: bool) -> RouteEvent | None:
    """An RTM_NEWROUTE or RTM_DELROUTE message from its rtmsg on; None for what is no route of IPv4 in a table."""
    family, length, _, tos, table, _, _, route_type, flags = _RTMSG.unpack_from(data)
    if family != socket.AF_INET or flags & _RTM_F_CLONED:
        return None
    network = metric = ifindex = 0
    gateway = None
    gateways: list[tuple[int, IPv4Address]] = []
    for attribute, start, end in _attributes(data, _RTMSG.size, len(data)):
        if attribute == _RTA_DST:
            network = int.from_bytes(data[start:end], "big")
        elif attribute == _RTA_GATEWAY:
            gateway = IPv4Address(data[start:end])
        elif attribute == _RTA_MULTIPATH:
            gateways = list(_parse_nexthops(data, start, end))
        elif attribute in (_RTA_OIF, _RTA_PRIORITY, _RTA_TABLE):
            number = struct.unpack_from("=I", data, start)[0]
            if attribute == _RTA_OIF:
                ifindex = number
            elif attribute == _RTA_PRIORITY:
                metric = number
            else:
                table = number
    if gateway is not None:
        gateways.append((ifindex, gateway))
    if route_type != _RTN_UNICAST:
        gateways = []
    return RouteEvent(Prefix(network, length), RouteId.of(table, metric, tos), tuple(gateways), removed)


def _parse_nexthops(data: bytes, offset: int, end: int) -> Iterator[tuple[int, IPv4Address]]:
    while offset + _NEXTHOP.size <= end:
        size, _, _, ifindex = _NEXTHOP.unpack_from(data, offset)
        if size < _NEXTHOP.size or offset + size > end:
            return
        for attribute, start, stop in _attributes(data, offset + _NEXTHOP.size, offset + size):
            if attribute == _RTA_GATEWAY:
                yield ifindex, IPv4Address(data[start:stop])
        offset += (size + 3) & ~3


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(type, flags, body) of each message of a datagram."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        size, kind, flags, _, _ = _HEADER.unpack_from(data, offset)
        if size < _HEADER.size:
            return
        yield kind, flags, data[offset + _HEADER.size : offset + size]
        offset += (size + 3) & ~3


def _parse_event(kind: int, body: bytes) -> Event | None:
    if kind in (_RTM_NEWLINK, _RTM_DELLINK):
        return LinkEvent(parse_link(body), removed=kind == _RTM_DELLINK)
    if kind in (_RTM_NEWROUTE, _RTM_DELROUTE):
        return parse_route(body, removed=kind == _RTM_DELROUTE)
    return None


class Rtnl:
    """Two netlink sockets of the calling process's network namespace: one for questions, one for changes."""

    def __init__(self) -> None:
        self._questions = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._questions.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
        self._questions.bind((0, 0))
        self._events = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
        )
        self._events.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _EVENT_BUFFER)
        self._events.bind((0, _RTMGRP_LINK | _RTMGRP_IPV4_ROUTE))

    def fileno(self) -> int:
        """The descriptor that is readable when there are changes."""
        return self._events.fileno()

    def close(self) -> None:
        """Close both sockets."""
        self._questions.close()
        self._events.close()

    def changes(self) -> Iterator[Event]:
        """What has changed since the last call; does not wait."""
        while True:
            try:
                data = self._events.recv(_RECEIVE)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                yield Overflow()
                continue
            for kind, _, body in _messages(data):
                event = _parse_event(kind, body)
                if event is not None:
                    yield event

    def link(self, name: str) -> Link | None:
        """The device of that name."""
        body = _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + _attribute(_IFLA_IFNAME, name.encode() + b"\0")
        try:
            return next((parse_link(answer) for answer in self._ask(_RTM_GETLINK, 0, body)), None)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            raise

    def routes(self, ifindex: int) -> dict[tuple[Prefix, RouteId], IPv4Address]:
        """All routes of a device that have a gateway, with it; complete."""
        body = _RTMSG.pack(socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0) + _attribute(_RTA_OIF, struct.pack("=I", ifindex))
        while True:
            try:
                found = [parse_route(answer, removed=False) for answer in self._ask(_RTM_GETROUTE, _NLM_F_DUMP, body)]
            except InterruptedError:  # the tables changed under the dump
                continue
            pairs = [(route, route.gateway(ifindex)) for route in found if route is not None]
            return {(route.prefix, route.route): gateway for route, gateway in pairs if gateway is not None}

    def gateway(self, destination: bytes, ifindex: int) -> IPv4Address | None:
        """The kernel's own answer for one destination, None if it leads elsewhere than to that device."""
        body = _RTMSG.pack(socket.AF_INET, 32, 0, 0, 0, 0, 0, 0, 0) + _attribute(_RTA_DST, destination)
        try:
            answers = list(self._ask(_RTM_GETROUTE, 0, body))
        except OSError:  # unreachable, prohibited: the errno is the route's
            return None
        for answer in answers:
            # The answer is a lookup's result, hence cloned; its next hop reads as a route's does.
            fields = list(_RTMSG.unpack_from(answer))
            fields[8] = 0
            route = parse_route(_RTMSG.pack(*fields) + answer[_RTMSG.size :], removed=False)
            if route is not None:
                return route.gateway(ifindex)
        return None

    def _ask(self, kind: int, flags: int, body: bytes) -> Iterator[bytes]:
        """Bodies of the answers to one question.

        Raises:
            OSError: the kernel's error. InterruptedError: a dump is inconsistent and must be repeated.
        """
        header = _HEADER.pack(_HEADER.size + len(body), kind, _NLM_F_REQUEST | flags, 1, 0)
        self._questions.send(header + body)
        interrupted = False
        answers = []
        done = False
        while not done:
            for answer, answer_flags, content in _messages(self._questions.recv(_RECEIVE)):
                interrupted = interrupted or bool(answer_flags & _NLM_F_DUMP_INTR)
                if answer == _NLMSG_ERROR:
                    number = -struct.unpack_from("=i", content)[0]
                    raise OSError(number, os.strerror(number))
                if answer == _NLMSG_DONE:
                    done = True
                else:
                    answers.append(content)
            done = done or not flags & _NLM_F_DUMP
        if interrupted:
            raise InterruptedError(errno.EINTR, "the kernel's tables changed during a dump")
        yield from answers


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)
