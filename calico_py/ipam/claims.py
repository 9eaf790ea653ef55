"""How a block becomes a node's and ceases to be: affinity pending, block created, affinity confirmed; and backwards.

Creating the block decides a race: who loses deletes its pending affinity. Before that ``rivals`` has looked for claims
of blocks of another size that overlap it, which do not meet by name. Every step leaves a state that any later reader
can finish or undo: see ``settle``, which is the whole recovery after a crash.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from calico_py.ipam.blocks import is_empty, new_block, sealed, thaw
from calico_py.ipam.commits import RETRIES, RETRIES_UNAVAILABLE, BlockWriter
from calico_py.ipam.deletion import delete_marked
from calico_py.ipam.requests import ContendedError, UnreadableError
from calico_py.ipam.rivals import Rivals
from calico_py.ipam.tasks import pause
from calico_py.model.blocks import AffinityState, BlockAffinity, IPAMBlock
from calico_py.model.kinds import BLOCK_AFFINITIES, IPAM_BLOCKS
from calico_py.model.meta import Meta
from calico_py.model.names import (
    LABEL_AFFINITY_TYPE,
    LABEL_HOSTNAME_HASH,
    affinity_labels,
    affinity_name,
    block_name,
    hostname_hash,
)
from calico_py.model.net import Network
from calico_py.model.store import ConflictError, ExistsError, NotFoundError, Store, UnavailableError

log = logging.getLogger(__name__)


class Claims:
    """Claims of one node; ``release`` works for any node's."""

    def __init__(
        self, store: Store, writer: BlockWriter, rivals: Rivals, *, node: str, now: Callable[[], datetime]
    ) -> None:
        self._store = store
        self._writer = writer
        self._rivals = rivals
        self._node = node
        self._now = now

    async def list_own(self) -> list[IPAMBlock]:
        """The node's blocks as the API has them now, by CIDR; claims that a crash left half-done are settled first."""
        labels = f"{LABEL_AFFINITY_TYPE}=host,{LABEL_HOSTNAME_HASH}={hostname_hash(self._node)}"
        listing = await self._store.list(BLOCK_AFFINITIES, labels=labels)
        mine = sorted((a for a in listing.items if a.node == self._node), key=lambda a: (a.cidr.version, a.cidr))
        settled = await asyncio.gather(*(self.settle(affinity) for affinity in mine), return_exceptions=True)
        found = []
        for block in settled:
            if isinstance(block, UnreadableError):
                log.warning("left out: %s", block)
            elif isinstance(block, BaseException):
                raise block
            elif block is not None:
                found.append(block)
        return found

    async def settle(self, affinity: BlockAffinity) -> IPAMBlock | None:
        """Finish or undo what this affinity of the node says was begun; the block if it is the node's in the end.

        - The block does not exist: it is created; on the way to deletion, the affinity goes as well.
        - The block is this node's: the affinity is confirmed. The block is written first, so that a deletion that
          someone else has begun meets a conflict.
        - The block is somebody else's, or nobody's: the affinity is stale and goes.

        A node has up to forty of them, and one request that fails must not cost all the others.
        """
        unavailable = 0
        for attempt in range(RETRIES):
            try:
                return await self._settle_once(affinity)
            except (ConflictError, NotFoundError):
                await pause(attempt)
            except UnavailableError:
                unavailable += 1
                if unavailable == RETRIES_UNAVAILABLE:
                    raise
                await pause(8)
                continue
            found = await self._find_affinity(self._node, affinity.cidr)
            if found is None:
                return None
            affinity = found
        raise ContendedError(f"affinity {affinity.meta.name}: {RETRIES} conflicts in a row; try again")

    async def _settle_once(self, affinity: BlockAffinity) -> IPAMBlock | None:
        block = await self._writer.read(affinity.cidr)
        if affinity.deleted:
            await delete_marked(self._store, BLOCK_AFFINITIES, affinity)
            return None
        if block is None:
            if affinity.state is AffinityState.PENDING_DELETION:
                await self._finish_block_deletion(affinity.cidr)
                await delete_marked(self._store, BLOCK_AFFINITIES, affinity)
                return None
            return await self._create_block(await self._set_state(affinity, AffinityState.PENDING))
        if block.node != self._node:
            await delete_marked(self._store, BLOCK_AFFINITIES, affinity)
            return None
        if affinity.state is AffinityState.CONFIRMED:
            return block
        affinity = await self._set_state(affinity, AffinityState.PENDING)
        block = self._writer.learn(await self._store.update(IPAM_BLOCKS, sealed(block)))
        await self._set_state(affinity, AffinityState.CONFIRMED)
        return block

    async def claim(self, cidr: Network) -> IPAMBlock | None:
        """Make an unclaimed block this node's; None if another node was faster with it, or with one that overlaps.

        Raises:
            ContendedError: a conflict on each of 100 tries.
        """
        affinity = BlockAffinity(
            meta=Meta(affinity_name(self._node, cidr), labels=affinity_labels(self._node, cidr)),
            cidr=cidr,
            node=self._node,
            state=AffinityState.PENDING,
        )
        for attempt in range(RETRIES):
            try:
                return await self._create_block(await self._store.create(BLOCK_AFFINITIES, affinity))
            except (ConflictError, NotFoundError):
                pass
            except ExistsError:
                found = await self._find_affinity(self._node, cidr)
                if found is not None and (block := await self.settle(found)) is not None:
                    return block
            await pause(attempt)
        raise ContendedError(f"block {cidr}: its claim met {RETRIES} conflicts in a row; try again")

    async def _create_block(self, affinity: BlockAffinity) -> IPAMBlock | None:
        cidr = affinity.cidr
        if (rival := await self._rivals.find(affinity)) is not None:
            log.warning("block %s is not claimed: it overlaps %s, which is of node %s", cidr, rival.cidr, rival.node)
            await delete_marked(self._store, BLOCK_AFFINITIES, affinity)
            return None
        try:
            block = await self._store.create(IPAM_BLOCKS, new_block(cidr, node=self._node, now=self._now()))
        except ExistsError:
            try:
                found = await self._writer.read(cidr)
            except UnreadableError:
                await delete_marked(self._store, BLOCK_AFFINITIES, affinity)
                raise
            if found is None:
                await self._finish_block_deletion(cidr)
                raise ConflictError(f"block {cidr} was being deleted") from None
            if found.node != self._node:
                await delete_marked(self._store, BLOCK_AFFINITIES, affinity)
                return None
            block = found
        block = self._writer.learn(block)
        await self._set_state(affinity, AffinityState.CONFIRMED)
        return block

    async def _set_state(self, affinity: BlockAffinity, state: AffinityState) -> BlockAffinity:
        if affinity.state is state:
            return affinity
        return await self._store.update(BLOCK_AFFINITIES, replace(affinity, state=state))

    async def _find_affinity(self, node: str, cidr: Network) -> BlockAffinity | None:
        try:
            return await self._store.get(BLOCK_AFFINITIES, affinity_name(node, cidr))
        except NotFoundError:
            return None

    async def _finish_block_deletion(self, cidr: Network) -> None:
        try:
            block = await self._store.get(IPAM_BLOCKS, block_name(cidr))
        except NotFoundError:
            return
        if block.deleted:
            await delete_marked(self._store, IPAM_BLOCKS, block)

    async def release(
        self, cidr: Network, node: str, *, cooldown: timedelta = timedelta(0), sequence: int | None = None
    ) -> bool:
        """Give an empty block of a node back to its pool; False if it stays.

        It stays where it is another node's, has addresses that somebody holds or that cool down, or (with ``sequence``)
        was written since it was looked at.
        """
        try:
            return await self._release_once(cidr, node, cooldown=cooldown, sequence=sequence)
        except (ConflictError, NotFoundError):
            await self._confirm_again(cidr, node)
            return False

    async def _release_once(self, cidr: Network, node: str, *, cooldown: timedelta, sequence: int | None) -> bool:
        affinity = await self._find_affinity(node, cidr)
        block = await self._writer.read(cidr)
        if block is None or block.node != node:
            if affinity is not None:
                await self._finish_block_deletion(cidr)
                await delete_marked(self._store, BLOCK_AFFINITIES, affinity)
            return block is None
        unchanged = sequence in (None, block.sequence_number)
        if not unchanged or not is_empty(thaw(block, now=self._now(), cooldown=cooldown)):
            return False
        if affinity is not None:
            affinity = await self._set_state(affinity, AffinityState.PENDING_DELETION)
        await delete_marked(self._store, IPAM_BLOCKS, block)
        self._writer.known.pop(cidr, None)
        if affinity is not None:
            await delete_marked(self._store, BLOCK_AFFINITIES, affinity)
        return True

    async def resolve(self, cidr: Network, node: str, *, cooldown: timedelta) -> None:
        """Finish or undo, for whichever node, a claim or release that nobody goes on with.

        An affinity without a block of its node goes, and so does an empty block; a block in use is confirmed.
        """
        if not await self.release(cidr, node, cooldown=cooldown):
            await self._confirm_again(cidr, node)

    async def _confirm_again(self, cidr: Network, node: str) -> None:
        """The owner used the block before it could be deleted: its claim stands as it was."""
        affinity, block = await self._find_affinity(node, cidr), await self._writer.read(cidr)
        if affinity is None or block is None or block.node != node or affinity.deleted:
            return
        if affinity.state is AffinityState.PENDING_DELETION:
            try:
                await self._set_state(affinity, AffinityState.CONFIRMED)
            except (ConflictError, NotFoundError):
                return  # the owner mends it itself
