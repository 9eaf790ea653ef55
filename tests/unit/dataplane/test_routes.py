"""RouteReconciler on the fake kernel: what it writes, what it leaves alone, what it concludes from events."""

import asyncio
import contextlib
import errno
from collections.abc import AsyncIterator, Callable, Iterable
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Network

import pytest

from calico_py.dataplane.routes import RouteReconciler
from calico_py.model.kernel import (
    Addr,
    Change,
    Delete,
    KernelEvent,
    KernelObject,
    Link,
    Neigh,
    NextHop,
    Put,
    Route,
    RouteKey,
    RouteType,
)
from tests.fakes.kernel import FakeKernel

NODE2, NODE3 = IPv4Address("192.168.1.12"), IPv4Address("192.168.1.13")


class Rig:
    """A fake kernel with an uplink and a tunnel, a reconciler on it, and the events between them."""

    def __init__(self) -> None:
        self.kernel = FakeKernel()
        self.reconciler = RouteReconciler(self.kernel)
        self.events: AsyncIterator[KernelEvent]
        self.uplink = self.tunnel = 0

    async def start(self) -> None:
        self.uplink = self.kernel.add_device("eth0")
        await self.put(
            Link("eth0", self.uplink, up=True),
            Addr(self.uplink, IPv4Interface("192.168.1.11/24")),
            Link("tunl0", kind="tun", up=True),
        )
        (tunnel,) = [link for link in await self.kernel.dump(Link) if link.name == "tunl0"]
        self.tunnel = tunnel.ifindex
        await self.put(Addr(self.tunnel, IPv4Interface("10.244.1.0/32")))
        self.events = self.kernel.events()
        self.kernel.sent.clear()

    async def put(self, *objects: KernelObject) -> None:
        assert set(await self.kernel.send([Put(obj) for obj in objects])) <= {None}

    async def delete(self, *objects: KernelObject) -> None:
        assert set(await self.kernel.send([Delete(obj) for obj in objects])) <= {None}

    async def deliver(self) -> bool:
        """Hand over all events; whether any called for work."""
        dirty = False
        while True:
            try:
                event = await asyncio.wait_for(anext(self.events), 0.01)
            except TimeoutError:
                return dirty
            dirty |= self.reconciler.on_event(event)

    async def settle(self, *desired: Route, sweep: Callable[[Route], bool] = lambda _: True) -> None:
        """Desire routes and apply until the echo of our own writes is heard."""
        self.reconciler.set_desired(keyed(desired), sweep)
        assert await self.reconciler.apply() == {}
        assert not await self.deliver()
        self.kernel.sent.clear()

    def via_tunnel(self, n: int = 1, protocol: int = 80) -> Route:
        hop = NextHop(self.tunnel, NODE2, onlink=True)
        return Route(IPv4Network((0x0AF4_0000 + 64 * n, 26)), next_hops=(hop,), protocol=protocol)

    def via_uplink(self, n: int = 1, protocol: int = 81, gateway: IPv4Address = NODE2) -> Route:
        hop = NextHop(self.uplink, gateway)
        return Route(IPv4Network((0x0AF4_0000 + 64 * n, 26)), next_hops=(hop,), protocol=protocol)

    def ours(self) -> set[Route]:
        return {route for route in self.kernel.routes() if route.protocol in (80, 81)}


def keyed(routes: Iterable[Route]) -> dict[RouteKey, Route]:
    return {route.key: route for route in routes}


@pytest.fixture
async def rig() -> Rig:
    made = Rig()
    await made.start()
    return made


async def test_missing_routes_are_put_and_nothing_is_done_twice(rig: Rig) -> None:
    wanted = (
        rig.via_tunnel(1),
        rig.via_tunnel(2),
        Route(IPv4Network("10.244.9.0/26"), RouteType.BLACKHOLE, protocol=80),
    )
    await rig.settle(*wanted)
    assert rig.ours() == set(wanted)
    await rig.reconciler.resync()
    assert await rig.reconciler.apply() == {}
    assert rig.kernel.sent == []


async def test_a_change_of_way_is_one_put(rig: Rig) -> None:
    """Never a delete: the route must not be missing for an instant."""
    await rig.settle(rig.via_tunnel())
    rig.reconciler.set_desired(keyed([rig.via_uplink()]), lambda _: True)
    await rig.reconciler.apply()
    assert rig.kernel.sent == [Put(rig.via_uplink())]


async def test_a_restarted_reconciler_takes_up_its_routes(rig: Rig) -> None:
    await rig.settle(rig.via_tunnel(1), rig.via_tunnel(2))
    again = RouteReconciler(rig.kernel)
    again.set_desired(keyed([rig.via_tunnel(1)]), lambda _: True)
    assert await again.apply() == {}
    assert rig.kernel.sent == [Delete(rig.via_tunnel(2))]


