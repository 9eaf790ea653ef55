"""What a node sees of blocks that lend addresses when a foreign writer drops the label by which they are found."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from calico_py.agent import lending_blocks
from calico_py.agent.view import ClusterView
from calico_py.ipam.requests import Release
from calico_py.model.blocks import AffinityState, BlockAffinity
from calico_py.model.kinds import BLOCK_AFFINITIES, IP_POOLS, IPAM_BLOCKS, NODES
from calico_py.model.meta import Meta
from calico_py.model.names import LABEL_BORROWED, affinity_name, block_name
from calico_py.model.net import Address
from calico_py.model.nodes import Node
from calico_py.model.store import GoneError, StoreError, UnavailableError
from calico_py.routing.holders import find_holders
from tests.fakes.ipam import IPAMCluster, pool, workload
from tests.fakes.running import running
from tests.fakes.slow import SlowStore
from tests.fakes.waiting import until

LENT = ip_address("10.0.0.5")
BLOCK = ip_network("10.0.0.0/28")
NAME = block_name(BLOCK)
GET = ("get", "IPAMBlock")


class Faults:
    """Errors that are laid out for a verb on blocks, one for each call."""

    def __init__(self) -> None:
        self.planned: dict[str, list[StoreError]] = {}

    def __call__(self, when: str, verb: str, kind: str, _name: str) -> None:
        if when == "before" and kind == "IPAMBlock" and self.planned.get(verb):
            raise self.planned[verb].pop(0)


@pytest.fixture
async def cluster() -> IPAMCluster:
    """node1 has borrowed an address from node2's block."""
    made = IPAMCluster([pool("10.0.0.0/24", 28, name="pool")])
    await made.store.create(IP_POOLS, made.pools[0])
    (own,) = await made.node("node2").assign(workload("lender", requested=(ip_address("10.0.0.1"),)))
    assert own.block == BLOCK
    await made.node("node1").assign(workload("borrower", requested=(LENT,)))
    return made


@contextlib.asynccontextmanager
async def viewing(
    cluster: IPAMCluster,
    node: str = "node1",
    *,
    faults: Faults | None = None,
    living: tuple[Address, ...] = (),
    told: list[str | None] | None = None,
) -> AsyncIterator[tuple[ClusterView, SlowStore]]:
    async def alive() -> tuple[Address, ...]:
        return living

    store = SlowStore(cluster.store.with_fault(faults) if faults else cluster.store)
    heard = told if told is not None else []
    view = ClusterView(store, node, lambda: None, on_blocks=lambda: heard.append(holder(view)), living=alive)
    async with running(view.run()):
        async with asyncio.timeout(10):
            await view.wait_in_sync()
        yield view, store


async def drop_label(cluster: IPAMCluster) -> None:
    """As a client does that knows nothing of it."""
    await cluster.store.patch(IPAM_BLOCKS, NAME, {"metadata": {"labels": {LABEL_BORROWED: None}}})
    (block,) = [block for block in await cluster.blocks() if block.cidr == BLOCK]
    assert LABEL_BORROWED not in block.meta.labels


async def restore_label(cluster: IPAMCluster) -> None:
    """As the leader does."""
    await cluster.store.patch(IPAM_BLOCKS, NAME, {"metadata": {"labels": {LABEL_BORROWED: "true"}}})


def holder(view: ClusterView) -> str | None:
    """The node to which the view routes the borrowed address."""
    found = find_holders((), view.blocks()).by_prefix.get(ip_network(LENT))
    return found.node if found is not None else None


async def test_the_borrower_keeps_it_without_its_label_and_reads_it_by_name(cluster: IPAMCluster) -> None:
    told: list[str | None] = []
    async with viewing(cluster, told=told) as (view, store):
        assert holder(view) == "node1"
        told.clear()
        await drop_label(cluster)
        await until(lambda: store.calls[GET] > 0)
        assert holder(view) == "node1"
        await restore_label(cluster)
        await cluster.node("node1").assign(workload("again", requested=(ip_address("10.0.0.6"),)))
        await until(lambda: bool(told))
        assert set(told) <= {"node1"}, "at no moment was it gone"


