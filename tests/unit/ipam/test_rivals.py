"""Which of two claims of overlapping blocks gives way."""

from dataclasses import replace
from ipaddress import ip_network

import pytest

from calico_py.ipam import rivals
from calico_py.ipam.rivals import Rivals
from calico_py.model.blocks import AffinityState, BlockAffinity
from calico_py.model.kinds import BLOCK_AFFINITIES
from calico_py.model.meta import Meta
from calico_py.model.names import affinity_name
from tests.fakes.store import MemoryStore

CONFIRMED, GOING = AffinityState.CONFIRMED, AffinityState.PENDING_DELETION


async def claim(store: MemoryStore, node: str, cidr: str) -> BlockAffinity:
    network = ip_network(cidr)
    return await store.create(
        BLOCK_AFFINITIES, BlockAffinity(Meta(affinity_name(node, network)), network, node, AffinityState.PENDING)
    )


async def change(store: MemoryStore, affinity: BlockAffinity, **fields: object) -> BlockAffinity:
    return await store.update(BLOCK_AFFINITIES, replace(affinity, **fields))  # type: ignore[arg-type]  # of its fields


@pytest.mark.parametrize(("first", "second"), [("10.0.0.0/26", "10.0.0.16/28"), ("10.0.0.16/28", "10.0.0.0/26")])
async def test_the_later_gives_way_and_the_earlier_goes_on(first: str, second: str) -> None:
    store = MemoryStore()
    earlier, later = await claim(store, "node1", first), await claim(store, "node2", second)
    assert await Rivals(store).find(earlier) is None
    assert await Rivals(store).find(later) == earlier


@pytest.mark.parametrize("state", [CONFIRMED, GOING])
async def test_a_claim_that_has_come_further_goes_first_though_it_was_written_later(state: AffinityState) -> None:
    store = MemoryStore()
    earlier, later = await claim(store, "node1", "10.0.0.0/26"), await claim(store, "node2", "10.0.0.16/28")
    changed = await change(store, earlier, state=state)
    assert await Rivals(store).find(later) == changed


async def test_where_the_order_is_not_certain_both_give_way() -> None:
    store = MemoryStore()
    earlier, later = await claim(store, "node1", "10.0.0.0/26"), await claim(store, "node2", "10.0.0.16/28")
    going = await change(store, earlier, state=GOING)
    again = await change(store, going, state=AffinityState.PENDING)
    assert await Rivals(store).find(later) == again
    assert await Rivals(store).find(again) == later


async def test_others_do_not_matter() -> None:
    store = MemoryStore()
    await claim(store, "node1", "10.0.0.0/26")
    await claim(store, "node2", "10.0.1.0/24")
    await claim(store, "node2", "fd00::/122")
    gone = await claim(store, "node2", "10.0.0.16/28")
    await change(store, gone, deleted=True)
    mine = await claim(store, "node3", "10.0.0.0/26")
    assert await Rivals(store).find(mine) is None, "of the same size the block decides"


async def test_a_watch_is_believed_once_it_shows_the_claim_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rivals, "_LOOK_SECONDS", 0)
    store = MemoryStore()
    before = await claim(store, "node1", "10.0.0.0/26")
    mine = await claim(store, "node2", "10.0.0.16/28")
    looks = iter([{}, {}, {a.meta.name: a for a in (before, mine)}])
    assert await Rivals(store, lambda: next(looks)).find(mine) == before
    assert next(looks, None) is None
    assert await Rivals(store, dict).find(mine) == before, "one that lags is not waited for"
