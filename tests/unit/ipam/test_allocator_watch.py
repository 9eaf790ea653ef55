"""What an allocator makes of what its agent sees in watches, and of errors behind its answers."""

import logging
from dataclasses import replace

import pytest

from calico_py.ipam import blocks
from calico_py.model.blocks import AffinityState
from calico_py.model.kinds import BLOCK_AFFINITIES, IPAM_BLOCKS
from tests.fakes.ipam import IPAMCluster, config, pool, problems, workload
from tests.fakes.slow import SlowStore


async def test_an_affinity_that_a_dead_thief_left_is_repaired_when_it_is_seen() -> None:
    cluster = IPAMCluster([pool("10.0.0.0/26")])
    allocator = cluster.node("node1")
    await allocator.assign(workload("c1"))
    await allocator.drain()
    (affinity,) = await cluster.affinities()
    await cluster.store.update(BLOCK_AFFINITIES, replace(affinity, state=AffinityState.PENDING_DELETION))
    assert await problems(cluster)
    await allocator.repair()
    assert not await problems(cluster)


async def test_a_block_that_is_seen_to_have_changed_saves_the_conflict() -> None:
    cluster = IPAMCluster([pool("10.0.0.0/26")])
    store = SlowStore(cluster.store)
    allocator = cluster.node("node1", store)
    await allocator.assign(workload("c1"))
    (seen,) = await cluster.blocks()
    later = await cluster.store.update(IPAM_BLOCKS, blocks.sealed(seen))
    allocator.observe(later)
    allocator.observe(seen)
    await allocator.drain()
    store.calls.clear()
    await allocator.assign(workload("c2"))
    assert store.calls["update", "IPAMBlock"] == 1
    assert not store.calls["get", "IPAMBlock"]


async def test_other_nodes_blocks_are_not_kept() -> None:
    cluster = IPAMCluster([pool("10.0.0.0/26")])
    allocator = cluster.node("node1")
    await allocator.assign(workload("c1"))
    other = cluster.node("node2")
    await other.assign(workload("c2"))
    await other.drain()
    for block in await cluster.blocks():
        other.observe(block)
    other.forget_foreign_blocks()
    assert not other.writer.known
    allocator.forget_foreign_blocks()
    assert len(allocator.writer.known) == 1


async def test_what_others_gave_back_is_found_before_a_block_is_claimed() -> None:
    cluster = IPAMCluster([pool("10.0.0.0/24", 31)], config())
    allocator, leader = cluster.node("node1"), cluster.node("node2")
    first = await allocator.assign(workload("c1"))
    await allocator.assign(workload("c2"))
    await allocator.drain()
    await leader.release_handle("k8s-pod-network.c1")
    assert (await allocator.assign(workload("c3")))[0].address == first[0].address
    assert len(await cluster.blocks()) == 1


async def test_an_error_behind_the_answer_is_told(caplog: pytest.LogCaptureFixture) -> None:
    def fault(_when: str, verb: str, kind: str, _name: str) -> None:
        if (verb, kind) == ("create", "IPAMHandle"):
            raise RuntimeError("a defect")

    cluster = IPAMCluster([pool("10.0.0.0/26")])
    allocator = cluster.node("node1", cluster.store.with_fault(fault))
    with caplog.at_level(logging.ERROR):
        assert await allocator.assign(workload("c1"))
        await allocator.drain()
    assert "write handle k8s-pod-network.c1: a defect" in caplog.text
