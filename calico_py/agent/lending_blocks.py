"""LendingBlocks: the blocks that lend addresses, kept current; those that lend to this node also without their label.

The label by which they are watched is an index that a foreign writer may drop. The leader puts it back, but until then
nobody but the block's own node sees the block. That is enough for the others, whose packets that node passes on. The
node that borrows is the one that announces the address: what lends to it is read by name until it has its label again.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace

from calico_py.ipam.choice import pool_of
from calico_py.kube.backoff import Backoff
from calico_py.kube.reflector import Reflector
from calico_py.model.blocks import BlockAffinity, IPAMBlock
from calico_py.model.kinds import IPAM_BLOCKS
from calico_py.model.names import LABEL_BORROWED, block_name
from calico_py.model.net import Address, InvalidError, Network, network_at
from calico_py.model.pools import IPPool
from calico_py.model.store import EventType, Listing, NotFoundError, Store, StoreError, WatchEvent
from calico_py.routing.holders import find_holders
from calico_py.trouble import Trouble

log = logging.getLogger(__name__)

# Seconds, at most, between two looks at a block without its label: its last borrowed address may be given back.
_AGAIN = 4.0


class LendingBlocks(Reflector[IPAMBlock]):
    """A reflector of the labelled blocks, and of others that are known to lend to one node.

    A block that leaves the selection is read at once: mostly it lends nothing any more. Only the nodes that had an
    address of it do so, however many others watch.

    Args:
        affinities, pools: of the cluster; by these the block of an address is found.
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
        living: Callable[[], Awaitable[Iterable[Address]]],
        trouble: Trouble | None = None,
    ) -> None:
        super().__init__(store, IPAM_BLOCKS, on_change, labels=f"{LABEL_BORROWED}=true", trouble=trouble)
        self._node = node
        self._affinities = affinities
        self._pools = pools
        self._living = living
        self._unlabelled: set[str] = set()
        self._left = asyncio.Event()
        self._looking = Trouble(log)

    async def run(self) -> None:
        """List, then watch, for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(super().run(), name="reflector of lending blocks")
            tasks.create_task(self._look_again(), name="lending blocks without their label")

    async def _complete(self, listing: Listing[IPAMBlock]) -> Listing[IPAMBlock]:
        """With the blocks that lend to this node and are not in the list."""
        listed = {block.meta.name for block in listing.items}
        lending = {name for name, block in self.objects.items() if self._borrows_from(block)}
        if not self.in_sync:
            lending = {block_name(cidr) for cidr in await self._not_ones_own()}
        kept = [block for name in sorted(lending - listed) if (block := await self._read(name)) is not None]
        self._unlabelled = {block.meta.name for block in kept}
        self._left.set()
        return replace(listing, items=(*listing.items, *kept))

    def _apply(self, event: WatchEvent[IPAMBlock]) -> None:
        before = self.objects.get(event.name)
        if event.type == EventType.DELETED and before is not None and self._borrows_from(before):
            self._unlabelled.add(event.name)
            self._left.set()
            return
        if event.type != EventType.BOOKMARK:
            self._unlabelled.discard(event.name)
            self._looking.over(party=event.name)
        super()._apply(event)

    async def _look_again(self) -> None:
        """At once at each block that has left, and now and then for as long as it stays away."""
        again, after_failure = Backoff(_AGAIN, cap=_AGAIN), Backoff()
        while True:
            failed = [name for name in sorted(self._unlabelled) if not await self._look(name)]
            if not failed:
                after_failure.reset()
            pause = (after_failure if failed else again).wait() if self._unlabelled else None
            try:
                async with asyncio.timeout(pause):
                    await self._left.wait()
            except TimeoutError:
                continue
            self._left.clear()

    async def _look(self, name: str) -> bool:
        """Whether the server answered. What the watch has told of meanwhile is newer, or is looked at again."""
        before = self.objects.get(name)
        try:
            found = await self._read(name)
        except StoreError as error:
            self._looking.tell(
                f"IPAMBlock {name} lends to this node, has no label, and cannot be read", error, party=name
            )
            return False
        self._looking.over(party=name)
        if name not in self._unlabelled or self.objects.get(name) is not before:
            return True
        if found is None:
            self._unlabelled.discard(name)
            self.objects.pop(name, None)
        else:
            self.objects[name] = found
        if found != before:
            self._on_change()
        return True

    async def _read(self, name: str) -> IPAMBlock | None:
        """The block as the server has it; None if it lends nothing to this node."""
        try:
            found = await self._store.get(IPAM_BLOCKS, name)
        except NotFoundError:
            return None
        except InvalidError as error:
            log.warning("%s %s is not used: %s", IPAM_BLOCKS.kind, name, error)
            return None
        return found if self._borrows_from(found) else None

    def _borrows_from(self, block: IPAMBlock) -> bool:
        holders = find_holders((), {block.cidr: block}).by_prefix.values()
        return any(holder.node == self._node for holder in holders)

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
