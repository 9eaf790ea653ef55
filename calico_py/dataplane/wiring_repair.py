"""Keeps the host's side of the pods' interfaces: a route, address or state that someone takes away is back at once.

What should be is on the devices themselves (wiring_plan.parse_alias), so that a restarted agent knows it without the
API. The kernel does not tell of IPv4 routes that go with a device's state or last address: events of links and
addresses stand for those, and every RESYNC seconds all is compared. That of an IPv6 address takes a host route along
(of the table local), which it tells.
"""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Iterable
from functools import partial

from calico_py.dataplane import nlmsg, object_codec, route_codec, rtnl_socket
from calico_py.dataplane import wiring_codec as codec
from calico_py.dataplane.transact import Pack, dump, transact
from calico_py.dataplane.wiring_plan import (
    HOST_LINK_LOCAL,
    has_ipv6,
    parse_alias,
    put_host_addresses,
    put_host_routes,
)
from calico_py.model.intent import PROTO_BOOT
from calico_py.model.net import FAMILIES, Interface, Network, host_network
from calico_py.trouble import Trouble

RESYNC = 90.0  # seconds, as Felix's
_RETRY = 0.1

# enum rtnetlink_groups of linux/rtnetlink.h: links, IPv4 addresses, IPv4 routes, IPv6 routes
_GROUPS = (1, 5, 7, 11)
_HOST_PREFIX = {2: 32, 10: 128}  # by address family

_log = logging.getLogger(__name__)


class HostRoutes:
    """Of all pods whose devices exist.

    Args:
        host: a socket in the node's namespace.
    """

    def __init__(self, host: socket.socket) -> None:
        self._host = host
        self._pods: dict[int, tuple[Interface, ...]] = {}
        self._rising: set[int] = set()

    def learn(self, ifindex: int, addresses: Iterable[Interface]) -> None:
        """A pod's device is wired, and up; the events of its making are still to be read."""
        self._pods[ifindex] = tuple(addresses)
        self._rising.add(ifindex)

    def forget(self, ifindex: int) -> None:
        """It is to go: its routes are nobody's."""
        self._pods.pop(ifindex, None)
        self._rising.discard(ifindex)

    async def keep(self) -> None:
        """Repair for ever; what was damaged before is repaired first."""
        trouble = Trouble(_log)
        with rtnl_socket.open_socket(_GROUPS) as events:
            while True:
                try:
                    self.restore_all()
                    trouble.over()
                    async with asyncio.timeout(RESYNC):
                        while True:
                            self._restore(_suspects(await rtnl_socket.receive(events), self._rising))
                            await asyncio.sleep(0)  # what is there already is received without waiting
                except TimeoutError:
                    continue
                except OSError as error:  # ENOBUFS: events were lost; or dumps were interrupted again and again
                    trouble.tell("all pods' host routes are read again", error)
                    await asyncio.sleep(_RETRY)

    def restore_all(self) -> None:
        """Read all devices, their addresses and host routes, and put what is missing."""
        down: set[int] = set()
        for body in dump(self._host, object_codec.pack_link_dump):
            parsed = object_codec.parse_link(body)
            if parsed is not None and (pod := parse_alias(parsed.link.alias)) is not None:
                self.learn(parsed.link.ifindex, pod.addresses)
                if not parsed.link.up:
                    down.add(parsed.link.ifindex)
        installed = self._installed([partial(codec.pack_routes_by, PROTO_BOOT, each) for each in FAMILIES])
        speaking = self._speaking()
        self._rising.clear()
        for ifindex, addresses in tuple(self._pods.items()):
            mute = ifindex in down or (has_ipv6(addresses) and ifindex not in speaking)
            if mute or not _destinations(addresses) <= installed.get(ifindex, set()):
                self._put(ifindex)

    def _speaking(self) -> set[int]:
        """Devices that have their IPv6 address."""
        parsed = map(object_codec.parse_addr, dump(self._host, object_codec.pack_addr_dump))
        return {each.ifindex for each in parsed if each is not None and each.interface == HOST_LINK_LOCAL}

    def _restore(self, suspects: set[int]) -> None:
        """The same for some devices. An event may be older than what it tells of."""
        for ifindex in suspects & self._pods.keys():
            replies = transact(self._host, [partial(codec.pack_get_index, ifindex)]).replies
            if not replies:
                self.forget(ifindex)
                continue
            parsed = object_codec.parse_link(replies[0])
            installed = self._installed([partial(codec.pack_routes_of, ifindex, each) for each in FAMILIES])
            addresses = self._pods[ifindex]
            whole = _destinations(addresses) <= installed.get(ifindex, set())
            if has_ipv6(addresses):
                ask = partial(codec.pack_get_address, ifindex, HOST_LINK_LOCAL.ip)
                whole = whole and not transact(self._host, [ask]).refused
            if parsed is None or not parsed.link.up or not whole:
                self._put(ifindex)

    def _installed(self, requests: Iterable[Callable[[int], bytes]]) -> dict[int, set[Network]]:
        """Destinations by device, of the routes that these dumps list."""
        found: dict[int, set[Network]] = {}
        for request in requests:
            parser = route_codec.RouteParser()
            for body in dump(self._host, request):
                if (route := parser.parse(body)) is not None:
                    for hop in route.next_hops:
                        found.setdefault(hop.ifindex, set()).add(route.dst)
        return found

    def _put(self, ifindex: int) -> None:
        addresses = self._pods[ifindex]
        up = partial(codec.pack_up, ifindex)
        requests: list[Pack] = [up, *put_host_addresses(addresses, ifindex), *put_host_routes(addresses, ifindex)]
        answers = transact(self._host, requests).refused
        refused = {position: answer for position, answer in answers.items() if answer.errno != errno.EEXIST}
        if not refused:
            _log.info("the host's side of the pod behind device %d was damaged and is back", ifindex)
        elif refused[min(refused)].errno == errno.ENODEV:
            self.forget(ifindex)
        else:
            reasons = "; ".join(answer.reason for answer in refused.values())
            _log.warning("the host's side of the pod behind device %d cannot be put back: %s", ifindex, reasons)


def _destinations(addresses: Iterable[Interface]) -> set[Network]:
    return {host_network(address.ip) for address in addresses}


def _suspects(datagram: bytes, rising: set[int]) -> set[int]:
    """Indexes of the devices whose host routes may be missing after these events.

    A device that was just made was down at first: until it is told to be up, it is in ``rising``, and no suspect.
    """
    found = set()
    for message in nlmsg.iter_messages(datagram):
        if message.type == route_codec.RTM_DELROUTE:
            family, prefixlen = message.body[0], message.body[1]
            if prefixlen == _HOST_PREFIX.get(family):
                found.add(codec.parse_route_device(message.body))
        elif message.type == object_codec.RTM_DELADDR:
            found.add(codec.parse_address_device(message.body))
        elif message.type == object_codec.RTM_NEWLINK:
            parsed = object_codec.parse_link(message.body)
            if parsed is None:
                continue
            if parsed.link.up:
                rising.discard(parsed.link.ifindex)
            elif parsed.link.ifindex not in rising:
                found.add(parsed.link.ifindex)
    return found
