"""Work that goes on behind an answer: started, kept alive, its errors logged, and awaited at the end."""

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from calico_py.ipam.requests import IPAMError
from calico_py.model.store import StoreError

T = TypeVar("T")

log = logging.getLogger(__name__)


class Tasks:
    """The running tasks of one owner. The event loop itself holds tasks by weak references only."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, T], *, name: str, awaited: bool = False) -> asyncio.Task[T]:
        """Start it. Its error goes to whoever awaits it, or, if nobody does (``awaited`` is false), to the log."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        if not awaited:
            task.add_done_callback(_log_error)
        return task

    async def to_its_end(self, work: Coroutine[Any, Any, T], *, name: str) -> T:
        """Run work that goes on if the caller is cancelled; its error then goes to the log."""
        task = self.spawn(work, name=name, awaited=True)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_log_error)
            raise

    async def drain(self) -> None:
        """Wait until nothing runs any more, what was started meanwhile included."""
        while self._running:
            await asyncio.wait(self._running)


async def pause(attempt: int, *, most: float = 0.1) -> None:
    """Wait before another try: not at all after the first, then longer each time, up to ``most`` seconds."""
    await asyncio.sleep(min(most, 0.001 * (2**attempt - 1)))


async def all_of(parts: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run all at the same time to their ends; then raise the first error, if there was one."""
    for result in await asyncio.gather(*parts, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


def _log_error(task: asyncio.Task[Any]) -> None:
    """What the API, the disk or IPAM refused is a sentence; only a defect shows where in the code it was met."""
    if task.cancelled() or (error := task.exception()) is None:
        return
    if isinstance(error, StoreError | IPAMError | OSError):
        log.warning("%s: %s", task.get_name(), error)
    else:
        log.error("%s: %s", task.get_name(), error, exc_info=error)
