"""FakeKernel: the Kernel of the unit tests, with the manners of Linux and switches for its moods.

It keeps one route for each key. Like Linux it drops the IPv4 routes of a device that goes down, or that loses its last
IPv4 address, without an event, and tells of IPv6's.
"""

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from ipaddress import IPv6Address
from typing import Any, Self, cast

from calico_py.dataplane import nft_tool, refusals
from calico_py.dataplane.route_codec import normalise
from calico_py.model.kernel import (
    Addr,
    Change,
    FdbEntry,
    K,
    KernelError,
    KernelEvent,
    KernelObject,
    Link,
    Neigh,
    NextHop,
    NftTable,
    Put,
    Route,
    RouteKey,
    RouteType,
    Sysctl,
)
from calico_py.model.net import Address

PROTO_KERNEL = 2
_METRIC_CONNECTED_IPV6 = 256

Fault = Callable[[str, str, object], None]
"""Called with ("before" or "after", "dump" or "send", kind or change); may raise to play a crash."""


def _no_fault(_when: str, _verb: str, _what: object) -> None:
    """No fault at all."""


class FakeKernel:
    """A network namespace in memory.

    Args:
        ipip: the module ipip can be loaded.
        fault: see Fault.
    """

    def __init__(self, *, ipip: bool = False, fault: Fault = _no_fault) -> None:
        self._ipip = ipip
        self._fault = fault
        self._next_ifindex = 2
        self._links: dict[int, Link] = {1: Link("lo", 1, mtu=65536, up=True, running=True, mac="00:00:00:00:00:00")}
        self._addrs: dict[tuple[int, Any], Addr] = {}
        self._routes: dict[RouteKey, Route] = {}
        self._neighs: dict[tuple[int, Address], Neigh] = {}
        self._fdb: dict[tuple[int, str, Address], FdbEntry] = {}
        self._tables: dict[tuple[str, str], NftTable] = {}
        self._sysctls = {
            "net/ipv4/ip_forward": "0",
            "net/ipv6/conf/all/forwarding": "0",
            "net/ipv4/conf/all/rp_filter": "0",
            "net/ipv4/conf/lo/rp_filter": "0",
        }
        self._fallback = 0  # ifindex of the kernel's own tunl0
        self._listeners: list[asyncio.Queue[KernelEvent]] = []
        self._refusals: list[tuple[int, type[KernelObject] | None]] = []
        self._interruptions = 0
        self.sent: list[Change] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    # Moods

    def fail_next(self, number: int, count: int = 1, kind: type[KernelObject] | None = None) -> None:
        """The next changes (of a kind) fail with this errno."""
        self._refusals += [(number, kind)] * count

    def fail_no_more(self) -> None:
        """What fail_next asked for is over."""
        self._refusals.clear()

    def interrupt_dumps(self, count: int) -> None:
        """So many dumps are interrupted and made again."""
        self._interruptions += count

    def lose_events(self) -> None:
        """What listeners have not read yet is lost (ENOBUFS)."""
        for queue in self._listeners:
            while not queue.empty():
                queue.get_nowait()
            queue.put_nowait(KernelEvent(kind=None))

    def set_carrier(self, name: str, *, running: bool) -> None:
        """A process attaches to a TUN device, or a cable is pulled."""
        link = self._named(name)
        assert link is not None
        self._store_link(replace(link, running=running and link.up))

    def set_link(self, link: Link) -> None:
        """A device is another one all at once, whatever Linux would say to that."""
        self._store_link(link)

    def add_device(self, name: str, kind: str = "", mac: str = "02:00:00:00:00:01") -> int:
        """Hardware, or another program's device; its ifindex."""
        return self._new_link(Link(name, kind=kind, mtu=1500, mac=mac)).ifindex

    # The Kernel protocol

    async def dump(self, kind: type[K]) -> list[K]:
        await asyncio.sleep(0)
        self._fault("before", "dump", kind)
        while self._interruptions:
            self._interruptions -= 1
            await asyncio.sleep(0)
        stores: dict[type[KernelObject], Iterable[KernelObject]] = {
            Link: self._links.values(),
            Addr: self._addrs.values(),
            Route: self._routes.values(),
            Neigh: self._neighs.values(),
            FdbEntry: self._fdb.values(),
            NftTable: (replace(table, rules="") for table in self._tables.values()),
        }
        found = list(stores[kind])
        self._fault("after", "dump", kind)
        await asyncio.sleep(0)  # what is returned is not the newest
        return cast("list[K]", found)

    async def sysctl(self, name: str) -> str | None:
        return self._sysctls.get(name)

    async def send(self, changes: Sequence[Change]) -> list[KernelError | None]:
        await asyncio.sleep(0)
        answers = []
        for change in changes:
            self._fault("before", "send", change)
            answers.append(self._send_one(change))
            self._fault("after", "send", change)
        return answers

    def events(self) -> AsyncIterator[KernelEvent]:
        queue: asyncio.Queue[KernelEvent] = asyncio.Queue()
        self._listeners.append(queue)
        return _Events(queue)

    # What a kernel does

    def _send_one(self, change: Change) -> KernelError | None:
        self.sent.append(change)
        for position, (number, kind) in enumerate(self._refusals):
            if kind is None or isinstance(change.object, kind):
                del self._refusals[position]
                return refusals.refusal(change, number)
        try:
            self._put(change.object) if isinstance(change, Put) else self._delete(change.object)
        except OSError as error:
            number = error.errno or errno.EIO
            return None if refusals.is_gone(change, number) else refusals.refusal(change, number)
        return None

    def _put(self, obj: KernelObject) -> None:
        match obj:
            case Link():
                self._put_link(obj)
            case Addr():
                self._put_addr(obj)
            case Route():
                self._put_route(normalise(obj))
            case Neigh():
                self._need_link(obj.ifindex)
                self._neighs[obj.ifindex, obj.address] = obj
                self._tell(obj)
            case FdbEntry():
                if self._need_link(obj.ifindex).kind != "vxlan":
                    raise _refused(errno.EINVAL)
                self._fdb[obj.ifindex, obj.mac, obj.dst] = obj
                self._tell(obj)
            case Sysctl():
                if obj.name not in self._sysctls:
                    raise _refused(errno.ENOENT)
                self._sysctls[obj.name] = obj.value
            case NftTable():
                self._tables[obj.family, obj.name] = obj
                self._tell_table(obj)

    def _delete(self, obj: KernelObject) -> None:
        match obj:
            case Link():
                link = self._links.get(obj.ifindex) if obj.ifindex else self._named(obj.name)
                if link is None:
                    raise _refused(errno.ENODEV)
                if link.ifindex != self._fallback:
                    self._remove_link(link)
            case Addr():
                found = self._addrs.get((obj.ifindex, obj.interface))
                if found is None:
                    raise _refused(errno.EADDRNOTAVAIL)
                self._remove_addr(found)
            case Route():
                found_route = self._routes.get(obj.key)
                if found_route is None or found_route != normalise(obj):
                    raise _refused(errno.ESRCH)
                self._remove_route(found_route)
            case Neigh():
                if self._neighs.pop((obj.ifindex, obj.address), None) is None:
                    raise _refused(errno.ENOENT)
                self._tell(obj, removed=True)
            case FdbEntry():
                if self._fdb.pop((obj.ifindex, obj.mac, obj.dst), None) is None:
                    raise _refused(errno.ENOENT)
                self._tell(obj, removed=True)
            case NftTable():
                if self._tables.pop((obj.family, obj.name), None) is not None:
                    self._tell_table(obj, removed=True)
            case Sysctl():
                raise AssertionError(obj)

    # Devices

    def _named(self, name: str) -> Link | None:
        return next((link for link in self._links.values() if link.name == name), None)

    def _need_link(self, ifindex: int) -> Link:
        if ifindex not in self._links:
            raise _refused(errno.ENODEV)
        return self._links[ifindex]

    def _new_link(self, link: Link) -> Link:
        made = replace(link, ifindex=self._next_ifindex)
        self._next_ifindex += 1
        self._sysctls[f"net/ipv4/conf/{link.name}/rp_filter"] = "0"
        self._store_link(made)
        return made

    def _store_link(self, link: Link) -> None:
        before = self._links.get(link.ifindex)
        if before != link:
            self._links[link.ifindex] = link
            self._tell(link)

    def _put_link(self, link: Link) -> None:
        found = self._links.get(link.ifindex) if link.ifindex else self._named(link.name)
        if found is None:
            if link.ifindex:
                raise _refused(errno.ENODEV)
            found = self._create_link(link)
        if link.kind and found.kind != link.kind:
            raise _refused(errno.EEXIST)
        if found.name != link.name:
            if self._named(link.name) is not None:
                raise _refused(errno.EEXIST)
            value = self._sysctls.pop(f"net/ipv4/conf/{found.name}/rp_filter")
            self._sysctls[f"net/ipv4/conf/{link.name}/rp_filter"] = value
        changed = replace(
            found,
            name=link.name,
            mtu=link.mtu or found.mtu,
            alias=link.alias or found.alias,
            group=link.group or found.group,
            up=link.up,
            running=link.up and (found.running if found.up else found.kind != "tun"),
        )
        if found.up and not link.up:
            self._flush_device(found.ifindex)
            for addr in self._on(found.ifindex, 6):
                self._remove_addr(addr)
        self._store_link(changed)
        if link.up and not found.up:
            for addr in self._on(found.ifindex, 4):
                self._connect(addr)

    def _create_link(self, link: Link) -> Link:
        if link.kind == "tun":
            return self._new_link(Link(link.name, kind="tun", mtu=1500))
        if link.kind != "ipip" or not self._ipip:
            raise _refused(errno.EOPNOTSUPP)
        if not self._fallback:
            self._fallback = self._new_link(Link("tunl0", kind="ipip", mtu=1480)).ifindex
        return self._links[self._fallback]

    def _remove_link(self, link: Link) -> None:
        for addr in self._on(link.ifindex):
            self._remove_addr(addr)
        self._flush_device(link.ifindex)
        self._neighs = {key: value for key, value in self._neighs.items() if key[0] != link.ifindex}
        self._fdb = {key: value for key, value in self._fdb.items() if key[0] != link.ifindex}
        self._sysctls.pop(f"net/ipv4/conf/{link.name}/rp_filter")
        del self._links[link.ifindex]
        self._tell(replace(link, up=False, running=False), removed=True)

    # Addresses

    def _on(self, ifindex: int, version: int = 0) -> list[Addr]:
        mine = (addr for addr in self._addrs.values() if addr.ifindex == ifindex)
        return [addr for addr in mine if version in (0, addr.interface.version)]

    def _put_addr(self, addr: Addr) -> None:
        self._need_link(addr.ifindex)
        before = self._addrs.get((addr.ifindex, addr.interface))
        kept = replace(addr, label=before.label) if before is not None else addr
        self._addrs[addr.ifindex, addr.interface] = kept
        self._tell(kept)
        self._connect(kept)

    def _connect(self, addr: Addr) -> None:
        """The route to the subnet, as fib_add_ifaddr and addrconf make it."""
        if not self._links[addr.ifindex].up or addr.interface.network.prefixlen == 32:
            return
        six = addr.interface.version == 6
        self._store_route(
            Route(
                addr.interface.network,
                next_hops=(NextHop(addr.ifindex),),
                protocol=PROTO_KERNEL,
                metric=_METRIC_CONNECTED_IPV6 if six else 0,
                link_scope=not six,
                prefsrc=None if six else addr.interface.ip,
            )
        )

    def _remove_addr(self, addr: Addr) -> None:
        del self._addrs[addr.ifindex, addr.interface]
        self._tell(addr, removed=True)
        for route in [r for r in self._routes.values() if r.protocol == PROTO_KERNEL]:
            if route.dst == addr.interface.network and route.next_hops[0].ifindex == addr.ifindex:
                self._remove_route(route)
        if addr.interface.version == 4:
            if not self._on(addr.ifindex, 4):
                self._flush_device(addr.ifindex, versions=(4,))
            for route in [r for r in self._routes.values() if r.prefsrc == addr.interface.ip]:
                del self._routes[route.key]

    # Routes

    def _put_route(self, route: Route) -> None:
        if route.type != RouteType.BLACKHOLE:
            for hop in route.next_hops:
                self._check_hop(route, hop)
        self._store_route(route)

    def _check_hop(self, route: Route, hop: NextHop) -> None:
        """fib_check_nh, ip6_route_check_nh."""
        if not self._need_link(hop.ifindex).up:
            raise _refused(errno.ENETDOWN)
        if hop.gateway is None or hop.onlink:
            return
        if isinstance(hop.gateway, IPv6Address) and hop.gateway.is_link_local:
            return
        for connected in self._routes.values():
            if connected.dst.version == hop.gateway.version and hop.gateway in connected.dst:
                via = connected.next_hops
                if via and via[0].ifindex == hop.ifindex and via[0].gateway is None:
                    return
        raise _refused(errno.EHOSTUNREACH if route.dst.version == 6 else errno.ENETUNREACH)

    def _store_route(self, route: Route) -> None:
        before = self._routes.get(route.key)
        self._routes[route.key] = route
        if before != route or route.dst.version == 6:
            self._tell(route)

    def _remove_route(self, route: Route) -> None:
        del self._routes[route.key]
        self._tell(route, removed=True)

    def _flush_device(self, ifindex: int, versions: Sequence[int] = (4, 6)) -> None:
        """Routes all of whose next hops are on devices that are gone or down."""
        for route in list(self._routes.values()):
            hops = [hop.ifindex for hop in route.next_hops]
            if ifindex not in hops or route.dst.version not in versions:
                continue
            if any(index != ifindex and self._links[index].up for index in hops if index in self._links):
                continue
            if route.dst.version == 4:
                del self._routes[route.key]  # silently, as fib_table_flush
            else:
                self._remove_route(route)

    def _tell(self, obj: KernelObject, *, removed: bool = False) -> None:
        for queue in self._listeners:
            queue.put_nowait(KernelEvent(type(obj), removed, obj))

    def _tell_table(self, table: NftTable, *, removed: bool = False) -> None:
        if nft_tool.is_ours(table.name):
            self._tell(NftTable(table.family, table.name), removed=removed)

    def routes(self) -> Iterator[Route]:
        """All routes now, for assertions."""
        return iter(list(self._routes.values()))

    def addrs(self) -> Iterator[Addr]:
        """All addresses now, for assertions."""
        return iter(list(self._addrs.values()))

    def tables(self) -> Iterator[NftTable]:
        """All tables of nftables now, with their rules, for assertions."""
        return iter(list(self._tables.values()))

    def links(self) -> Iterator[Link]:
        """All devices now, for assertions."""
        return iter(list(self._links.values()))


class _Events(AsyncIterator[KernelEvent]):
    def __init__(self, queue: asyncio.Queue[KernelEvent]) -> None:
        self._queue = queue

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> KernelEvent:
        return await self._queue.get()


def _refused(number: int) -> OSError:
    return OSError(number, os.strerror(number))