async def test_unwanted_routes_stay_until_they_may_go(rig: Rig) -> None:
    """Those of BGP wait for their peer's End-of-RIB, those of the API do not."""
    await rig.settle(rig.via_tunnel(1), rig.via_uplink(2))
    rig.reconciler.set_desired({}, lambda route: route.protocol == 80)
    await rig.reconciler.apply()
    assert rig.ours() == {rig.via_uplink(2)}
    assert not rig.reconciler.dirty
    rig.reconciler.set_desired({}, lambda _: True)
    assert rig.reconciler.dirty
    await rig.reconciler.apply()
    assert rig.ours() == set()


async def test_before_anything_is_desired_nothing_goes(rig: Rig) -> None:
    await rig.settle(rig.via_tunnel())
    again = RouteReconciler(rig.kernel)
    await again.apply()
    assert rig.ours() == {rig.via_tunnel()}


async def test_routes_of_others_are_never_touched(rig: Rig) -> None:
    foreign = [
        rig.via_uplink(1, protocol=4),
        rig.via_uplink(2, protocol=12),
        Route(IPv4Network("10.244.1.0/26"), RouteType.BLACKHOLE, protocol=80, table=1000),
        Route(IPv6Network("fd00::/64"), RouteType.BLACKHOLE, protocol=2, metric=1024),
    ]
    await rig.put(*foreign)
    before = list(rig.kernel.routes())
    await rig.settle()
    assert list(rig.kernel.routes()) == before


async def test_a_key_that_a_foreign_route_holds_is_refused_with_a_sentence(rig: Rig) -> None:
    foreign = rig.via_uplink(1, protocol=4, gateway=NODE3)
    await rig.put(foreign)
    rig.reconciler.set_desired(keyed([rig.via_tunnel(1), rig.via_tunnel(2)]), lambda _: True)
    failures = await rig.reconciler.apply()
    assert list(failures) == [rig.via_tunnel(1).key]
    sentence = failures[rig.via_tunnel(1).key]
    assert "10.244.0.64/26 via 192.168.1.12 dev tunl0" in sentence
    assert "10.244.0.64/26 via 192.168.1.13 dev eth0" in sentence
    assert "remove it, or give it another metric" in sentence
    assert foreign in rig.kernel.routes()
    assert rig.ours() == {rig.via_tunnel(2)}
    await rig.deliver()
    await rig.delete(foreign)
    assert await rig.deliver()
    assert await rig.reconciler.apply() == {}
    assert rig.ours() == {rig.via_tunnel(1), rig.via_tunnel(2)}


@pytest.mark.parametrize("how", ["replaced", "device down"])
async def test_a_foreign_route_that_went_without_an_event_is_no_obstacle(rig: Rig, how: str) -> None:
    foreign = rig.via_uplink(1, protocol=4)
    await rig.put(foreign)
    rig.reconciler.set_desired(keyed([rig.via_tunnel()]), lambda _: True)
    assert list(await rig.reconciler.apply()) == [foreign.key]
    if how == "replaced":
        await rig.put(rig.via_uplink(1, protocol=80))
    else:
        await rig.put(Link("eth0", rig.uplink, up=False))
    assert await rig.deliver()
    assert await rig.reconciler.apply() == {}
    assert rig.ours() == {rig.via_tunnel()}


async def test_a_foreign_route_that_takes_our_key_is_seen(rig: Rig) -> None:
    await rig.settle(rig.via_tunnel())
    foreign = rig.via_uplink(1, protocol=4)
    await rig.put(foreign)
    assert await rig.deliver()
    assert list(await rig.reconciler.apply()) == [foreign.key]
    assert rig.ours() == set()
    assert foreign in rig.kernel.routes()


async def test_one_refused_route_stays_pending_and_blocks_no_other(rig: Rig) -> None:
    bad = Route(IPv4Network("10.244.7.0/26"), next_hops=(NextHop(4711, NODE2, onlink=True),), protocol=80)
    rig.reconciler.set_desired(keyed([bad, rig.via_tunnel()]), lambda _: True)
    failures = await rig.reconciler.apply()
    assert list(failures) == [bad.key]
    assert rig.ours() == {rig.via_tunnel()}
    assert rig.reconciler.dirty
    assert rig.reconciler.failures == failures
    rig.kernel.sent.clear()
    await rig.reconciler.apply()
    assert rig.kernel.sent == [Put(bad)]


