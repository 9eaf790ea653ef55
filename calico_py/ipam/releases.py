"""Giving addresses back: all of a handle, some, what was assigned in vain; and empty blocks that are of no use."""

import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial

from calico_py.ipam import blocks
from calico_py.ipam.changes import ReleaseAddresses
from calico_py.ipam.choice import pool_of, selects_node
from calico_py.ipam.commits import BlockGoneError, BlockWriter
from calico_py.ipam.facts import Facts
from calico_py.ipam.handles import Handles
from calico_py.ipam.holdings import Holdings
from calico_py.ipam.node_blocks import NodeBlocks
from calico_py.ipam.requests import Assigned, IPAMError, Release, Released
from calico_py.ipam.tasks import Tasks, all_of, pause
from calico_py.model.net import Family, Network, family
from calico_py.model.store import StoreError
from calico_py.trouble import Trouble

log = logging.getLogger(__name__)

_UNDO_TRIES = 8


class Releases:
    """Those of one node, whichever node's blocks the addresses lie in.

    Args:
        changed: called when an address may have become free.
    """

    def __init__(
        self,
        facts: Facts,
        writer: BlockWriter,
        handles: Handles,
        holdings: Holdings,
        node_blocks: NodeBlocks,
        *,
        changed: Callable[[], None],
        tasks: Tasks,
    ) -> None:
        self._facts = facts
        self._writer = writer
        self._handles = handles
        self._holdings = holdings
        self._blocks = node_blocks
        self._changed = changed
        self._tasks = tasks
        self._trouble = Trouble(log)

    async def release(self, releases: Sequence[Release], unused_since: datetime | None = None) -> Released:
        """Release addresses that still are what the caller saw; see Allocator.release."""
        done = await self.release_only(releases, self._facts.cooldown, unused_since)
        for handle_id in {release.handle_id for release in releases}:
            self._holdings.forget_empty(handle_id)
        for of in {family(address) for address in done.released}:
            await self.release_unselected(of)
        return done

    async def undo(self, got: Sequence[Assigned]) -> None:
        """Release what was assigned in vain; no cooldown, for nobody has used it."""
        releases = [Release(a.address, a.handle_id, a.sequence, a.block) for a in got]
        try:
            await self.release_only(releases, timedelta(0))
        except (StoreError, IPAMError):
            self._tasks.spawn(self._undo_until_done(releases), name=f"undo {[str(r.address) for r in releases]}")

    async def _undo_until_done(self, releases: Sequence[Release]) -> None:
        for attempt in range(_UNDO_TRIES):
            await pause(8 + attempt, most=30)
            try:
                await self.release_only(releases, timedelta(0))
                return
            except (StoreError, IPAMError) as error:
                log.info("addresses assigned in vain are not released yet: %s", error)
        log.warning("addresses assigned in vain stay until the next reconciliation: %s", releases)

    async def release_only(
        self, releases: Sequence[Release], cooldown: timedelta, unused_since: datetime | None = None
    ) -> Released:
        """The same with another cooldown; neither handles that hold nothing nor blocks of no use are looked for."""
        unused_since = unused_since or self._facts.gone_since()
        by_block: dict[Network | None, list[Release]] = {}
        for wanted in releases:
            cidr = wanted.block or await self._holdings.block_of(wanted.address, self._facts.pools())
            by_block.setdefault(cidr, []).append(wanted)
        parts: list[Released] = []
        change = partial(ReleaseAddresses, now=self._facts.now, cooldown=cooldown, unused_since=unused_since)
        await all_of([self._release_in(cidr, change(some), parts) for cidr, some in by_block.items()])
        return Released(
            tuple(a for part in parts for a in part.released),
            tuple(a for part in parts for a in part.unallocated),
            {address: reason for part in parts for address, reason in part.refused.items()},
        )

    async def _release_in(self, cidr: Network | None, change: ReleaseAddresses, parts: list[Released]) -> None:
        nowhere = Released(unallocated=tuple(r.address for r in change.releases))
        if cidr is None:
            parts.append(nowhere)
            return
        try:
            done = await self._writer.change(cidr, change)
            if (done.unallocated or done.refused) and await self._writer.refresh(cidr):
                done = await self._writer.change(cidr, change)
            parts.append(done)
        except BlockGoneError:
            parts.append(nowhere)
        finally:
            self._changed()
            for handle_id in change.handles | {r.handle_id for r in change.releases}:
                self._handles.mark(handle_id, [cidr])

    async def release_unselected(self, of: Family) -> None:
        """Give back the empty blocks whose pool does not select this node any more, or is gone."""
        pools, labels = self._facts.pools(), self._facts.labels()
        for cidr in [cidr for cidr in self._blocks.own if pools and cidr.version == of]:
            pool, block = pool_of(pools, cidr), self._writer.known.get(cidr)
            if (pool is not None and (pool.disabled or selects_node(pool, labels))) or block is None:
                continue
            if blocks.is_empty(blocks.thaw(block, now=self._facts.now(), cooldown=self._facts.cooldown)):
                try:
                    await self._blocks.release(cidr, self._facts.node, self._facts.cooldown)
                except StoreError as error:
                    self._trouble.tell(f"block {cidr}, which no pool for this node contains, is not released", error)
                else:
                    self._trouble.over()

    async def release_handle(self, handle_id: str) -> int:
        """Release all addresses of a handle; how many there were."""
        found = await self._holdings.find(handle_id)
        done = await self.release([Release(a.address, a.handle_id, a.sequence, a.block) for a in found])
        if done.released and not done.refused:
            self._holdings.emptied(handle_id)
        return len(done.released)
