"""Leader: the cluster-wide work that one agent does for all.

It writes the pools' conditions and tells what is wrong with cluster-wide objects, keeps the label of blocks with
borrowed addresses true, and collects leaked addresses. All its writes are compare-and-swap: an agent that still
believes it leads does no harm.
"""

import asyncio
import contextlib
import datetime as dt
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from calico_py.agent.announcer import Announcer
from calico_py.agent.conditions import POOL_CONDITIONS, Verdict, judge_pools, plan_conditions
from calico_py.agent.view import ClusterView
from calico_py.ipam.blocks import borrowed
from calico_py.ipam.requests import IPAMError
from calico_py.kube.backoff import Backoff
from calico_py.kube.lease import Leadership
from calico_py.kube.reflector import Reflector
from calico_py.model.intent import Problem
from calico_py.model.kinds import IPAM_BLOCKS
from calico_py.model.meta import Meta
from calico_py.model.names import LABEL_BORROWED
from calico_py.model.pools import IPPool
from calico_py.model.store import ConflictError, Json, Kind, NotFoundError, Store, StoreError
from calico_py.trouble import Trouble

log = logging.getLogger(__name__)

# Seconds. Leaks are judged twice in Calico's grace period of 15 minutes; a deleted node is looked at sooner.
COLLECT_INTERVAL = 450.0
_SOON = 10.0
_SOON_FOR = 300.0
_DEBOUNCE = 0.1


@dataclass(frozen=True, slots=True)
class _Mark:
    """A block as far as its label is concerned: five thousand whole blocks would cost the leader 50 MiB."""

    meta: Meta
    borrowed: bool

    @property
    def true(self) -> bool:
        """The label says what the block holds."""
        return (self.meta.labels.get(LABEL_BORROWED) == "true") == self.borrowed


def _decode(obj: Json) -> _Mark:
    block = IPAM_BLOCKS.decode(obj)
    return _Mark(block.meta, bool(borrowed(block)) and not block.deleted)


def _never(_: _Mark) -> dict[str, Any]:
    raise AssertionError("marks are only read")


_MARKS: Kind[_Mark] = Kind(
    IPAM_BLOCKS.kind, IPAM_BLOCKS.group, IPAM_BLOCKS.version, IPAM_BLOCKS.plural, _decode, _never
)


_Verdicts = Mapping[str, tuple[Verdict, int]]


