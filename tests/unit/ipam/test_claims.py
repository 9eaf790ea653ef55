"""Claims that somebody left half-done, stale or contested, and how an allocator that starts settles them."""

from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_network

import pytest

from calico_py.ipam import blocks
from calico_py.ipam.claims import Claims
from calico_py.ipam.commits import BlockWriter
from calico_py.ipam.requests import AssignRequest, UnreadableError
from calico_py.ipam.rivals import Rivals
from calico_py.ipam.tasks import Tasks
from calico_py.model.blocks import AffinityState, Attribute, BlockAffinity, IPAMBlock
from calico_py.model.kinds import BLOCK_AFFINITIES, IPAM_BLOCKS
from calico_py.model.meta import Meta
from calico_py.model.names import affinity_labels, affinity_name
from calico_py.model.net import Network
from calico_py.model.store import ConflictError, Store, UnavailableError
from tests.fakes.ipam import IPAMCluster, config, pool, problems, workload

CIDR = ip_network("10.0.0.0/26")
PENDING, CONFIRMED, GOING = AffinityState.PENDING, AffinityState.CONFIRMED, AffinityState.PENDING_DELETION


def claims_of(cluster: IPAMCluster, node: str) -> Claims:
    return claims_on(cluster.store, cluster, node)


def claims_on(store: Store, cluster: IPAMCluster, node: str) -> Claims:
    writer = BlockWriter(store, Tasks())
    return Claims(store, writer, Rivals(store), node=node, now=lambda: cluster.now)


async def put_affinity(
    cluster: IPAMCluster, node: str, state: AffinityState, cidr: Network = CIDR, *, deleted: bool = False
) -> BlockAffinity:
    meta = Meta(affinity_name(node, cidr), labels=affinity_labels(node, cidr))
    return await cluster.store.create(BLOCK_AFFINITIES, BlockAffinity(meta, cidr, node, state, deleted=deleted))


async def put_block(cluster: IPAMCluster, node: str | None, *, deleted: bool = False, used: bool = False) -> IPAMBlock:
    block = blocks.new_block(CIDR, node=node or "", now=cluster.now)
    if used:
        block = blocks.assign_at(block, 0, Attribute("somebody", {"node": "elsewhere"}))
    return await cluster.store.create(
        IPAM_BLOCKS, replace(block, affinity=f"host:{node}" if node else None, deleted=deleted)
    )


async def state_of(cluster: IPAMCluster) -> dict[str, str]:
    """Affinities by node, and the block's owner under its CIDR; what is marked deleted counts as absent."""
    found = {a.node: str(a.state) for a in await cluster.affinities() if not a.deleted}
    return found | {str(b.cidr): b.affinity or "nobody" for b in await cluster.blocks() if not b.deleted}


async def test_a_claim_leaves_a_confirmed_affinity_and_a_block() -> None:
    cluster = IPAMCluster([])
    block = await claims_of(cluster, "node1").claim(CIDR)
    assert block is not None
    assert await state_of(cluster) == {"node1": "confirmed", "10.0.0.0/26": "host:node1"}
    (affinity,) = await cluster.affinities()
    assert affinity.meta.name == "node1-10-0-0-0-26"
    assert affinity.meta.labels["projectcalico.org/hostname-hash"] == (
        "7DS2CCNJGGLTHBDQLLFO6SX24SY2YDDEG3W2VN556FA2W4DLLV5A"
    )


async def test_the_loser_of_a_claim_removes_its_affinity() -> None:
    cluster = IPAMCluster([])
    await claims_of(cluster, "node1").claim(CIDR)
    assert await claims_of(cluster, "node2").claim(CIDR) is None
    assert await state_of(cluster) == {"node1": "confirmed", "10.0.0.0/26": "host:node1"}


@pytest.mark.parametrize("owner", ["node2", None])
@pytest.mark.parametrize("state", [PENDING, CONFIRMED, GOING])
async def test_an_affinity_to_a_block_of_somebody_else_is_stale(state: AffinityState, owner: str | None) -> None:
    cluster = IPAMCluster([])
    await put_affinity(cluster, "node1", state)
    await put_block(cluster, owner, used=True)
    assert await claims_of(cluster, "node1").list_own() == []
    assert await state_of(cluster) == {"10.0.0.0/26": f"host:{owner}" if owner else "nobody"}


