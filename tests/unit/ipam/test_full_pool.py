"""A pool that is full: what an ADD costs that finds nothing, and how soon one succeeds once there is something."""

import asyncio

import pytest

from calico_py.ipam.allocator import Allocator
from calico_py.ipam.requests import Assigned, ExhaustedError
from calico_py.model.blocks import IPAMConfiguration
from calico_py.model.kinds import IPAM_BLOCKS
from calico_py.model.meta import Meta
from tests.fakes.ipam import IPAMCluster, addresses, config, pool, workload
from tests.fakes.slow import SlowStore

LONG = 3600.0  # seconds; a test that waits for it fails
LOOK = ("list", "IPAMBlock")
OWN = ("list", "BlockAffinity")


async def full(rest: float, settings: IPAMConfiguration | None = None) -> tuple[IPAMCluster, SlowStore, Allocator]:
    """Two nodes with a block of four addresses each, all of them used, and the first node's allocator."""
    cluster = IPAMCluster([pool("10.0.0.0/29", 30)], settings or config(), rest=rest)
    store = SlowStore(cluster.store)
    mine, other = cluster.node("node1", store), cluster.node("node2")
    for node in (mine, other):
        for number in range(4):
            await node.assign(workload(f"{node.node}-{number}"))
    await mine.drain()
    await other.drain()
    cluster.taken.update(block.cidr for block in await cluster.blocks())
    store.calls.clear()
    return cluster, store, mine


async def fails(node: Allocator, name: str) -> str:
    with pytest.raises(ExhaustedError) as found:
        await node.assign(workload(name))
    return str(found.value)


async def waiting(node: Allocator, name: str) -> asyncio.Task[tuple[Assigned, ...]]:
    """An ADD that waits for what there was not a moment ago."""
    await fails(node, "before")
    task = asyncio.create_task(node.assign(workload(name)))
    await asyncio.sleep(0.05)
    assert not task.done()
    return task


@pytest.mark.parametrize("strict", [False, True])
async def test_requests_that_come_together_share_one_look(*, strict: bool) -> None:
    _, store, node = await full(0.2, config(strict_affinity=strict))
    said = set(await asyncio.gather(*(fails(node, f"c{number}") for number in range(20))))
    assert store.calls[LOOK] == store.calls[OWN] == 1
    assert len(said) == 1
    await asyncio.gather(*(fails(node, f"d{number}") for number in range(20)))
    assert store.calls[LOOK] == store.calls[OWN] == 2


async def test_a_storm_looks_once_in_a_while() -> None:
    _, store, node = await full(0.2)
    ends = asyncio.get_running_loop().time() + 1.0

    async def crash_loop(number: int) -> int:
        for attempt in range(1_000):
            if asyncio.get_running_loop().time() > ends:
                return attempt
            await fails(node, f"c{number}-{attempt}")
        return 1_000

    tries = await asyncio.gather(*(crash_loop(number) for number in range(10)))
    assert sum(tries) >= 20
    assert store.calls[LOOK] <= 7


async def test_what_becomes_free_on_the_node_is_given_at_once() -> None:
    _, store, node = await full(LONG)
    task = await waiting(node, "c")
    assert await node.release_handle("k8s-pod-network.node1-2") == 1
    async with asyncio.timeout(1):
        assert addresses(await task) == ["10.0.0.2"]
    assert store.calls[LOOK] == 1


async def test_what_others_gave_back_of_the_nodes_block_is_given_as_soon_as_the_watch_shows_it() -> None:
    cluster, store, node = await full(LONG)
    task = await waiting(node, "c")
    leader = cluster.node("node3")
    await leader.release_handle("k8s-pod-network.node1-3")
    for block in await cluster.blocks():
        node.observe(block)
    async with asyncio.timeout(1):
        assert addresses(await task) == ["10.0.0.3"]
    assert store.calls[LOOK] == 1


async def test_what_becomes_free_elsewhere_is_found_by_the_next_look() -> None:
    cluster, _, node = await full(0.3)
    task = await waiting(node, "c")
    await cluster.node("node2").release_handle("k8s-pod-network.node2-1")
    async with asyncio.timeout(1):
        assert addresses(await task) == ["10.0.0.5"]


async def test_a_block_that_is_given_back_ends_the_waiting_of_the_next_request() -> None:
    cluster, _, node = await full(LONG)
    await fails(node, "before")
    (theirs,) = [block for block in await cluster.blocks() if block.node == "node2"]
    await cluster.store.delete(IPAM_BLOCKS, theirs.meta.name)
    cluster.taken.discard(theirs.cidr)
    async with asyncio.timeout(1):
        assert addresses(await node.assign(workload("c"))) == ["10.0.0.4"]


async def test_another_pool_is_looked_at_without_waiting() -> None:
    cluster, _, node = await full(LONG)
    await fails(node, "before")
    cluster.pools.append(pool("10.9.0.0/29", 30))
    async with asyncio.timeout(1):
        assert addresses(await node.assign(workload("c"))) == ["10.9.0.0"]


async def test_an_address_that_cools_down_is_given_without_another_look() -> None:
    _, store, node = await full(LONG, IPAMConfiguration(Meta("default")))
    await fails(node, "before")
    for number in range(4):
        await node.release_handle(f"k8s-pod-network.node1-{number}")
        async with asyncio.timeout(1):
            assert addresses(await node.assign(workload(f"c{number}"))) == [f"10.0.0.{number}"]
    assert store.calls[LOOK] == 1
