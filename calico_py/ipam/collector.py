"""Carries the judgements of ``garbage`` out. Runs in the leader only, though two at once would do no harm."""

import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from calico_py.ipam import blocks
from calico_py.ipam.allocator import Allocator
from calico_py.ipam.commits import BlockGoneError
from calico_py.ipam.garbage import Judgement, Memory, PodName, PodView, Verdict, View, judge, living_addresses, verdict
from calico_py.ipam.requests import IPAMError, Released
from calico_py.model.blocks import BlockAffinity, IPAMBlock, IPAMHandle
from calico_py.model.kinds import BLOCK_AFFINITIES, IPAM_BLOCKS, IPAM_HANDLES
from calico_py.model.net import Network
from calico_py.model.store import ConflictError, NotFoundError, Store

log = logging.getLogger(__name__)

DEFAULT_GRACE = timedelta(minutes=15)  # Calico's leakGracePeriod


@dataclass(frozen=True, slots=True)
class Collected:
    """What one pass cleaned up.

    Attributes:
        candidates: how many things wait for their grace period to pass.
        unsettled: blocks of deleted nodes that remain: the API still has pods of theirs, or an address cools down.
    """

    released: Released
    blocks: tuple[Network, ...] = ()
    handles: tuple[str, ...] = ()
    candidates: int = 0
    unsettled: int = 0


class Collector:
    """The leader's garbage collection; its memory is what it has seen since it became leader.

    Args:
        allocator: the leader's own, for its writes.
        nodes: names of all nodes, from a watch that is in-sync.
        pods: all pods that are not on the host's network, as the API has them at the time of the call.
    """

    def __init__(
        self,
        store: Store,
        allocator: Allocator,
        *,
        nodes: Callable[[], Collection[str]],
        pods: Callable[[], Awaitable[Mapping[PodName, PodView]]],
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._allocator = allocator
        self._nodes = nodes
        self._pods = pods
        self._now = now
        self._memory: Memory = {}

    async def collect(self, *, grace: timedelta = DEFAULT_GRACE) -> Collected:
        """One pass; to be run about twice in a grace period, and when a node was deleted.

        Raises:
            IPAMError: the list of nodes cannot be right.
            StoreError: the API failed; the next pass goes on.
        """
        # Pods come after the blocks: a pod whose address is in a block by then is among them, or is dead.
        found = (await self._store.list(IPAM_BLOCKS)).items
        handles = (await self._store.list(IPAM_HANDLES)).items
        affinities = (await self._store.list(BLOCK_AFFINITIES)).items
        standing = [block for block in found if not block.deleted]
        view = View(standing, self._living_nodes(), await self._pods(), handles, affinities)
        judgement = judge(view, self._memory, now=self._now(), grace=grace, cooldown=self._allocator.cooldown)
        self._memory = judgement.memory
        released = await self._release(view, judgement)
        for cidr in judgement.tidy:
            await self._tidy(cidr)
        for affinity in judgement.affinities:
            await self._resolve(affinity)
        gone = [block.cidr for block in judgement.blocks if await self._release_block(block)]
        dropped = [handle.handle_id for handle in judgement.handles if await self._drop(handle)]
        self._allocator.forget_foreign_blocks()
        unsettled = [b for b in standing if b.node is not None and b.node not in view.nodes and b.cidr not in gone]
        return Collected(released, tuple(gone), tuple(dropped), len(judgement.memory), len(unsettled))

    def _living_nodes(self) -> frozenset[str]:
        nodes = frozenset(self._nodes())
        if self._allocator.node not in nodes:
            raise IPAMError(f"the list of nodes lacks {self._allocator.node}, on which this runs: nothing is collected")
        return nodes

    async def _release(self, view: View, judgement: Judgement) -> Released:
        """Look once more at nodes and pods, and release what is still leaked."""
        if not judgement.releases:
            return Released()
        view = replace(view, nodes=self._living_nodes(), pods=await self._pods())
        living = living_addresses(view.pods)
        held = {(a.address, a.sequence): a for block in view.blocks for a in blocks.allocations(block)}
        still = [
            release
            for release in judgement.releases
            if release.sequence is not None
            and verdict(held[release.address, release.sequence], view, living) is not Verdict.VALID
        ]
        return await self._allocator.release(still)

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
