"""One suite for every Kernel: the fake of the unit tests and the machine's.

In the guest of tests/vm, whose kernel has the module ipip, the machine takes part in the tests of tunl0 too.
"""

import errno
import os
from collections.abc import AsyncIterator
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network, ip_network

import pytest
import pytest_asyncio

from calico_py.dataplane.route_codec import normalise
from calico_py.model.kernel import (
    Addr,
    Change,
    Delete,
    KernelEvent,
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
from tests.contract.kernels import World, fake_world, linux_world, read_events

LINUX = pytest.param("linux", marks=pytest.mark.root)
WITH_IPIP = ["fake with ipip"] + ([LINUX] if "CALICO_PY_VM" in os.environ else [])

NODE2 = IPv4Address("192.168.1.12")
NODE3 = IPv4Address("192.168.1.13")
BLOCK = IPv4Network("10.244.166.128/26")
BLOCK6 = IPv6Network("fd00:10:244::1c0/122")


@pytest_asyncio.fixture(params=["fake", LINUX])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    worlds = {"fake": fake_world, "fake with ipip": lambda: fake_world(ipip=True), "linux": linux_world}
    async with worlds[request.param]() as made:
        yield made


def blackhole(dst: str, protocol: int = 80) -> Route:
    return normalise(Route(ip_network(dst), RouteType.BLACKHOLE, protocol=protocol))


def onlink(ifindex: int, protocol: int = 80, via: IPv4Address = NODE2) -> Route:
    return Route(BLOCK, next_hops=(NextHop(ifindex, via, onlink=True),), protocol=protocol)


# Devices


async def test_a_tun_device_is_made_as_asked(world: World) -> None:
    wanted = Link("tun7", kind="tun", mtu=1480, up=True, alias="calico-py ipip local 192.168.1.11")
    await world.must(wanted)
    link = await world.link("tun7")
    assert (link.kind, link.mtu, link.up, link.alias) == ("tun", 1480, True, wanted.alias)
    assert not link.running, "nobody is attached"
    await world.must(wanted)
    assert await world.link("tun7") == link


async def test_a_device_is_changed_and_renamed_by_its_number(world: World) -> None:
    ifindex = await world.tunnel("other")
    await world.must(Link("tun7", ifindex, mtu=1400, up=True))
    link = await world.link("tun7")
    assert (link.ifindex, link.mtu, link.up) == (ifindex, 1400, True)
    assert not any(link.name == "other" for link in await world.kernel.dump(Link))


async def test_a_device_of_another_kind_keeps_its_name(world: World) -> None:
    world.add_device("tun7")
    before = await world.link("tun7")
    error = await world.put(Link("tun7", kind="tun", up=True))
    assert error is not None
    assert error.errno == errno.EEXIST
    assert "tun7" in str(error)
    assert await world.link("tun7") == before


async def test_a_device_that_is_gone_cannot_be_changed(world: World) -> None:
    error = await world.put(Link("tun7", 4711, up=True))
    assert error is not None
    assert error.errno == errno.ENODEV


async def test_removing_a_device_twice_is_success(world: World) -> None:
    await world.tunnel()
    for _ in range(2):
        assert await world.kernel.send([Delete(Link("tun7"))]) == [None]
        assert not any(link.name == "tun7" for link in await world.kernel.dump(Link))


async def test_a_kind_that_the_kernel_does_not_know_is_refused(world: World) -> None:
    error = await world.put(Link("odd0", kind="nosuchkind"))
    assert error is not None
    assert error.errno == errno.EOPNOTSUPP


@pytest.mark.parametrize("world", WITH_IPIP, indirect=True)
async def test_the_kernels_tunl0_is_found_whatever_its_name_is(world: World) -> None:
    wanted = Link("tunl0", kind="ipip", mtu=1400, up=True)
    await world.must(wanted)
    first = await world.link("tunl0")
    assert (first.kind, first.mtu, first.up) == ("ipip", 1400, True)
    await world.must(Link("renamed", first.ifindex, up=True))
    await world.must(wanted)
    assert (await world.link("tunl0")).ifindex == first.ifindex


@pytest.mark.parametrize("world", WITH_IPIP, indirect=True)
async def test_the_kernels_tunl0_cannot_be_removed(world: World) -> None:
    await world.must(Link("tunl0", kind="ipip", up=True))
    assert await world.kernel.send([Delete(Link("tunl0"))]) == [None]
    assert (await world.link("tunl0")).kind == "ipip"


# Addresses


async def test_an_address_comes_and_goes_with_its_label(world: World) -> None:
    ifindex = await world.tunnel()
    addr = Addr(ifindex, IPv4Interface("10.244.1.0/32"), label="tun7:calico-py")
    six = Addr(ifindex, IPv6Interface("fd00::1/128"))
    await world.must(addr, six)
    await world.must(addr, six)
    assert {addr, six} <= set(await world.kernel.dump(Addr))
    for _ in range(2):
        assert await world.kernel.send([Delete(addr), Delete(six)]) == [None, None]
        assert not {addr, six} & set(await world.kernel.dump(Addr))


async def test_an_address_needs_a_device(world: World) -> None:
    addr = Addr(4711, IPv4Interface("10.244.1.0/32"))
    error = await world.put(addr)
    assert error is not None
    assert error.errno == errno.ENODEV
    assert await world.kernel.send([Delete(addr)]) == [None]


async def test_the_last_address_takes_the_routes_of_its_device_along(world: World) -> None:
    """And the kernel tells of the address only."""
    ifindex = await world.tunnel()
    first, second = (Addr(ifindex, IPv4Interface(text)) for text in ("10.244.1.0/32", "10.244.1.1/32"))
    await world.must(first, second, onlink(ifindex))
    await world.kernel.send([Delete(first)])
    assert await world.routes(80) == {onlink(ifindex)}
    events = world.kernel.events()
    await world.kernel.send([Delete(second)])
    assert await world.routes(80) == set()
    assert onlink(ifindex) not in [event.object for event in await read_events(events, Route)]


# Routes


async def test_routes_are_dumped_as_they_were_put(world: World) -> None:
    uplink = await world.uplink(IPv4Interface("192.168.1.11/24"))
    await world.must(Addr(uplink, IPv6Interface("fd01::11/64")))
    tunnel = await world.tunnel()
    ecmp4 = tuple(NextHop(uplink, via) for via in (NODE2, NODE3))
    ecmp6 = tuple(NextHop(uplink, IPv6Address(f"fd01::{last}")) for last in (12, 13))
    routes = {
        onlink(tunnel),
        Route(IPv4Network("10.244.1.0/26"), next_hops=ecmp4[:1], protocol=81),
        Route(IPv4Network("10.244.2.0/26"), next_hops=ecmp4, protocol=81),
        Route(IPv4Network("10.244.3.0/26"), next_hops=ecmp4[:1], protocol=81, metric=7, mtu=1400),
        Route(IPv4Network("10.244.4.1/32"), next_hops=(NextHop(tunnel),), protocol=81, link_scope=True),
        Route(IPv4Network("10.244.5.0/26"), next_hops=ecmp4[:1], protocol=81, prefsrc=IPv4Address("192.168.1.11")),
        Route(IPv4Network("10.244.6.0/26"), next_hops=ecmp4[:1], protocol=81, table=1000),
        Route(BLOCK6, next_hops=ecmp6[:1], protocol=81, metric=1024),
        Route(IPv6Network("fd00:2::/64"), next_hops=ecmp6, protocol=81, metric=1024),
        Route(IPv6Network("fd00:3::/64"), next_hops=(NextHop(tunnel),), protocol=81, metric=1024),
        blackhole("10.244.9.0/26"),
        blackhole("fd00:9::/64"),
    }
    await world.must(*routes)
    assert await world.routes(80, 81) == routes
    await world.must(*routes)
    assert await world.routes(80, 81) == routes
    assert set(await world.kernel.send([Delete(route) for route in routes])) == {None}
    assert await world.routes(80, 81) == set()


@pytest.mark.parametrize("six", [False, True])
async def test_a_route_is_replaced_without_a_moment_between(world: World, six: bool) -> None:
    """Protocol 80 to 81 and tunnel to uplink: one event, and it is no removal."""
    interface = IPv6Interface("fd01::11/64") if six else IPv4Interface("192.168.1.11/24")
    uplink, tunnel = await world.uplink(interface), await world.tunnel()
    gateway = IPv6Address("fe80::12") if six else NODE2
    dst, metric = (BLOCK6, 1024) if six else (BLOCK, 0)
    old = Route(dst, next_hops=(NextHop(tunnel, gateway, onlink=True),), protocol=80, metric=metric)
    new = Route(dst, next_hops=(NextHop(uplink, gateway),), protocol=81, metric=metric)
    await world.must(old)
    events = world.kernel.events()
    await world.must(new)
    assert await world.routes(80, 81) == {new}
    told = [event for event in await read_events(events, Route) if _key(event) == new.key]
    assert told == [KernelEvent(Route, removed=False, object=new)]


@pytest.mark.parametrize("dst", ["10.244.9.0/26", "fd00:9::/64"])
async def test_a_blackhole_and_a_way_replace_each_other(world: World, dst: str) -> None:
    tunnel = await world.tunnel()
    hole = blackhole(dst)
    way = Route(hole.dst, next_hops=(NextHop(tunnel),), protocol=80, metric=hole.metric)
    for route in (hole, way, hole):
        await world.must(route)
        assert await world.routes(80) == {route}


@pytest.mark.parametrize("dst", ["10.244.9.0/26", "fd00:9::/64"])
async def test_deleting_what_is_not_there_is_success_and_takes_nothing_else(world: World, dst: str) -> None:
    foreign = blackhole(dst, protocol=99)
    await world.must(foreign)
    assert await world.kernel.send([Delete(blackhole(dst))]) == [None]
    assert await world.routes(80, 99) == {foreign}


async def test_refusals_name_route_cause_and_cure(world: World) -> None:
    uplink = await world.uplink(IPv4Interface("192.168.1.11/24"))
    down = world.add_device("down0")
    stranger = IPv4Address("203.0.113.1")
    cases = [
        (NextHop(4711, NODE2, onlink=True), errno.ENODEV, "the device is gone"),
        (NextHop(down, NODE2, onlink=True), errno.ENETDOWN, "the device is down"),
        (NextHop(uplink, stranger), errno.ENETUNREACH, "connected network"),
    ]
    for hop, number, cure in cases:
        error = await world.put(Route(BLOCK, next_hops=(hop,), protocol=80))
        assert error is not None
        assert error.errno == number
        assert f"route {BLOCK} via {hop.gateway}" in str(error)
        assert cure in str(error)
    assert await world.routes(80) == set()


async def test_one_refused_change_stops_no_other(world: World) -> None:
    """Of a thousand routes, in several sends, every hundredth is bad."""
    tunnel = await world.tunnel()
    bad = NextHop(4711, NODE2, onlink=True)
    good = NextHop(tunnel, NODE2, onlink=True)
    changes: list[Change] = [
        Put(Route(IPv4Network((0x0A000000 + n * 64, 26)), next_hops=(good if n % 100 else bad,), protocol=80))
        for n in range(1000)
    ]
    changes.insert(500, Put(Addr(tunnel, IPv4Interface("10.244.1.0/32"))))
    answers = await world.kernel.send(changes)
    assert len(answers) == len(changes)
    for change, answer in zip(changes, answers, strict=True):
        refused = isinstance(change.object, Route) and change.object.next_hops == (bad,)
        if refused:
            assert answer is not None
            assert (answer.errno, answer.change) == (errno.ENODEV, change)
        else:
            assert answer is None
    assert len(await world.routes(80)) == 990


async def test_a_device_that_goes_down_loses_its_routes(world: World) -> None:
    """IPv4's without a word; addresses of IPv4 stay, those of IPv6 go."""
    ifindex = await world.tunnel()
    four, six = Addr(ifindex, IPv4Interface("10.244.1.0/32")), Addr(ifindex, IPv6Interface("fd00::1/128"))
    route6 = Route(BLOCK6, next_hops=(NextHop(ifindex),), protocol=80, metric=1024)
    await world.must(four, six, onlink(ifindex), route6)
    events = world.kernel.events()
    await world.must(Link("tun7", up=False))
    assert await world.routes(80) == set()
    told = [event.object for event in await read_events(events, Route) if event.removed]
    assert route6 in told
    assert onlink(ifindex) not in told
    addrs = await world.kernel.dump(Addr)
    assert four in addrs
    assert six not in addrs


async def test_a_device_that_goes_takes_everything_along(world: World) -> None:
    ifindex = await world.uplink(IPv4Interface("192.168.1.11/24"))
    await world.must(Neigh(ifindex, NODE2, "02:00:00:00:00:02"), onlink(ifindex))
    await world.kernel.send([Delete(Link("eth0"))])
    assert await world.routes(80) == set()
    assert [addr for addr in await world.kernel.dump(Addr) if addr.ifindex == ifindex] == []
    assert [neigh for neigh in await world.kernel.dump(Neigh) if neigh.ifindex == ifindex] == []


# The rest


async def test_neighbours(world: World) -> None:
    ifindex = await world.uplink(IPv4Interface("192.168.1.11/24"))
    four = Neigh(ifindex, NODE2, "02:00:00:00:00:02")
    six = Neigh(ifindex, IPv6Address("fd01::12"), "02:00:00:00:00:03")
    await world.must(four, six)
    assert {four, six} <= set(await world.kernel.dump(Neigh))
    moved = Neigh(ifindex, NODE2, "02:00:00:00:00:04")
    await world.must(moved)
    assert moved in await world.kernel.dump(Neigh)
    assert four not in await world.kernel.dump(Neigh)
    for _ in range(2):
        assert await world.kernel.send([Delete(moved)]) == [None]
        assert moved not in await world.kernel.dump(Neigh)


async def test_settings(world: World) -> None:
    name = "net/ipv4/ip_forward"
    for value in ("1", "0"):
        await world.must(Sysctl(name, value))
        assert await world.kernel.sysctl(name) == value
    assert await world.kernel.sysctl("net/ipv4/no_such_setting") is None
    error = await world.put(Sysctl("net/ipv4/no_such_setting", "1"))
    assert error is not None
    assert error.errno == errno.ENOENT


async def test_settings_of_a_device(world: World) -> None:
    name = "net/ipv4/conf/tun7/rp_filter"
    assert await world.kernel.sysctl(name) is None
    await world.tunnel()
    assert await world.kernel.sysctl(name) is not None
    await world.must(Sysctl(name, "2"))
    assert await world.kernel.sysctl(name) == "2"


async def test_nftables(world: World) -> None:
    table = NftTable("inet", "calico-py", "\tchain one {\n\t}", "0123456789abcdef")
    other = NftTable("ip", "others")
    await world.must(other, table, table)
    assert set(await world.kernel.dump(NftTable)) == {other, table}
    changed = NftTable("inet", "calico-py", "\tchain two {\n\t}", "fedcba9876543210")
    await world.must(changed)
    assert set(await world.kernel.dump(NftTable)) == {other, changed}
    for _ in range(2):
        assert await world.kernel.send([Delete(changed)]) == [None]
        assert await world.kernel.dump(NftTable) == [other]


async def test_events_tell_of_tables_of_ours(world: World) -> None:
    table, other = NftTable("inet", "calico-py", "\tchain one {\n\t}", "0123456789abcdef"), NftTable("ip", "others")
    for change, removed in ((Put(table), False), (Delete(table), True)):
        events = world.kernel.events()
        assert await world.kernel.send([change, Put(other)]) == [None, None]
        told = await read_events(events, NftTable)
        assert KernelEvent(NftTable, removed, NftTable("inet", "calico-py")) in told
        assert all(event.object != other for event in told)


async def test_events_tell_what_a_dump_would_show(world: World) -> None:
    ifindex = await world.uplink(IPv4Interface("192.168.1.11/24"))
    neigh = Neigh(ifindex, NODE2, "02:00:00:00:00:02")
    addr = Addr(ifindex, IPv4Interface("10.1.1.1/32"))
    route = onlink(ifindex)
    for obj in (neigh, addr, route):
        kind = type(obj)
        events = world.kernel.events()
        await world.must(obj)
        assert KernelEvent(kind, removed=False, object=obj) in await read_events(events, kind)
        assert await world.kernel.send([Delete(obj)]) == [None]
        removals = [event for event in await read_events(events, kind) if event.removed]
        assert any(_same_key(event, obj) for event in removals)


def _key(event: KernelEvent) -> RouteKey | None:
    return event.object.key if isinstance(event.object, Route) else None


def _same_key(event: KernelEvent, obj: object) -> bool:
    """The kernel forgets a neighbour's MAC before it tells that it is gone."""
    if isinstance(obj, Neigh) and isinstance(event.object, Neigh):
        return (event.object.ifindex, event.object.address) == (obj.ifindex, obj.address)
    return event.object == obj


async def test_events_of_a_device_from_birth_to_death(world: World) -> None:
    events = world.kernel.events()
    await world.must(Link("tun7", kind="tun", mtu=1400, up=True))
    link = await world.link("tun7")
    assert (await read_events(events, Link))[-1] == KernelEvent(Link, removed=False, object=link)
    await world.kernel.send([Delete(Link("tun7"))])
    last = (await read_events(events, Link))[-1]
    assert last.removed
    assert isinstance(last.object, Link)
    assert last.object.ifindex == link.ifindex


async def test_a_listener_hears_from_its_making_on(world: World) -> None:
    events = world.kernel.events()
    await world.must(blackhole("10.244.9.0/26"))
    assert [event.object for event in await read_events(events, Route)] == [blackhole("10.244.9.0/26")]
