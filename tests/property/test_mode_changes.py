"""Three nodes through random mode changes, restarts and delays: at no moment does one send where nothing receives.

Everything is the agent's own but the API server, the kernels and the BGP sessions. After each change of any kernel:
whoever has a tunnel route to a node's block finds that node's device up, with its address, behind a filter that lets
the sender in; and a block that was once routed stays routed.
"""

import asyncio
import contextlib
import os
import random
import re
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path as FilePath
from types import SimpleNamespace
from typing import TypeVar

import pytest

from calico_py.agent.configuration.config import load_config
from calico_py.agent.receiver import LINGER
from calico_py.model.bgp import Advertisement, Path, Peer, SessionState
from calico_py.model.blocks import AffinityState
from calico_py.model.kernel import Addr, Link, Put
from calico_py.model.kinds import BLOCK_AFFINITIES, IP_POOLS, NODES
from calico_py.model.meta import Meta
from calico_py.model.names import IPIP_DEVICE
from calico_py.model.net import Address, Network
from calico_py.model.nodes import Node
from calico_py.model.pools import EncapMode, IPPool
from calico_py.model.speaker import (
    EndOfRib,
    PathAnnounced,
    ReplayComplete,
    ReplayStarted,
    SessionChanged,
    SpeakerEvent,
)
from calico_py.model.store import Json, Kind, UnavailableError, WatchEvent
from tests.fakes.clock import JumpingLoop
from tests.fakes.convergence import Surroundings, converging
from tests.fakes.kernel import FakeKernel
from tests.fakes.slow import SlowStore
from tests.fakes.store import MemoryStore
from tests.fakes.waiting import until

R = TypeVar("R")
POOL = "pool"
MODES = list(EncapMode)


class LateStore(SlowStore):
    """Calls take their time and what is watched comes late, each event by itself; for a while each may get stuck.

    Attributes:
        refuses_until: time of the event loop, until which patches fail.
        silent_until: until which nothing that is watched comes.
    """

    def __init__(self, store: MemoryStore, dice: random.Random) -> None:
        super().__init__(store)
        self.refuses_until = 0.0
        self.silent_until = 0.0
        self._dice = dice

    async def _delay(self) -> None:
        await asyncio.sleep(self._dice.uniform(0, 0.3))

    async def watch(
        self, kind: Kind[R], *, resource_version: str, labels: str = "", fields: str = ""
    ) -> AsyncIterator[WatchEvent[R]]:
        found = self._store.watch(kind, resource_version=resource_version, labels=labels, fields=fields)
        async for event in found:
            silence = max(0.0, self.silent_until - asyncio.get_running_loop().time())
            await asyncio.sleep(silence + self._dice.uniform(0, 0.5))
            yield event

    async def patch(self, kind: Kind[R], name: str, patch: Json, *, namespace: str = "", subresource: str = "") -> R:
        if asyncio.get_running_loop().time() < self.refuses_until:
            raise UnavailableError("the API server is away")
        return await super().patch(kind, name, patch, namespace=namespace, subresource=subresource)


class MeshSpeaker:
    """A BGP speaker that outlives its agent; sessions are up where both sides want them."""

    problem = ""

    def __init__(self, mesh: dict[Address, "MeshSpeaker"], own: Address, dice: random.Random) -> None:
        self.peers: frozenset[Address] = frozenset()
        self.announced: frozenset[Network] = frozenset()
        self._mesh = mesh
        self._own = own
        self._dice = dice
        self._heard: set[tuple[Address, Network]] = set()
        self._events: asyncio.Queue[SpeakerEvent] = asyncio.Queue()
        mesh[own] = self

    def set(self, *, peers: frozenset[Peer], advertisements: frozenset[Advertisement]) -> None:
        before = self.peers, self.announced
        self.peers = frozenset(peer.address for peer in peers)
        self.announced = frozenset(advertisement.nlri for advertisement in advertisements)
        if (self.peers, self.announced) == before:
            return
        for peer in self.peers & self._mesh.keys():
            other = self._mesh[peer]
            if self._own in other.peers:
                self._spread(self, other)
                self._spread(other, self)

    def _spread(self, speaker: "MeshSpeaker", hearer: "MeshSpeaker") -> None:
        asyncio.get_running_loop().call_later(self._dice.uniform(0, 2), hearer.hear, speaker)

    def hear(self, speaker: "MeshSpeaker") -> None:
        own = speaker._own
        new = {(own, nlri) for nlri in speaker.announced} - self._heard
        if not new:
            return
        self._heard |= new
        self._events.put_nowait(SessionChanged(own, SessionState.ESTABLISHED, restart_time=120))
        for event in map(_announcement, new):
            self._events.put_nowait(event)
        self._events.put_nowait(EndOfRib(own, 4))

    async def events(self) -> AsyncIterator[SpeakerEvent]:
        self._events = asyncio.Queue()
        yield ReplayStarted()
        for peer in {peer for peer, _ in self._heard}:
            await asyncio.sleep(self._dice.uniform(0, 0.5))
            yield SessionChanged(peer, SessionState.ESTABLISHED, restart_time=120)
            for heard in sorted(self._heard, key=str):
                if heard[0] == peer:
                    yield _announcement(heard)
            yield EndOfRib(peer, 4)
        yield ReplayComplete()
        while True:
            yield await self._events.get()


