"""Warm addresses: ADDs without the API, what follows behind, and what others do to the addresses meanwhile."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from calico_py.ipam import commits, handles, releases
from calico_py.ipam.requests import AddressTakenError, Assigned, AssignRequest, ExhaustedError, Release
from calico_py.model.names import warm_handle
from calico_py.model.net import Address, Family
from calico_py.model.store import UnavailableError
from tests.fakes.ipam import POD, IPAMCluster, config, pool, problems, workload
from tests.fakes.slow import SlowStore
from tests.fakes.waiting import until
from tests.fakes.warm import WarmNode

WARM = warm_handle("node1")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_pause(_attempt: int, *, most: float = 0) -> None:
        del most
        await asyncio.sleep(0)

    for module in (releases, commits, handles):
        monkeypatch.setattr(module, "pause", no_pause)


@pytest.fixture
def cluster() -> IPAMCluster:
    return IPAMCluster([pool("10.0.0.0/24", name="four"), pool("fd00::/120", name="six")])


@pytest.fixture
def node(cluster: IPAMCluster, tmp_path: Path) -> WarmNode:
    return WarmNode(cluster, tmp_path)


class Cut:
    """A way to the API that can be cut; counts the calls."""

    def __init__(self) -> None:
        self.away = False
        self.calls: list[str] = []

    def __call__(self, when: str, verb: str, kind: str, name: str) -> None:
        if when == "before":
            self.calls.append(f"{verb} {kind}")
            if self.away:
                raise UnavailableError(f"{verb} {kind} {name}: connection refused")


async def held(cluster: IPAMCluster, handle: str) -> set[str]:
    return {str(address) for address, a in (await cluster.held()).items() if a.handle == handle}


async def test_an_add_needs_no_api_and_the_api_hears_of_it_right_after(cluster: IPAMCluster, node: WarmNode) -> None:
    cut = Cut()
    warm, allocator = await node.begin(cluster.store.with_fault(cut))
    await allocator.drain()
    cut.calls.clear()
    cut.away = True
    (got,) = await warm.assign(workload("c1"))
    assert cut.calls == []
    assert str(got.address) in await held(cluster, WARM)
    cut.away = False
    await warm.catch_up()
    assert await held(cluster, "k8s-pod-network.c1") == {str(got.address)}
    (found,) = await warm.lookup("k8s-pod-network.c1")
    assert found.address == got.address
    notes = (await cluster.held())[got.address].attribute.secondary
    assert {**notes, **POD, "node": "node1"} == dict(notes)
    await warm.catch_up()
    await allocator.drain()
    assert await problems(cluster) == []


async def test_both_families_are_served_together_or_not_at_all(cluster: IPAMCluster, node: WarmNode) -> None:
    node.families = (4, 6)
    warm, _ = await node.begin()
    assert (warm.count(4), warm.count(6)) == (8, 8)
    got = await warm.assign(workload("c1", 4, 6))
    assert [a.address.version for a in got] == [4, 6]
    assert (warm.count(4), warm.count(6)) == (7, 7)
    cluster.pools = [cluster.pools[0]]
    with pytest.raises(Exception, match="no IPv6 IPPool"):
        await warm.assign(workload("c2", 4, 6))
    assert warm.count(4) == 7


async def test_many_pods_share_the_writes_behind_the_answers(cluster: IPAMCluster, node: WarmNode) -> None:
    store = SlowStore(cluster.store)
    warm, allocator = await node.begin(store)
    await allocator.drain()
    store.calls.clear()
    for number in range(8):
        await warm.assign(workload(f"c{number}"))
    assert store.calls == {}
    await warm.catch_up()
    await allocator.drain()
    assert store.calls["update", "IPAMBlock"] == 1, "eight hand-overs and the refill"
    assert store.calls["create", "IPAMHandle"] == 8
    assert warm.count(4) > 4


async def test_without_the_api_pods_come_until_the_stock_is_used_up(cluster: IPAMCluster, node: WarmNode) -> None:
    cut = Cut()
    warm, allocator = await node.begin(cluster.store.with_fault(cut))
    cut.away = True
    got = set()
    for number in range(8):
        (assigned,) = await warm.assign(workload(f"c{number}"))
        got.add(assigned.address)
        await warm.catch_up()
    assert len(got) == 8
    with pytest.raises(UnavailableError):
        await warm.assign(workload("late"))
    cut.away = False
    while not await warm.catch_up():
        pass
    for number in range(8):
        assert len(await held(cluster, f"k8s-pod-network.c{number}")) == 1
    await warm.catch_up()
    await allocator.drain()
    assert await problems(cluster) == []


async def test_what_fails_again_and_again_keeps_nothing_else_from_being_told(tmp_path: Path) -> None:
    cluster = IPAMCluster([pool("10.0.0.0/26"), pool("fd00::/122")])
    failing = False

    def fault(_when: str, verb: str, kind: str, name: str) -> None:
        if failing and (verb, kind) == ("update", "IPAMBlock") and name.startswith("fd00"):
            raise UnavailableError("the API server does not answer")

    node = WarmNode(cluster, tmp_path, families=(4, 6))
    warm, _ = await node.begin(cluster.store.with_fault(fault))
    failing = True
    await warm.assign(workload("six", 6))
    for container in ("one", "two"):
        (got,) = await warm.assign(workload(container))
        await warm.catch_up()
        assert await held(cluster, f"k8s-pod-network.{container}") == {str(got.address)}


async def test_a_hand_over_without_an_answer_is_in_the_handle_too(tmp_path: Path) -> None:
    """Of one family the answers get lost until the round ends; the next finds that it is done."""
    cluster = IPAMCluster([pool("10.0.0.0/26"), pool("fd00::/122")])
    losing = away = False

    def fault(when: str, verb: str, kind: str, name: str) -> None:
        nonlocal away
        of_ipv4 = kind == "IPAMBlock" and name.startswith("10-")
        if losing and of_ipv4 and (when, verb) == ("after", "update"):
            away = True
            raise UnavailableError("the answer got lost")
        if away and of_ipv4:
            raise UnavailableError("the API server is away")

    node = WarmNode(cluster, tmp_path, families=(4, 6))
    warm, allocator = await node.begin(cluster.store.with_fault(fault))
    losing = True
    await warm.assign(workload("c1", 4, 6))
    assert not await warm.catch_up()
    assert away
    losing = away = False
    while not await warm.catch_up():
        await allocator.drain()
    await warm.catch_up()
    await allocator.drain()
    assert await problems(cluster) == []


async def test_what_landed_unheard_is_found_though_its_block_is_not_known(cluster: IPAMCluster) -> None:
    """Else a pod would be told that it has lost that address, to itself, and its DEL would leave it."""
    killed, allocator = cluster.node("node1"), cluster.node("node1")
    (four,) = await killed.reserve(WARM, 4, lambda _own: 1)
    (six,) = await killed.reserve(WARM, 6, lambda _own: 1)
    await allocator.lookup(WARM)
    await allocator.hand_over(four, "k8s-pod-network.c1", POD)
    await killed.hand_over(six, "k8s-pod-network.c1", POD)
    await allocator.writer.refresh(six.block)
    with pytest.raises(AddressTakenError):
        await allocator.hand_over(six, "k8s-pod-network.c1", POD)
    allocator.writer.known.pop(six.block)  # as in the time from a write that fails until the block is read again
    assert [a.address for a in await allocator.lookup("k8s-pod-network.c1")] == [four.address, six.address]


async def test_a_pod_that_goes_before_the_api_heard_of_it_gives_its_address_back(
    cluster: IPAMCluster, node: WarmNode
) -> None:
    cluster.config = config(ip_cooldown_seconds=None)
    cut = Cut()
    warm, _ = await node.begin(cluster.store.with_fault(cut))
    cut.away = True
    first = [(await warm.assign(workload(f"c{number}")))[0].address for number in range(8)]
    assert await warm.release_handle("k8s-pod-network.c0") == 1
    with pytest.raises(UnavailableError):
        await warm.assign(workload("early"))
    cluster.advance(31)
    (again,) = await warm.assign(workload("again"))
    assert again.address == first[0]


async def test_a_del_whose_hand_over_got_no_answer_frees_the_address_in_the_end(
    cluster: IPAMCluster, node: WarmNode
) -> None:
    cut = Cut()
    warm, allocator = await node.begin(cluster.store.with_fault(cut))
    await warm.assign(workload("c1"))
    cut.away = True
    await warm.catch_up()
    await warm.release_handle("k8s-pod-network.c1")
    with pytest.raises(UnavailableError):
        await warm.assign(workload("c1"))
    cut.away = False
    while not await warm.catch_up():
        pass
    assert await held(cluster, "k8s-pod-network.c1") == set()
    await warm.catch_up()
    await allocator.drain()
    assert await problems(cluster) == []


async def test_a_container_added_anew_waits_for_its_own_release(cluster: IPAMCluster, node: WarmNode) -> None:
    warm, _ = await node.begin()
    await warm.assign(workload("c1"))
    await warm.catch_up()
    await warm.release_handle("k8s-pod-network.c1")
    (second,) = await warm.assign(workload("c1"))
    await warm.catch_up()
    assert await held(cluster, "k8s-pod-network.c1") == {str(second.address)}


async def test_an_add_that_fails_afterwards_gives_back_only_its_own(cluster: IPAMCluster, node: WarmNode) -> None:
    warm, _ = await node.begin()
    (early,) = await warm.assign(workload("c1"))
    done = await warm.release([Release(early.address, early.handle_id, early.sequence)])
    assert done.released == (early.address,)
    assert str(early.address) in await held(cluster, WARM)
    (late,) = await warm.assign(workload("c1"))
    await warm.catch_up()
    done = await warm.release([Release(late.address, late.handle_id, late.sequence)])
    assert done.released == (late.address,)
    assert await held(cluster, "k8s-pod-network.c1") == set()


async def test_an_address_that_a_pod_had_is_nobodys_before_its_cooldown_is_over(
    cluster: IPAMCluster, node: WarmNode
) -> None:
    """Also where the stock is given back meanwhile."""
    cluster.config = config(ip_cooldown_seconds=30)
    warm, _ = await node.begin()
    (had,) = await warm.assign(workload("c1"))
    await warm.release_handle("k8s-pod-network.c1")
    node.families = ()
    await warm.catch_up()
    assert await held(cluster, WARM) == {str(had.address)}
    cluster.advance(29)
    await warm.catch_up()
    assert await held(cluster, WARM) == {str(had.address)}
    cluster.advance(2)
    await warm.catch_up()
    assert await held(cluster, WARM) == set()


async def test_an_add_of_both_families_that_fails_afterwards_needs_no_api(cluster: IPAMCluster, node: WarmNode) -> None:
    cut = Cut()
    node.families = (4, 6)
    warm, _ = await node.begin(cluster.store.with_fault(cut))
    got = await warm.assign(workload("c1", 4, 6))
    cut.away = True
    done = await warm.release([Release(a.address, a.handle_id, a.sequence) for a in got])
    assert set(done.released) == {a.address for a in got}
    assert not done.refused


async def test_an_address_that_a_pod_takes_while_the_stock_is_filled_is_not_given_again(node: WarmNode) -> None:
    """A look at the blocks finds what was reserved before the one who reserved it does."""
    warm, allocator = await node.begin()
    taken: list[Address] = []
    reserve = allocator.reserve

    async def look_and_take(handle_id: str, of: Family, most: Callable[[int], int]) -> tuple[Assigned, ...]:
        got = await reserve(handle_id, of, most)
        warm.mark()
        for number in range(len(got)):
            (one,) = await warm.assign(workload(f"between{number}"))
            taken.append(one.address)
        return got

    for number in range(node.base):
        (first,) = await warm.assign(workload(f"c{number}"))
        taken.append(first.address)
    allocator.reserve = look_and_take  # type: ignore[method-assign]
    await warm.catch_up()
    for number in range(node.base):
        (later,) = await warm.assign(workload(f"later{number}"))
        taken.append(later.address)
    assert len(taken) > 2 * node.base
    assert len(taken) == len(set(taken))


async def test_a_watch_that_lags_brings_no_used_address_back(cluster: IPAMCluster, node: WarmNode) -> None:
    """Before the pod it was warm; a write whose answer got lost makes the node forget what it knew since."""
    warm, allocator = await node.begin()
    before = await cluster.blocks()
    (got,) = await warm.assign(workload("c1"))
    await warm.catch_up()
    (gone,) = await warm.assign(workload("c2"))
    await warm.catch_up()
    await warm.release_handle("k8s-pod-network.c2")
    await warm.catch_up()
    allocator.writer.known.clear()
    for block in before:
        allocator.observe(block)
    warm.mark()
    others = {(await warm.assign(workload(f"x{number}")))[0].address for number in range(2 * node.base)}
    assert not others & {got.address, gone.address}


async def test_a_foreign_client_that_releases_a_warm_address_is_heard_before_it_is_used(
    cluster: IPAMCluster, node: WarmNode
) -> None:
    warm, allocator = await node.begin()
    foreign = cluster.node("node1")
    gone = (await foreign.lookup(WARM))[0]
    await foreign.release([Release(gone.address, WARM, gone.sequence)])
    for block in await cluster.blocks():
        allocator.observe(block)
    got = {(await warm.assign(workload(f"c{number}")))[0].address for number in range(7)}
    assert gone.address not in got
    await warm.catch_up()
    assert warm.counts.dropped == 1
    assert warm.problems() == ()


async def test_a_warm_address_that_is_gone_stays_gone_when_the_block_is_forgotten(
    cluster: IPAMCluster, node: WarmNode
) -> None:
    cut = Cut()
    warm, allocator = await node.begin(cluster.store.with_fault(cut))
    foreign = cluster.node("node1")
    gone = (await foreign.lookup(WARM))[0]
    await foreign.release([Release(gone.address, WARM, gone.sequence)])
    for block in await cluster.blocks():
        allocator.observe(block)
    warm.mark()
    cut.away = True
    got = {(await warm.assign(workload(f"c{number}")))[0].address for number in range(7)}
    for _ in range(2):
        with pytest.raises(UnavailableError):
            await warm.assign(workload("late"))
    assert gone.address not in got


async def test_a_pods_address_that_a_foreign_client_releases_is_claimed_again(
    cluster: IPAMCluster, node: WarmNode
) -> None:
    warm, allocator = await node.begin()
    (got,) = await warm.assign(workload("c1"))
    await warm.catch_up()
    await cluster.node("node1").release([Release(got.address)])
    for block in await cluster.blocks():
        allocator.observe(block)
    await warm.catch_up()
    assert await held(cluster, "k8s-pod-network.c1") == {str(got.address)}
    assert (await cluster.held())[got.address].attribute.secondary["pod"] == "web"
    assert (warm.counts.reclaimed, warm.problems()) == (1, ())
    await warm.release_handle("k8s-pod-network.c1")
    await warm.catch_up()
    assert await held(cluster, "k8s-pod-network.c1") == set()


@pytest.mark.parametrize("when", ["before the hand-over", "after it"])
async def test_a_pods_address_that_somebody_else_has_is_told(cluster: IPAMCluster, node: WarmNode, when: str) -> None:
    warm, allocator = await node.begin()
    (got,) = await warm.assign(workload("c1"))
    if when == "after it":
        await warm.catch_up()
    foreign = cluster.node("node1")
    await foreign.release([Release(got.address)])
    await foreign.assign(AssignRequest("k8s-pod-network.thief", requested=(got.address,)))
    for block in await cluster.blocks():
        allocator.observe(block)
    await warm.catch_up()
    (problem,) = warm.problems()
    assert problem.reason == "AddressLost"
    assert "default/web" in problem.message
    assert str(got.address) in problem.message
    assert warm.counts.lost == 1
    assert await held(cluster, "k8s-pod-network.thief") == {str(got.address)}
    await warm.release_handle("k8s-pod-network.c1")
    await warm.catch_up()
    assert warm.problems() == ()
    assert await held(cluster, "k8s-pod-network.thief") == {str(got.address)}


async def test_an_address_asked_for_by_name_is_given_though_it_is_warm(cluster: IPAMCluster, node: WarmNode) -> None:
    warm, _ = await node.begin()
    wanted = ip_address(min(await held(cluster, WARM)))
    (got,) = await warm.assign(workload("c1", requested=(wanted,)))
    assert got.address == wanted
    assert await held(cluster, "k8s-pod-network.c1") == {str(wanted)}


async def test_pools_by_name_are_respected(cluster: IPAMCluster, node: WarmNode) -> None:
    cluster.pools.append(pool("10.9.0.0/24", name="other", assignment_mode="Manual"))
    warm, _ = await node.begin()
    (got,) = await warm.assign(workload("c1", pools=("other",)))
    assert got.address in ip_network("10.9.0.0/24")
    (warm_one,) = await warm.assign(workload("c2", pools=("10.0.0.0/24",)))
    assert str(warm_one.address) in await held(cluster, WARM)


async def test_the_stock_leaves_a_pool_that_serves_no_more_and_a_reserved_range(
    cluster: IPAMCluster, node: WarmNode
) -> None:
    warm, _ = await node.begin()
    first = ip_address(min(await held(cluster, WARM)))
    cluster.reserved = [ip_network(first)]
    await warm.catch_up()
    assert str(first) not in await held(cluster, WARM)
    cluster.pools = [replace(cluster.pools[0], disabled=True), cluster.pools[1]]
    await warm.catch_up()
    assert await held(cluster, WARM) == set()
    assert warm.count(4) == 0


async def test_the_level_grows_under_load_and_shrinks_again(cluster: IPAMCluster, node: WarmNode) -> None:
    warm, _ = await node.begin()
    for number in range(9):
        await warm.assign(workload(f"c{number}"))
    await warm.catch_up()
    assert warm.count(4) == 16, "a quarter of a block of 64"
    for _ in range(2):
        cluster.advance(61)
        await warm.catch_up()
    assert warm.count(4) == 8
    assert len(await held(cluster, WARM)) == 8


@pytest.mark.parametrize(("size", "expected"), [(26, 8), (28, 4), (30, 1), (32, 0)])
async def test_no_more_than_a_quarter_of_the_nodes_blocks_is_warm(tmp_path: Path, size: int, expected: int) -> None:
    warm, _ = await WarmNode(IPAMCluster([pool("10.0.0.0/24", size)]), tmp_path).begin()
    assert warm.count(4) == expected


async def test_nothing_is_borrowed_and_no_second_block_claimed_to_be_warm(cluster: IPAMCluster, node: WarmNode) -> None:
    warm, _ = await node.begin()
    for number in range(60):
        await warm.assign(workload(f"c{number}"))
        await warm.catch_up()
    assert len(await cluster.blocks()) == 1
    assert warm.count(4) == 4


async def test_the_last_addresses_of_a_pool_are_given_too(cluster: IPAMCluster, node: WarmNode) -> None:
    cluster.pools = [pool("10.0.0.0/28", 28)]
    warm, _ = await node.begin()
    got = set()
    for number in range(16):
        got.add((await warm.assign(workload(f"c{number}")))[0].address)
        await warm.catch_up()
    assert len(got) == 16
    with pytest.raises(ExhaustedError):
        await warm.assign(workload("late"))


async def test_none_are_kept_where_the_setting_is_zero_and_those_of_before_are_freed(
    cluster: IPAMCluster, node: WarmNode
) -> None:
    before, _ = await node.begin()
    (got,) = await before.assign(workload("c1"))
    node.base = 0
    node.living = {"c1": {got.address}}
    warm, allocator = await node.begin()
    await allocator.drain()
    assert await held(cluster, WARM) == set()
    assert await held(cluster, "k8s-pod-network.c1") == {str(got.address)}
    await warm.assign(workload("c2"))
    await warm.release_handle("k8s-pod-network.c1")
    assert next(iter((await cluster.held()).values())).handle == "k8s-pod-network.c2"
    await allocator.drain()
    assert await problems(cluster) == []


async def test_a_full_disk_costs_the_speed_and_nothing_else(cluster: IPAMCluster, node: WarmNode) -> None:
    full = False

    def step(name: str) -> None:
        if full and name == "torn append":
            raise OSError(28, "No space left on device")

    warm, allocator = await node.begin(step=step)
    full = True
    (got,) = await warm.assign(workload("c1"))
    assert await held(cluster, "k8s-pod-network.c1") == {str(got.address)}, "in the API before the answer"
    (problem,) = warm.problems()
    assert problem.reason == "JournalFailed"
    assert "No space left on device" in problem.message
    await warm.release_handle("k8s-pod-network.c1")
    assert await held(cluster, "k8s-pod-network.c1") == set(), "before the answer too"
    full = False
    (got,) = await warm.assign(workload("c2"))
    assert str(got.address) in await held(cluster, WARM)
    assert warm.problems() == ()
    node.living = {"c2": {got.address}}
    _, allocator = await node.begin()
    await allocator.drain()
    assert await held(cluster, "k8s-pod-network.c2") == {str(got.address)}


async def test_a_disk_that_is_full_at_the_start_forgets_nothing(cluster: IPAMCluster, node: WarmNode) -> None:
    """What the journal says holds, though it cannot be rewritten; what comes is written behind it."""
    away = False

    def fault(_when: str, _verb: str, _kind: str, _name: str) -> None:
        if away:
            raise UnavailableError("the API server is away")

    before, _ = await node.begin(cluster.store.with_fault(fault))
    away = True
    (got,) = await before.assign(workload("c1"))
    await before.close()
    away = False
    node.living = {"c1": {got.address}}

    def full(name: str) -> None:
        if name == "before replace":
            raise OSError(28, "No space left on device")

    warm, allocator = await node.begin(step=full)
    await allocator.drain()
    assert await held(cluster, "k8s-pod-network.c1") == {str(got.address)}
    (second,) = await warm.assign(workload("c2"))
    assert str(second.address) in await held(cluster, WARM), "served from the stock, and noted"
    assert warm.problems() == ()
    node.living["c2"] = {second.address}
    _, allocator = await node.begin()
    await allocator.drain()
    assert await held(cluster, "k8s-pod-network.c2") == {str(second.address)}


async def test_calls_wait_for_the_start(node: WarmNode) -> None:
    warm, _ = node.make()
    call = asyncio.create_task(warm.assign(workload("c1")))
    await asyncio.sleep(0.01)
    assert not call.done()
    await warm.start(node.now_living())
    assert len(await call) == 1


async def test_a_pod_that_the_journal_does_not_know_of_keeps_its_warm_address(node: WarmNode) -> None:
    """Somebody deleted the journal while the API was away."""
    before, _ = await node.begin()
    (got,) = await before.assign(workload("c1"))
    (node.folder / "journal-node1").unlink()
    node.living = {"c1": {got.address}}
    warm, _ = await node.begin()
    others = {(await warm.assign(workload(f"x{number}")))[0].address for number in range(20)}
    assert got.address not in others


async def test_an_address_of_such_a_pod_comes_back_once_no_device_has_had_it_for_a_cooldown(tmp_path: Path) -> None:
    node = WarmNode(IPAMCluster([pool("10.0.0.0/26")], config(strict_affinity=True)), tmp_path)
    before, _ = await node.begin()
    (got,) = await before.assign(workload("c1"))
    (node.folder / "journal-node1").unlink()
    node.living = {"c1": {got.address}}
    warm, _ = await node.begin()
    rest = [(await warm.assign(workload(f"x{number}")))[0].address for number in range(63)]
    assert got.address not in rest

    async def passes(seconds: int) -> None:
        for _ in range(0, seconds, 11):
            node.cluster.advance(11)
            await warm.catch_up()

    await passes(66)
    node.living = {}  # somebody removed its route, and its repair is under way
    await passes(22)
    node.living = {"c1": {got.address}}
    await passes(22)
    node.living = {}
    await passes(33)
    with pytest.raises(ExhaustedError):
        await warm.assign(workload("late"))
    await passes(11)
    assert (await warm.assign(workload("last")))[0].address == got.address


async def test_run_tells_the_api_by_itself(cluster: IPAMCluster, node: WarmNode) -> None:
    warm, _ = node.make()
    await warm.start(node.now_living())
    running = asyncio.create_task(warm.run())
    await until(lambda: warm.count(4) == 8)
    (got,) = await warm.assign(workload("c1"))

    async def told() -> bool:
        return await held(cluster, "k8s-pod-network.c1") == {str(got.address)}

    await until(told)
    running.cancel()
