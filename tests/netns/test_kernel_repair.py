"""Routes and tunl0 on this machine's kernel: applied in bulk, repaired by events, others' left alone."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Network

import pytest

from calico_py.dataplane.ipip import IPIPReconciler
from calico_py.dataplane.netlink import LinuxKernel
from calico_py.dataplane.routes import RouteReconciler
from calico_py.model.intent import IPIPTunnel
from calico_py.model.kernel import Addr, Link, NextHop, Put, Route, RouteType
from tests.netns.namespaces import Namespace

pytestmark = pytest.mark.root

NODE2 = IPv4Address("192.168.1.12")
TUNNEL = IPIPTunnel("tunl0", IPv4Address("10.244.1.0"), IPv4Address("192.168.1.11"), 1480)
REPAIRED_WITHIN = 1.0  # seconds


class Node:
    """A namespace with an uplink, and the two reconcilers that share its tunnel."""

    def __init__(self, namespace: Namespace, kernel: LinuxKernel) -> None:
        self.namespace = namespace
        self.kernel = kernel
        self.ipip = IPIPReconciler(kernel, allow_kernel=False)
        self.routes = RouteReconciler(kernel)
        self.count = 0

    async def apply(self) -> None:
        """The tunnel and so many routes through it, as an agent's plan would have them."""
        status = await self.ipip.apply(TUNNEL)
        if status.problem:
            return  # a device that is just going; the next event tells that it is gone
        wanted = [via(status.ifindex, n) for n in range(self.count)]
        wanted.append(Route(IPv4Network("10.244.1.0/26"), RouteType.BLACKHOLE, protocol=80))
        wanted.append(Route(IPv6Network("fd00:1::/64"), RouteType.BLACKHOLE, protocol=80, metric=1024))
        self.routes.set_desired({route.key: route for route in wanted}, lambda _: True)
        await self.routes.apply()

    async def follow(self) -> None:
        """A little agent: apply whenever an event calls for it."""
        async for event in self.kernel.events():
            if self.routes.on_event(event) | self.ipip.on_event(event):
                await self.apply()

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.follow())
        await asyncio.sleep(0)
        await self.apply()
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def count_routes(self) -> int:
        return len(self.namespace.run("ip", "route", "show", "proto", "80").stdout.splitlines())


def via(ifindex: int, n: int, protocol: int = 80) -> Route:
    dst = IPv4Network((0x0AF5_0000 + 64 * n, 26))
    return Route(dst, next_hops=(NextHop(ifindex, NODE2, onlink=True),), protocol=protocol)


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    namespace = Namespace()
    try:
        namespace.run("ip", "link", "set", "lo", "up")
        namespace.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "far")
        for words in ("link set eth0 up", "link set far up", "addr add 192.168.1.11/24 dev eth0"):
            namespace.run("ip", *words.split())
        with namespace.entered():
            async with LinuxKernel() as kernel:
                yield Node(namespace, kernel)
    finally:
        namespace.close()


async def seconds_until(condition: Callable[[], Awaitable[bool]]) -> float:
    """How long it took until the condition held; fails after five seconds."""
    start = time.monotonic()
    while not await condition():
        assert time.monotonic() - start < 5, "it never came"
        await asyncio.sleep(0.01)
    return time.monotonic() - start


async def by_hand(node: Node, *commands: str) -> None:
    for command in commands:
        await asyncio.to_thread(node.namespace.run, *command.split())


@pytest.mark.parametrize(
    "commands",
    [
        pytest.param(["ip route flush proto 80"], id="routes flushed"),
        pytest.param(["ip route flush table main"], id="all flushed"),
        pytest.param(["ip route replace 10.245.0.0/26 via 192.168.1.77 dev eth0 proto 80"], id="one changed"),
        pytest.param(["ip link set tunl0 down"], id="down"),
        pytest.param(["ip addr flush dev tunl0"], id="addresses flushed"),
        pytest.param(["ip addr add 172.16.0.1/32 dev tunl0", "ip addr del 10.244.1.0/32 dev tunl0"], id="address"),
        pytest.param(["ip link del tunl0"], id="removed"),
        pytest.param(["ip link set tunl0 down", "ip link set tunl0 name mine"], id="renamed"),
        pytest.param(["ip link set tunl0 mtu 1300"], id="mtu"),
    ],
)
async def test_what_a_hand_breaks_is_whole_again_within_a_second(node: Node, commands: list[str]) -> None:
    """Watched by dumps, which are quick on a busy machine too; judged by ip(8)."""
    node.count = 50

    async def back() -> bool:
        links = {link.name: link for link in await node.kernel.dump(Link)}
        routes = [route for route in await node.kernel.dump(Route) if route.protocol == 80]
        addresses = {(addr.ifindex, addr.interface) for addr in await node.kernel.dump(Addr)}
        tunnel = links.get("tunl0", Link(""))
        through = [route for route in routes if route.next_hops == via(tunnel.ifindex, 0).next_hops]
        return (
            (tunnel.up, tunnel.mtu) == (True, 1480)
            and (len(routes), len(through)) == (52, 50)
            and (tunnel.ifindex, IPv4Interface("10.244.1.0/32")) in addresses
        )

    def whole() -> bool:
        routes = node.namespace.run("ip", "route", "show", "proto", "80").stdout
        devices = node.namespace.run("ip", "addr", "show", "dev", "tunl0", check=False).stdout
        return (
            routes.count("via 192.168.1.12 dev tunl0") == 50
            and "blackhole 10.244.1.0/26" in routes
            and "blackhole fd00:1::/64" in node.namespace.run("ip", "-6", "route", "show", "proto", "80").stdout
            and "10.244.1.0/32" in devices
            and "mtu 1480" in devices
            and ",UP" in devices
        )

    async with node.following():
        await seconds_until(back)
        assert whole()
        await by_hand(node, *commands)
        assert await seconds_until(back) < REPAIRED_WITHIN
        assert whole()


