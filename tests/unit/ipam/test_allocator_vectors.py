"""Calico's own cases of address assignment (libcalico-go, lib/ipam/ipam_test.go), as black-box tests."""

import asyncio
import time
from ipaddress import ip_network

import pytest

from calico_py.ipam.allocator import Allocator
from calico_py.ipam.requests import AssignRequest, ExhaustedError, IPAMError, PoolError
from calico_py.model.net import Family
from calico_py.model.pools import AllowedUse
from tests.fakes.ipam import IPAMCluster, config, pool, problems, workload


async def assign_many(allocator: Allocator, count: int, *, name: str = "c") -> tuple[int, list[IPAMError]]:
    """As many requests at the same time: how many got an address, and what the others heard."""
    work = [allocator.assign(workload(f"{name}{i}")) for i in range(count)]
    results = await asyncio.gather(*work, return_exceptions=True)
    errors = []
    for result in results:
        if isinstance(result, BaseException):
            assert isinstance(result, IPAMError), result
            errors.append(result)
    await allocator.drain()
    return count - len(errors), errors


async def test_a_pool_gives_all_its_addresses_and_then_says_which_pool_is_empty() -> None:
    cluster = IPAMCluster([pool("192.168.1.0/24")])
    got, errors = await assign_many(cluster.node("host"), 257)
    assert got == 256
    assert len(await cluster.held()) == 256
    assert "No IPs available in pools: [192.168.1.0/24]" in str(errors[0])


async def test_one_request_for_more_than_the_pool_has_leaves_nothing() -> None:
    cluster = IPAMCluster([pool("192.168.1.0/24")])
    allocator = cluster.node("host")
    with pytest.raises(ExhaustedError, match="No IPs available"):
        await allocator.assign(AssignRequest("many", families=(4,) * 257))
    assert not await cluster.held()
    got = await allocator.assign(AssignRequest("many", families=(4,) * 256))
    assert len({a.address for a in got}) == 256


@pytest.mark.parametrize(("limit", "expected"), [(1, 64), (2, 128)])
async def test_the_block_limit(limit: int, expected: int) -> None:
    cluster = IPAMCluster([pool("192.168.1.0/24")], config(max_blocks_per_host=limit, strict_affinity=True))
    got, errors = await assign_many(cluster.node("host"), 256)
    assert got == expected
    assert f"limit of {limit} blocks reached for this node" in str(errors[0])


async def test_at_the_limit_a_node_borrows_before_it_fails() -> None:
    """Calico fails here; calico-py borrows before it fails."""
    cluster = IPAMCluster([pool("192.168.1.0/24")], config(max_blocks_per_host=1))
    await assign_many(cluster.node("other"), 1)
    got, _ = await assign_many(cluster.node("host"), 256)
    assert got == 64 + 63
    own = [b for b in await cluster.blocks() if b.node == "host"]
    assert len(own) == 1


async def test_a_node_fills_its_block_and_then_borrows() -> None:
    cluster = IPAMCluster([pool("10.0.0.0/25")])
    host_a, host_b = cluster.node("host-a"), cluster.node("host-b")
    await assign_many(host_a, 1)
    await assign_many(host_b, 1)
    got = await host_a.assign(AssignRequest("many", families=(4,) * 64))
    by_node = {b.cidr: b.node for b in await cluster.blocks()}
    owners = [by_node[a.block] for a in got]
    assert (owners.count("host-a"), owners.count("host-b")) == (63, 1)
    lender = next(b for b in await cluster.blocks() if b.node == "host-b")
    assert lender.meta.labels == {"projectcalico.org/borrowed": "true"}


async def test_strict_affinity_never_borrows() -> None:
    cluster = IPAMCluster([pool("192.168.1.0/26")], config(strict_affinity=True))
    got, errors = await assign_many(cluster.node("host"), 256)
    assert got == 64
    assert "No more free affine blocks and strict affinity enabled" in str(errors[0])


