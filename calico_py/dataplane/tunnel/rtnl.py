"""What the engine reads of the kernel, over rtnetlink(7): its device, that device's routes, and changes of both.

Reads only, and only IPv4 routes: neither IPIP (RFC 2003) nor flannel's udp backend carries anything else. Without
pyroute2, whose import takes longer and more memory than the whole engine.
"""

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address

from calico_py.dataplane import nlmsg
from calico_py.dataplane.route_codec import RTM_DELROUTE, RTM_GETROUTE, RTM_NEWROUTE, RouteParser
from calico_py.model.kernel import KernelEvent, Link, Route, RouteKey

# asm-generic/socket.h, linux/netlink.h, linux/rtnetlink.h, linux/if_link.h
_SO_RCVBUFFORCE = 33
_SOL_NETLINK = 270
_NETLINK_GET_STRICT_CHK = 12
_RTMGRP_LINK = 0x1
_RTMGRP_IPV4_ROUTE = 0x40
_RTM_NEWLINK, _RTM_DELLINK, _RTM_GETLINK = 16, 17, 18
_IFLA_IFNAME, _IFLA_MTU, _IFLA_LINKINFO, _IFLA_IFALIAS, _IFLA_STATS64 = 3, 4, 18, 20, 23
_IFLA_INFO_KIND = 1
_IFF_UP = 0x1
_IFF_LOWER_UP = 0x10000
_RTA_DST, _RTA_OIF = 1, 4
_RTM_F_FIB_MATCH = 0x2000

_IFINFO = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, change
_RTMSG = struct.Struct("=BBBBBBBBI")  # struct rtmsg: family, dst_len, ..., flags
_TX_DROPPED = struct.Struct("=56xQ")  # of struct rtnl_link_stats64

_RECEIVE = 1 << 18
_BATCH = 64  # datagrams, of one change each
_EVENT_BUFFER = 4 << 20  # bytes, some thousands of route messages; an overflow costs a dump, no more


def parse_link(body: bytes) -> Link:
    """The device of an RTM_NEWLINK or RTM_DELLINK body, as far as the engine cares.

    Raises:
        TruncatedError: the message is cut short.
    """
    if len(body) < _IFINFO.size:
        raise nlmsg.TruncatedError(f"link message of {len(body)} bytes, struct ifinfomsg alone has {_IFINFO.size}")
    _, _, ifindex, flags, _ = _IFINFO.unpack_from(body)
    attrs = nlmsg.parse_attrs(body, _IFINFO.size)
    info = nlmsg.parse_attrs(attrs.get(_IFLA_LINKINFO, b""))
    return Link(
        name=nlmsg.parse_string(attrs.get(_IFLA_IFNAME, b"")),
        ifindex=ifindex,
        kind=nlmsg.parse_string(info.get(_IFLA_INFO_KIND, b"")),
        mtu=nlmsg.parse_u32(attrs.get(_IFLA_MTU, b"")),
        up=bool(flags & _IFF_UP),
        running=bool(flags & _IFF_LOWER_UP),
        alias=nlmsg.parse_string(attrs.get(_IFLA_IFALIAS, b"")),
    )


def gateway_by(route: Route, ifindex: int) -> IPv4Address | None:
    """The gateway of a route's first next hop by that device; None if it has none there."""
    for hop in route.next_hops:
        if hop.ifindex == ifindex and isinstance(hop.gateway, IPv4Address):
            return hop.gateway
    return None


