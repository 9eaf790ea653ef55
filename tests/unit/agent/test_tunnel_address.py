"""The address of tunl0, where somebody else takes it away."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from calico_py.agent.tunnel_address import TunnelAddress
from calico_py.ipam.requests import Release, Tunnel
from calico_py.model.net import Address
from calico_py.model.pools import EncapMode, IPPool
from calico_py.model.store import UnavailableError
from tests.fakes.ipam import IPAMCluster, pool
from tests.fakes.running import running
from tests.fakes.waiting import until


@contextlib.asynccontextmanager
async def following(cluster: IPAMCluster, needed: Callable[[], bool] = lambda: True) -> AsyncIterator[TunnelAddress]:
    tunnel = TunnelAddress(cluster.node("node1"), needed=needed, on_change=lambda: None)
    async with running(tunnel.run()):
        tunnel.refresh()
        await until(lambda: tunnel.known)
        yield tunnel


async def held_for_tunnel(cluster: IPAMCluster) -> set[Address]:
    handle = Tunnel.IPIP.handle("node1")
    return {address for address, a in (await cluster.held()).items() if a.handle == handle}


async def test_an_address_that_somebody_releases_is_replaced_as_soon_as_the_watch_tells() -> None:
    cluster = IPAMCluster([pool("10.0.0.0/24", ipip_mode=EncapMode.ALWAYS)])
    async with following(cluster) as tunnel:
        lost = tunnel.address
        assert lost is not None
        tunnel.observe(await cluster.blocks())
        await asyncio.sleep(0.05)
        assert tunnel.address == lost, "it is this node's"
        await cluster.node("elsewhere").release([Release(lost)])
        tunnel.observe(await cluster.blocks())
        await until(lambda: tunnel.address != lost)
        assert await held_for_tunnel(cluster) == {tunnel.address}


async def test_a_node_that_was_deleted_and_is_back_gets_one_at_once() -> None:
    cluster = IPAMCluster([pool("10.0.0.0/24", ipip_mode=EncapMode.ALWAYS)])
    exists = True
    async with following(cluster, lambda: exists) as tunnel:
        lost = tunnel.address
        assert lost is not None
        exists = False
        await cluster.node("elsewhere").release([Release(lost)])
        tunnel.observe(await cluster.blocks())
        tunnel.react()
        await until(lambda: tunnel.address is None)
        exists = True
        tunnel.react()
        await until(lambda: tunnel.address is not None, within=1)


async def test_an_address_that_is_there_is_not_said_to_be_missing() -> None:
    """IPAM cannot be asked for another while the API is away; what tunl0 has, it keeps."""
    cluster = IPAMCluster([pool("10.0.0.0/24", ipip_mode=EncapMode.ALWAYS)])
    away = UnavailableError("the API server is away")

    def fail(when: str, _verb: str, _kind: str, _name: str) -> None:
        if when == "before":
            raise away

    async with following(cluster) as tunnel:
        assert tunnel.address is not None
        await cluster.node("elsewhere").release([Release(tunnel.address)])
        blocks = await cluster.blocks()
        cluster.store.fault = fail
        tunnel.observe(blocks)
        await until(lambda: bool(tunnel.problem))
        assert tunnel.problem == f"tunl0 keeps {tunnel.address} for now: {away}"


async def test_where_there_is_none_it_is_looked_for_again_though_nobody_tells() -> None:
    """As after a change of the Node's labels: the pools are the same."""
    pools: list[IPPool] = []
    cluster = IPAMCluster(pools)
    async with following(cluster) as tunnel:
        assert tunnel.address is None
        assert tunnel.problem
        pools.append(pool("10.0.0.0/24", ipip_mode=EncapMode.ALWAYS))
        await until(lambda: tunnel.address is not None, within=10)
        assert tunnel.problem == ""
