"""What an agent that starts does about addresses, in order: first the journal, then what is dead; then it listens."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_interface
from pathlib import Path

import pytest

from calico_py.agent.address_care import AddressCare
from calico_py.agent.reactions import Reactions
from calico_py.agent.view import ClusterView
from calico_py.ipam.requests import Release
from calico_py.ipam.warm import WarmAddresses
from calico_py.model.names import warm_handle
from calico_py.model.net import Address
from calico_py.model.wiring import PodLink
from tests.fakes.ipam import IPAMCluster, pool, workload
from tests.fakes.kernel import FakeKernel
from tests.fakes.waiting import until
from tests.fakes.warm import WarmNode
from tests.fakes.wiring import FakePodWiring


@pytest.fixture
def node(tmp_path: Path) -> WarmNode:
    return WarmNode(IPAMCluster([pool("10.0.0.0/24")]), tmp_path)


@asynccontextmanager
async def caring(node: WarmNode, living: dict[str, Address]) -> AsyncIterator[WarmAddresses]:
    """The agent's part that cares for addresses, where these containers have devices."""
    wiring = FakePodWiring()
    for container, address in living.items():
        link = PodLink("default", container, container, "eth0", f"cali{container}", (ip_interface(address),), 1450)
        wiring.links[link.host_ifname] = link
    warm, allocator = node.make()
    on_change = Reactions()
    view = ClusterView(node.cluster.store, node.name, on_change, on_blocks=on_change)
    care = AddressCare(allocator, warm, view, wiring, FakeKernel(), node=node.name)
    on_change.append(care.mark)
    tasks = [asyncio.create_task(each) for each in (view.run(), care.run(), warm.run())]
    try:
        yield warm
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await allocator.drain()


async def test_what_the_journal_promised_is_the_pods_and_what_is_dead_is_freed(node: WarmNode) -> None:
    before, allocator = await node.begin()
    (dead,) = await before.assign(workload("dead"))
    await before.catch_up()
    (promised,) = await before.assign(workload("lives"))
    (unanswered,) = await before.assign(workload("unanswered"))
    await allocator.drain()

    async def as_it_should_be() -> bool:
        held = {address: a.handle for address, a in (await node.cluster.held()).items()}
        return (
            held.get(promised.address) == "k8s-pod-network.lives"
            and held.get(unanswered.address) == warm_handle("node1")
            and dead.address not in held
        )

    async with caring(node, {"lives": promised.address}):
        await until(as_it_should_be)


async def test_an_address_that_somebody_releases_is_the_pods_again_by_the_watch(node: WarmNode) -> None:
    async with caring(node, {}) as warm:
        (got,) = await warm.assign(workload("c1"))

        async def told() -> bool:
            held = await node.cluster.held()
            return got.address in held and held[got.address].handle == "k8s-pod-network.c1"

        await until(told)
        await node.cluster.node("elsewhere").release([Release(got.address)])
        assert not await told()
        await until(lambda: warm.counts.reclaimed == 1)
        assert await told()