@pytest.mark.parametrize("state", [PENDING, CONFIRMED])
async def test_an_affinity_without_a_block_gets_its_block(state: AffinityState) -> None:
    cluster = IPAMCluster([])
    await put_affinity(cluster, "node1", state)
    (block,) = await claims_of(cluster, "node1").list_own()
    assert block.cidr == CIDR
    assert await state_of(cluster) == {"node1": "confirmed", "10.0.0.0/26": "host:node1"}


@pytest.mark.parametrize("marked", [False, True])
async def test_a_deletion_that_came_half_way_is_finished(marked: bool) -> None:
    cluster = IPAMCluster([])
    await put_affinity(cluster, "node1", GOING)
    if marked:
        await put_block(cluster, "node1", deleted=True)
    assert await claims_of(cluster, "node1").list_own() == []
    assert not await cluster.blocks()
    assert not await cluster.affinities()


@pytest.mark.parametrize("state", [PENDING, GOING])
async def test_an_affinity_to_its_own_block_is_confirmed_and_others_plans_with_it_are_void(
    state: AffinityState,
) -> None:
    cluster = IPAMCluster([])
    await put_affinity(cluster, "node1", state)
    seen = await put_block(cluster, "node1", used=True)
    (block,) = await claims_of(cluster, "node1").list_own()
    assert await state_of(cluster) == {"node1": "confirmed", "10.0.0.0/26": "host:node1"}
    assert block.meta.resource_version != seen.meta.resource_version
    with pytest.raises(ConflictError):
        await cluster.store.update(IPAM_BLOCKS, replace(seen, deleted=True))


async def test_an_affinity_that_is_marked_deleted_goes() -> None:
    cluster = IPAMCluster([])
    await put_affinity(cluster, "node1", CONFIRMED, deleted=True)
    assert await claims_of(cluster, "node1").list_own() == []
    assert not await cluster.affinities()


async def test_a_block_that_is_marked_deleted_can_be_claimed() -> None:
    cluster = IPAMCluster([])
    await put_block(cluster, "node2", deleted=True)
    assert await claims_of(cluster, "node1").claim(CIDR) is not None
    assert await state_of(cluster) == {"node1": "confirmed", "10.0.0.0/26": "host:node1"}


@pytest.mark.parametrize("state", [PENDING, CONFIRMED, GOING])
async def test_a_claim_where_an_affinity_is_left_over_succeeds(state: AffinityState) -> None:
    cluster = IPAMCluster([])
    await put_affinity(cluster, "node1", state)
    assert await claims_of(cluster, "node1").claim(CIDR) is not None
    assert await state_of(cluster) == {"node1": "confirmed", "10.0.0.0/26": "host:node1"}


async def test_only_an_empty_block_is_released() -> None:
    cluster = IPAMCluster([])
    claims = claims_of(cluster, "node1")
    await put_affinity(cluster, "node1", CONFIRMED)
    await put_block(cluster, "node1", used=True)
    assert not await claims.release(CIDR, "node1")
    assert await state_of(cluster) == {"node1": "confirmed", "10.0.0.0/26": "host:node1"}


async def test_a_block_that_was_written_since_is_not_released() -> None:
    cluster = IPAMCluster([])
    await put_affinity(cluster, "node1", CONFIRMED)
    seen = await put_block(cluster, "node1")
    await cluster.store.update(IPAM_BLOCKS, blocks.sealed(seen))
    assert not await claims_of(cluster, "node2").release(CIDR, "node1", sequence=seen.sequence_number)


