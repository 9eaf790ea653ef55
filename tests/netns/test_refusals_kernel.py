"""What this machine's kernel refuses, each by the state of a real namespace: the sentence and its cure."""

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from ipaddress import IPv4Address, IPv4Network, ip_address, ip_network

import pytest

from calico_py.dataplane.ipip import IPIPReconciler
from calico_py.dataplane.netlink import LinuxKernel
from calico_py.model.intent import IPIPTunnel
from calico_py.model.kernel import Addr, Link, NextHop, Put, Route
from tests.netns.namespaces import Namespace

pytestmark = pytest.mark.root

ITSELF = "the gateway is an address of this node itself, or a rule of `ip rule` forbids the way to it"
NO_NETWORK = "the gateway is on no connected network of that device: check the node's address and subnet"
DESTINATIONS = {4: "10.244.2.0/26", 6: "fd00:244::/122"}
METRICS = {4: 0, 6: 1024}

Node = tuple[Namespace, LinuxKernel]


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    """192.168.1.11 on eth0, and tunl0 beside it."""
    namespace = Namespace()
    try:
        namespace.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "far")
        for words in (
            "link set lo up",
            "link set eth0 up",
            "link set far up",
            "addr add 192.168.1.11/24 dev eth0",
            "addr add fd99::11/64 dev eth0 nodad",
        ):
            namespace.run("ip", *words.split())
        with namespace.entered():
            async with LinuxKernel() as kernel:
                assert await kernel.send([Put(Link("tunl0", kind="tun", up=True))]) == [None]
                yield namespace, kernel
    finally:
        namespace.close()


async def set_route(kernel: LinuxKernel, gateway: str, device: str) -> str:
    """The answer to a route by a gateway; through tunl0 it is onlink, as the agent's are."""
    via = ip_address(gateway)
    (ifindex,) = [link.ifindex for link in await kernel.dump(Link) if link.name == device] or [999]
    hop = NextHop(ifindex, via, onlink=device == "tunl0")
    route = Route(ip_network(DESTINATIONS[via.version]), next_hops=(hop,), protocol=80, metric=METRICS[via.version])
    (answer,) = await kernel.send([Put(route)])
    return str(answer or "")


@pytest.mark.parametrize(
    ("gateway", "device", "before", "said"),
    [
        ("192.168.7.7", "eth0", [], f"network is unreachable (Nexthop has invalid gateway); {NO_NETWORK}"),
        ("fd98::7", "eth0", [], f"no route to host; {NO_NETWORK}"),
        ("192.168.1.11", "tunl0", [], f"invalid argument (Nexthop has invalid gateway); {ITSELF}"),
        ("fd99::11", "eth0", [], f"invalid argument (Gateway can not be a local address); {ITSELF}"),
        (
            "192.168.1.12",
            "eth0",
            ["rule add to 192.168.1.12 prohibit pref 9"],
            f"permission denied (Nexthop has invalid gateway); {ITSELF}",
        ),
        (
            "192.168.1.12",
            "eth0",
            ["rule add to 192.168.1.12 blackhole pref 9"],
            f"invalid argument (Nexthop has invalid gateway); {ITSELF}",
        ),
        (
            "192.168.1.12",
            "tunl0",
            ["link set tunl0 down"],
            "network is down (Nexthop device is not up); the device is down: set it up",
        ),
        ("192.168.1.12", "tunl0", ["link del tunl0"], "the device is gone; the change is made again when it is back"),
    ],
)
async def test_a_route_that_is_refused(node: Node, gateway: str, device: str, before: Sequence[str], said: str) -> None:
    namespace, kernel = node
    for words in before:
        namespace.run("ip", *words.split())
    answer = await set_route(kernel, gateway, device)
    assert answer.startswith(f"cannot set route {DESTINATIONS[ip_address(gateway).version]} via {gateway} dev ")
    assert said in answer


async def test_a_name_that_another_device_has(node: Node) -> None:
    _, kernel = node
    (answer,) = await kernel.send([Put(Link("eth0", kind="tun", up=True))])
    assert "device eth0 is there and of kind veth" in str(answer)
    assert str(answer).endswith("something else has that name or key: remove or rename it")


async def test_an_agent_without_its_capability(node: Node) -> None:
    """In a process of its own, that has given NET_ADMIN up."""
    namespace, _ = node
    program = """
import asyncio
from ipaddress import IPv4Network
from calico_py.dataplane.netlink import LinuxKernel
from calico_py.model.kernel import Put, Route, RouteType
async def main():
    async with LinuxKernel() as kernel:
        print(*await kernel.send([Put(Route(IPv4Network("10.244.2.0/26"), RouteType.BLACKHOLE, protocol=80))]))
asyncio.run(main())
"""
    without = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", "--")
    done = await asyncio.to_thread(namespace.run, *without, sys.executable, "-c", program)
    assert done.stdout.strip() == (
        "cannot set route blackhole 10.244.2.0/26 proto 80: operation not permitted; "
        "the agent needs the capability NET_ADMIN"
    )


async def test_a_device_that_somebody_removes_as_soon_as_it_is_made(node: Node) -> None:
    namespace, kernel = node
    reconciler = IPIPReconciler(kernel, allow_kernel=False)
    tunnel = IPIPTunnel("tunl0", IPv4Address("10.244.1.0"), IPv4Address("192.168.1.11"), 1480)
    remove = "while :; do ip link del tunl0 2>/dev/null; done"
    rival = await asyncio.create_subprocess_exec("nsenter", f"--net={namespace.path}", "--", "sh", "-c", remove)
    said = ""
    try:
        async with asyncio.timeout(60):
            while "went away as soon as it was made" not in said:
                await reconciler.resync()
                said = (await reconciler.apply(tunnel)).problem
    finally:
        rival.kill()
        await rival.wait()
    assert said == "device tunl0 went away as soon as it was made; it is made again"
    await reconciler.resync()
    assert (await reconciler.apply(tunnel)).problem == ""
    assert IPv4Network("10.244.1.0/32") in {addr.interface.network for addr in await kernel.dump(Addr)}
