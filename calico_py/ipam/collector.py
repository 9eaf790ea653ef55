"""Carries the judgements of ``garbage`` out. Runs in the leader only, though two at once would do no harm."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar

from calico_py.ipam import blocks
from calico_py.ipam.allocator import Allocator
from calico_py.ipam.commits import BlockGoneError
from calico_py.ipam.garbage import Judgement, Memory, PodName, PodView, Verdict, View, judge, living_addresses, verdict
from calico_py.ipam.requests import IPAMError, Release, Released
from calico_py.model.blocks import BlockAffinity, IPAMBlock, IPAMHandle
from calico_py.model.kinds import BLOCK_AFFINITIES, IPAM_BLOCKS, IPAM_HANDLES, NODES
from calico_py.model.net import Network
from calico_py.model.store import ConflictError, NotFoundError, Store

T = TypeVar("T")
R = TypeVar("R")

log = logging.getLogger(__name__)

_AT_ONCE = 16  # requests

DEFAULT_GRACE = timedelta(minutes=15)  # Calico's leakGracePeriod


@dataclass(frozen=True, slots=True)
class Collected:
    """What one pass cleaned up.

    Attributes:
        candidates: how many things wait for their grace period to pass.
        unsettled: blocks of deleted nodes that remain.
        kept_by: pods because of which addresses of deleted nodes stay.
        cools_in: seconds until the next address of a deleted node has cooled down; None if none cools.
    """

    released: Released = field(default_factory=Released)
    blocks: tuple[Network, ...] = ()
    handles: tuple[str, ...] = ()
    candidates: int = 0
    unsettled: int = 0
    kept_by: frozenset[PodName] = frozenset()
    cools_in: float | None = None


class Collector:
    """The leader's garbage collection; its memory is what it has seen since it became leader.

    Args:
        allocator: the leader's own, for its writes.
        nodes: names of all nodes, from a watch that is in-sync.
        pods: all pods that are not on the host's network, as the API has them at the time of the call.
        now: the time, with a timezone, as addresses are marked with it.
        clock: seconds of a clock that nobody sets, for grace periods; None: that of ``now``.
    """

    def __init__(
        self,
        store: Store,
        allocator: Allocator,
        *,
        nodes: Callable[[], Collection[str]],
        pods: Callable[[], Awaitable[Mapping[PodName, PodView]]],
        now: Callable[[], datetime],
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._store = store
        self._allocator = allocator
        self._nodes = nodes
        self._pods = pods
        self._now = now
        self._clock = clock or (lambda: now().timestamp())
        self._looked = now(), self._clock()
        self._memory: Memory = {}

    async def collect(self, *, grace: timedelta = DEFAULT_GRACE) -> Collected:
        """One pass; to be run about twice in a grace period, and when a node was deleted.

        Raises:
            IPAMError: the list of nodes cannot be right.
            StoreError: the API failed; the next pass goes on.
        """
        # Pods come after the blocks: a pod whose address is in a block by then is among them, or is dead.
        found = await self._store.list(IPAM_BLOCKS)
        handles = (await self._store.list(IPAM_HANDLES)).items
        affinities = (await self._store.list(BLOCK_AFFINITIES)).items
        standing = [block for block in found.items if not block.deleted]
        pools = [pool.cidr for pool in self._allocator.pools]
        complete = not found.invalid
        view = View(standing, self._living_nodes(), await self._pods(), handles, affinities, pools, complete)
        now = self._now()
        memory, cooldown = self._remember(now), self._allocator.cooldown
        # In a thread: over the addresses of thousands of nodes it takes seconds, in which this node's pods want theirs.
        look = partial(judge, now=now, grace=grace, cooldown=cooldown)
        judgement = await asyncio.to_thread(look, view, memory)
        if late := await self._standing(judgement.gone):
            view = replace(view, nodes=late.union(view.nodes))
            judgement = await asyncio.to_thread(look, view, memory)
        self._memory = judgement.memory
        released = await self._release(view, judgement, late)
        await _some_at_once(self._tidy, judgement.tidy)
        await _some_at_once(self._resolve, judgement.affinities)
        empty = self._empty_by_now(view, judgement)
        done = await _some_at_once(self._release_block, empty)
        freed = [block.cidr for block, was_freed in zip(empty, done, strict=True) if was_freed]
        done = await _some_at_once(self._drop, judgement.handles)
        dropped = [handle.handle_id for handle, went in zip(judgement.handles, done, strict=True) if went]
        left = [block for block in standing if block.node in judgement.gone and block.cidr not in freed]
        cools_in = self._cools_in(left)
        self._allocator.forget_foreign_blocks()
        return Collected(
            released,
            tuple(freed),
            tuple(dropped),
            candidates=sum(kind != "node" for kind, _, _ in judgement.memory),
            unsettled=len(left),
            kept_by=judgement.kept_by,
            cools_in=cools_in,
        )

    def _remember(self, now: datetime) -> Memory:
        """The memory, moved along with the time where somebody has set it: a grace period must really pass."""
        (before, seconds_before), seconds = self._looked, self._clock()
        self._looked = now, seconds
        step = now - before - timedelta(seconds=seconds - seconds_before)
        return {subject: since + step for subject, since in self._memory.items()}

    def _living_nodes(self) -> frozenset[str]:
        nodes = frozenset(self._nodes())
        if self._allocator.node not in nodes:
            raise IPAMError(f"the list of nodes lacks {self._allocator.node}, on which this runs: nothing is collected")
        return nodes

    async def _standing(self, gone: Collection[str]) -> frozenset[str]:
        """Nodes that the watch does not show, and the API has: it lags, and what is theirs must not go."""
        found = await _some_at_once(self._exists, sorted(gone))
        late = frozenset(name for name, exists in zip(sorted(gone), found, strict=True) if exists)
        if late:
            log.warning("the watch of nodes lags: it lacks %s", ", ".join(sorted(late)))
        return late

    async def _exists(self, node: str) -> bool:
        try:
            await self._store.get(NODES, node)
        except NotFoundError:
            return False
        return True

    async def _release(self, view: View, judgement: Judgement, late: frozenset[str]) -> Released:
        """Look once more at nodes and pods, and release what is still leaked."""
        if not judgement.releases:
            return Released()
        view = replace(view, nodes=late.union(self._living_nodes()), pods=await self._pods())
        living = living_addresses(view.pods)
        held = {(a.address, a.sequence): a for block in view.blocks for a in blocks.allocations(block)}
        by_node: dict[str, list[Release]] = {}
        for release in judgement.releases:
            allocation = held[release.address, release.sequence or 0]
            found, gone = verdict(allocation, view, living), allocation.node in judgement.gone
            if found is Verdict.GONE or (found is Verdict.LEAKED and not gone):  # a node that is back has its grace
                by_node.setdefault(allocation.node if gone else "", []).append(release)

        leaving = {release.handle_id for some in by_node.values() for release in some}
        self._allocator.learn_handles(handle for handle in view.handles if handle.handle_id in leaving)

        async def release_of(node: str) -> Released:
            return await self._allocator.release(by_node[node], unused_since=judgement.gone.get(node))

        parts = await _some_at_once(release_of, list(by_node))
        return Released(
            tuple(address for part in parts for address in part.released),
            tuple(address for part in parts for address in part.unallocated),
            {address: reason for part in parts for address, reason in part.refused.items()},
        )

    def _empty_by_now(self, view: View, judgement: Judgement) -> list[IPAMBlock]:
        """Those that were seen empty, and those of deleted nodes that the releases emptied."""
        now, cooldown = self._now(), self._allocator.cooldown
        of_gone = (self._latest(block) for block in view.blocks if block.node in judgement.gone)
        emptied = [block for block in of_gone if blocks.is_empty(blocks.thaw(block, now=now, cooldown=cooldown))]
        return [*(block for block in judgement.blocks if block.node not in judgement.gone), *emptied]

    def _latest(self, block: IPAMBlock) -> IPAMBlock:
        return self._allocator.writer.later(block)

    def _cools_in(self, left: Iterable[IPAMBlock]) -> float | None:
        """Seconds until the first of these blocks has no address left that cools down."""
        ends = [
            max(times) + self._allocator.cooldown
            for block in map(self._latest, left)
            if (times := [blocks.parse_time(a.attribute.released_at) for a in blocks.allocations(block) if a.cooling])
        ]
        return max(0.0, (min(ends) - self._now()).total_seconds()) if ends else None

    async def _tidy(self, cidr: Network) -> None:
        def change(block: IPAMBlock) -> tuple[IPAMBlock, None]:
            thawed = blocks.thaw(block, now=self._now(), cooldown=self._allocator.cooldown)
            return replace(thawed), None  # another object: written even if only the label is to change

        try:
            await self._allocator.writer.change(cidr, change)
        except (BlockGoneError, IPAMError) as error:
            log.info("block %s is left as it is: %s", cidr, error)

    async def _release_block(self, block: IPAMBlock) -> bool:
        try:
            return await self._allocator.release_block(block)
        except (ConflictError, NotFoundError, IPAMError) as error:
            log.info("block %s stays for now: %s", block.cidr, error)
            return False

    async def _resolve(self, affinity: BlockAffinity) -> None:
        try:
            await self._allocator.resolve(affinity)
        except (ConflictError, NotFoundError, IPAMError) as error:
            log.info("affinity %s stays for now: %s", affinity.meta.name, error)

    async def _drop(self, handle: IPAMHandle) -> bool:
        meta = handle.meta
        try:
            await self._store.delete(IPAM_HANDLES, meta.name, uid=meta.uid, resource_version=meta.resource_version)
        except (ConflictError, NotFoundError):
            return False
        return True


async def _some_at_once(work: Callable[[T], Awaitable[R]], items: Sequence[T]) -> list[R]:
    """What the work makes of each, in order; all are tried before the first error is raised."""
    slots = asyncio.Semaphore(_AT_ONCE)

    async def one(item: T) -> R:
        async with slots:
            return await work(item)

    found = await asyncio.gather(*map(one, items), return_exceptions=True)
    for result in found:
        if isinstance(result, BaseException):
            raise result
    return [result for result in found if not isinstance(result, BaseException)]