def _announcement(heard: tuple[Address, Network]) -> PathAnnounced:
    peer, nlri = heard
    return PathAnnounced(Path(nlri, peer, peer, peer_as=64512, peer_router_id=str(peer)))


class SimulatedNode:
    """A node whose agent may be restarted."""

    def __init__(self, number: int, cluster: "SimulatedCluster", folder: FilePath) -> None:
        self.name = f"node{number}"
        self.interface = ip_interface(f"192.168.1.1{number}/24")
        self.kernel = FakeKernel(ipip=True, fault=lambda when, verb, _: cluster.check(when, verb))
        self.client = LateStore(cluster.store, cluster.dice)
        speaker = MeshSpeaker(cluster.mesh, self.interface.ip, cluster.dice)
        self._around = Surroundings(self.client, self.client, self.kernel, speaker, folder)
        self._restart = asyncio.Event()

    async def plug(self) -> None:
        eth0 = self.kernel.add_device("eth0")
        await self.kernel.send([Put(Link("eth0", eth0, up=True)), Put(Addr(eth0, self.interface))])

    async def live(self) -> None:
        config = load_config({"NODENAME": self.name, "IP": str(self.interface)}, hostname=self.name)
        while True:
            self._restart.clear()
            async with converging(config, self._around):
                await self._restart.wait()

    def restart(self) -> None:
        self._restart.set()

    def device(self, block: Network) -> str:
        """By which device it sends to a block; empty without a route."""
        names = {link.ifindex: link.name for link in self.kernel.links()}
        routes = {route.dst: route for route in self.kernel.routes()}
        return names.get(routes[block].next_hops[0].ifindex, "gone") if block in routes else ""

    def receives(self, sender: Address) -> bool:
        """Whether a packet of protocol 4 from that node would come out of tunl0."""
        tunl0 = next((link for link in self.kernel.links() if link.name == IPIP_DEVICE), None)
        if tunl0 is None or not tunl0.up or not any(addr.ifindex == tunl0.ifindex for addr in self.kernel.addrs()):
            return False
        rules = "".join(table.rules for table in self.kernel.tables())
        nodes = re.search(r"set nodes4 \{[^}]*elements = \{ ([^}]*) \}", rules)
        return "@nodes4 return" in rules and nodes is not None and str(sender) in nodes.group(1).split(", ")


class SimulatedCluster:
    """Three nodes and what was ever wrong."""

    def __init__(self, seed: int, folder: FilePath) -> None:
        self.dice = random.Random(seed)
        self.store = MemoryStore()
        self.mesh: dict[Address, MeshSpeaker] = {}
        self.blocks: dict[Network, str] = {}
        self.wrong: list[str] = []
        self._routed: set[tuple[str, Network]] = set()
        self.nodes = [SimulatedNode(number, self, folder / str(number)) for number in (1, 2, 3)]

    def check(self, when: str, verb: str) -> None:
        """After each change of a kernel."""
        if (when, verb) != ("after", "send"):
            return
        by_name = {node.name: node for node in self.nodes}
        for node in self.nodes:
            for block, holder in self.blocks.items():
                if holder == node.name:
                    continue
                device = node.device(block)
                if device:
                    self._routed.add((node.name, block))
                elif (node.name, block) in self._routed:
                    self.wrong.append(f"{node.name} lost its route to {block} of {holder}")
                if device == IPIP_DEVICE and not by_name[holder].receives(node.interface.ip):
                    self.wrong.append(f"{node.name} tunnels to {holder}, which does not receive")

    async def begin(self) -> None:
        await self.store.create(IP_POOLS, IPPool(Meta(POOL), ip_network("10.244.0.0/16"), ipip_mode=EncapMode.ALWAYS))
        for node in self.nodes:
            await self.store.create(NODES, Node(Meta(node.name)))
            await node.plug()

    async def learn_blocks(self) -> bool:
        """The blocks that the tunnels' addresses brought each node."""
        claims = (await self.store.list(BLOCK_AFFINITIES)).items
        self.blocks = {claim.cidr: claim.node for claim in claims if claim.state == AffinityState.CONFIRMED}
        return len(set(self.blocks.values())) == len(self.nodes)

    async def set_mode(self, mode: EncapMode) -> None:
        await self.store.patch(IP_POOLS, POOL, {"spec": {"ipipMode": str(mode)}})

    def all_by(self, device: str) -> bool:
        return all(
            node.device(block) == device
            for node in self.nodes
            for block, holder in self.blocks.items()
            if holder != node.name
        )

    async def disturb(self) -> None:
        """One thing that happens, and the time until the next."""
        node = self.dice.choice(self.nodes)
        end = asyncio.get_running_loop().time() + self.dice.uniform(0, 20)
        match self.dice.choice(("mode", "mode", "mode", "restart", "refuse", "silence")):
            case "mode":
                await self.set_mode(self.dice.choice(MODES))
            case "restart":
                node.restart()
            case "refuse":
                node.client.refuses_until = end
            case _:
                node.client.silent_until = end
        await asyncio.sleep(self.dice.choice((0, 0.1, 1, 5, 20)) if self.dice.random() < 0.9 else 3 * LINGER)