class Rtnl:
    """Two netlink sockets of the calling thread's network namespace: one for questions, one for changes."""

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        self._questions = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        self._questions.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)
        self._questions.bind((0, 0))
        self._events = socket.socket(socket.AF_NETLINK, kind | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        self._events.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _EVENT_BUFFER)
        with contextlib.suppress(PermissionError):  # without NET_ADMIN net.core.rmem_max is what there is
            self._events.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _EVENT_BUFFER)
        self._events.bind((0, _RTMGRP_LINK | _RTMGRP_IPV4_ROUTE))
        self._seq = 0

    def fileno(self) -> int:
        """The descriptor that is readable when there are changes."""
        return self._events.fileno()

    def close(self) -> None:
        """Close both sockets."""
        self._questions.close()
        self._events.close()

    def changes(self) -> Iterator[KernelEvent]:
        """Some of what has changed since the last call, devices and routes; does not wait.

        Not all at once: somebody may change routes faster than they can be read, and packets wait meanwhile.
        """
        parser = RouteParser()
        for _ in range(_BATCH):
            try:
                data = self._events.recv(_RECEIVE)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                yield KernelEvent(None)
                continue
            for message in nlmsg.iter_messages(data):
                if message.type in (_RTM_NEWLINK, _RTM_DELLINK):
                    yield KernelEvent(Link, message.type == _RTM_DELLINK, parse_link(message.body))
                elif message.type in (RTM_NEWROUTE, RTM_DELROUTE):
                    route = parser.parse(message.body)
                    if route is not None:
                        yield KernelEvent(Route, message.type == RTM_DELROUTE, route)

    def link(self, name: str) -> Link | None:
        """The device of that name."""
        body = self._link_body(name)
        return None if body is None else parse_link(body)

    def tx_dropped(self, name: str) -> int:
        """Packets that the kernel dropped since the device's queue was full or nobody was attached."""
        attrs = nlmsg.parse_attrs(self._link_body(name) or b"", _IFINFO.size)
        return int(_TX_DROPPED.unpack_from(attrs[_IFLA_STATS64])[0]) if _IFLA_STATS64 in attrs else 0

    def routes(self, ifindex: int) -> dict[RouteKey, IPv4Address]:
        """All routes of a device that have a gateway, with it; complete."""
        body = _RTMSG.pack(socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0) + nlmsg.pack_u32(_RTA_OIF, ifindex)
        parser = RouteParser()
        while True:
            try:
                parsed = [parser.parse(answer) for answer in self._ask(RTM_GETROUTE, nlmsg.NLM_F_DUMP, body)]
            except InterruptedError:  # the tables changed under the dump
                continue
            except OSError as error:
                if error.errno == errno.ENODEV:  # and so has no routes
                    return {}
                raise
            pairs = [(route.key, gateway_by(route, ifindex)) for route in parsed if route is not None]
            return {key: gateway for key, gateway in pairs if gateway is not None}

    def gateway(self, destination: bytes, ifindex: int) -> IPv4Address | None:
        """The kernel's own answer for one packed address, None if it leads elsewhere than to that device."""
        body = _RTMSG.pack(socket.AF_INET, 32, 0, 0, 0, 0, 0, 0, _RTM_F_FIB_MATCH)
        try:
            answers = self._ask(RTM_GETROUTE, 0, body + nlmsg.pack_attr(_RTA_DST, destination))
        except OSError:  # unreachable, prohibited: the errno is the route's
            return None
        route = RouteParser().parse(answers[0]) if answers else None
        return None if route is None else gateway_by(route, ifindex)

    def _link_body(self, name: str) -> bytes | None:
        body = _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + nlmsg.pack_string(_IFLA_IFNAME, name)
        try:
            return next(iter(self._ask(_RTM_GETLINK, 0, body)), None)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            raise

    def _ask(self, kind: int, flags: int, body: bytes) -> list[bytes]:
        """Bodies of the answers to one question.

        Raises:
            OSError: the kernel's error.
            InterruptedError: a dump is inconsistent and must be repeated.
        """
        self._seq += 1
        self._questions.send(nlmsg.pack_message(kind, flags | nlmsg.NLM_F_REQUEST, self._seq, body))
        answers: list[bytes] = []
        interrupted = done = False
        while not done:
            for message in nlmsg.iter_messages(self._questions.recv(_RECEIVE)):
                if message.seq != self._seq:  # the rest of a dump whose reading failed
                    continue
                interrupted = interrupted or bool(message.flags & nlmsg.NLM_F_DUMP_INTR)
                if message.type in (nlmsg.NLMSG_ERROR, nlmsg.NLMSG_DONE):
                    number = nlmsg.parse_ack(message).errno
                    if number:
                        raise OSError(number, os.strerror(number))
                    done = True
                else:
                    answers.append(message.body)
                    done = not flags & nlmsg.NLM_F_DUMP
        if interrupted:
            raise InterruptedError(errno.EINTR, "the kernel's tables changed during a dump")
        return answers
