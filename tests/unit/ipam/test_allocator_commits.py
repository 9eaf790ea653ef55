"""How many API requests address assignment costs, and what conflicts and lost answers do to it."""

import asyncio

import pytest

from calico_py.ipam import commits
from calico_py.ipam.requests import AddressTakenError, AssignRequest, ContendedError
from calico_py.model.kinds import IPAM_BLOCKS
from calico_py.model.store import ConflictError, UnavailableError
from tests.fakes.ipam import IPAMCluster, config, pool, workload
from tests.fakes.slow import SlowStore


def before_answer(store: SlowStore) -> dict[tuple[str, str], int]:
    """The calls but for those of handles, which may run behind the answer."""
    return {call: count for call, count in store.calls.items() if call[1] != "IPAMHandle"}


async def test_concurrent_requests_share_one_write() -> None:
    cluster = IPAMCluster([pool("10.0.0.0/16")])
    store = SlowStore(cluster.store)
    allocator = cluster.node("node1", store)
    await allocator.assign(workload("first"))
    await allocator.drain()
    store.calls.clear()
    await asyncio.gather(*(allocator.assign(workload(f"c{i}")) for i in range(50)))
    assert before_answer(store) == {("update", "IPAMBlock"): 1}
    await allocator.drain()
    assert dict(store.calls) == {("update", "IPAMBlock"): 1, ("create", "IPAMHandle"): 50}


async def test_on_a_fresh_node_fifty_requests_claim_one_block_and_write_it_once() -> None:
    cluster = IPAMCluster([pool("10.0.0.0/16")])
    store = SlowStore(cluster.store)
    allocator = cluster.node("node1", store)
    got = await asyncio.gather(*(allocator.assign(workload(f"c{i}")) for i in range(50)))
    assert len({a.address for each in got for a in each}) == 50
    assert before_answer(store) == {
        ("list", "BlockAffinity"): 2,  # the node's own, and, where no watch shows them, all that a claim may overlap
        ("list", "IPAMBlock"): 1,
        ("create", "BlockAffinity"): 1,
        ("create", "IPAMBlock"): 1,
        ("update", "BlockAffinity"): 1,
        ("update", "IPAMBlock"): 1,
    }


async def test_requests_that_come_one_by_one_read_nothing() -> None:
    cluster = IPAMCluster([pool("10.0.0.0/16")])
    store = SlowStore(cluster.store)
    allocator = cluster.node("node1", store)
    await allocator.assign(workload("first"))
    await allocator.drain()
    store.calls.clear()
    await allocator.assign(workload("second"))
    assert before_answer(store) == {("update", "IPAMBlock"): 1}
    await allocator.drain()
    store.calls.clear()
    await allocator.release_handle("k8s-pod-network.second")
    assert before_answer(store) == {("update", "IPAMBlock"): 1}
    await allocator.drain()
    assert dict(store.calls) == {("update", "IPAMBlock"): 1, ("delete", "IPAMHandle"): 1}


async def test_a_second_del_of_the_same_container_asks_the_api_nothing() -> None:
    """Runtimes send it twice; the search for what nobody knows of would cost two lists of the whole cluster."""
    cluster = IPAMCluster([pool("10.0.0.0/16")])
    store = SlowStore(cluster.store)
    allocator = cluster.node("node1", store)
    for _ in range(2):
        await allocator.assign(workload("c1"))
        assert await allocator.release_handle("k8s-pod-network.c1") == 1
        await allocator.drain()
        store.calls.clear()
        assert await allocator.release_handle("k8s-pod-network.c1") == 0
        assert not store.calls
    assert not await cluster.held()
    await allocator.release_handle("k8s-pod-network.unknown")
    assert store.calls["list", "IPAMBlock"] == 1, "what another process may have assigned is looked for"


async def test_dual_stack_writes_one_block_of_each_family_at_the_same_time() -> None:
    cluster = IPAMCluster([pool("10.0.0.0/16"), pool("fd00::/64")])
    allocator = cluster.node("node1")
    got = await allocator.assign(workload("c", 6, 4))
    assert [a.address.version for a in got] == [6, 4]
    await allocator.drain()
    handle = (await cluster.handles())["k8s-pod-network.c"]
    assert handle.blocks == {a.block: 1 for a in got}


async def test_a_claim_asks_for_all_blocks_only_without_a_watch_of_affinities() -> None:
    cluster = IPAMCluster([pool("10.0.0.0/16")])
    await cluster.node("node1").assign(workload("c1"))
    store = SlowStore(cluster.store)
    cluster.taken = {a.cidr for a in await cluster.affinities()}
    await cluster.node("node2", store).assign(workload("c2"))
    assert ("list", "IPAMBlock") not in store.calls


async def test_a_conflict_costs_a_read_and_loses_nothing() -> None:
    cluster = IPAMCluster([pool("10.0.0.0/26")])
    one, two = cluster.node("node1"), cluster.node("node2")
    mine = (await one.assign(workload("c1")))[0]
    borrowed = (await two.assign(workload("c2")))[0]
    again = (await one.assign(workload("c3")))[0]
    assert mine.block == borrowed.block == again.block
    assert len({mine.address, borrowed.address, again.address}) == 3
    assert one.writer.writes == 3, "the second write met the borrower's"