async def test_a_reclaim_that_the_owner_forestalls_leaves_the_owners_claim_as_it_was() -> None:
    """The owner assigns between the moment when its affinity is marked and the deletion of the block."""
    cluster = IPAMCluster([pool("10.0.0.0/26")])
    owner = cluster.node("node1")
    await owner.assign(workload("c1"))
    await owner.release_handle("k8s-pod-network.c1")
    (empty,) = await cluster.blocks()
    done = False

    def fault(when: str, verb: str, kind: str, _name: str) -> None:
        nonlocal done
        if (when, verb, kind) == ("after", "update", "BlockAffinity") and not done:
            done = True
            used = blocks.assign_at(empty, 5, Attribute("k8s-pod-network.c2", {"node": "node1"}))
            body = IPAM_BLOCKS.encode(blocks.sealed(used))
            cluster.store.verbs.update(cluster.store._resource(IPAM_BLOCKS), "", empty.meta.name, body)

    thief_store = cluster.store.with_fault(fault)
    thief = claims_on(thief_store, cluster, "node2")
    assert not await thief.release(CIDR, "node1", sequence=empty.sequence_number)
    assert done
    assert await state_of(cluster) == {"node1": "confirmed", "10.0.0.0/26": "host:node1"}
    assert len(await cluster.held()) == 1


async def test_an_empty_block_is_reclaimed_a_minute_after_its_claim_and_not_before() -> None:
    cluster = IPAMCluster([pool("10.0.0.0/26")], config(strict_affinity=True))
    first, second = cluster.node("node1"), cluster.node("node2")
    await first.assign(workload("c1"))
    await first.release_handle("k8s-pod-network.c1")
    await first.drain()
    cluster.advance(59)
    with pytest.raises(Exception, match="No more free affine blocks"):
        await second.assign(workload("c2"))
    cluster.advance(1)
    assert (await second.assign(workload("c2")))[0].block == CIDR
    assert await state_of(cluster) == {"node2": "confirmed", "10.0.0.0/26": "host:node2"}
    with pytest.raises(Exception, match="No more free affine blocks"):
        await first.assign(workload("c3"))


async def test_a_block_whose_addresses_cool_down_is_not_reclaimed() -> None:
    cluster = IPAMCluster([pool("10.0.0.0/26")], config(strict_affinity=True, ip_cooldown_seconds=300))
    first, second = cluster.node("node1"), cluster.node("node2")
    await first.assign(workload("c1"))
    await first.release_handle("k8s-pod-network.c1")
    cluster.advance(299)
    with pytest.raises(Exception, match="No more free affine blocks"):
        await second.assign(workload("c2"))
    cluster.advance(2)
    assert (await second.assign(workload("c2")))[0].block == CIDR


async def test_reservations_are_never_given_and_a_block_of_nothing_else_is_not_claimed() -> None:
    cluster = IPAMCluster([pool("10.0.0.0/30", 31)], config())
    cluster.reserved = [ip_network("10.0.0.0/32"), ip_network("10.0.0.1/32"), ip_network("10.0.0.3/32")]
    allocator = cluster.node("node1")
    (got,) = await allocator.assign(workload("c1"))
    assert str(got.address) == "10.0.0.2"
    with pytest.raises(Exception, match="No IPs available in pools"):
        await allocator.assign(workload("c2"))
    assert [str(b.cidr) for b in await cluster.blocks()] == ["10.0.0.2/31"]
    (asked,) = await allocator.assign(workload("c3", requested=(cluster.reserved[0][0],)))
    assert str(asked.address) == "10.0.0.0", "who asks for it by name gets it"


async def test_without_automatic_blocks_a_node_borrows_or_fails() -> None:
    cluster = IPAMCluster([pool("10.0.0.0/24")], config(auto_allocate_blocks=False))
    allocator = cluster.node("node2")
    with pytest.raises(Exception, match="no new block is claimed"):
        await allocator.assign(workload("c1"))
    cluster.config = config()
    await cluster.node("node1").assign(AssignRequest("k8s-pod-network.c0"))
    cluster.config = config(auto_allocate_blocks=False)
    (got,) = await allocator.assign(workload("c1"))
    assert [b.node for b in await cluster.blocks() if b.cidr == got.block] == ["node1"]


