"""Leader: the cluster-wide work that one agent does for all.

It writes the pools' conditions, keeps a deleted pool until its last address is released, tells what is wrong with
cluster-wide objects, keeps the label of blocks with borrowed addresses true, and collects leaked addresses. All its
writes are compare-and-swap: an agent that still believes it leads does no harm.
"""

import asyncio
import contextlib
import datetime as dt
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from calico_py.agent.cluster.announcer import Announcer
from calico_py.agent.cluster.conditions import POOL_CONDITIONS, Verdict, judge_pools, plan_conditions, plan_finalizers
from calico_py.agent.cluster.marks import MARKS, Mark
from calico_py.agent.view import ClusterView
from calico_py.ipam.collector import DEFAULT_GRACE, Collected
from calico_py.ipam.garbage import PodName
from calico_py.ipam.requests import IPAMError
from calico_py.ipam.rules import config_problems
from calico_py.kube.backoff import Backoff
from calico_py.kube.lease import Leadership
from calico_py.kube.reflector import Reflector
from calico_py.model.controllers import KUBE_CONTROLLERS_CONFIGURATIONS
from calico_py.model.intent import Problem
from calico_py.model.names import LABEL_BORROWED
from calico_py.model.net import Network
from calico_py.model.pools import IPPool
from calico_py.model.store import ConflictError, NotFoundError, Store, StoreError
from calico_py.trouble import Trouble
from calico_py.waiting import came

log = logging.getLogger(__name__)

# Seconds. Leaks are judged twice in a grace period; a deleted node is looked at sooner.
COLLECT_INTERVAL = DEFAULT_GRACE.total_seconds() / 2
_SOON = 10.0
_SOON_FOR = 300.0
_DEBOUNCE = 0.1
_LOOK_AGAIN = 1.0  # at the addresses of a pool that is being deleted
_FAREWELL = 3.0
_GATHER = 1.0  # what comes within this time is one pass of the collection


_Verdicts = Mapping[str, tuple[Verdict, int]]


