"""LendingBlocks: the blocks that lend addresses, kept current; those that this node needs also without their label.

The label by which they are watched is an index that a foreign writer may drop. The leader puts it back, but until then
nobody but the block's own node sees the block. That is enough for the others, whose packets that node passes on. It is
not enough for the node that borrows, which announces the address, nor where the block is nobody's: such blocks stay as
they were last known, and are read by name until they have their label again or are needed no more.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace

from calico_py.ipam.choice import pool_of
from calico_py.kube.backoff import Backoff
from calico_py.kube.reflector import Reflector
from calico_py.model.blocks import BlockAffinity, IPAMBlock
from calico_py.model.kinds import IPAM_BLOCKS
from calico_py.model.names import LABEL_BORROWED, block_name
from calico_py.model.net import Address, InvalidError, Network, network_at
from calico_py.model.nodes import Node
from calico_py.model.pools import IPPool
from calico_py.model.store import EventType, Listing, NotFoundError, Store, StoreError, WatchEvent
from calico_py.routing.holders import find_holders
from calico_py.trouble import Trouble

log = logging.getLogger(__name__)

# Seconds, at most, between two looks at a block without its label: its last borrowed address may be given back.
_AGAIN = 4.0

# All nodes need a block that is nobody's: their looks at it are spread over so many seconds for each of them.
_APART = 0.002


class LendingBlocks(Reflector[IPAMBlock]):
    """A reflector of the labelled blocks, and of others that are known to lend. ``follow`` when an affinity changed.

    A block that leaves the selection mostly lends nothing any more. The nodes that had an address of it, which are few,
    read it at once; of a block that is nobody's the others read it within a time that grows with their number.

    Args:
        affinities, pools, nodes: of the cluster.
        living: the addresses of this node's pods; asked once, for blocks that had lost their label before the start.
        trouble: as a Reflector's.
    """

    def __init__(
        self,
        store: Store,
        node: str,
        on_change: Callable[[], None],
        *,
        affinities: Reflector[BlockAffinity],
        pools: Reflector[IPPool],
        nodes: Reflector[Node],
        living: Callable[[], Awaitable[Iterable[Address]]],
        trouble: Trouble | None = None,
    ) -> None:
        super().__init__(store, IPAM_BLOCKS, on_change, labels=f"{LABEL_BORROWED}=true", trouble=trouble)
        self._node = node
        self._affinities = affinities
        self._pools = pools
        self._nodes = nodes
        self._living = living
        self._unlabelled: dict[str, float] = {}  # with the time of the next look
        self._left = asyncio.Event()
        self._looking = Trouble(log)

    def follow(self) -> None:
        """An affinity changed: a block that was nobody's may be a node's now, which sees it and passes packets on."""
        left = [self.objects[name] for name in self._unlabelled]
        dropped = [block for block in left if not self._needs(block)]
        for block in dropped:
            self._drop(block.meta.name)
        if dropped:
            self._on_change()

    async def run(self) -> None:
        """List, then watch, for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(super().run(), name="reflector of lending blocks")
            tasks.create_task(self._look_again(), name="lending blocks without their label")

    async def _complete(self, listing: Listing[IPAMBlock]) -> Listing[IPAMBlock]:
        """With the needed blocks that are not in the list."""
        listed = {block.meta.name for block in listing.items}
        missing = {name: block for name, block in self.objects.items() if name not in listed}
        nobodys = [block for block in missing.values() if not self._borrows_from(block) and self._needs(block)]
        lending = {name for name, block in missing.items() if self._borrows_from(block)}
        if not self.in_sync:
            lending = {block_name(cidr) for cidr in await self._not_ones_own()} - listed
        read = [block for name in sorted(lending) if (block := await self._read(name)) is not None]
        self._unlabelled = {block.meta.name: self._next_look(block) for block in read}
        self._unlabelled |= {block.meta.name: self._first_look(block) for block in nobodys}
        self._left.set()
        return replace(listing, items=(*listing.items, *read, *nobodys))

    def _apply(self, event: WatchEvent[IPAMBlock]) -> None:
        before = self.objects.get(event.name)
        if event.type == EventType.DELETED and before is not None and self._needs(before):
            self._unlabelled[event.name] = self._first_look(before)
            self._left.set()
            return
        if event.type != EventType.BOOKMARK:
            self._unlabelled.pop(event.name, None)
            self._looking.over(party=event.name)
        super()._apply(event)

    async def _look_again(self) -> None:
        """At each block that has left, and now and then for as long as it stays away."""
        clock, after_failure = asyncio.get_running_loop().time, Backoff()
        while True:
            for name in [name for name, due in self._unlabelled.items() if due <= clock()]:
                answered = await self._look(name)
                if answered:
                    after_failure.reset()
                if name in self._unlabelled:
                    block = self.objects[name]
                    self._unlabelled[name] = self._next_look(block) if answered else clock() + after_failure.wait()
            try:
                async with asyncio.timeout_at(min(self._unlabelled.values(), default=None)):
                    await self._left.wait()
            except TimeoutError:
                continue
            self._left.clear()

    def _first_look(self, block: IPAMBlock) -> float:
        """When, by the loop's clock."""
        spread = 0.0 if self._borrows_from(block) else _APART * len(self._nodes.objects)
        return asyncio.get_running_loop().time() + random.uniform(0, spread)  # noqa: S311 - spreads load, no secret

    def _next_look(self, block: IPAMBlock) -> float:
        return self._first_look(block) + _AGAIN * random.uniform(0.5, 1.0)  # noqa: S311 - as above

    async def _look(self, name: str) -> bool:
        """Whether the server answered. What the watch has told of meanwhile is newer, or is looked at again."""
        before = self.objects.get(name)
        try:
            found = await self._read(name)
        except StoreError as error:
            self._looking.tell(f"IPAMBlock {name} lends, has no label, and cannot be read", error, party=name)
            return False
        self._looking.over(party=name)
        if name not in self._unlabelled or self.objects.get(name) is not before:
            return True
        if found is None:
            self._drop(name)
        else:
            self.objects[name] = found
        if found != before:
            self._on_change()
        return True

    def _drop(self, name: str) -> None:
        del self._unlabelled[name]
        self.objects.pop(name, None)
        self._looking.over(party=name)

    async def _read(self, name: str) -> IPAMBlock | None:
        """The block as the server has it; None if it is not needed."""
        try:
            found = await self._store.get(IPAM_BLOCKS, name)
        except NotFoundError:
            return None
        except InvalidError as error:
            log.warning("%s %s is not used: %s", IPAM_BLOCKS.kind, name, error)
            return None
        return found if self._needs(found) else None

    def _needs(self, block: IPAMBlock) -> bool:
        """Whether no other node can stand in for this one's sight of the block."""
        if block.node is not None or any(claim.cidr == block.cidr for claim in self._affinities.objects.values()):
            return self._borrows_from(block)
        return bool(_borrowers(block))

    def _borrows_from(self, block: IPAMBlock) -> bool:
        return self._node in _borrowers(block)

    async def _not_ones_own(self) -> set[Network]:
        """The blocks in which addresses of living pods lie and which are not this node's."""
        await self._affinities.wait_in_sync()
        await self._pools.wait_in_sync()
        claims = {claim.cidr: claim.node for claim in self._affinities.objects.values()}
        lengths = {(cidr.version, cidr.prefixlen) for cidr in claims}
        found: set[Network] = set()
        for address in await self._living():
            around = (network_at(address, length) for version, length in lengths if version == address.version)
            block = next((cidr for cidr in around if cidr in claims), None)
            pool = pool_of(self._pools.objects.values(), address) if block is None else None
            if pool is not None:  # nobody's, perhaps
                block = network_at(address, pool.block_size)
            if block is not None and claims.get(block) != self._node:
                found.add(block)
        return found


def _borrowers(block: IPAMBlock) -> set[str]:
    """The nodes that have an address of the block, other than its own."""
    return {holder.node for holder in find_holders((), {block.cidr: block}).by_prefix.values()}
