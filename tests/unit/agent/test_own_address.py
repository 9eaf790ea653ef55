"""When the node's own address is looked at, by what it knows then, and what it asks the API server for that."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from ipaddress import ip_address, ip_interface, ip_network

from calico_py.agent.configuration.config import load_config
from calico_py.agent.own_address import OwnAddress
from calico_py.agent.publish import NodePublisher
from calico_py.model.kernel import Addr, Delete, KernelEvent, Link, NextHop, Put, Route
from calico_py.model.kinds import NODES
from calico_py.model.meta import Meta
from calico_py.model.names import NODE_IPV4_ADDRESS
from calico_py.model.nodes import Node
from calico_py.model.store import UnavailableError
from tests.fakes.kernel import FakeKernel
from tests.fakes.store import MemoryStore
from tests.fakes.waiting import until

ANNOTATED = "10.0.0.5/24"


class Api:
    """Counts the questions for the Node; answers none while away."""

    away = False
    asked = 0

    def __call__(self, when: str, verb: str, kind: str, name: str) -> None:
        del name
        if (when, verb, kind) == ("before", "get", "Node"):
            self.asked += 1
            if self.away:
                raise UnavailableError("the API server is away")


async def two_uplinks() -> FakeKernel:
    """A host whose default route is not by the device of the address that its Node is annotated with."""
    kernel = FakeKernel()
    for name, address in (("eth0", "192.168.1.11/24"), ("eth1", ANNOTATED)):
        index = kernel.add_device(name)
        await kernel.send([Put(Link(name, index, up=True)), Put(Addr(index, ip_interface(address)))])
    gateway = NextHop(2, ip_address("192.168.1.1"))
    await kernel.send([Put(Route(ip_network("0.0.0.0/0"), next_hops=(gateway,), protocol=3))])
    return kernel


@contextlib.asynccontextmanager
async def looking(api: Api) -> AsyncIterator[tuple[OwnAddress, FakeKernel]]:
    store = MemoryStore(fault=api)
    await store.create(NODES, Node(Meta("node1", annotations={NODE_IPV4_ADDRESS: ANNOTATED})))
    kernel = await two_uplinks()
    publisher = NodePublisher(store, "node1", lambda: None)
    config = load_config({"NODENAME": "node1"}, hostname="node1")
    own = OwnAddress(config, store, kernel, publisher, on_change=lambda: None)
    task = asyncio.create_task(own.run())
    try:
        yield own, kernel
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_no_address_is_chosen_before_the_node_was_read() -> None:
    """Without its annotation and its InternalIPs another address of the host would be chosen, and published."""
    api = Api()
    api.away = True
    async with looking(api) as (own, _):
        await until(lambda: "the API server is away" in own.problem)
        await asyncio.sleep(0.05)
        assert own.ipv4 is None
        api.away = False
        await asyncio.wait_for(own.wait(), 5)
        assert str(own.ipv4) == ANNOTATED
        assert not own.problem


async def test_a_look_at_the_host_asks_the_api_nothing() -> None:
    """Devices of pods come and go by the hundred."""
    api = Api()
    async with looking(api) as (own, kernel):
        await asyncio.wait_for(own.wait(), 5)
        for number in range(50):
            own.on_event(KernelEvent(Link, object=Link(f"cali{number}", 100 + number, up=True)))
            await asyncio.sleep(0)
        await kernel.send([Put(Addr(3, ip_interface("10.0.0.6/24")))])
        own.on_event(KernelEvent(Addr, object=Addr(3, ip_interface("10.0.0.6/24"))))
        await asyncio.sleep(0.1)
        assert api.asked == 1


async def test_an_address_that_goes_is_noticed_at_once() -> None:
    async with looking(Api()) as (own, kernel):
        await asyncio.wait_for(own.wait(), 5)
        gone = Addr(3, ip_interface(ANNOTATED))
        await kernel.send([Delete(gone)])
        own.on_event(KernelEvent(Addr, removed=True, object=gone))
        await until(lambda: str(own.ipv4) == "192.168.1.11/24")
        await kernel.send([Put(gone)])
        own.on_event(KernelEvent(Addr, object=gone))
        await asyncio.sleep(0.1)
        assert str(own.ipv4) == "192.168.1.11/24", "what was chosen is kept while the host has it"
