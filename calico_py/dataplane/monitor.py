"""What changes in the kernel, by anyone: the multicast groups of rtnetlink and nftables as a stream of KernelEvents.

The kernel tells less than happens: the IPv4 routes of a device that goes down, and those of one that loses its last
IPv4 address, vanish without an event of their own (fib_sync_down_dev, fib_disable_ip). Who follows routes has to
conclude that from the events of links and addresses.
"""

import asyncio
import collections
import errno
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Self

from calico_py.dataplane import nft_events, nlmsg, object_codec, route_codec, rtnl_socket
from calico_py.model.kernel import KernelEvent, KernelObject

# enum rtnetlink_groups of linux/rtnetlink.h
_GROUP_LINK = 1
_GROUP_NEIGH = 3
_GROUP_IPV4_IFADDR = 5
_GROUP_IPV4_ROUTE = 7
_GROUP_IPV6_IFADDR = 9
_GROUP_IPV6_ROUTE = 11
_GROUPS = (
    _GROUP_LINK,
    _GROUP_NEIGH,
    _GROUP_IPV4_IFADDR,
    _GROUP_IPV4_ROUTE,
    _GROUP_IPV6_IFADDR,
    _GROUP_IPV6_ROUTE,
)
_log = logging.getLogger(__name__)

_REMOVALS = (
    object_codec.RTM_DELLINK,
    object_codec.RTM_DELADDR,
    object_codec.RTM_DELNEIGH,
    route_codec.RTM_DELROUTE,
)


class Monitor(AsyncIterator[KernelEvent]):
    """Listens from its making on, until it is closed."""

    def __init__(self) -> None:
        self._parsers: dict[socket.socket, Callable[[bytes], Iterable[KernelEvent]]] = {}
        self._parsers[rtnl_socket.open_socket(_GROUPS)] = parse_events
        try:
            self._parsers[nft_events.open_socket()] = nft_events.parse_events
        except OSError as error:
            if error.errno not in (errno.EPROTONOSUPPORT, errno.ENOENT):
                self.close()
                raise
            _log.warning("this kernel has no nftables: changes of its tables are not told (%s)", error)
        self._ready: collections.deque[KernelEvent] = collections.deque()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> KernelEvent:
        """The next event; one of kind None where the kernel had to drop some."""
        while not self._ready:
            for sock, parse in self._parsers.items():
                self._ready.extend(_read(sock, parse))
            if self._ready:
                await asyncio.sleep(0)  # a full table of another routing daemon is minutes of events: let others run
            else:
                await self._wait()
        return self._ready.popleft()

    async def _wait(self) -> None:
        """Until one of the sockets has something to read."""
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        for sock in self._parsers:
            loop.add_reader(sock, readable.set)
        try:
            await readable.wait()
        finally:
            for sock in self._parsers:
                loop.remove_reader(sock)

    def close(self) -> None:
        """Stop listening."""
        for sock in self._parsers:
            sock.close()


def _read(sock: socket.socket, parse: Callable[[bytes], Iterable[KernelEvent]]) -> Iterable[KernelEvent]:
    try:
        return list(parse(sock.recv(rtnl_socket.DATAGRAM)))
    except BlockingIOError:
        return ()
    except nlmsg.TruncatedError:  # larger than what was received
        return (KernelEvent(kind=None),)
    except OSError as error:
        if error.errno != errno.ENOBUFS:
            raise
        return (KernelEvent(kind=None),)


def parse_events(data: bytes) -> Iterator[KernelEvent]:
    """The events of a datagram; messages of other kinds are left out."""
    for message in nlmsg.iter_messages(data):
        event = _parse_event(message)
        if event is not None:
            yield event


def _parse_event(message: nlmsg.Message) -> KernelEvent | None:
    removed = message.type in _REMOVALS
    obj: KernelObject | None = None
    match message.type:
        case route_codec.RTM_NEWROUTE | route_codec.RTM_DELROUTE:
            obj = route_codec.RouteParser().parse(message.body)
        case object_codec.RTM_NEWLINK | object_codec.RTM_DELLINK:
            parsed = object_codec.parse_link(message.body)
            obj = parsed.link if parsed is not None else None
        case object_codec.RTM_NEWADDR | object_codec.RTM_DELADDR:
            obj = object_codec.parse_addr(message.body)
        case object_codec.RTM_NEWNEIGH | object_codec.RTM_DELNEIGH:
            neigh = object_codec.parse_neigh(message.body)
            if neigh is not None:
                # Only permanent entries are objects here: one that is replaced by a learned one is gone.
                removed = removed or not neigh.permanent
                obj = neigh.entry
    return None if obj is None else KernelEvent(type(obj), removed, obj)