async def test_conflicts_without_end_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def at_once(_attempt: int) -> None:
        await asyncio.sleep(0)

    monkeypatch.setattr(commits, "pause", at_once)

    def fault(when: str, verb: str, kind: str, _name: str) -> None:
        if (when, verb, kind) == ("before", "update", "IPAMBlock"):
            raise ConflictError("somebody is always faster")

    cluster = IPAMCluster([pool("10.0.0.0/26")])
    allocator = cluster.node("node1", cluster.store.with_fault(fault))
    with pytest.raises(ContendedError, match="100 conflicts in a row"):
        await allocator.assign(workload("c"))
    assert allocator.writer.writes == 100


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("times", [1, 2])
async def test_an_answer_that_gets_lost_makes_no_second_address(when: str, times: int) -> None:
    lost = 0

    def fault(at: str, verb: str, kind: str, _name: str) -> None:
        nonlocal lost
        if (at, verb, kind) == (when, "update", "IPAMBlock") and lost < times:
            lost += 1
            raise UnavailableError("connection reset")

    cluster = IPAMCluster([pool("10.0.0.0/26")])
    allocator = cluster.node("node1", cluster.store.with_fault(fault))
    got = await asyncio.gather(*(allocator.assign(workload(f"c{i}")) for i in range(5)))
    got += await asyncio.gather(*(allocator.assign(workload(f"d{i}")) for i in range(5)))
    assert lost == times
    assert {a.address for each in got for a in each} == set(await cluster.held())
    for each in got:
        assert each == await allocator.lookup(each[0].handle_id)


async def test_what_was_assigned_without_an_answer_is_released_when_the_api_is_back() -> None:
    away = False

    def fault(when: str, verb: str, kind: str, _name: str) -> None:
        nonlocal away
        if away or (when, verb, kind) == ("after", "update", "IPAMBlock"):
            away = True
            raise UnavailableError("connection reset")

    cluster = IPAMCluster([pool("10.0.0.0/26")])
    store = cluster.store.with_fault(fault)
    allocator = cluster.node("node1", store)
    with pytest.raises(UnavailableError):
        await allocator.assign(workload("c"))
    assert len(await cluster.held()) == 1, "the write stands"
    store.fault = lambda *_: None
    await allocator.drain()
    assert not await cluster.held()


async def test_a_cancelled_request_leaves_nothing() -> None:
    cluster = IPAMCluster([pool("10.0.0.0/26"), pool("fd00::/64")])
    store = SlowStore(cluster.store, lambda: 3)
    for turns in range(200):
        allocator = cluster.node("node1", store)
        work = asyncio.ensure_future(allocator.assign(workload(f"c{turns}", 4, 6)))
        for _ in range(turns):
            await asyncio.sleep(0)
        if work.done():
            break
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        await allocator.drain()
        assert not await cluster.held()
        assert not await cluster.handles()
    assert 20 < turns < 199, "it was cancelled at each step on its way"


async def test_one_family_without_an_address_leaves_nothing_of_the_other() -> None:
    cluster = IPAMCluster([pool("10.0.0.0/26"), pool("fd00::/126", 126)])
    allocator = cluster.node("node1")
    await allocator.assign(AssignRequest("six", families=(6,) * 4))
    with pytest.raises(Exception, match="no IPv6 address for node node1 in pools"):
        await allocator.assign(workload("c", 4, 6))
    await allocator.drain()
    assert len(await cluster.held()) == 4
    assert list(await cluster.handles()) == ["six"]


async def test_two_nodes_that_want_one_address_both_hear_the_truth() -> None:
    cluster = IPAMCluster([pool("10.0.0.0/26")])
    wanted = cluster.pools[0].cidr[7]
    nodes = [cluster.node(f"node{i}", SlowStore(cluster.store, lambda: 2)) for i in range(3)]
    work = [node.assign(workload(node.node, requested=(wanted,))) for node in nodes]
    results = await asyncio.gather(*work, return_exceptions=True)
    winners = [r for r in results if isinstance(r, tuple)]
    assert len(winners) == 1
    assert all(isinstance(r, tuple | AddressTakenError) for r in results)
    assert (await cluster.held())[wanted].handle == winners[0][0].handle_id


async def test_the_write_that_makes_room_is_the_one_that_uses_it() -> None:
    """A cooled address goes back to the queue and out again in one write."""
    cluster = IPAMCluster([pool("10.0.0.0/32", 32)], config(ip_cooldown_seconds=30))
    allocator = cluster.node("node1")
    await allocator.assign(workload("c1"))
    await allocator.release_handle("k8s-pod-network.c1")
    cluster.advance(31)
    before = allocator.writer.writes
    await allocator.assign(workload("c2"))
    assert allocator.writer.writes == before + 1
    (block,) = (await cluster.store.list(IPAM_BLOCKS)).items
    assert [a.handle_id for a in block.attributes] == ["k8s-pod-network.c2"]
