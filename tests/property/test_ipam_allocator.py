"""Three nodes with an allocator each, one store, pools that are too small, and everything at the same time.

The calls of a burst overlap in an order that hypothesis draws; a node may be killed at any of its calls, and any call
may fail or lose its answer. Once nothing runs any more, what was answered is true, and blocks, affinities and handles
agree.
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from ipaddress import IPv4Address, ip_network
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from calico_py.ipam import commits, handles, releases
from calico_py.ipam.allocator import Allocator
from calico_py.ipam.collector import Collector
from calico_py.ipam.garbage import PodName, PodView
from calico_py.ipam.reconcile import Living
from calico_py.ipam.requests import Assigned, AssignRequest, IPAMError, Release, Tunnel
from calico_py.model.kinds import IPAM_BLOCKS
from calico_py.model.net import Address, Family
from calico_py.model.pools import EncapMode
from calico_py.model.store import UnavailableError
from tests.fakes.ipam import IPAMCluster, config, pool, problems
from tests.fakes.slow import SlowStore

NODES = ("node1", "node2", "node3")
FOUR = pool("10.0.0.0/28", 30, name="four", ipip_mode=EncapMode.ALWAYS)
SIX = pool("fd00::/124", 126, name="six")
EXTRA = pool("10.1.0.0/29", 31, name="extra", node_selector="has(extra)")
CONFIGS = [
    config(),
    config(strict_affinity=True),
    config(strict_affinity=True, max_blocks_per_host=1),
    config(ip_cooldown_seconds=30),
    config(ip_cooldown_seconds=None),
]


Work = Callable[[], Coroutine[Any, Any, None]]


class KilledError(Exception):
    """The node's agent is gone."""


async def _no_pause(_attempt: int, *, most: float = 0) -> None:
    del most
    await asyncio.sleep(0)


@dataclass
class Node:
    """A node's agent and its way to the API, which a test may cut at a call, or disturb at some."""

    name: str
    allocator: Allocator
    calls_left: int | None = None
    disturbed: set[int] = field(default_factory=set)
    calls: int = 0

    def fault(self, _when: str, _verb: str, _kind: str, _name: str) -> None:
        """See MemoryStore."""
        self.calls += 1
        if self.calls in self.disturbed:
            raise UnavailableError(self.name)
        if self.calls_left is not None:
            self.calls_left -= 1
            if self.calls_left < 0:
                raise KilledError(self.name)


@dataclass
class Pod:
    """A container and what an answered ADD gave it."""

    container: str
    node: str
    addresses: tuple[Assigned, ...] = ()
    strict: bool = False
    living: bool = False
    deleting: bool = False

    @property
    def handle(self) -> str:
        return f"k8s-pod-network.{self.container}"


@dataclass
class History:
    """Sequence numbers: those of a block, by uid, only rise; those of an address's allocations never come again."""

    blocks: dict[str, int] = field(default_factory=dict)
    allocations: set[tuple[Address, int]] = field(default_factory=set)