async def test_the_default_cooldown_yields_when_nothing_else_is_left() -> None:
    cluster = IPAMCluster([pool("10.0.0.0/31", 31)], config(ip_cooldown_seconds=None))
    allocator = cluster.node("node1")
    first = (await allocator.assign(workload("c1")))[0]
    await allocator.release_handle("k8s-pod-network.c1")
    cluster.advance(5)
    second = (await allocator.assign(workload("c2")))[0]
    assert second.address != first.address
    await allocator.release_handle("k8s-pod-network.c2")
    third = (await allocator.assign(workload("c3")))[0]
    assert third.address == first.address, "the one that has cooled for longest"
    cluster.config = config(ip_cooldown_seconds=30)
    with pytest.raises(Exception, match="No IPs available"):
        await allocator.assign(workload("c4"))
    cluster.now += timedelta(seconds=30)
    assert (await allocator.assign(workload("c4")))[0].address == second.address


@pytest.fixture
async def spoilt() -> IPAMCluster:
    """A cluster whose first block, node1's, has an entry too few, as no writer of blocks leaves it."""
    cluster = IPAMCluster([pool("10.0.0.0/25")])
    allocator = cluster.node("node1")
    await allocator.assign(workload("c1"))
    await allocator.drain()
    (block,) = await cluster.blocks()
    body = IPAM_BLOCKS.encode(block)
    body["spec"]["allocations"].pop()
    cluster.store.verbs.update(cluster.store._resource(IPAM_BLOCKS), "", block.meta.name, body)
    return cluster


async def test_a_block_that_cannot_be_read_is_passed_over_by_its_node(spoilt: IPAMCluster) -> None:
    (got,) = await spoilt.node("node1").assign(workload("c2"))
    assert len(await spoilt.blocks()) == 1, "the good one"
    assert got.block in {b.cidr for b in await spoilt.blocks()}


async def test_a_block_that_cannot_be_read_is_claimed_by_nobody(spoilt: IPAMCluster) -> None:
    await spoilt.node("node2").assign(workload("c2"))
    with pytest.raises(UnreadableError, match=r"10-0-0-\d+-26: spec.allocations: found 63, expected 64 entries"):
        await claims_of(spoilt, "node2").claim(next(a.cidr for a in await spoilt.affinities() if a.node == "node1"))
    assert {a.node for a in await spoilt.affinities()} == {"node1", "node2"}
    assert len(await spoilt.affinities()) == 2


async def test_a_look_that_failed_for_one_family_claims_no_second_block_for_the_other() -> None:
    """Each call to the API fails once, by name: whoever shares a look that failed looks again before it claims."""
    cluster = IPAMCluster([pool("10.0.0.0/16"), pool("fd00::/64")])
    broken: set[tuple[str, str, str]] = set()

    def fail_once(when: str, verb: str, kind: str, name: str) -> None:
        if when == "before" and (verb, kind, name) not in broken:
            broken.add((verb, kind, name))
            raise UnavailableError(f"{verb} {kind} {name}: connection refused")

    allocator = cluster.node("node1", cluster.store.with_fault(fail_once))
    for _ in range(20):
        try:
            await allocator.assign(workload("c1", 4, 6))
            break
        except UnavailableError:
            continue
    await allocator.drain()
    assert [block.cidr.version for block in await cluster.blocks()] == [4, 6]
    assert await problems(cluster) == []


async def test_a_node_of_many_blocks_starts_though_each_look_at_one_fails_at_first() -> None:
    cluster = IPAMCluster([pool("10.0.0.0/24", 29)])
    before = cluster.node("node1")
    for number in range(80):
        await before.assign(workload(f"c{number}"))
    await before.drain()
    broken: set[str] = set()

    def fail_once(when: str, verb: str, kind: str, name: str) -> None:
        if (when, verb, kind) == ("before", "get", "IPAMBlock") and name not in broken:
            broken.add(name)
            raise UnavailableError(f"{verb} {kind} {name}: connection refused")

    allocator = cluster.node("node1", cluster.store.with_fault(fail_once))
    await allocator.repair()
    assert len(allocator.own_blocks()) == len(broken) == 10
