"""RouteReconciler against hands that do what they like to the kernel: in the end all is as desired, or told."""

import asyncio
from collections.abc import AsyncIterator
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Network

from hypothesis import given, settings
from hypothesis import strategies as st

from calico_py.dataplane.routes import RouteReconciler
from calico_py.model.kernel import Addr, Change, Delete, KernelEvent, Link, NextHop, Put, Route, RouteType
from calico_py.model.net import Network
from tests.fakes.kernel import FakeKernel

TUN_A, TUN_B = 2, 3
LINK_A, LINK_B = Link("tuna", kind="tun", up=True), Link("tunb", kind="tun", up=True)
ADDR_A, ADDR_B = Addr(TUN_A, IPv4Interface("10.0.0.1/32")), Addr(TUN_B, IPv4Interface("10.0.0.2/32"))
GATEWAY = IPv4Address("192.168.1.12")
DESTINATIONS: list[Network] = [*IPv4Network("10.244.0.0/24").subnets(new_prefix=26), IPv6Network("fd00::/64")]


def _route(dst: Network, ifindex: int, protocol: int) -> Route:
    metric = 1024 if dst.version == 6 else 0
    if not ifindex:
        return Route(dst, RouteType.BLACKHOLE, protocol=protocol, metric=metric)
    gateway = GATEWAY if dst.version == 4 else None
    return Route(dst, next_hops=(NextHop(ifindex, gateway, gateway is not None),), protocol=protocol, metric=metric)


ROUTES = st.builds(
    _route, st.sampled_from(DESTINATIONS), st.sampled_from([0, TUN_A, TUN_B]), st.sampled_from([80, 81, 4])
)
OURS = ROUTES.filter(lambda route: route.protocol in (80, 81))
CHANGES: st.SearchStrategy[Change] = st.one_of(
    ROUTES.map(Put),
    ROUTES.map(Delete),
    st.sampled_from([Put(Link("tuna", up=False)), Put(Link("tuna", up=True)), Put(Link("tunb", up=False))]),
    st.sampled_from([Delete(ADDR_A), Put(ADDR_A), Delete(ADDR_B)]),
)
STEPS = st.lists(
    st.one_of(
        CHANGES.map(lambda change: ("hand", change)),
        st.lists(OURS, max_size=5).map(lambda routes: ("desire", routes)),
        st.sampled_from([("apply", None), ("hear", None), ("lose events", None), ("restart", None), ("resync", None)]),
    ),
    max_size=25,
)


class Run:
    """One kernel, one reconciler, and what comes between them."""

    def __init__(self) -> None:
        self.kernel = FakeKernel()
        self.events: AsyncIterator[KernelEvent] = self.kernel.events()
        self.desired: dict[object, Route] = {}
        self.reconciler = RouteReconciler(self.kernel)
        self._desire([])

    async def start(self) -> None:
        await self.kernel.send([Put(LINK_A), Put(LINK_B), Put(ADDR_A), Put(ADDR_B)])

    async def do(self, verb: str, what: object) -> None:
        match verb:
            case "hand":
                assert isinstance(what, Put | Delete)
                await self.kernel.send([what])
            case "desire":
                assert isinstance(what, list)
                self._desire(what)
            case "apply":
                await self.reconciler.apply()
            case "hear":
                await self.hear()
            case "lose events":
                self.kernel.lose_events()
            case "resync":
                await self.reconciler.resync()
            case "restart":
                self.reconciler = RouteReconciler(self.kernel)
                self._desire(list(self.desired.values()))

    def _desire(self, routes: list[Route]) -> None:
        self.desired = {route.key: route for route in routes}
        self.reconciler.set_desired({route.key: route for route in routes}, lambda _: True)

    async def hear(self) -> None:
        queue = self.kernel._listeners[0]
        while not queue.empty():
            self.reconciler.on_event(queue.get_nowait())

    async def settle(self) -> None:
        """As an agent does: hear, apply, until there is nothing more to hear."""
        for _ in range(10):
            await self.hear()
            await self.reconciler.apply()
            if self.kernel._listeners[0].empty():
                return
        raise AssertionError("it never settles")


@settings(max_examples=300)
@given(STEPS)
def test_in_the_end_all_is_as_desired_or_told(steps: list[tuple[str, object]]) -> None:
    asyncio.run(_run(steps))


async def _run(steps: list[tuple[str, object]]) -> None:
    run = Run()
    await run.start()
    foreign_by_hand: set[Route] = set()
    for verb, what in steps:
        before = {route for route in run.kernel.routes() if route.protocol == 4}
        await run.do(verb, what)
        after = {route for route in run.kernel.routes() if route.protocol == 4}
        if verb not in ("hand", "apply"):
            assert after == before
        foreign_by_hand = after
    await run.settle()
    routes = {route.key: route for route in run.kernel.routes()}
    assert {route for route in routes.values() if route.protocol == 4} == foreign_by_hand
    for key, wanted in run.desired.items():
        assert isinstance(key, type(wanted.key))
        if routes.get(key) != wanted:
            assert key in run.reconciler.failures, f"{wanted} is missing and nobody says why"
            occupied = key in routes and routes[key].protocol == 4
            assert ("which calico-py did not make" in run.reconciler.failures[key]) == occupied
    ours = {route for route in routes.values() if route.protocol in (80, 81)}
    for route in ours - set(run.desired.values()):
        assert route.key in run.reconciler.failures, f"{route} is left over and nobody says why"
