"""A node with warm addresses beside one that borrows: everything at once, kills and power failures at any step.

A kill may come at any call to the API and at any step of the journal. After each rule no address is two living pods',
and what a pod has is its own in the API, or the warm handle's with a promise in the journal. In the end, when the API
has been told all, nothing is lost and nothing leaked.
"""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from calico_py.ipam import commits, handles, releases
from calico_py.ipam.collector import Collector
from calico_py.ipam.garbage import PodName, PodView
from calico_py.ipam.reconcile import Living
from calico_py.ipam.requests import IPAMError, Release
from calico_py.ipam.warm import WarmAddresses
from calico_py.model.names import warm_handle
from calico_py.model.net import Address
from calico_py.model.store import UnavailableError
from tests.fakes.ipam import IPAMCluster, config, pool, problems, workload
from tests.fakes.slow import SlowStore
from tests.fakes.warm import WarmNode

WARM = warm_handle("node1")
Work = Callable[[], Coroutine[Any, Any, None]]


class KilledError(Exception):
    """The agent is gone."""


_FAILURES = (IPAMError, KilledError, UnavailableError)


async def _no_pause(_attempt: int, *, most: float = 0) -> None:
    del most
    await asyncio.sleep(0)


@dataclass
class Pod:
    """A container. What was not answered has a DEL to come."""

    container: str
    node: str
    addresses: set[Address] = field(default_factory=set)
    living: bool = False
    deleting: bool = False

    @property
    def handle(self) -> str:
        return f"k8s-pod-network.{self.container}"