class Leader:
    """This agent's part in the cluster-wide work.

    Args:
        node: name of this node, the agent's identity in the election.
        view: what the agent watches anyway; ``mark`` is among the reactions to its changes.
        announcer: for what is wrong with cluster-wide objects.
        collect: one pass of garbage collection, given the grace period.
        pod_ends: returns when one of these pods has ended.
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
        collect: Callable[[timedelta], Awaitable[Collected]],
        pod_ends: Callable[[Collection[PodName]], Awaitable[None]],
        other_problems: Callable[[], Iterable[Problem]] = tuple,
    ) -> None:
        self.leadership = Leadership(store, node, self.mark)
        self._store = store
        self._view = view
        self._announcer = announcer
        self._collect = collect
        self._pod_ends = pod_ends
        self._other_problems = other_problems
        self._changed = asyncio.Event()
        self._pools_changed = asyncio.Event()
        self._node_gone = asyncio.Event()
        self._settings_changed = asyncio.Event()
        self._marks_changed = asyncio.Event()
        self._marks = Reflector(store, MARKS, self._marks_changed.set)
        self._leaving: dict[str, float] = {}
        self._settings = Reflector(store, KUBE_CONTROLLERS_CONFIGURATIONS, self._on_settings)
        self._nodes: frozenset[str] = frozenset()

    def mark(self) -> None:
        """The leadership, or something that is watched, changed."""
        nodes = frozenset(self._view.nodes.objects)
        if self._nodes - nodes:
            self._node_gone.set()
        self._nodes = nodes
        self._changed.set()
        self._pools_changed.set()

    @property
    def grace(self) -> timedelta:
        """How long an address must look leaked before it is freed; zero frees those of deleted nodes alone."""
        found = self._settings.objects.get("default")
        return DEFAULT_GRACE if found is None or found.leak_grace_period is None else found.leak_grace_period

    def _on_settings(self) -> None:
        self._settings_changed.set()
        self._pools_changed.set()  # a setting that cannot be read is told with what is wrong with pools

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
        self._marks = Reflector(self._store, MARKS, self._marks_changed.set)
        self._leaving = {}
        async with asyncio.TaskGroup() as tasks:
            duties = {
                "all blocks": self._marks.run,
                "pools": self._look_after_pools,
                "labels": self._look_after_labels,
                "settings": self._settings.run,
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
            verdicts = judge_pools(pools.objects.values(), pools.invalid, in_use=self._blocks_in_use())
            self._wait_a_little(verdicts)
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
            wait = _LOOK_AGAIN if self._leaving else COLLECT_INTERVAL
            again = await came(self._pools_changed, within=wait) or self._leaving
            written = current if again else None
            await asyncio.sleep(_DEBOUNCE)

    def _blocks_in_use(self) -> list[Network] | None:
        """None where a block may be missing: its list has not come yet, or it cannot be read."""
        if not self._marks.in_sync or self._marks.invalid:
            return None
        return [mark.cidr for mark in self._marks.objects.values() if mark.in_use]

    def _wait_a_little(self, verdicts: dict[str, Verdict]) -> None:
        """An agent that does not know of a deletion yet may give an address, and the API hears of it behind that."""
        now = asyncio.get_running_loop().time()
        leaving = [name for name, verdict in verdicts.items() if verdict.reason == "Terminating"]
        self._leaving = {name: self._leaving.get(name, now) for name in leaving}
        for name, since in self._leaving.items():
            if now - since < _FAREWELL:
                verdicts[name] = replace(verdicts[name], holds=True)

    def _tell(self, verdicts: Mapping[str, Verdict]) -> None:
        told = [
            Problem("IPPool", name, verdict.reason, verdict.message)
            for name, verdict in verdicts.items()
            if verdict.reason in ("CIDROverlap", "Invalid")
        ]
        others = [problem for problem in self._view.problems() if problem.kind != "IPPool"]
        kind = self._settings.kind.kind
        for name, error in self._settings.invalid.items():
            why = f"{kind} {name}: {error}; leaked addresses are freed after {DEFAULT_GRACE.total_seconds():.0f} s"
            others.append(Problem(kind, name, "Invalid", why))
        ipam = self._view.ipam.objects.get("default")
        wrong = config_problems(ipam) if ipam is not None else []
        others += [Problem("IPAMConfiguration", "default", "Contradiction", sentence) for sentence in wrong]
        self._announcer.tell((*told, *others, *self._other_problems()))

    async def _write_conditions(self, verdicts: Mapping[str, Verdict]) -> None:
        found = (await self._store.list(POOL_CONDITIONS)).items
        for name, patch in plan_conditions(found, verdicts, now=_now()).items():
            with contextlib.suppress(NotFoundError):
                await self._store.patch(POOL_CONDITIONS, name, patch, subresource="status")
        if plan_finalizers(found, verdicts):
            found = (await self._store.list(POOL_CONDITIONS)).items
            for name, patch in plan_finalizers(found, verdicts).items():
                with contextlib.suppress(NotFoundError):
                    await self._store.patch(POOL_CONDITIONS, name, patch)

    async def _look_after_labels(self) -> None:
        """Restore the label that a foreign writer, which knows nothing of it, took away with its write."""
        changed = self._marks_changed
        backoff, trouble = Backoff(), Trouble(log)
        while True:
            await changed.wait()
            changed.clear()
            wrong = [mark for mark in self._marks.objects.values() if not mark.true]
            failed = [failure for mark in wrong if (failure := await self._restore(mark)) is not None]
            if failed:
                trouble.tell(f"the label {LABEL_BORROWED} of {len(failed)} blocks stays wrong", failed[0])
                changed.set()
                await asyncio.sleep(backoff.wait())
            else:
                trouble.over()
                backoff.reset()
                await asyncio.sleep(_DEBOUNCE)

    async def _restore(self, mark: Mark) -> StoreError | None:
        """Why it could not be; a block that changed meanwhile is told of by the watch."""
        labels = {LABEL_BORROWED: "true" if mark.borrowed else None}
        patch = {"metadata": {"resourceVersion": mark.meta.resource_version, "labels": labels}}
        try:
            await self._store.patch(MARKS, mark.meta.name, patch)
        except (ConflictError, NotFoundError):
            return None
        except StoreError as error:
            return error
        return None

    async def _collect_garbage(self) -> None:
        """Now and then; at a node's deletion, and whenever something of it that could not go yet can go."""
        await self._settings.wait_in_sync()
        clock = asyncio.get_running_loop().time
        soon_until = clock() + _SOON_FOR
        trouble = Trouble(log)
        while True:
            self._node_gone.clear()
            self._settings_changed.clear()
            began = clock()
            found = Collected(unsettled=1)  # as far as is known after a failure
            try:
                found = await self._collect(self.grace)
            except (StoreError, IPAMError) as error:
                trouble.tell("leaked addresses were not collected", error)
            else:
                trouble.over()
            ended = clock()
            dues = [COLLECT_INTERVAL, self.grace.total_seconds() / 2 or COLLECT_INTERVAL]
            dues += [found.cools_in] if found.cools_in is not None else []
            dues += [_SOON] if found.unsettled and clock() < soon_until else []
            if await self._until_due(min(dues), found.kept_by):
                soon_until = clock() + _SOON_FOR
            await asyncio.sleep(
                max(_GATHER, 2 * ended - began - clock())
            )  # half of the time at most is spent on passes

    async def _until_due(self, seconds: float, kept_by: Collection[PodName]) -> bool:
        """Until a node goes (then True), a setting changes, a pod ends that keeps an address, or the time is up."""
        node_gone = asyncio.create_task(self._node_gone.wait())
        waits: list[asyncio.Task[Any]] = [node_gone, asyncio.create_task(self._settings_changed.wait())]
        if kept_by:
            waits.append(asyncio.create_task(self._pod_end(kept_by)))
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            return node_gone.done()
        finally:
            for each in waits:
                each.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _pod_end(self, names: Collection[PodName]) -> None:
        try:
            await self._pod_ends(names)
        except StoreError as error:
            log.info("not told of the end of pods: %s", error)
            await asyncio.sleep(COLLECT_INTERVAL)


def _generation(pool: IPPool | None) -> int:
    return pool.meta.generation if pool is not None else 0


def _now() -> str:
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
