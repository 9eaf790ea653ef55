"""A pool that was deleted and made again with another block size, while pods still use the blocks of the first."""

from itertools import pairwise

import pytest

from calico_py.ipam.allocator import Allocator
from calico_py.ipam.collector import Collector
from calico_py.ipam.garbage import PodName, PodView
from calico_py.ipam.requests import AddressTakenError, ExhaustedError
from calico_py.model.net import Address
from tests.fakes.ipam import IPAMCluster, config, pool, workload

SIZES = [(28, 26), (26, 28), (30, 27), (25, 28)]


async def used(cluster: IPAMCluster, size: int) -> set[Address]:
    """Addresses of pods of two nodes, in blocks of that size, which are a part of the pool."""
    cluster.pools = [pool("10.0.0.0/24", size)]
    found = set()
    for number in range(2 if size > 25 else 1):
        allocator = cluster.node(f"node{number}")
        for each in range(3):
            (got,) = await allocator.assign(workload(f"old{number}-{each}"))
            found.add(got.address)
        await allocator.drain()
    return found


async def watch(cluster: IPAMCluster) -> None:
    """The affinities, as the agents' watch has them."""
    cluster.taken = {block.cidr for block in await cluster.blocks()}


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize(("before", "after"), SIZES)
async def test_no_address_is_given_twice(before: int, after: int, *, watched: bool) -> None:
    cluster = IPAMCluster([], config(strict_affinity=True))
    living = await used(cluster, before)
    cluster.pools = [pool("10.0.0.0/24", after)]
    for number in range(4, 10):
        allocator = cluster.node(f"node{number}")
        for each in range(40):
            if watched:
                await watch(cluster)
            try:
                (got,) = await allocator.assign(workload(f"new{number}-{each}"))
            except ExhaustedError:
                break
            assert got.address not in living
            living.add(got.address)
    cidrs = [block.cidr for block in await cluster.blocks()]
    assert len({cidr.prefixlen for cidr in cidrs}) == 2
    assert not any(one.overlaps(other) for one, other in pairwise(cidrs))


async def test_an_address_that_a_pod_asks_for_comes_from_the_block_that_is_there() -> None:
    cluster = IPAMCluster([], config())
    living = await used(cluster, 28)
    cluster.pools = [pool("10.0.0.0/24", 26)]
    await watch(cluster)
    allocator = cluster.node("node9")
    taken = min(living)
    with pytest.raises(AddressTakenError, match="already assigned"):
        await allocator.assign(workload("c1", requested=(taken,)))
    inside = max(next(block.cidr for block in await cluster.blocks() if taken in block.cidr))
    (got,) = await allocator.assign(workload("c2", requested=(inside,)))
    assert got.block.prefixlen == 28
    covered = {address for cidr in cluster.taken for address in cidr}
    beside = next(a for cidr in cluster.taken for a in cidr.supernet(new_prefix=26) if a not in covered)
    with pytest.raises(AddressTakenError, match="made anew with another blockSize"):
        await allocator.assign(workload("c3", requested=(beside,)))


async def test_a_leaked_address_of_the_old_size_is_released() -> None:
    cluster, pods = IPAMCluster([], config()), dict[PodName, PodView]()
    living = await used(cluster, 28)
    cluster.pools = [pool("10.0.0.0/24", 26)]
    leader: Allocator = cluster.node("leader")

    async def list_pods() -> dict[PodName, PodView]:
        return pods

    collector = Collector(
        cluster.store,
        leader,
        nodes=lambda: ["leader", "node0", "node1"],
        pods=list_pods,
        now=lambda: cluster.now,
    )
    await collector.collect()
    cluster.advance(1000)
    assert set((await collector.collect()).released.released) == living
    assert not await cluster.held()
