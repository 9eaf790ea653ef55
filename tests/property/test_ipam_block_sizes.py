"""Nodes that see different block sizes of one pool, made anew, claim at the same time: no two blocks overlap."""

import asyncio
import contextlib
import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_py.ipam import rivals
from calico_py.ipam.allocator import Allocator
from calico_py.ipam.requests import ExhaustedError
from calico_py.model.blocks import BlockAffinity
from calico_py.model.kinds import BLOCK_AFFINITIES
from calico_py.model.net import contains
from calico_py.model.store import EventType
from tests.fakes.ipam import IPAMCluster, config, pool, problems, workload
from tests.fakes.slow import SlowStore
from tests.fakes.store import MemoryStore

POOL = "10.0.0.0/27"


class Turns:
    """How long the next delay is, in turns of the event loop, over and over."""

    def __init__(self, turns: Sequence[int]) -> None:
        self._turns = itertools.cycle(turns)

    def __call__(self) -> int:
        return next(self._turns)


class View:
    """What a node's watch shows of all affinities: in the order of the API, and late."""

    def __init__(self, store: MemoryStore, late: Turns) -> None:
        self.objects: dict[str, BlockAffinity] = {}
        self._store = store
        self._late = late

    async def follow(self) -> None:
        """For ever."""
        listing = await self._store.list(BLOCK_AFFINITIES)
        async for event in self._store.watch(BLOCK_AFFINITIES, resource_version=listing.resource_version):
            for _ in range(self._late()):
                await asyncio.sleep(0)
            if event.type == EventType.DELETED:
                self.objects.pop(event.name, None)
            elif event.object is not None:
                self.objects[event.name] = event.object


async def race(sizes: Sequence[int], turns: Sequence[int], late: Sequence[int], *, ask: bool) -> tuple[int, list[str]]:
    """Each node assigns, one request after the other; how many got an address, and what is wrong in the end."""
    store = MemoryStore()
    slow = SlowStore(store, Turns(turns))
    nodes: list[tuple[IPAMCluster, Allocator]] = []
    async with contextlib.AsyncExitStack() as stack:
        for number, size in enumerate(sizes):
            view = View(store, Turns([each * (number + 1) for each in late]))
            cluster = IPAMCluster(
                [pool(POOL, size, name="remade")],
                config(strict_affinity=True),
                store,
                watched=None if ask else lambda view=view: view.objects,  # type: ignore[misc]  # of this turn
            )
            watching = asyncio.create_task(view.follow())
            stack.callback(watching.cancel)
            nodes.append((cluster, cluster.node(f"node{number}", slow)))
        await asyncio.sleep(0)
        work = [node.assign(workload(f"c{i}-{j}")) for i, (_, node) in enumerate(nodes) for j in range(2)]
        results = await asyncio.gather(*work, return_exceptions=True)
        for _, node in nodes:
            await node.drain()
    assert all(isinstance(result, tuple | ExhaustedError) for result in results), results
    got = [assigned.address for result in results if isinstance(result, tuple) for assigned in result]
    wrong = await problems(nodes[0][0])
    blocks = [block.cidr for block in await nodes[0][0].blocks()]
    wrong += [f"{a} overlaps {b}" for a, b in itertools.combinations(blocks, 2) if contains(a, b) or contains(b, a)]
    wrong += [f"{address} was given twice" for address in set(got) if got.count(address) > 1]
    return len(got), wrong


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rivals, "_LOOK_SECONDS", 0)


SIZES = st.lists(st.sampled_from([27, 28, 29, 30, 32]), min_size=2, max_size=4)
DELAYS = st.lists(st.integers(0, 12), min_size=1, max_size=16)


@pytest.mark.usefixtures("_quick")
@given(sizes=SIZES, turns=DELAYS, late=DELAYS, ask=st.booleans())
def test_blocks_of_different_sizes_never_overlap(
    sizes: list[int], turns: list[int], late: list[int], *, ask: bool
) -> None:
    got, wrong = asyncio.run(race(sizes, turns, late, ask=ask))
    assert not wrong
    assert got, "of two that meet one goes on"


def test_without_the_look_they_do(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nobody(_self: rivals.Rivals, _mine: BlockAffinity) -> None:
        return

    monkeypatch.setattr(rivals.Rivals, "find", nobody)
    _, wrong = asyncio.run(race([27, 28], [1], [1], ask=False))
    assert any("overlaps" in each for each in wrong)
