"""OwnBlocks: this node's blocks, kept current.

calico-py's CRD lets the server select blocks by ``spec.affinity``; Calico's own does not. There each block is watched
by its name, which the node's affinities tell: a watch for each of them, and still nothing of the blocks of others.
"""

import asyncio
import logging
from collections.abc import Callable

from calico_py.kube.reflector import Reflector
from calico_py.model.blocks import BlockAffinity, IPAMBlock
from calico_py.model.kinds import IPAM_BLOCKS
from calico_py.model.names import block_name
from calico_py.model.store import RefusedError, Store
from calico_py.trouble import Trouble

log = logging.getLogger(__name__)


class OwnBlocks(Reflector[IPAMBlock]):
    """A reflector of the blocks of one node. ``follow`` is to be called when an affinity changed.

    Args:
        affinities: of all nodes.
        trouble: as a Reflector's.
    """

    def __init__(
        self,
        store: Store,
        node: str,
        on_change: Callable[[], None],
        affinities: Reflector[BlockAffinity],
        *,
        trouble: Trouble | None = None,
    ) -> None:
        fields = f"spec.affinity=host:{node}"
        super().__init__(store, IPAM_BLOCKS, on_change, fields=fields, optional=True, trouble=trouble)
        self._node = node
        self._affinities = affinities
        self._claims = asyncio.Event()
        self._watches: dict[str, tuple[Reflector[IPAMBlock], asyncio.Task[None]]] = {}

    def follow(self) -> None:
        """An affinity changed."""
        self._claims.set()

    async def run(self) -> None:
        """List, then watch, for ever."""
        try:
            await super().run()
        except RefusedError as error:
            log.info("the server cannot select this node's blocks (%s): each is watched by its name", error)
        self.last_error = ""
        await self._affinities.wait_in_sync()
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._claims.clear()
                self._watch_claimed(tasks)
                self._merge()
                await self._claims.wait()

    def _watch_claimed(self, tasks: asyncio.TaskGroup) -> None:
        claimed = {block_name(a.cidr) for a in self._affinities.objects.values() if a.node == self._node}
        for name in self._watches.keys() - claimed:
            self._watches.pop(name)[1].cancel()
        for name in sorted(claimed - self._watches.keys()):
            watch = Reflector(self._store, IPAM_BLOCKS, self._merge, fields=f"metadata.name={name}")
            self._watches[name] = watch, tasks.create_task(watch.run(), name=f"reflector of block {name}")

    def _merge(self) -> None:
        """What all the watches have, as one would have it; what a new one has not listed yet is as it was."""
        before = self.objects, self.invalid, self.in_sync
        watches = {name: watch for name, (watch, _) in self._watches.items()}
        found = [block for watch in watches.values() for block in watch.objects.values() if block.node == self._node]
        late = [self.objects[name] for name, watch in watches.items() if not watch.in_sync and name in self.objects]
        self.objects = {block.meta.name: block for block in (*late, *found)}
        self.invalid = {name: error for watch in watches.values() for name, error in watch.invalid.items()}
        self.last_error = next((watch.last_error for watch in watches.values() if watch.last_error), "")
        if not self.in_sync and all(watch.in_sync for watch in watches.values()):
            self.in_sync = True
            self._synced.set()
        if before != (self.objects, self.invalid, self.in_sync):
            self._on_change()