class Leader:
    """This agent's part in the cluster-wide work.

    Args:
        node: name of this node, the agent's identity in the election.
        view: what the agent watches anyway; ``mark`` is among the reactions to its changes.
        announcer: for what is wrong with cluster-wide objects.
        collect: one pass of garbage collection; how much of deleted nodes is left that is soon to go.
        other_problems: of cluster-wide objects, beside those that are found here.

    Attributes:
        leadership: says who leads.
    """

    def __init__(
        self,
        store: Store,
        node: str,
        view: ClusterView,
        *,
        announcer: Announcer,
        collect: Callable[[], Awaitable[int]],
        other_problems: Callable[[], Iterable[Problem]] = tuple,
    ) -> None:
        self.leadership = Leadership(store, node, self.mark)
        self._store = store
        self._view = view
        self._announcer = announcer
        self._collect = collect
        self._other_problems = other_problems
        self._changed = asyncio.Event()
        self._pools_changed = asyncio.Event()
        self._node_gone = asyncio.Event()
        self._nodes: frozenset[str] = frozenset()

    def mark(self) -> None:
        """The leadership, or something that is watched, changed."""
        nodes = frozenset(self._view.nodes.objects)
        if self._nodes - nodes:
            self._node_gone.set()
        self._nodes = nodes
        self._changed.set()
        self._pools_changed.set()

    async def run(self) -> None:
        """Take part in the election, and do the work while leading, for ever.

        Not while this node has no Node object: it was deleted, and its own addresses are what others are to collect.
        """
        await self._view.wait_in_sync()
        while True:
            await self._until(self._has_node)
            async with asyncio.TaskGroup() as tasks:
                part = tasks.create_task(self._take_part(), name="leader: taking part")
                await self._until(lambda: not self._has_node())
                log.info("Node %s is gone: this agent does not stand for election", self.leadership.identity)
                part.cancel()

    async def _take_part(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.leadership.run(), name="election")
            while True:
                await self._until(lambda: self.leadership.leading)
                await self._lead()

    def _has_node(self) -> bool:
        return self.leadership.identity in self._view.nodes.objects

    async def _until(self, condition: Callable[[], bool]) -> None:
        """Until something that changed has made it so."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    async def _lead(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            duties = {
                "pools": self._look_after_pools,
                "labels": self._look_after_labels,
                "garbage": self._collect_garbage,
            }
            running = [tasks.create_task(duty(), name=f"leader: {name}") for name, duty in duties.items()]
            await self._until(lambda: not self.leadership.leading)
            for task in running:
                task.cancel()

    async def _look_after_pools(self) -> None:
        """Write conditions when the verdict on a pool changes, and now and then in case someone else wrote them."""
        backoff, trouble = Backoff(), Trouble(log)
        written: _Verdicts | None = None
        while True:
            self._pools_changed.clear()
            pools = self._view.pools
            verdicts = judge_pools(pools.objects.values(), pools.invalid)
            self._tell(verdicts)
            current = {name: (verdict, _generation(pools.objects.get(name))) for name, verdict in verdicts.items()}
            try:
                if current != written:
                    await self._write_conditions(verdicts)
            except StoreError as error:
                trouble.tell("the pools' conditions are not written yet", error)
                await asyncio.sleep(backoff.wait())
                continue
            trouble.over()
            backoff.reset()
            written = current if await _within(self._pools_changed, COLLECT_INTERVAL) else None
            await asyncio.sleep(_DEBOUNCE)

    def _tell(self, verdicts: Mapping[str, Verdict]) -> None:
        told = [
            Problem("IPPool", name, verdict.reason, verdict.message)
            for name, verdict in verdicts.items()
            if verdict.reason in ("CIDROverlap", "Invalid")
        ]
        others = [problem for problem in self._view.problems() if problem.kind != "IPPool"]
        self._announcer.tell((*told, *others, *self._other_problems()))

    async def _write_conditions(self, verdicts: Mapping[str, Verdict]) -> None:
        found = (await self._store.list(POOL_CONDITIONS)).items
        for name, patch in plan_conditions(found, verdicts, now=_now()).items():
            with contextlib.suppress(NotFoundError):
                await self._store.patch(POOL_CONDITIONS, name, patch, subresource="status")

    async def _look_after_labels(self) -> None:
        """Restore the label that a foreign writer, which knows nothing of it, took away with its write."""
        changed = asyncio.Event()
        marks = Reflector(self._store, _MARKS, changed.set)
        backoff, trouble = Backoff(), Trouble(log)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(marks.run(), name="reflector of all blocks")
            while True:
                await changed.wait()
                changed.clear()
                wrong = [mark for mark in marks.objects.values() if not mark.true]
                failed = [failure for mark in wrong if (failure := await self._restore(mark)) is not None]
                if failed:
                    trouble.tell(f"the label {LABEL_BORROWED} of {len(failed)} blocks stays wrong", failed[0])
                    changed.set()
                    await asyncio.sleep(backoff.wait())
                else:
                    trouble.over()
                    backoff.reset()
                    await asyncio.sleep(_DEBOUNCE)

    async def _restore(self, mark: _Mark) -> StoreError | None:
        """Why it could not be; a block that changed meanwhile is told of by the watch."""
        labels = {LABEL_BORROWED: "true" if mark.borrowed else None}
        patch = {"metadata": {"resourceVersion": mark.meta.resource_version, "labels": labels}}
        try:
            await self._store.patch(_MARKS, mark.meta.name, patch)
        except (ConflictError, NotFoundError):
            return None
        except StoreError as error:
            return error
        return None

    async def _collect_garbage(self) -> None:
        """Now and then; after a node's deletion until the API's last pod of it is gone and the last address cooled."""
        clock = asyncio.get_running_loop().time
        soon_until = clock() + _SOON_FOR
        trouble = Trouble(log)
        while True:
            self._node_gone.clear()
            left = 0
            try:
                left = await self._collect()
            except (StoreError, IPAMError) as error:
                trouble.tell("leaked addresses were not collected", error)
            else:
                trouble.over()
            if await _within(self._node_gone, _SOON if left and clock() < soon_until else COLLECT_INTERVAL):
                soon_until = clock() + _SOON_FOR


async def _within(event: asyncio.Event, seconds: float) -> bool:
    """Whether the event came before the time was up."""
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False


def _generation(pool: IPPool | None) -> int:
    return pool.meta.generation if pool is not None else 0


def _now() -> str:
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
