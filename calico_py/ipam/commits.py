"""Group commit: all changes that wait for a block go into its next write, one write at a time for each block.

A change is a pure function of the block, so a conflict costs a read and another application of the same changes. An
answer that never came (UnavailableError) leaves open whether the write stands: the block is read again, and a change
that finds its own work in it says so instead of doing it twice.
"""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, TypeVar

from calico_py.ipam.blocks import is_empty, sealed
from calico_py.ipam.deletion import delete_marked
from calico_py.ipam.requests import ContendedError, UnreadableError
from calico_py.ipam.tasks import Tasks, pause
from calico_py.model.blocks import IPAMBlock
from calico_py.model.kinds import IPAM_BLOCKS
from calico_py.model.names import block_name
from calico_py.model.net import InvalidError, Network
from calico_py.model.store import ConflictError, NotFoundError, Store, UnavailableError

T = TypeVar("T")
Change = Callable[[IPAMBlock], tuple[IPAMBlock, T]]

RETRIES = 100  # Calico's, for each step
RETRIES_UNAVAILABLE = 3  # where an answer did not come


class BlockGoneError(Exception):
    """The block does not exist, or somebody is deleting it."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    change: Change[Any]
    answer: asyncio.Future[Any]


class BlockWriter:
    """The blocks that this process works with, at the latest version that it has seen, and the only way to change one.

    Attributes:
        known: by CIDR; may be behind the API, which a write finds out.
        writes: how many times a block was written, conflicts included.
    """

    def __init__(self, store: Store, tasks: Tasks) -> None:
        self.known: dict[Network, IPAMBlock] = {}
        self.writes = 0
        self._seen: dict[Network, tuple[str, int]] = {}
        self._store = store
        self._tasks = tasks
        self._waiting: dict[Network, list[_Waiting]] = {}

    async def change(self, cidr: Network, change: Change[T]) -> T:
        """Apply the change in the block's next write, and return what it returned once that write stands.

        A change that raises fails alone; one that returns the block itself costs no write.

        Raises:
            BlockGoneError: there is no such block. UnreadableError: it cannot be read.
            ContendedError: a conflict on each of 100 tries.
        """
        waiting = _Waiting(change, asyncio.get_running_loop().create_future())
        if cidr in self._waiting:
            self._waiting[cidr].append(waiting)
        else:
            self._waiting[cidr] = [waiting]
            self._tasks.spawn(self._work_off(cidr), name=f"write block {cidr}")
        found: T = await waiting.answer
        return found

    async def read(self, cidr: Network) -> IPAMBlock | None:
        """The block as the API has it now; None if there is none.

        Raises:
            UnreadableError: there is one, but the codec refuses it.
        """
        try:
            block = await self._store.get(IPAM_BLOCKS, block_name(cidr))
        except NotFoundError:
            block = None
        except InvalidError as error:
            raise UnreadableError(f"IPAMBlock {block_name(cidr)}: {error}; mend or delete it") from None
        if block is None or block.deleted:
            self.known.pop(cidr, None)
            return None
        return self.learn(block)

    def learn(self, block: IPAMBlock) -> IPAMBlock:
        """Note what the API said of a block, unless a later version was seen: answers may overtake each other.

        That holds for a version that is not known any more too: a watch that lags would bring back what it had before.
        Every write counts the sequence number up, Calico's too.
        """
        uid, number = self._seen.get(block.cidr, ("", 0))
        if uid == block.meta.uid and number > block.sequence_number:
            return self.known.get(block.cidr, block)
        self._seen[block.cidr] = (block.meta.uid, block.sequence_number)
        self.known[block.cidr] = block
        return block

    def later(self, block: IPAMBlock) -> IPAMBlock:
        """The later of this version and of what is known; the block of before is no version of one made anew."""
        known = self.known.get(block.cidr)
        if known is not None and known.meta.uid == block.meta.uid and known.sequence_number > block.sequence_number:
            return known
        return block

    async def refresh(self, cidr: Network) -> bool:
        """Read the block again; True if the version that was known was not the API's."""
        known = self.known.get(cidr)
        block = await self.read(cidr)
        return known is None or block is None or known.meta.resource_version != block.meta.resource_version

    def forget_but(self, cidrs: Collection[Network]) -> None:
        """Drop all blocks but these and those that are being written."""
        kept = {*cidrs, *self._waiting}
        self.known = {cidr: block for cidr, block in self.known.items() if cidr in kept}
        self._seen = {cidr: seen for cidr, seen in self._seen.items() if cidr in kept}

    async def latest(self, cidr: Network) -> IPAMBlock | None:
        """The known version, or the API's where none is known."""
        return self.known.get(cidr) or await self.read(cidr)

    async def _work_off(self, cidr: Network) -> None:
        while batch := self._waiting[cidr]:
            self._waiting[cidr] = []
            try:
                await self._commit(cidr, [w for w in batch if not w.answer.cancelled()])
            except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must hear it
                for waiting in batch:
                    if not waiting.answer.done():
                        waiting.answer.set_exception(error)
        del self._waiting[cidr]

    async def _commit(self, cidr: Network, batch: list[_Waiting]) -> None:
        unavailable = 0
        for attempt in range(RETRIES):
            try:
                base = await self.latest(cidr)
                if base is None:
                    raise BlockGoneError(f"there is no block {cidr}")
                block, answers = _apply(base, batch)
                if block is not base:
                    await self._write(block)
            except (ConflictError, NotFoundError):
                self.known.pop(cidr, None)
            except UnavailableError:
                self.known.pop(cidr, None)
                unavailable += 1
                if unavailable == RETRIES_UNAVAILABLE:
                    raise
            else:
                _answer(answers)
                return
            await pause(attempt)
        raise ContendedError(f"block {cidr}: its writes met {RETRIES} conflicts in a row; try again")

    async def _write(self, block: IPAMBlock) -> None:
        self.writes += 1
        if block.affinity is None and is_empty(block):
            await delete_marked(self._store, IPAM_BLOCKS, block)
            self.known.pop(block.cidr, None)
        else:
            self.learn(await self._store.update(IPAM_BLOCKS, sealed(block)))


def _apply(block: IPAMBlock, batch: list[_Waiting]) -> tuple[IPAMBlock, list[tuple[_Waiting, Any, Exception | None]]]:
    answers: list[tuple[_Waiting, Any, Exception | None]] = []
    for waiting in batch:
        try:
            block, found = waiting.change(block)
            answers.append((waiting, found, None))
        except Exception as error:  # noqa: BLE001 - it is that change's own answer
            answers.append((waiting, None, error))
    return block, answers


def _answer(answers: list[tuple[_Waiting, Any, Exception | None]]) -> None:
    for waiting, found, error in answers:
        if waiting.answer.done():
            continue
        if error is not None:
            waiting.answer.set_exception(error)
        else:
            waiting.answer.set_result(found)
