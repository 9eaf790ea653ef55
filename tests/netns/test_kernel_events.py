"""What LinuxKernel hears of things that other programs do, which the contract suite has no words for."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from calico_py.dataplane.monitor import Monitor
from calico_py.dataplane.netlink import LinuxKernel
from calico_py.model.kernel import Addr, KernelEvent, Link, Neigh, Route
from tests.netns.namespaces import Namespace

pytestmark = pytest.mark.root


class Ear:
    """A namespace, its kernel, and what was heard."""

    def __init__(self, namespace: Namespace, kernel: LinuxKernel) -> None:
        self.namespace, self.kernel = namespace, kernel

    async def hear(self, *commands: str) -> list[KernelEvent]:
        """The events of what commands do."""
        events: Monitor = self.kernel.events()
        for command in commands:
            await asyncio.to_thread(self.namespace.run, *command.split())
        heard = []
        with suppress(TimeoutError):
            while True:
                heard.append(await asyncio.wait_for(anext(events), 0.3))
        return heard


@pytest.fixture
async def ear() -> AsyncIterator[Ear]:
    namespace = Namespace()
    try:
        namespace.run("ip", "link", "set", "lo", "up")
        namespace.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "far")
        with namespace.entered():
            async with LinuxKernel() as kernel:
                yield Ear(namespace, kernel)
    finally:
        namespace.close()


async def test_a_port_that_leaves_its_bridge_is_still_there(ear: Ear) -> None:
    """The kernel tells of it by an RTM_DELLINK, of family AF_BRIDGE."""
    ear.namespace.run("ip", "link", "add", "br0", "type", "bridge")
    ear.namespace.run("ip", "link", "set", "eth0", "master", "br0")
    heard = await ear.hear("ip link set eth0 nomaster")
    assert [event for event in heard if event.kind is Link and event.removed] == []
    assert any(isinstance(event.object, Link) and event.object.name == "eth0" for event in heard)


async def test_arp_is_no_news_but_a_lost_entry_is(ear: Ear) -> None:
    ear.namespace.run("ip", "link", "set", "eth0", "up")
    heard = await ear.hear("ip neigh add 10.0.0.9 lladdr 02:00:00:00:00:09 dev eth0 nud reachable")
    assert [event for event in heard if event.kind is Neigh and not event.removed] == []
    heard = await ear.hear("ip neigh add 10.0.0.2 lladdr 02:00:00:00:00:02 dev eth0 nud permanent")
    assert [event.removed for event in heard if event.kind is Neigh] == [False]
    heard = await ear.hear("ip neigh replace 10.0.0.2 lladdr 02:00:00:00:00:02 dev eth0 nud stale")
    assert any(event.removed for event in heard if event.kind is Neigh), "it is permanent no more"


async def test_one_hand_after_another(ear: Ear) -> None:
    heard = await ear.hear(
        "ip link set eth0 up", "ip addr add 10.0.0.1/24 dev eth0", "ip route add 10.9.0.0/24 via 10.0.0.2"
    )
    kinds = [event.kind for event in heard]
    assert {Link, Addr, Route} <= set(kinds)
    assert not any(event.removed for event in heard if event.kind is Route)


async def test_two_listeners_hear_the_same(ear: Ear) -> None:
    events = ear.kernel.events(), ear.kernel.events()
    ear.namespace.run("ip", "link", "add", "br0", "type", "bridge")
    first, second = [await asyncio.wait_for(anext(each), 1) for each in events]
    assert first == second


async def test_waiting_can_be_given_up_and_taken_up_again(ear: Ear) -> None:
    events = ear.kernel.events()
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(events), 0.05)
    ear.namespace.run("ip", "link", "add", "br0", "type", "bridge")
    assert (await asyncio.wait_for(anext(events), 1)).kind is Link
