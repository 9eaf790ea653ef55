"""Where a handle's addresses are: from memory where this process assigned them, else from the API.

The IPAMHandle alone does not do: it is written behind the answer, so after a crash an address may be held of which the
handle does not know. The node's own blocks and those that lend addresses are searched then.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from calico_py.ipam import blocks
from calico_py.ipam.choice import pool_of
from calico_py.ipam.commits import BlockWriter
from calico_py.ipam.handles import Handles
from calico_py.ipam.node_blocks import NodeBlocks
from calico_py.ipam.requests import Assigned
from calico_py.model.blocks import IPAMBlock
from calico_py.model.kinds import IPAM_BLOCKS
from calico_py.model.names import LABEL_BORROWED
from calico_py.model.net import Address, Network, contains, network_at
from calico_py.model.pools import IPPool
from calico_py.model.store import Store

_MOST_EMPTIED = 1_000  # a runtime asks for the same DEL twice or more within minutes


@dataclass(slots=True)
class _Note:
    at: datetime
    blocks: set[Network] = field(default_factory=set)


class Holdings:
    """What the handles of one node hold."""

    def __init__(self, store: Store, writer: BlockWriter, handles: Handles, node_blocks: NodeBlocks) -> None:
        self._store = store
        self._writer = writer
        self._handles = handles
        self._blocks = node_blocks
        self._begun: dict[str, datetime] = {}
        self._notes: dict[str, _Note] = {}
        self._emptied: dict[str, None] = {}

    def begin(self, handle_id: str, at: datetime) -> None:
        """This process is about to assign the handle something: from now on it counts as living."""
        self._begun[handle_id] = at
        self._emptied.pop(handle_id, None)

    def give_up(self, handle_id: str) -> None:
        """Nothing came of it."""
        self._begun.pop(handle_id, None)

    def note(self, handle_id: str, cidrs: Iterable[Network], at: datetime) -> None:
        """This process has assigned the handle addresses in these blocks."""
        self._begun.pop(handle_id, None)
        self._emptied.pop(handle_id, None)
        note = self._notes.setdefault(handle_id, _Note(at))
        note.at = at
        note.blocks.update(cidrs)
        self._handles.mark(handle_id, note.blocks, new=True)

    def forget_empty(self, handle_id: str) -> None:
        """Drop the note of a handle that holds nothing any more."""
        if handle_id in self._notes and not _held(self._writer.known.values(), handle_id):
            del self._notes[handle_id]

    def emptied(self, handle_id: str) -> None:
        """All that the handle held is released, and only this process could give it more: no need to look again."""
        self._emptied[handle_id] = None
        if len(self._emptied) > _MOST_EMPTIED:
            del self._emptied[next(iter(self._emptied))]

    def since(self, at: datetime) -> frozenset[str]:
        """The handles to which this process assigned something since then, or is about to."""
        noted = {handle_id for handle_id, note in self._notes.items() if note.at >= at}
        return frozenset(noted | self._begun.keys())

    async def find(self, handle_id: str) -> list[Assigned]:
        """All that the handle holds, by address."""
        if handle_id in self._emptied:
            return []
        await self._blocks.load()
        note = self._notes.get(handle_id)
        if note is not None:
            return await self._held_in(note.blocks, handle_id)
        record = await self._handles.find(handle_id)
        if not _held(self._writer.known.values(), handle_id):
            await self._blocks.load(again=True)
        if record is None:
            found = await self._held_in([block.cidr for block in await self._list_lending()], handle_id)
            self.forget_lending(found)
            return found
        found = await self._held_in(record.blocks, handle_id)
        if record.blocks != Counter(a.block for a in found):
            self._handles.mark(handle_id, record.blocks)
        return found

    async def _read(self, cidrs: Iterable[Network]) -> list[IPAMBlock]:
        found = [await self._writer.latest(cidr) for cidr in tuple(cidrs)]
        return [block for block in found if block is not None]

    async def _held_in(self, cidrs: Iterable[Network], handle_id: str) -> list[Assigned]:
        """What it holds in these blocks, in the node's own and in all that are known, by address.

        The node's own are always looked at: there it may have what was written and whose answer did not come.
        """
        read = {block.cidr: block for block in await self._read({*cidrs, *self._blocks.own})}
        return _held((read | self._writer.known).values(), handle_id)

    async def list_all(self) -> list[IPAMBlock]:
        """The node's own blocks and all that lend addresses, as the API has them now."""
        await self._blocks.load(again=True)
        lending = await self._list_lending()
        return list({block.cidr: block for block in (*lending, *await self.read_own())}.values())

    async def read_own(self) -> list[IPAMBlock]:
        """The node's own blocks as far as known; those that are being written, and of which nothing is, are read."""
        return await self._read(self._blocks.own)

    async def block_of(self, address: Address, pools: Sequence[IPPool]) -> Network | None:
        """CIDR of the block in which an address lies; None if neither a pool nor a block contains it."""
        known = next((cidr for cidr in self._writer.known if contains(cidr, address)), None)
        if known is not None:
            return known
        pool = pool_of(pools, address)
        if pool is not None:
            return network_at(address, pool.block_size)
        listing = await self._store.list(IPAM_BLOCKS)
        return next((block.cidr for block in listing.items if contains(block.cidr, address)), None)

    def forget_lending(self, found: Iterable[Assigned] = ()) -> None:
        """Keep the blocks in which this node has something, and these: of those that lend there may be thousands."""
        noted = {cidr for note in self._notes.values() for cidr in note.blocks}
        self._writer.forget_but(noted.union(self._blocks.own, (a.block for a in found)))

    async def _list_lending(self) -> list[IPAMBlock]:
        listing = await self._store.list(IPAM_BLOCKS, labels=f"{LABEL_BORROWED}=true")
        return [self._writer.learn(block) for block in listing.items if not block.deleted]


def _held(found: Iterable[IPAMBlock], handle_id: str) -> list[Assigned]:
    held = [
        Assigned(a.address, block.cidr, a.sequence, a.handle)
        for block in found
        for a in blocks.held_by(block, handle_id)
        if not a.cooling
    ]
    return sorted(held, key=lambda a: (a.address.version, int(a.address)))
