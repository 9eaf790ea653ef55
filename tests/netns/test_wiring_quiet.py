"""A pod that comes or goes sets nothing in motion but its own wiring: no pass over the node, no look at its address."""

import asyncio
from collections.abc import Callable, Iterator
from ipaddress import ip_interface
from pathlib import Path

import pytest

from calico_py.agent.configuration.config import load_config
from calico_py.agent.own_address import OwnAddress
from calico_py.agent.publish import NodePublisher
from calico_py.dataplane.converge import Dataplane
from calico_py.dataplane.netlink import LinuxKernel
from calico_py.dataplane.wiring import NetlinkPodWiring
from calico_py.model.bgp import LearnedRoutes
from calico_py.model.intent import Intent
from calico_py.model.kernel import KernelEvent
from calico_py.model.names import workload_ifname
from calico_py.model.wiring import PodLink
from tests.fakes.store import MemoryStore
from tests.netns.namespaces import Namespace, host_namespace

pytestmark = pytest.mark.root


@pytest.fixture
def host() -> Iterator[Namespace]:
    with host_namespace() as namespace:
        yield namespace


async def _disturbed(kernel: LinuxKernel, state: Path, change: Callable[[], None]) -> list[KernelEvent]:
    """The events of a change after which a pass would run or the node's address would be looked for."""
    config, store = load_config({"NODENAME": "node1"}, hostname="node1"), MemoryStore()
    dataplane = Dataplane(kernel, state_dir=state)
    await dataplane.apply(Intent(), LearnedRoutes(), frozenset())
    own = OwnAddress(config, store, kernel, NodePublisher(store, "node1", lambda: None), on_change=lambda: None)
    seen: list[KernelEvent] = []
    found: list[KernelEvent] = []

    async def listen() -> None:
        async for event in kernel.events():
            seen.append(event)
            own._look.clear()
            own.on_event(event)
            if dataplane.on_event(event) or own._look.is_set():
                found.append(event)

    listening = asyncio.create_task(listen())
    await asyncio.sleep(0.2)
    change()
    await asyncio.sleep(2.5)  # the kernel's duplicate address detection has ended
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    assert seen, "the kernel tells of every change"
    return found


@pytest.mark.parametrize("addresses", [("10.65.0.1/32",), ("10.65.0.1/32", "fd65::1/128")])
async def test_a_pods_life(host: Namespace, tmp_path: Path, addresses: tuple[str, ...]) -> None:
    del host
    pod, wiring = Namespace(), NetlinkPodWiring()
    interfaces = tuple(ip_interface(address) for address in addresses)
    link = PodLink("default", "pod1", "container1", "eth0", workload_ifname("default", "pod1"), interfaces, 1450)

    def live() -> None:
        async def life() -> None:
            await wiring.wire(link, pod.descriptor)
            await asyncio.sleep(1.5)
            await wiring.unwire(link.host_ifname, link.container_id)
            await wiring.drain()

        lives.append(asyncio.create_task(life()))

    lives: list[asyncio.Task[None]] = []
    try:
        async with LinuxKernel() as kernel:
            assert await _disturbed(kernel, tmp_path, live) == []
        await lives[0]
    finally:
        wiring.close()
        pod.close()


async def test_another_device_is_noticed(host: Namespace, tmp_path: Path) -> None:
    """The negative control."""

    def change() -> None:
        host.run("ip", "link", "add", "uplink", "type", "veth", "peer", "name", "other")
        host.run("ip", "address", "add", "192.0.2.9/24", "dev", "uplink")

    async with LinuxKernel() as kernel:
        assert await _disturbed(kernel, tmp_path, change)