async def test_a_thousand_refusals_do_not_fill_the_log(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    await rig.put(Link("tunl0", rig.tunnel, up=False))
    rig.reconciler.set_desired(keyed(rig.via_tunnel(n) for n in range(1000)), lambda _: True)
    for _ in range(2):
        assert len(await rig.reconciler.apply()) == 1000
    assert len(caplog.records) == 6
    assert "and 995 more routes" in caplog.text


async def test_a_refused_replacement_keeps_what_was_known(rig: Rig) -> None:
    await rig.settle(rig.via_tunnel())
    rig.kernel.fail_next(errno.ENOMEM)
    rig.reconciler.set_desired(keyed([rig.via_uplink()]), lambda _: True)
    assert await rig.reconciler.apply() != {}
    assert rig.reconciler.installed == keyed([rig.via_tunnel()])
    assert await rig.reconciler.apply() == {}
    assert rig.ours() == {rig.via_uplink()}


async def test_a_refused_removal_is_made_again(rig: Rig) -> None:
    await rig.settle(rig.via_tunnel())
    rig.kernel.fail_next(errno.EBUSY)
    rig.reconciler.set_desired({}, lambda _: True)
    assert list(await rig.reconciler.apply()) == [rig.via_tunnel().key]
    assert await rig.reconciler.apply() == {}
    assert rig.ours() == set()


async def test_a_deleted_route_comes_back_and_only_that(rig: Rig) -> None:
    await rig.settle(*(rig.via_tunnel(n) for n in range(5)))
    await rig.delete(rig.via_tunnel(3))
    rig.kernel.sent.clear()
    assert await rig.deliver()
    await rig.reconciler.apply()
    assert rig.kernel.sent == [Put(rig.via_tunnel(3))]


async def test_a_changed_route_is_changed_back(rig: Rig) -> None:
    await rig.settle(rig.via_tunnel())
    await rig.put(rig.via_uplink(1, protocol=80, gateway=NODE3))
    assert await rig.deliver()
    await rig.reconciler.apply()
    assert rig.ours() == {rig.via_tunnel()}


async def test_a_route_of_ours_that_nobody_wants_is_swept(rig: Rig) -> None:
    await rig.settle()
    await rig.put(rig.via_tunnel())
    assert await rig.deliver()
    await rig.reconciler.apply()
    assert rig.ours() == set()


@pytest.mark.parametrize("how", ["down and up", "last address", "removed"])
async def test_routes_that_vanish_without_an_event_are_missed(rig: Rig, how: str) -> None:
    await rig.settle(rig.via_tunnel(1), rig.via_uplink(2))
    addr = Addr(rig.tunnel, IPv4Interface("10.244.1.0/32"))
    if how == "down and up":
        await rig.put(Link("tunl0", rig.tunnel, up=False), Link("tunl0", rig.tunnel, up=True))
    elif how == "last address":
        await rig.delete(addr)
    else:
        await rig.delete(Link("tunl0"))
    assert rig.ours() == {rig.via_uplink(2)}
    rig.kernel.sent.clear()
    assert await rig.deliver()
    failures = await rig.reconciler.apply()
    assert rig.kernel.sent == [Put(rig.via_tunnel(1))], "the other device's routes are not in doubt"
    assert bool(failures) == (how == "removed")


async def test_a_device_that_comes_up_calls_for_another_try(rig: Rig) -> None:
    await rig.put(Link("tunl0", rig.tunnel, up=False))
    await rig.deliver()
    rig.reconciler.set_desired(keyed([rig.via_tunnel()]), lambda _: True)
    assert await rig.reconciler.apply() != {}
    await rig.put(Link("tunl0", rig.tunnel, up=True))
    assert await rig.deliver()
    assert await rig.reconciler.apply() == {}


async def test_events_of_others_cost_nothing(rig: Rig) -> None:
    await rig.settle(rig.via_tunnel())
    pod = rig.kernel.add_device("cali1234")
    route = Route(IPv4Network("10.244.1.7/32"), next_hops=(NextHop(pod),), protocol=3, link_scope=True)
    await rig.put(Link("cali1234", pod, up=True), route, Neigh(pod, NODE2, "02:00:00:00:00:02"))
    await rig.delete(Link("cali1234"))
    assert not await rig.deliver()


async def test_lost_events_lead_to_a_reading(rig: Rig) -> None:
    await rig.settle(rig.via_tunnel(1), rig.via_tunnel(2))
    await rig.delete(rig.via_tunnel(1))
    rig.kernel.lose_events()
    assert await rig.deliver()
    await rig.reconciler.apply()
    assert rig.ours() == {rig.via_tunnel(1), rig.via_tunnel(2)}


async def test_a_route_deleted_while_it_is_written_is_not_forgotten(rig: Rig) -> None:
    """The event comes before send has returned."""
    deleted = False

    def meddle(when: str, verb: str, change: object) -> None:
        nonlocal deleted
        if (when, verb) == ("after", "send") and not deleted and isinstance(change, Put):
            deleted = True
            rig.kernel._delete(rig.via_tunnel())
            while not rig.kernel._listeners[0].empty():
                rig.reconciler.on_event(rig.kernel._listeners[0].get_nowait())

    rig.kernel._fault = meddle
    rig.reconciler.set_desired(keyed([rig.via_tunnel()]), lambda _: True)
    await rig.reconciler.apply()
    assert deleted
    assert rig.ours() == set()
    assert rig.reconciler.dirty
    await rig.reconciler.apply()
    assert rig.ours() == {rig.via_tunnel()}


async def test_a_refusal_does_not_bring_back_what_was_deleted_meanwhile(rig: Rig) -> None:
    await rig.settle(rig.via_tunnel())
    rig.kernel.fail_next(errno.ENOMEM)

    def meddle(when: str, verb: str, _change: object) -> None:
        if (when, verb) == ("after", "send"):
            rig.kernel._fault = lambda *_: None
            rig.kernel._delete(rig.via_tunnel())
            while not rig.kernel._listeners[0].empty():
                rig.reconciler.on_event(rig.kernel._listeners[0].get_nowait())

    rig.kernel._fault = meddle
    rig.reconciler.set_desired(keyed([rig.via_uplink()]), lambda _: True)
    await rig.reconciler.apply()
    assert rig.reconciler.installed == {}


@pytest.mark.parametrize("how", ["route", "device"])
async def test_what_changes_while_the_kernel_is_read_is_read_again(rig: Rig, how: str) -> None:
    await rig.settle(rig.via_tunnel())

    def meddle(when: str, verb: str, _kind: object) -> None:
        if (when, verb) == ("after", "dump"):
            rig.kernel._fault = lambda *_: None
            rig.kernel._delete(rig.via_tunnel() if how == "route" else Addr(rig.tunnel, IPv4Interface("10.244.1.0/32")))
            while not rig.kernel._listeners[0].empty():
                assert rig.reconciler.on_event(rig.kernel._listeners[0].get_nowait())

    rig.kernel._fault = meddle
    await rig.reconciler.resync()
    assert rig.ours() == set()
    assert rig.reconciler.dirty
    await rig.reconciler.apply()
    assert rig.ours() == {rig.via_tunnel()}


async def test_a_second_route_on_a_key_is_removed(rig: Rig) -> None:
    """NLM_F_APPEND makes one; a dump shows both."""
    first, second = rig.via_tunnel(), rig.via_uplink(1, protocol=80, gateway=NODE3)
    reconciler = RouteReconciler(rig.kernel)
    reconciler._take([first, second])
    reconciler._stale = False
    reconciler.set_desired(keyed([first]), lambda _: True)
    await reconciler.apply()
    assert rig.kernel.sent == [Delete(second)]


@pytest.mark.parametrize("crash_at", range(4))
async def test_a_crash_at_any_change_is_healed_by_the_next_start(rig: Rig, crash_at: int) -> None:
    await rig.settle(rig.via_tunnel(1), rig.via_tunnel(2))
    wanted = keyed([rig.via_uplink(1), rig.via_tunnel(3)])
    calls = 0

    def crash(when: str, verb: str, _change: object) -> None:
        nonlocal calls
        if verb == "send":
            if calls == crash_at:
                raise KeyboardInterrupt
            calls += when == "after"

    rig.kernel._fault = crash
    rig.reconciler.set_desired(wanted, lambda _: True)
    with contextlib.suppress(KeyboardInterrupt):
        await rig.reconciler.apply()
    rig.kernel._fault = lambda *_: None
    again = RouteReconciler(rig.kernel)
    again.set_desired(wanted, lambda _: True)
    assert await again.apply() == {}
    assert rig.ours() == set(wanted.values())


async def test_four_thousand_routes_are_compared_in_no_time(
    rig: Rig, benchmark_seconds: Callable[[Callable[[], object]], float]
) -> None:
    routes = keyed(rig.via_tunnel(n) for n in range(4000))
    rig.reconciler.set_desired(routes, lambda _: True)
    changes: list[Change] = [Put(route) for route in routes.values()]
    await rig.kernel.send(changes)
    await rig.reconciler.resync()
    fresh = keyed(rig.via_tunnel(n) for n in range(4000))
    assert benchmark_seconds(lambda: rig.reconciler.set_desired(fresh, lambda _: True)) < 0.1
    assert not rig.reconciler.dirty
