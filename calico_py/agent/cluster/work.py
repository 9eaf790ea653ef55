"""ClusterWork: the leader's part of an agent, and the Events of what this agent finds wrong.

Problems of objects that all nodes see are told by the leader alone; those of this node by itself.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

from calico_py.agent.addresses import find_duplicates
from calico_py.agent.cluster.announcer import Announcer
from calico_py.agent.cluster.leader import Leader
from calico_py.agent.cluster.pods import Pods
from calico_py.agent.parts import Parts
from calico_py.ipam.collector import Collector
from calico_py.kube.events import Recorder
from calico_py.model.intent import Problem
from calico_py.waiting import came

# Seconds. A way that is missing for less is a mode change or a start that goes well.
PATIENCE = 10.0
_MOST_WAITING = 3


class ClusterWork:
    """Runs beside the convergence of the node; ``mark`` is among the reactions to whatever is watched.

    Args:
        parts: of the agent.
        address_problems: of the node's pods, which keep it from nothing.
    """

    def __init__(self, parts: Parts, address_problems: Callable[[], Sequence[Problem]] = tuple) -> None:
        self._parts = parts
        self._address_problems = address_problems
        self._changed = asyncio.Event()
        self._waiting_since: dict[str, float] = {}
        self._recorder = Recorder(parts.store, parts.config.node)
        self._own = Announcer(self._recorder, self._uid)
        pods = Pods(parts.store)
        collector = Collector(
            parts.store,
            parts.allocator,
            nodes=lambda: list(parts.view.nodes.objects),
            pods=pods.list,
            now=lambda: datetime.now(UTC),
            clock=time.monotonic,
        )

        self.leader = Leader(
            parts.store,
            parts.config.node,
            parts.view,
            announcer=Announcer(self._recorder, self._uid),
            collect=lambda grace: collector.collect(grace=grace),
            pod_ends=pods.wait_for_end,
            other_problems=self._seen_by_all,
        )

    @property
    def holder(self) -> str:
        """The node whose agent leads, empty while nobody does."""
        return self.leader.leadership.holder

    @property
    def events_dropped(self) -> int:
        """Events that were never posted because too many were told at once."""
        return self._recorder.dropped

    def mark(self) -> None:
        """Something that is watched changed."""
        self.leader.mark()
        self._changed.set()

    async def run(self) -> None:
        """Lead if elected, and tell, for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._recorder.run(), name="events")
            tasks.create_task(self.leader.run(), name="leader")
            tasks.create_task(self._tell(), name="problems of this node")

    def own_problems(self) -> tuple[Problem, ...]:
        """What is wrong with this node and only its own agent can tell."""
        parts = self._parts
        me = parts.view.nodes.objects.get(parts.config.node)
        if me is None or not parts.config.check_duplicate_address:
            return ()
        return find_duplicates(me, parts.view.nodes.objects.values())

    async def _tell(self) -> None:
        await self._parts.view.wait_in_sync()
        while True:
            self._changed.clear()
            self._own.tell((*self.own_problems(), *self._address_problems(), *self._long_waiting()))
            if await came(self._changed, within=PATIENCE):
                await asyncio.sleep(1)

    def _long_waiting(self) -> Iterator[Problem]:
        """The first few destinations that have waited for their best way for long."""
        last, node = self._parts.loop.last, self._parts.config.node
        sentences = set(last.applied.plan.waiting.values()) if last is not None else set()
        now = asyncio.get_running_loop().time()
        self._waiting_since = {sentence: self._waiting_since.get(sentence, now) for sentence in sentences}
        late = sorted(sentence for sentence, since in self._waiting_since.items() if now - since >= PATIENCE)
        for sentence in late[:_MOST_WAITING]:
            yield Problem("Node", node, "RouteWaiting", f"Node {node}: {sentence}")

    def _seen_by_all(self) -> Iterator[Problem]:
        last = self._parts.loop.last
        yield from self._parts.env_problems
        if last is not None:
            yield from (problem for problem in last.intent.problems if problem.reason != "CIDROverlap")

    def _uid(self, problem: Problem) -> str:
        return self._parts.view.uid(problem.kind, problem.name)