async def test_without_the_follower_nothing_is_repaired(node: Node) -> None:
    """The control of the test above."""
    node.count = 50
    await node.apply()
    assert node.count_routes() == 51
    node.namespace.run("ip", "route", "flush", "proto", "80")
    await asyncio.sleep(0.2)
    assert node.count_routes() == 0


async def test_four_thousand_routes(node: Node) -> None:
    node.count = 4000
    start = time.monotonic()
    await node.apply()
    assert time.monotonic() - start < 2
    assert node.count_routes() == 4001
    before = node.namespace.run("ip", "route").stdout

    await node.routes.resync()
    assert not node.routes.dirty
    again = RouteReconciler(node.kernel)
    again.set_desired(dict(node.routes.installed), lambda _: True)
    assert await again.apply() == {}
    assert node.namespace.run("ip", "route").stdout == before

    again.set_desired({}, lambda _: True)
    await again.apply()
    assert node.count_routes() == 0


async def test_routes_of_others_stay_as_they_are(node: Node) -> None:
    for words in (
        "route add 10.246.0.0/26 via 192.168.1.99 proto static",
        "route add 10.246.1.0/26 via 192.168.1.99 proto bird",
        "route add 10.246.2.0/26 via 192.168.1.99 proto 80 table 1000",
        "route add blackhole 10.246.3.0/26",
        "route add default via 192.168.1.1",
        "-6 route add blackhole fd00:2::/64",
        "route add 10.245.0.0/26 via 192.168.1.99",
        "route add 10.245.0.64/26 via 192.168.1.99 metric 5",
        "route add tos 0x10 10.245.0.128/26 via 192.168.1.99",
    ):
        node.namespace.run("ip", *words.split())

    def others() -> set[str]:
        """Without what calico-py made, and what the kernel itself adds for devices that are up."""
        lines = node.namespace.run("ip", "route", "show", "table", "all").stdout.splitlines()
        lines += node.namespace.run("ip", "-6", "route", "show", "table", "all").stdout.splitlines()
        passing = ("tunl0", "fe80::", "ff00::", "blackhole 10.244.1.0/26", "blackhole fd00:1::/64")
        return {line.strip() for line in lines if not any(word in line for word in passing)}

    before = others()
    assert len(before) > 9
    node.count = 3
    await node.apply()
    assert list(node.routes.failures) == [via(0, 0).key], "10.245.0.0/26 is taken"
    assert others() == before
    assert node.count_routes() == 3
    node.routes.set_desired({}, lambda _: True)
    await node.routes.apply()
    assert others() == before
    assert node.count_routes() == 0


async def test_what_is_refused_comes_when_its_cause_is_gone(node: Node) -> None:
    """A gateway on a network that gets its address later."""
    uplink = next(link.ifindex for link in await node.kernel.dump(Link) if link.name == "eth0")
    far = Route(IPv4Network("10.245.9.0/26"), next_hops=(NextHop(uplink, IPv4Address("172.20.0.2")),), protocol=81)
    events = node.kernel.events()
    node.routes.set_desired({far.key: far}, lambda _: True)
    failures = await node.routes.apply()
    assert "network is unreachable" in failures[far.key]
    assert await node.kernel.send([Put(Addr(uplink, IPv4Interface("172.20.0.1/24")))]) == [None]
    while not node.routes.on_event(await asyncio.wait_for(anext(events), 1)):
        pass
    assert await node.routes.apply() == {}
    assert "10.245.9.0/26 via 172.20.0.2" in node.namespace.run("ip", "route").stdout


async def test_a_flood_of_events_is_survived(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """The listener's buffer overflows: it says so, and a reading finds what was missed."""
    with monkeypatch.context() as small:
        small.setattr("calico_py.dataplane.rtnl_socket._BUFFER", 4096)
        events = node.kernel.events()
    node.count = 500
    await node.apply()
    node.namespace.run("ip", "route", "flush", "proto", "80")
    lost = False
    with suppress(TimeoutError):
        while True:
            event = await asyncio.wait_for(anext(events), 0.2)
            lost |= event.kind is None
            node.routes.on_event(event)
    assert lost
    await node.routes.apply()
    assert node.count_routes() == 501
