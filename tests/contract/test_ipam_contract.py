"""Address management over HTTP: what the in-memory store says of conflicts, labels and schemas holds there."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from calico_py.ipam.allocator import Allocator
from calico_py.ipam.blocks import allocations, block_problems
from calico_py.ipam.collector import Collector
from calico_py.ipam.garbage import PodName, PodView
from calico_py.ipam.reconcile import Living
from calico_py.ipam.requests import Assigned, Tunnel
from calico_py.kube.client import KubeStore, connect
from calico_py.model.blocks import AffinityState, IPAMConfiguration
from calico_py.model.kinds import BLOCK_AFFINITIES, IPAM_BLOCKS, IPAM_HANDLES
from calico_py.model.pools import EncapMode, IPPool
from tests.contract.servers import ApiUnderTest
from tests.fakes.ipam import config, pool, workload

FOUR = pool("10.0.0.0/27", 28, name="four", ipip_mode=EncapMode.ALWAYS)
SIX = pool("fd00::/120", 122, name="six")


@pytest.fixture
async def store(api_server: ApiUnderTest) -> AsyncIterator[KubeStore]:
    async with connect(str(api_server.kubeconfig)) as found:
        yield found


def node(store: KubeStore, name: str, *, pools: tuple[IPPool, ...] = (FOUR, SIX), skew: float = 0) -> Allocator:
    found: IPAMConfiguration = config()
    return Allocator(
        store,
        node=name,
        labels=dict,
        pools=lambda: pools,
        config=lambda: found,
        now=lambda: datetime.now(UTC) + timedelta(seconds=skew),
    )


async def settled(store: KubeStore) -> dict[str, list[str]]:
    """Addresses by handle, once blocks, affinities and handles have been found to agree."""
    blocks = (await store.list(IPAM_BLOCKS)).items
    assert [problem for block in blocks for problem in block_problems(block)] == []
    affinities = {a.cidr: a for a in (await store.list(BLOCK_AFFINITIES)).items}
    assert {(b.cidr, b.node) for b in blocks} == {(a.cidr, a.node) for a in affinities.values()}
    assert {a.state for a in affinities.values()} <= {AffinityState.CONFIRMED}
    held: dict[str, list[str]] = {}
    for block in blocks:
        for a in allocations(block):
            held.setdefault(a.handle, []).append(str(a.address))
    handles = {h.handle_id: sum(h.blocks.values()) for h in (await store.list(IPAM_HANDLES)).items}
    assert handles == {handle: len(addresses) for handle, addresses in held.items()}
    return held


async def test_a_day_of_two_nodes(store: KubeStore) -> None:
    """Claim, group commit, borrow, release, tunnel, restart, reconcile, leave."""
    one, two = node(store, "node1"), node(store, "node2")
    firsts = await asyncio.gather(
        *(one.assign(workload(f"a{i}", 4, 6)) for i in range(10)),
        *(two.assign(workload(f"b{i}", 4)) for i in range(10)),
    )
    assert one.writer.writes + two.writer.writes <= 6, "twenty ADDs"
    assert len({a.address for got in firsts for a in got}) == 30
    assert await one.ensure_tunnel_address(Tunnel.IPIP)
    borrowed: list[tuple[Assigned, ...]] = [await one.assign(workload(f"c{i}")) for i in range(8)]
    owners = {b.cidr: b.node for b in (await store.list(IPAM_BLOCKS)).items}
    assert {owners[got[0].block] for got in borrowed} == {"node1", "node2"}
    lending = (await store.list(IPAM_BLOCKS, labels="projectcalico.org/borrowed=true")).items
    assert [b.node for b in lending] == ["node2"]
    for allocator in (one, two):
        await allocator.drain()
    assert len(await settled(store)) == 10 + 10 + 1 + 8

    again = node(store, "node1")
    report = await again.reconcile(Living({f"a{i}" for i in range(10)}))
    await again.drain()
    assert len(report.released.released) == 8
    assert report.kept == 21
    assert not (await store.list(IPAM_BLOCKS, labels="projectcalico.org/borrowed=true")).items
    assert len(await settled(store)) == 10 + 10 + 1

    await again.release_tunnel_address(Tunnel.IPIP)
    for i in range(10):
        assert await again.release_handle(f"k8s-pod-network.a{i}") == 2
    await again.drain()
    assert sorted(await settled(store)) == [f"k8s-pod-network.b{i}" for i in range(10)]


async def test_many_nodes_race_for_few_blocks(store: KubeStore) -> None:
    nodes = [node(store, f"node{i}") for i in range(6)]
    got = await asyncio.gather(*(each.assign(workload(f"{each.node}-{i}")) for each in nodes for i in range(5)))
    assert len({a.address for each in got for a in each}) == 30
    for each in nodes:
        await each.drain()
    assert len(await settled(store)) == 30


async def test_an_empty_block_changes_hands_and_a_deleted_node_leaves_nothing(store: KubeStore) -> None:
    small = pool("10.1.0.0/30", 30, name="small")
    first = node(store, "node1", pools=(small,))
    await first.assign(workload("c1"))
    await first.release_handle("k8s-pod-network.c1")
    await first.drain()
    second = node(store, "node2", pools=(small,), skew=61)
    (got,) = await second.assign(workload("c2"))
    await second.drain()
    assert list(await settled(store)) == [got.handle_id]
    (block,) = (await store.list(IPAM_BLOCKS)).items
    assert block.node == "node2"

    async def no_pods() -> dict[PodName, PodView]:
        return {}

    leader = node(store, "node1", pools=(small,))
    collector = Collector(store, leader, nodes=lambda: {"node1"}, pods=no_pods, now=lambda: datetime.now(UTC))
    for _ in range(2):
        await collector.collect()
        await leader.drain()
    assert await settled(store) == {}
    assert not (await store.list(IPAM_BLOCKS)).items
