"""IPAMHandles, written behind the answers: each names the blocks in which a handle has addresses, and how many.

The blocks are the truth. A handle is written from what the blocks hold at that moment, never by adding or subtracting,
so that writing it late, twice or after a crash comes to the same.
"""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import replace

from calico_py.ipam.blocks import held_by
from calico_py.ipam.commits import RETRIES, BlockWriter
from calico_py.ipam.tasks import Tasks, pause
from calico_py.model.blocks import IPAMHandle
from calico_py.model.kinds import IPAM_HANDLES
from calico_py.model.meta import Meta
from calico_py.model.names import handle_name
from calico_py.model.net import Network
from calico_py.model.store import ConflictError, ExistsError, NotFoundError, Store, StoreError, UnavailableError
from calico_py.trouble import Trouble
from calico_py.waiting import came

log = logging.getLogger(__name__)

_AT_ONCE = 8
_WORTH_TELLING = 8  # failures in a row
_LONGEST_PAUSE = 30.0
_GIVE_WAY_SECONDS = 1.0  # at most; tools look at handles, and look again


class Handles:
    """The write-behind of one process.

    Attributes:
        calm: not set while answers are being prepared, to which a write gives way for a while: a crowd of pods would
            else wait for its own handles, at the API server's processor as well as at this one.
    """

    def __init__(self, store: Store, writer: BlockWriter, tasks: Tasks) -> None:
        self.calm = asyncio.Event()
        self.calm.set()
        self._store = store
        self._writer = writer
        self._tasks = tasks
        self._dirty: dict[str, set[Network]] = {}
        self._running: set[str] = set()
        self._objects: dict[str, IPAMHandle] = {}
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._trouble = Trouble(log)

    async def find(self, handle_id: str) -> IPAMHandle | None:
        """The object, from what this process wrote or from the API."""
        return self._objects.get(handle_id) or await self._read(handle_id)

    def distrust(self, handle_id: str) -> None:
        """The object may not be what this process wrote any more."""
        self._objects.pop(handle_id, None)

    def learn(self, handles: Iterable[IPAMHandle]) -> None:
        """Objects as the API has just shown them, of handles that are about to be written: saves reading each."""
        for handle in handles:
            if not handle.deleted:
                self._objects.setdefault(handle.handle_id, handle)

    def mark(self, handle_id: str, blocks: Iterable[Network], *, new: bool = False) -> None:
        """What the handle has in these blocks changed: write it soon. ``new``: most likely there is no object yet."""
        if not handle_id:
            return
        self._dirty.setdefault(handle_id, set()).update(blocks)
        if handle_id not in self._running:
            self._running.add(handle_id)
            self._tasks.spawn(self._work_off(handle_id, new=new), name=f"write handle {handle_id}")

    async def _work_off(self, handle_id: str, *, new: bool) -> None:
        try:
            await self._give_way()
            while blocks := self._dirty.pop(handle_id, None):
                async with self._slots:
                    await self._write(handle_id, blocks, new=new)
                new = False
                self._trouble.over()
        except StoreError as error:
            what = f"IPAMHandle {handle_name(handle_id)} is not up to date, the next start mends it"
            self._trouble.tell(what, error)
        finally:
            self._running.discard(handle_id)

    async def _give_way(self) -> None:
        await came(self.calm, within=_GIVE_WAY_SECONDS)

    async def _write(self, handle_id: str, blocks: set[Network], *, new: bool) -> None:
        """Until it is done, however long the API fails: nothing else would come back to it while this process lives."""
        conflicts = failures = 0
        while conflicts < RETRIES:
            try:
                await self._write_once(handle_id, blocks, new=new and not conflicts and not failures)
            except (ConflictError, ExistsError, NotFoundError):
                self._objects.pop(handle_id, None)
                await pause(conflicts)
                conflicts += 1
            except UnavailableError as error:
                self._objects.pop(handle_id, None)
                failures += 1
                if failures == _WORTH_TELLING:
                    self._trouble.tell(f"IPAMHandle {handle_name(handle_id)} is not up to date", error)
                await pause(8 + min(failures, 8), most=_LONGEST_PAUSE)
            else:
                return
        raise ConflictError(f"{RETRIES} conflicts in a row")

    async def _write_once(self, handle_id: str, blocks: set[Network], *, new: bool) -> None:
        found = self._objects.get(handle_id) if new else await self.find(handle_id)
        counts = dict(found.blocks) if found else {}
        for cidr in blocks:
            block = await self._writer.latest(cidr)
            counts[cidr] = sum(not a.cooling for a in held_by(block, handle_id)) if block else 0
        wanted = {cidr: count for cidr, count in sorted(counts.items(), key=lambda item: str(item[0])) if count}
        if found is None and wanted:
            made = IPAMHandle(Meta(handle_name(handle_id)), handle_id, wanted)
            self._objects[handle_id] = await self._store.create(IPAM_HANDLES, made)
        elif found is not None and not wanted:
            self._objects.pop(handle_id, None)
            meta = found.meta
            await self._store.delete(IPAM_HANDLES, meta.name, uid=meta.uid, resource_version=meta.resource_version)
        elif found is not None and wanted != found.blocks:
            self._objects[handle_id] = await self._store.update(IPAM_HANDLES, replace(found, blocks=wanted))

    async def _read(self, handle_id: str) -> IPAMHandle | None:
        try:
            found = await self._store.get(IPAM_HANDLES, handle_name(handle_id))
        except NotFoundError:
            return None
        if not found.deleted:
            return found
        meta = found.meta
        await self._store.delete(IPAM_HANDLES, meta.name, uid=meta.uid, resource_version=meta.resource_version)
        return None