class WarmMachine(RuleBasedStateMachine):
    """Two nodes, one small pool."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.patches = pytest.MonkeyPatch()
        for module in (releases, commits):
            self.patches.setattr(module, "pause", _no_pause)
        self.patches.setattr(handles, "pause", self._until_the_api_is_there)
        memory = Path("/dev/shm")  # on a disk each line would be waited for
        self.folder = Path(tempfile.mkdtemp(prefix=f"cpy{os.getpid()}-", dir=memory if memory.is_dir() else None))
        self.cluster = IPAMCluster([pool("10.0.0.0/26", 28)], config(ip_cooldown_seconds=None))
        self.node = WarmNode(self.cluster, self.folder, base=4)
        self.pods: list[Pod] = []
        self.made = 0
        self.steps = 0
        self.kill_at: int | None = None
        self.away = False
        self.turns: list[int] = [0]
        self.looks = 0

    def teardown(self) -> None:
        self.away = False
        try:
            self._settle()
        finally:
            self._close()
            self.patches.undo()
            self.loop.close()
            shutil.rmtree(self.folder)

    # The node's agent, and the other node

    @initialize()
    def start(self) -> None:
        self.other = self.cluster.node("node2")
        self.collector = Collector(
            self.cluster.store,
            self.other,
            nodes=lambda: ("node1", "node2"),
            pods=self._list_pods,
            now=self.cluster.tick,
        )
        self.warm: WarmAddresses | None = None
        self._restart()

    def _step(self, name: str) -> None:
        if name.endswith(" sync"):  # in a thread, so at no certain step; the disk forgets in power_fails
            return
        self.steps += 1
        if self.kill_at is not None and self.steps > self.kill_at:
            raise KilledError(name)

    async def _until_the_api_is_there(self, _attempt: int, *, most: float = 0) -> None:
        """What is tried again for as long as the API is away."""
        await _no_pause(_attempt, most=most)
        while self.away:  # noqa: ASYNC110 - what sets it does not run in the loop
            await asyncio.sleep(0)

    def _fault(self, when: str, verb: str, kind: str, name: str) -> None:
        self._step(f"{when} {verb} {kind} {name}")
        if self.away:
            raise UnavailableError("connection refused")

    def _next_turns(self) -> int:
        self.looks += 1
        return self.turns[self.looks % len(self.turns)]

    def _restart(self) -> None:
        """A new agent. With the API away it waits for it, so that its calls would wait too."""
        self.kill_at, was_away, self.away = None, self.away, False
        self._close()
        self.node.living = {pod.container: pod.addresses for pod in self._living("node1")}
        store = SlowStore(self.cluster.store.with_fault(self._fault), self._next_turns)
        self.warm, self.allocator = self.node.make(store, self._step)
        self._run([self._begin])
        self.away = was_away

    async def _begin(self) -> None:
        assert self.warm is not None
        await self.warm.start(self.node.now_living())
        await self.allocator.reconcile(self.node.now_living())

    def _close(self) -> None:
        """The agent's process is no more."""
        if self.warm is not None:
            self.loop.run_until_complete(self.warm.close())
        left = asyncio.all_tasks(self.loop)
        for task in left:
            task.cancel()
        self.loop.run_until_complete(asyncio.wait(left) if left else asyncio.sleep(0))

    def _living(self, node: str) -> list[Pod]:
        return [pod for pod in self.pods if pod.living and pod.node == node]

    # What a burst is made of

    async def _wait(self) -> None:
        """Some turns of the loop, so that calls begin at any moment of others."""
        for _ in range(4 * self._next_turns()):
            await asyncio.sleep(0)

    async def _add(self, pod: Pod) -> None:
        assert self.warm is not None
        await self._wait()
        owner = self.warm if pod.node == "node1" else self.other
        try:
            got = await owner.assign(workload(pod.container))
        except _FAILURES:
            pod.deleting = True
            return
        pod.addresses, pod.living = {a.address for a in got}, True

    async def _delete(self, pod: Pod) -> None:
        assert self.warm is not None
        pod.living, pod.deleting = False, True
        owner = self.warm if pod.node == "node1" else self.other
        try:
            await owner.release_handle(pod.handle)
        except _FAILURES:
            return
        pod.deleting = False

    async def _fail_to_wire(self, pod: Pod) -> None:
        """An ADD that got its address and fails afterwards."""
        assert self.warm is not None
        try:
            got = await self.warm.assign(workload(pod.container))
            await self.warm.release([Release(a.address, a.handle_id, a.sequence) for a in got])
        except _FAILURES:
            pod.deleting = True

    async def _tell(self) -> None:
        assert self.warm is not None
        try:
            await self.warm.catch_up()
        except KilledError:
            return

    async def _rob(self) -> None:
        """A foreign client releases a warm address that no pod has, and the node hears of it."""
        used = {address for pod in self.pods for address in pod.addresses if pod.living or pod.deleting}
        foreign = self.cluster.node("node3")
        for address, a in (await self.cluster.held()).items():
            if a.handle == WARM and address not in used and not self.away:
                await foreign.release([Release(address, WARM, a.sequence)])
                break
        await foreign.drain()
        for block in await self.cluster.blocks():
            self.allocator.observe(block)
        assert self.warm is not None
        self.warm.mark()

    async def _hear(self) -> None:
        """The watch tells of the node's blocks, late."""
        assert self.warm is not None
        seen = await self.cluster.blocks()
        await self._wait()
        for block in seen:
            self.allocator.observe(block)
        self.warm.mark()

    def _work(self, data: st.DataObject, size: int) -> list[Work]:
        kinds = ["add", "add", "add", "other", "delete", "delete", "fail", "tell", "hear"]
        work: list[Work] = []
        for _ in range(size):
            kind = data.draw(st.sampled_from(kinds))
            living = [pod for pod in self.pods if pod.living and not pod.deleting]
            if kind == "tell":
                if self._tell not in work:  # rounds follow each other
                    work.append(self._tell)
            elif kind == "hear":
                work.append(self._hear)
            elif kind == "delete":
                if living:
                    pod = data.draw(st.sampled_from(living))
                    pod.deleting = True
                    work.append(partial(self._delete, pod))
            else:
                self.made += 1
                pod = Pod(f"c{self.made}", "node2" if kind == "other" else "node1")
                self.pods.append(pod)
                work.append(partial(self._fail_to_wire if kind == "fail" else self._add, pod))
        return work

    def _run(self, work: list[Work]) -> None:
        async def together() -> None:
            await asyncio.gather(*(each() for each in work))
            await self.other.drain()
            if not self.away:
                await self.allocator.drain()

        self.loop.run_until_complete(asyncio.wait_for(together(), 60))

    def _repeat_deletes(self) -> None:
        self._run([partial(self._delete, pod) for pod in self.pods if pod.deleting])

    # Rules

    @rule(data=st.data(), size=st.integers(1, 8), turns=st.lists(st.integers(0, 6), min_size=1, max_size=12))
    def burst(self, data: st.DataObject, size: int, turns: list[int]) -> None:
        self.turns = turns
        self._run(self._work(data, size))

    @rule(
        data=st.data(),
        size=st.integers(1, 6),
        turns=st.lists(st.integers(0, 6), min_size=1, max_size=12),
        steps=st.integers(0, 60),
    )
    def burst_with_a_kill(self, data: st.DataObject, size: int, turns: list[int], steps: int) -> None:
        self.turns = turns
        self.kill_at = self.steps + steps
        self._run(self._work(data, size))
        self._restart()

    @rule(cut=st.integers(0, 400))
    def power_fails(self, cut: int) -> None:
        """All pods of the node are gone, and the end of its journal."""
        for pod in self._living("node1"):
            pod.living = False
        for pod in self.pods:
            pod.deleting &= pod.node == "node2"
        self._close()
        self.warm = None
        journal = self.folder / "journal-node1"
        content = journal.read_bytes()
        journal.write_bytes(content[: max(0, len(content) - cut)])
        self._restart()

    @rule()
    def tell(self) -> None:
        self._run([self._tell])
        self._repeat_deletes()

    @rule()
    def rob(self) -> None:
        self._run([self._rob])

    @rule(away=st.booleans())
    def cut_the_api(self, *, away: bool) -> None:
        self.away = away

    @rule(seconds=st.sampled_from([1, 31, 61]))
    def wait(self, seconds: int) -> None:
        self.cluster.advance(seconds)

    @rule(seconds=st.sampled_from([-86_400, -61, -1, 86_400]))
    def the_clock_jumps(self, seconds: int) -> None:
        self.cluster.advance(seconds)

    # Truths

    @invariant()
    def no_address_is_two_pods(self) -> None:
        living = [address for pod in self.pods if pod.living for address in pod.addresses]
        assert len(living) == len(set(living))

    @invariant()
    def what_a_pod_has_is_its_own_or_promised(self) -> None:
        held = self.loop.run_until_complete(self.cluster.held())
        for pod in self.pods:
            if pod.living and pod.addresses:
                assert {held[address].handle for address in pod.addresses} <= {pod.handle, WARM}

    async def _clean_up(self) -> None:
        """The other node: its own look at what lives, and the leader's work."""
        await self.other.reconcile(Living({pod.container for pod in self._living("node2")}))
        await self.collector.collect(grace=timedelta(minutes=15))

    async def _list_pods(self) -> dict[PodName, PodView]:
        """The containers of this test share one pod's name, so all living ones are it."""
        addresses = frozenset(address for pod in self.pods if pod.living for address in pod.addresses)
        return {("default", "web"): PodView("node1", addresses)}

    def _settle(self) -> None:
        """The API is there, the agent starts once more, and all has been told."""
        self._restart()
        for _ in range(4):
            self._run([self._tell])
            self._repeat_deletes()
        for _ in range(2):
            self._run([self._clean_up])
            self.cluster.advance(900)
        self._run([self._tell])
        held = self.loop.run_until_complete(self.cluster.held())
        found: dict[str, set[Address]] = {}
        for address, a in held.items():
            if a.handle != WARM:
                found.setdefault(a.handle, set()).add(address)
        assert found == {pod.handle: pod.addresses for pod in self.pods if pod.living}, "nothing lost, nothing leaked"
        assert self.loop.run_until_complete(problems(self.cluster)) == []
        assert self.warm is not None
        assert self.warm.problems() == ()


TestWarmMachine = WarmMachine.TestCase
TestWarmMachine.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)