async def test_two_hosts_share_one_block_only_without_strict_affinity() -> None:
    cluster = IPAMCluster([pool("10.0.0.0/28", 28)])
    one, two = cluster.node("host-1"), cluster.node("host-2")
    assert (await assign_many(one, 1))[0] == 1
    assert (await assign_many(two, 1))[0] == 1
    cluster.config = config(strict_affinity=True)
    assert (await assign_many(one, 1, name="strict"))[0] == 1
    assert (await assign_many(two, 1, name="strict"))[0] == 0
    cluster.config = config()
    assert (await assign_many(one, 1, name="again"))[0] == 1
    assert (await assign_many(two, 1, name="again"))[0] == 1


async def test_a_workload_gets_no_address_of_a_tunnel_pool() -> None:
    cluster = IPAMCluster([pool("10.0.0.0/24", name="tunnels", allowed_uses=(AllowedUse.TUNNEL,))])
    with pytest.raises(PoolError, match=r"cannot find a qualified ippool.*tunnels: spec.allowedUses has Tunnel"):
        await cluster.node("host").assign(workload("c"))


async def test_a_block_whose_pool_no_longer_selects_the_node_goes_once_it_is_empty() -> None:
    first = pool("10.0.0.0/24", name="first", node_selector="zone == 'a'")
    second = pool("20.0.0.0/24", name="second", node_selector="zone == 'b'")
    cluster = IPAMCluster([first, second], labels={"host": {"zone": "a"}})
    allocator = cluster.node("host")
    old = (await allocator.assign(workload("old")))[0]
    assert old.pool == "first"
    cluster.labels["host"] = {"zone": "b"}
    held = (await allocator.assign(workload("meanwhile")))[0]
    assert held.pool == "second"
    assert len(await cluster.affinities()) == 2, "the old block is in use"
    await allocator.release_handle("k8s-pod-network.old")
    assert (await allocator.assign(workload("new")))[0].pool == "second"
    assert [a.cidr for a in await cluster.affinities()] == [held.block]
    assert held.block.subnet_of(ip_network("20.0.0.0/24"))  # type: ignore[arg-type]  # IPv4 both


@pytest.mark.parametrize("block_size", [20, 26, 32])
@pytest.mark.parametrize("count", [1, 64])
async def test_many_large_pools_cost_little(block_size: int, count: int) -> None:
    """Calico's speed gate: 100 pools of a /16, less than 5 s; 64 addresses from blocks of one are 64 claims."""
    pools = [pool(f"10.{i}.0.0/16", block_size) for i in range(100)]
    cluster = IPAMCluster(pools, config(strict_affinity=True, max_blocks_per_host=100))
    start = time.process_time()
    one: tuple[Family, ...] = (4,)
    got = await cluster.node("host").assign(AssignRequest("many", families=one * count))
    assert len({a.address for a in got}) == count
    assert time.process_time() - start < 5


@pytest.mark.parametrize("size", [*range(20, 33), *range(116, 129)])
async def test_every_block_size_gives_all_its_addresses(size: int) -> None:
    """A pool of two blocks: one request for all of them, and not one more."""
    start, bits = ("10.64.0.0", 32) if size <= 32 else ("fd00:64::", 128)
    of: Family = 4 if size <= 32 else 6
    cluster = IPAMCluster([pool(f"{start}/{size - 1}", size)])
    allocator = cluster.node("host")
    count = 2 << (bits - size)
    got = await allocator.assign(AssignRequest("all", families=(of,) * count))
    assert {a.address for a in got} == set(ip_network(f"{start}/{size - 1}"))
    assert {a.block.prefixlen for a in got} == {size}
    with pytest.raises(ExhaustedError):
        await allocator.assign(workload("more", of))
    await allocator.drain()
    assert await problems(cluster) == []
    assert await allocator.release_handle("all") == count