class AllocatorMachine(RuleBasedStateMachine):
    """Bursts of ADDs and DELs, kills, time, configuration, foreign writers and the leader."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.patches = pytest.MonkeyPatch()
        for module in (commits, handles, releases):
            self.patches.setattr(module, "pause", _no_pause)
        self.cluster = IPAMCluster([FOUR, SIX, EXTRA])
        self.turns: list[int] = [0]
        self.looks = 0
        self.nodes: dict[str, Node] = {}
        self.pods: list[Pod] = []
        self.history = History()
        self.made = 0

    def teardown(self) -> None:
        self.patches.undo()
        self.loop.close()

    @initialize()
    def start(self) -> None:
        for name in NODES:
            self._start(name)
        leader = self.nodes["node1"].allocator
        self.collector = Collector(
            self.cluster.store, leader, nodes=lambda: NODES, pods=self._list_pods, now=self.cluster.tick
        )

    def _start(self, name: str) -> None:
        node = Node(name, None)  # type: ignore[arg-type]  # set in the next line but one
        store = SlowStore(self.cluster.store.with_fault(node.fault), self._next_turns)
        node.allocator = self.cluster.node(name, store)
        self.nodes[name] = node

    def _next_turns(self) -> int:
        self.looks += 1
        return self.turns[self.looks % len(self.turns)]

    async def _list_pods(self) -> dict[PodName, PodView]:
        return {
            ("default", pod.container): PodView(pod.node, frozenset(a.address for a in pod.addresses))
            for pod in self.pods
            if pod.living
        }

    # What a burst is made of

    async def _add(self, pod: Pod, request: AssignRequest) -> None:
        pod.strict = self.cluster.config.strict_affinity
        try:
            got = await self.nodes[pod.node].allocator.assign(request)
        except (IPAMError, KilledError, UnavailableError):
            pod.deleting = True
            return
        pod.addresses, pod.living = got, True
        for assigned in got:
            number = (assigned.address, assigned.sequence)
            assert number not in self.history.allocations, "a late release would hit the new owner"
            self.history.allocations.add(number)

    async def _delete(self, pod: Pod) -> None:
        pod.living, pod.deleting = False, True
        try:
            await self.nodes[pod.node].allocator.release_handle(pod.handle)
        except (KilledError, UnavailableError):
            return
        pod.deleting = False

    async def _release_late(self, pod: Pod) -> None:
        """A release by what was seen long ago, as of a slow garbage collector: must not hit a new owner."""
        try:
            releases = [Release(a.address, a.handle_id, a.sequence) for a in pod.addresses]
            await self.nodes[pod.node].allocator.release(releases)
        except (KilledError, UnavailableError):
            return

    async def _tunnel(self, node: str) -> None:
        try:
            await self.nodes[node].allocator.ensure_tunnel_address(Tunnel.IPIP)
        except (IPAMError, KilledError, UnavailableError):
            return

    def _request(self, data: st.DataObject, pod: Pod) -> AssignRequest:
        owner = {"namespace": "default", "pod": pod.container}
        families: tuple[Family, ...] = data.draw(st.sampled_from([(4,), (6,), (4, 6), (4, 4, 4)]))
        if data.draw(st.integers(0, 5)) == 0:
            wanted = IPv4Address(0x0A000000 + data.draw(st.integers(0, 15)))
            return AssignRequest(pod.handle, owner, requested=(wanted,))
        pools = data.draw(st.sampled_from([(), (), (), ("extra",)]))
        return AssignRequest(pod.handle, owner, families=families, pools=pools)

    def _work(self, data: st.DataObject, size: int) -> list[Work]:
        work: list[Work] = []
        for _ in range(size):
            kind = data.draw(st.sampled_from(["add", "add", "add", "delete", "delete", "late", "tunnel"]))
            gone = [pod for pod in self.pods if not pod.living and not pod.deleting and pod.addresses]
            living = [pod for pod in self.pods if pod.living and not pod.deleting]
            if kind == "add":
                self.made += 1
                pod = Pod(f"c{self.made}", data.draw(st.sampled_from(NODES)))
                self.pods.append(pod)
                work.append(partial(self._add, pod, self._request(data, pod)))
            elif kind == "delete" and living:
                pod = data.draw(st.sampled_from(living))
                pod.deleting = True
                work.append(partial(self._delete, pod))
            elif kind == "late" and gone:
                work.append(partial(self._release_late, data.draw(st.sampled_from(gone))))
            elif kind == "tunnel":
                work.append(partial(self._tunnel, data.draw(st.sampled_from(NODES))))
        return work

    def _run(self, work: list[Work]) -> None:
        async def together() -> None:
            await asyncio.gather(*(each() for each in work))
            for node in self.nodes.values():
                await node.allocator.drain()

        self.loop.run_until_complete(asyncio.wait_for(together(), 60))

    # Rules

    @rule(data=st.data(), size=st.integers(1, 8), turns=st.lists(st.integers(0, 6), min_size=1, max_size=12))
    def burst(self, data: st.DataObject, size: int, turns: list[int]) -> None:
        self.turns = turns
        self._run(self._work(data, size))
        failed = {pod.handle for pod in self.pods if not pod.addresses}
        assert not failed & {a.handle for a in self._now(self.cluster.held).values()}, "an ADD that failed left nothing"
        self._repeat_deletes()

    @rule(
        data=st.data(),
        size=st.integers(1, 6),
        turns=st.lists(st.integers(0, 6), min_size=1, max_size=12),
        name=st.sampled_from(NODES),
        calls=st.integers(0, 40),
    )
    def burst_with_a_kill(self, data: st.DataObject, size: int, turns: list[int], name: str, calls: int) -> None:
        self.turns = turns
        self.nodes[name].calls_left = calls
        self._run(self._work(data, size))
        self.restart(name)
        self._repeat_deletes()
        self._collect()

    @rule(
        data=st.data(),
        size=st.integers(1, 6),
        turns=st.lists(st.integers(0, 6), min_size=1, max_size=12),
        disturbed=st.dictionaries(st.sampled_from(NODES), st.sets(st.integers(1, 40), max_size=8), min_size=1),
    )
    def burst_with_disturbances(
        self, data: st.DataObject, size: int, turns: list[int], disturbed: dict[str, set[int]]
    ) -> None:
        self.turns = turns
        for name, calls in disturbed.items():
            node = self.nodes[name]
            node.disturbed = {node.calls + call for call in calls}
        self._run(self._work(data, size))
        for node in self.nodes.values():
            node.disturbed = set()
        self._repeat_deletes()
        self._run([partial(self._reconcile, name) for name in NODES])
        self._collect()

    async def _reconcile(self, name: str) -> None:
        living = {pod.container for pod in self.pods if pod.living and pod.node == name}
        await self.nodes[name].allocator.reconcile(Living(living))

    def _repeat_deletes(self) -> None:
        """A runtime repeats a DEL until it is answered, and deletes what its ADD failed to make."""
        self._run([partial(self._delete, pod) for pod in self.pods if pod.deleting])

    @rule(name=st.sampled_from(NODES))
    def restart(self, name: str) -> None:
        self._start(name)
        self._run([partial(self._reconcile, name)])
        if name == "node1":
            self.collector._allocator = self.nodes[name].allocator

    @rule(seconds=st.sampled_from([1, 29, 61, 900]))
    def wait(self, seconds: int) -> None:
        self.cluster.advance(seconds)

    @rule(seconds=st.sampled_from([-86_400, -61, -1, 86_400]))
    def the_clock_jumps(self, seconds: int) -> None:
        self.cluster.advance(seconds)

    @rule(chosen=st.sampled_from(CONFIGS))
    def configure(self, chosen: Any) -> None:
        self.cluster.config = chosen

    @rule(name=st.sampled_from(NODES), extra=st.booleans())
    def label(self, name: str, *, extra: bool) -> None:
        self.cluster.labels[name] = {"extra": ""} if extra else {}

    @rule(data=st.data(), turns=st.lists(st.integers(0, 6), min_size=1, max_size=6))
    def collect_meanwhile(self, data: st.DataObject, turns: list[int]) -> None:
        self.turns = turns
        self._run([*self._work(data, 4), self._collect_once])
        self._repeat_deletes()
        self._collect()

    async def _collect_once(self) -> None:
        await self.collector.collect(grace=timedelta(minutes=15))

    def _collect(self) -> None:
        for _ in range(2):
            self._run([self._collect_once])
            self.cluster.advance(900)

    @rule()
    def a_foreign_writer_drops_labels(self) -> None:
        async def drop() -> None:
            for block in await self.cluster.blocks():
                await self.cluster.store.update(IPAM_BLOCKS, replace(block, meta=replace(block.meta, labels={})))
            await self._collect_once()

        self._run([drop])

    # Truths

    def _now(self, look: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        return self.loop.run_until_complete(look())

    @invariant()
    def nothing_contradicts_itself(self) -> None:
        assert self._now(lambda: problems(self.cluster)) == []

    @invariant()
    def what_was_answered_is_true(self) -> None:
        held = self._now(self.cluster.held)
        expected = {a.address: (pod.handle, a.sequence) for pod in self.pods if pod.living for a in pod.addresses}
        assert sum(len(pod.addresses) for pod in self.pods if pod.living) == len(expected), "no address twice"
        tunnels = {address for address, a in held.items() if a.handle.startswith("ipip-tunnel-addr-")}
        found = {address: (a.handle, a.sequence) for address, a in held.items() if address not in tunnels}
        assert found == expected, "nothing lost, nothing leaked"
        assert len(tunnels) == len({held[address].handle for address in tunnels}), "one address for each tunnel"

    @invariant()
    def addresses_lie_where_they_may(self) -> None:
        for pod in self.pods:
            for assigned in pod.addresses:
                assert assigned.address in assigned.block
                assert assigned.block.subnet_of(ip_network(self._pool(assigned.pool)))  # type: ignore[arg-type]

    def _pool(self, name: str) -> str:
        return next(str(p.cidr) for p in self.cluster.pools if p.name == name)

    @invariant()
    def strict_affinity_is_kept(self) -> None:
        owners = {block.cidr: block.node for block in self._now(self.cluster.blocks)}
        for pod in self.pods:
            if pod.living and pod.strict:
                assert {owners[a.block] for a in pod.addresses} == {pod.node}

    @invariant()
    def sequence_numbers_rise(self) -> None:
        for block in self._now(self.cluster.blocks):
            assert block.sequence_number >= self.history.blocks.get(block.meta.uid, 0)
            self.history.blocks[block.meta.uid] = block.sequence_number


TestAllocatorMachine = AllocatorMachine.TestCase
TestAllocatorMachine.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
