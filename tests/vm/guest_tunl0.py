"""Run in the guest: IPIPReconciler with the kernel's own tunl0, and cleanup after it. See test_vm_kernel."""

import asyncio
import re
from collections.abc import AsyncIterator
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

import pytest

from calico_py.dataplane.cleanup import cleanup
from calico_py.dataplane.ipip import Engine, IPIPReconciler
from calico_py.dataplane.netlink import LinuxKernel
from calico_py.dataplane.routes import RouteReconciler
from calico_py.dataplane.sysctls import SysctlKeeper
from calico_py.model.intent import IPIPTunnel
from calico_py.model.kernel import Addr, Link, NextHop, Put, Route
from tests.netns.namespaces import Namespace

TUNNEL = IPIPTunnel("tunl0", IPv4Address("10.244.1.0"), IPv4Address("192.168.1.11"), 1480)


@pytest.fixture
async def node() -> AsyncIterator[tuple[Namespace, LinuxKernel]]:
    namespace = Namespace()
    namespace.run("ip", "link", "set", "lo", "up")
    with namespace.entered():
        async with LinuxKernel() as kernel:
            yield namespace, kernel
    namespace.close()


def shown(namespace: Namespace) -> str:
    """Without the queueing discipline, which a device keeps from its first time up."""
    return re.sub(r"qdisc \S+", "", namespace.run("ip", "-d", "addr", "show", "dev", "tunl0").stdout)


async def test_the_kernels_device_is_made_ready(node: tuple[Namespace, LinuxKernel]) -> None:
    """The request loads the module; route and address are as Calico's users know them."""
    namespace, kernel = node
    status = await IPIPReconciler(kernel).apply(TUNNEL)
    assert (status.engine, status.problem, status.ready) == (Engine.KERNEL, "", True)
    assert "ipip any" in shown(namespace)
    assert "mtu 1480" in shown(namespace)
    assert "inet 10.244.1.0/32 scope global tunl0:calico-py" in shown(namespace)
    hop = NextHop(status.ifindex, IPv4Address("192.168.1.12"), onlink=True)
    route = Route(IPv4Network("10.244.166.128/26"), next_hops=(hop,), protocol=80)
    assert await kernel.send([Put(route)]) == [None]
    line = namespace.run("ip", "route", "show", "10.244.166.128/26").stdout.strip()
    assert line == "10.244.166.128/26 via 192.168.1.12 dev tunl0 proto 80 onlink"


@pytest.mark.parametrize(
    "command",
    [
        "ip link set tunl0 down",
        "ip addr flush dev tunl0",
        "ip link set tunl0 mtu 1300",
        "ip link set tunl0 down; ip link set tunl0 name mine",
        "ip link del tunl0",
    ],
)
async def test_what_a_hand_breaks_is_mended(node: tuple[Namespace, LinuxKernel], command: str) -> None:
    namespace, kernel = node
    reconciler = IPIPReconciler(kernel)
    before = await reconciler.apply(TUNNEL)
    events = kernel.events()
    namespace.run("sh", "-ec", command)
    while command != "ip link del tunl0" and not reconciler.on_event(await asyncio.wait_for(anext(events), 5)):
        pass
    after = await reconciler.apply(TUNNEL)
    assert after == before
    assert "mtu 1480" in shown(namespace)
    assert "10.244.1.0/32" in shown(namespace)
    assert ",UP" in shown(namespace)


async def test_routes_come_back_after_a_rename(node: tuple[Namespace, LinuxKernel]) -> None:
    """The device must go down to be renamed on this kernel, and with that its routes go."""
    namespace, kernel = node
    ipip, routes = IPIPReconciler(kernel), RouteReconciler(kernel)
    status = await ipip.apply(TUNNEL)
    hop = NextHop(status.ifindex, IPv4Address("192.168.1.12"), onlink=True)
    route = Route(IPv4Network("10.244.166.128/26"), next_hops=(hop,), protocol=80)
    routes.set_desired({route.key: route}, lambda _: True)
    assert await routes.apply() == {}
    events = kernel.events()
    namespace.run("sh", "-ec", "ip link set tunl0 down; ip link set tunl0 name mine; ip link set mine up")
    for _ in range(2):  # the hand's events, then those of the repair
        try:
            while True:
                event = await asyncio.wait_for(anext(events), 1)
                routes.on_event(event)
                ipip.on_event(event)
        except TimeoutError:
            await ipip.apply(TUNNEL)
            assert await routes.apply() == {}
    assert "dev tunl0 proto 80 onlink" in namespace.run("ip", "route").stdout


async def test_another_address_replaces_ours_after_a_restart(node: tuple[Namespace, LinuxKernel]) -> None:
    namespace, kernel = node
    status = await IPIPReconciler(kernel).apply(TUNNEL)
    assert await kernel.send([Put(Addr(status.ifindex, IPv4Interface("172.16.0.1/32")))]) == [None]
    other = IPIPTunnel("tunl0", IPv4Address("10.244.2.0"), TUNNEL.local, 1480)
    await IPIPReconciler(kernel).apply(other)
    assert "10.244.1.0" not in shown(namespace)
    assert "10.244.2.0/32" in shown(namespace)
    assert "172.16.0.1/32" in shown(namespace)


async def test_the_userspace_engine_cannot_have_the_kernels_name(node: tuple[Namespace, LinuxKernel]) -> None:
    """Where the module is loaded tunl0 is the kernel's in every namespace: then it is used."""
    _, kernel = node
    await IPIPReconciler(kernel).apply(TUNNEL)
    status = await IPIPReconciler(kernel, allow_kernel=False).apply(TUNNEL)
    assert status.engine == Engine.KERNEL


async def test_cleanup_leaves_the_device_as_the_module_made_it(
    node: tuple[Namespace, LinuxKernel], tmp_path: Path
) -> None:
    namespace, kernel = node
    assert await kernel.send([Put(Link("tunl0", kind="ipip"))]) == [None]
    before = shown(namespace)
    await IPIPReconciler(kernel).apply(TUNNEL)
    assert await cleanup(kernel, SysctlKeeper(kernel, tmp_path / "sysctls.json"), [tmp_path]) == []
    assert shown(namespace) == before