async def test_other_nodes_drop_it_and_ask_nothing(cluster: IPAMCluster) -> None:
    async with viewing(cluster, "node3") as (view, store):
        assert holder(view) == "node1"
        await drop_label(cluster)
        await until(lambda: holder(view) is None)
        assert store.calls[GET] == 0
        await restore_label(cluster)
        await until(lambda: holder(view) == "node1")


async def test_the_blocks_own_node_sees_it_all_the_time(cluster: IPAMCluster) -> None:
    async with viewing(cluster, "node2") as (view, store):
        await drop_label(cluster)
        await until(lambda: not view.lending_blocks.objects)
        assert holder(view) == "node1"
        assert store.calls[GET] == 0


async def test_what_is_given_back_is_let_go_at_once(cluster: IPAMCluster) -> None:
    """The usual end of a label: one request, of the node that gave the address back."""
    async with viewing(cluster) as (view, store):
        await cluster.node("node1").release([Release(LENT)])
        await until(lambda: not view.lending_blocks.objects, within=1)
        assert store.calls[GET] == 1


async def test_what_is_given_back_while_it_has_no_label_is_seen(
    cluster: IPAMCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lending_blocks, "_AGAIN", 0.05)
    async with viewing(cluster) as (view, store):
        await drop_label(cluster)
        await until(lambda: store.calls[GET] > 1)
        assert holder(view) == "node1"
        await cluster.node("node1").release([Release(LENT)])
        await until(lambda: holder(view) is None, within=1)
        asked = store.calls[GET]
        await asyncio.sleep(0.2)
        assert store.calls[GET] == asked, "nobody asks for ever"


async def test_a_block_that_was_deleted_is_let_go(cluster: IPAMCluster) -> None:
    async with viewing(cluster) as (view, _):
        await cluster.store.delete(IPAM_BLOCKS, NAME)
        await until(lambda: holder(view) is None, within=1)


async def test_a_server_that_fails_takes_nothing_away(cluster: IPAMCluster, caplog: pytest.LogCaptureFixture) -> None:
    faults = Faults()
    async with viewing(cluster, faults=faults) as (view, store):
        faults.planned["get"] = [UnavailableError("get IPAMBlock: connection refused")] * 3
        await drop_label(cluster)
        await until(lambda: store.calls[GET] == 3)
        assert holder(view) == "node1"
        await cluster.node("node1").release([Release(LENT)])
        await until(lambda: holder(view) is None)
    assert "connection refused" in caplog.text


async def test_the_borrower_keeps_what_is_missing_from_a_new_list(cluster: IPAMCluster) -> None:
    faults = Faults()
    async with viewing(cluster, faults=faults) as (view, store):
        lists = store.calls["list", "IPAMBlock"]
        faults.planned["watch"] = [GoneError("too old")] * 2
        await drop_label(cluster)
        await until(lambda: store.calls["list", "IPAMBlock"] == lists + 2 and not faults.planned["watch"])
        await asyncio.sleep(0.05)
        assert holder(view) == "node1"
        await restore_label(cluster)
        await cluster.node("node1").release([Release(LENT)])
        await until(lambda: holder(view) is None)


@pytest.mark.parametrize("claimed", [True, False], ids=["another node's block", "nobody's block"])
async def test_an_agent_that_starts_without_the_label_finds_it_by_its_pod(
    cluster: IPAMCluster, *, claimed: bool
) -> None:
    if not claimed:
        await make_nobodys(cluster)
    await drop_label(cluster)
    async with viewing(cluster) as (view, _):
        assert holder(view) is None, "nothing says so"
    async with viewing(cluster, living=(LENT,)) as (view, _):
        assert holder(view) == "node1"
        await restore_label(cluster)
        await cluster.node("node1").release([Release(LENT)])
        await until(lambda: holder(view) is None)


