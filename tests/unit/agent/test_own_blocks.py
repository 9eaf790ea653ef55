"""This node's blocks under calico-py's CRD, which can select them, and under Calico's, which cannot."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from calico_py.agent.view import ClusterView
from calico_py.ipam.requests import Release
from calico_py.lab.api.builtin import builtin
from calico_py.lab.api.definitions import shipped
from calico_py.lab.api.resources import Registry, Resource, from_crd
from calico_py.lab.api.verbs import Verbs
from calico_py.model.net import Network
from tests.fakes.ipam import IPAMCluster, pool, workload
from tests.fakes.running import running
from tests.fakes.slow import SlowStore
from tests.fakes.store import MemoryStore
from tests.fakes.waiting import until


def _calicos(resource: Resource) -> Resource:
    return replace(resource, fields=()) if resource.group == "projectcalico.org" else resource


@pytest.fixture(params=["calico-py's CRDs", "Calico's CRDs"])
def cluster(request: pytest.FixtureRequest) -> IPAMCluster:
    store = MemoryStore()
    if request.param == "Calico's CRDs":
        crds = (resource for crd in shipped() for resource in from_crd(crd))
        store.verbs = Verbs(store.storage, Registry([_calicos(each) for each in (*builtin(), *crds)]))
    return IPAMCluster([pool("10.0.0.0/24", 28)], store=store)


@contextlib.asynccontextmanager
async def viewing(cluster: IPAMCluster, told: list[None]) -> AsyncIterator[tuple[ClusterView, SlowStore]]:
    store = SlowStore(cluster.store)
    view = ClusterView(store, "node1", lambda: None, on_blocks=lambda: told.append(None))
    async with running(view.run()):
        async with asyncio.timeout(10):
            await view.wait_in_sync()
        yield view, store


async def test_own_blocks_are_seen_from_their_claim_to_their_end_and_no_others(cluster: IPAMCluster) -> None:
    told: list[None] = []
    mine, other = cluster.node("node1"), cluster.node("node2")
    (first,) = await mine.assign(workload("before"))
    (foreign,) = await other.assign(workload("other"))

    async with viewing(cluster, told) as (view, _):

        def seen(*cidrs: Network) -> bool:
            return {block.cidr for block in view.own_blocks.objects.values()} == set(cidrs)

        assert seen(first.block)
        assert view.in_sync
        got = [(await mine.assign(workload(f"c{number}")))[0] for number in range(16)]
        second = got[-1].block
        assert second != first.block
        await until(lambda: seen(first.block, second))
        told.clear()
        await mine.release([Release(got[0].address)])
        await until(lambda: bool(told))
        assert foreign.block not in {block.cidr for block in view.own_blocks.objects.values()}
        await mine.release_handle("k8s-pod-network.c15")
        cluster.pools = [pool("10.1.0.0/24", 28)]
        await mine.release([])
        await mine.assign(workload("elsewhere"))
        await until(lambda: second not in {block.cidr for block in view.own_blocks.objects.values()})
        await until(lambda: not view.own_blocks.last_error)


async def test_a_block_that_becomes_anothers_is_no_longer_ones_own(cluster: IPAMCluster) -> None:
    mine, other = cluster.node("node1"), cluster.node("node2")
    address = ip_address("10.0.0.1")
    await mine.assign(workload("c1", requested=(address,)))
    async with viewing(cluster, []) as (view, _):
        await mine.release_handle("k8s-pod-network.c1")
        assert await mine.release_block((await cluster.blocks())[0])
        await until(lambda: not view.own_blocks.objects)
        await other.assign(workload("c2", requested=(address,)))
        await mine.assign(workload("c3", requested=(ip_address("10.0.0.17"),)))
        await until(lambda: [b.cidr for b in view.own_blocks.objects.values()] == [ip_network("10.0.0.16/28")])