@contextlib.asynccontextmanager
async def living(cluster: SimulatedCluster) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(node.live()) for node in cluster.nodes]
    try:
        yield
    finally:
        ended = [task for task in tasks if task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in ended:
            task.result()


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Iterator[asyncio.Runner]:
    """The agents go by the event loop's time, which passes at once when nothing is left to do."""
    with asyncio.Runner(loop_factory=JumpingLoop) as found:
        clock = SimpleNamespace(monotonic=found.get_loop().time, time=time.time)
        monkeypatch.setattr("calico_py.agent.loop.time", clock)
        monkeypatch.setattr("calico_py.agent.learned.time", clock)
        yield found


async def go_through_changes(cluster: SimulatedCluster) -> None:
    await cluster.begin()
    async with living(cluster):
        await until(cluster.learn_blocks, 60)
        await until(lambda: cluster.all_by(IPIP_DEVICE), 60)
        for _ in range(25):
            await cluster.disturb()
        await cluster.set_mode(EncapMode.NEVER)
        await until(lambda: cluster.all_by("eth0"), 60)
        await asyncio.sleep(3 * LINGER)
        await cluster.set_mode(EncapMode.ALWAYS)
        await until(lambda: cluster.all_by(IPIP_DEVICE), 60)


@pytest.mark.parametrize("seed", range(int(os.environ.get("SEEDS", "25"))))
def test_nobody_sends_where_nothing_receives(seed: int, tmp_path: FilePath, runner: asyncio.Runner) -> None:
    cluster = SimulatedCluster(seed, tmp_path)
    runner.run(go_through_changes(cluster))
    assert not cluster.wrong, cluster.wrong[:5]


def test_a_receiver_that_closes_too_early_is_noticed(
    tmp_path: FilePath, runner: asyncio.Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: without the minute of patience one seed in ten goes wrong."""
    monkeypatch.setattr("calico_py.agent.receiver.LINGER", 0.5)
    for seed in range(80):
        cluster = SimulatedCluster(seed, tmp_path / str(seed))
        runner.run(go_through_changes(cluster))
        if any("which does not receive" in sentence for sentence in cluster.wrong):
            return
    pytest.fail("none of 80 seeds went wrong")


async def set_a_receiver_down(cluster: SimulatedCluster) -> None:
    await cluster.begin()
    async with living(cluster):
        await until(cluster.learn_blocks, 60)
        await until(lambda: cluster.all_by(IPIP_DEVICE), 60)
        assert not cluster.wrong
        kernel = cluster.nodes[1].kernel
        tunl0 = next(link for link in kernel.links() if link.name == IPIP_DEVICE)
        await kernel.send([Put(replace(tunl0, up=False))])


def test_a_receiver_that_is_set_down_is_noticed(tmp_path: FilePath, runner: asyncio.Runner) -> None:
    """Negative control: a receiver's device is set down while others send."""
    cluster = SimulatedCluster(0, tmp_path)
    runner.run(set_a_receiver_down(cluster))
    assert any("node1 tunnels to node2, which does not receive" in sentence for sentence in cluster.wrong)
    assert any("node2 lost its route" in sentence for sentence in cluster.wrong)
    assert ip_address("192.168.1.11") in cluster.mesh