async def make_nobodys(cluster: IPAMCluster) -> None:
    """The lender's node was deleted; the pod that borrowed lives on."""
    await cluster.store.delete(BLOCK_AFFINITIES, affinity_name("node2", BLOCK))
    (block,) = await cluster.blocks()
    await cluster.store.update(IPAM_BLOCKS, replace(block, affinity=None))


async def test_a_block_that_is_nobodys_is_kept_by_all(cluster: IPAMCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no node that would pass packets on."""
    monkeypatch.setattr(lending_blocks, "_AGAIN", 0.1)
    await make_nobodys(cluster)
    async with viewing(cluster, "node3") as (view, store):
        assert holder(view) == "node1"
        await drop_label(cluster)
        await until(lambda: store.calls[GET] > 1)
        assert holder(view) == "node1"
        await restore_label(cluster)
        await cluster.store.delete(IPAM_BLOCKS, NAME)
        await until(lambda: holder(view) is None, within=1)


async def test_many_nodes_ask_for_a_block_that_is_nobodys_at_different_times(
    cluster: IPAMCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if there were thousands of nodes. The one that borrows asks at once."""
    monkeypatch.setattr(lending_blocks, "_APART", 1000.0)
    for name in ("node1", "node2", "node3"):
        await cluster.store.create(NODES, Node(Meta(name)))
    await make_nobodys(cluster)
    async with viewing(cluster, "node3") as (view, store), viewing(cluster, "node1") as (borrower, asking):
        await drop_label(cluster)
        await until(lambda: asking.calls[GET] > 0)
        assert store.calls[GET] == 0
        assert holder(view) == holder(borrower) == "node1"


async def test_a_block_that_was_nobodys_is_left_to_the_node_that_claims_it(
    cluster: IPAMCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be another block of that name by now, with other pods."""
    monkeypatch.setattr(lending_blocks, "_APART", 1000.0)
    await cluster.store.create(NODES, Node(Meta("node3")))
    await make_nobodys(cluster)
    async with viewing(cluster, "node3") as (view, store):
        await drop_label(cluster)
        await asyncio.sleep(0.05)
        assert holder(view) == "node1"
        claim = BlockAffinity(Meta(affinity_name("node2", BLOCK)), BLOCK, "node2", AffinityState.PENDING)
        await cluster.store.create(BLOCK_AFFINITIES, claim)
        await until(lambda: holder(view) is None, within=1)
        assert store.calls[GET] == 0


async def test_a_new_list_keeps_a_block_that_is_nobodys(cluster: IPAMCluster) -> None:
    faults = Faults()
    await make_nobodys(cluster)
    told: list[str | None] = []
    async with viewing(cluster, "node3", faults=faults, told=told) as (view, store):
        told.clear()
        lists = store.calls["list", "IPAMBlock"]
        faults.planned["watch"] = [GoneError("too old")] * 2
        await drop_label(cluster)
        await until(lambda: store.calls["list", "IPAMBlock"] == lists + 2 and store.calls[GET] > 0)
        assert holder(view) == "node1"
        assert set(told) <= {"node1"}, "at no moment was it gone"


async def test_a_start_waits_for_the_answer(cluster: IPAMCluster) -> None:
    faults = Faults()
    faults.planned["get"] = [UnavailableError("get IPAMBlock: connection refused")] * 2
    await drop_label(cluster)
    async with viewing(cluster, faults=faults, living=(LENT,)) as (view, _):
        assert not faults.planned["get"]
        assert holder(view) == "node1"


async def test_a_start_asks_for_no_block_that_it_sees_anyway(cluster: IPAMCluster) -> None:
    (own,) = await cluster.node("node1").assign(workload("at home"))
    assert own.block != BLOCK
    living = (LENT, own.address, ip_address("172.16.0.1"), ip_address("fd00::1"))
    async with viewing(cluster, living=living) as (view, store):
        assert holder(view) == "node1"
        assert store.calls[GET] == 0
