"""The convergence of one node, with everything real but the API server, the kernel and the BGP speaker."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from ipaddress import ip_interface, ip_network
from pathlib import Path as FilePath
from typing import TypeVar

from calico_py.agent.configuration.config import load_config
from calico_py.agent.loop import Loop
from calico_py.agent.view import ClusterView
from calico_py.model.bgp import Advertisement, Path, Peer, SessionState
from calico_py.model.blocks import AffinityState, BlockAffinity
from calico_py.model.kernel import Addr, Link, Put, Route
from calico_py.model.kinds import BLOCK_AFFINITIES, IP_POOLS, NODES
from calico_py.model.meta import Meta
from calico_py.model.names import NODE_IPV4_ADDRESS, affinity_name, block_name
from calico_py.model.net import Address, Network, family
from calico_py.model.nodes import Node
from calico_py.model.pools import EncapMode, IPPool
from calico_py.model.speaker import (
    EndOfRib,
    PathAnnounced,
    PathWithdrawn,
    ReplayComplete,
    ReplayStarted,
    SessionChanged,
    SpeakerEvent,
)
from calico_py.model.store import Kind, UnavailableError, WatchEvent
from tests.fakes.convergence import Surroundings, converging
from tests.fakes.kernel import FakeKernel
from tests.fakes.slow import SlowStore
from tests.fakes.store import MemoryStore

R = TypeVar("R")
ME = "node1"
POOL = "default"


class FakeSpeaker:
    """Remembers what it was told last; says what the test lets it say."""

    problem = ""

    def __init__(self) -> None:
        self.peers: frozenset[Peer] = frozenset()
        self.advertisements: frozenset[Advertisement] = frozenset()
        self._events: asyncio.Queue[SpeakerEvent] = asyncio.Queue()

    def set(self, *, peers: frozenset[Peer], advertisements: frozenset[Advertisement]) -> None:
        self.peers, self.advertisements = peers, advertisements

    async def events(self) -> AsyncIterator[SpeakerEvent]:
        while True:
            yield await self._events.get()

    def say(self, *events: SpeakerEvent) -> None:
        for event in events:
            self._events.put_nowait(event)

    def session(self, peer: Address, *prefixes: Network) -> None:
        """A session that is up and whose peer has announced these prefixes, in a replay."""
        paths = [
            PathAnnounced(Path(prefix, peer, peer, peer_as=64512, peer_router_id=str(peer))) for prefix in prefixes
        ]
        up = SessionChanged(peer, SessionState.ESTABLISHED, restart_time=120)
        self.say(ReplayStarted(), up, *paths, EndOfRib(peer, family(peer)), ReplayComplete())

    def restarted(self) -> None:
        """A speaker that begins anew: it knows of no session yet."""
        self.say(ReplayStarted(), ReplayComplete())

    def withdraw(self, peer: Address, prefix: Network) -> None:
        self.say(PathWithdrawn(peer, prefix))


class OneNode:
    """An agent's convergence on node1 and what surrounds it; ``agent`` runs it, again and again if wished.

    Attributes:
        refuse_patches: the API server takes none of the agent's patches of its Node.
        late: seconds by which the agent hears of what changes in the API.
    """

    def __init__(self, state_dir: FilePath, *, kernel_ipip: bool = True) -> None:
        self.refuse_patches = False
        self.store = MemoryStore()
        self.late = 0.0
        self.kernel = FakeKernel(ipip=kernel_ipip)
        self.speaker = FakeSpeaker()
        self.passes = 0
        self._state_dir = state_dir
        self.loop: Loop
        self.view: ClusterView

    async def prepare(self, mode: EncapMode, *, nodes: int = 2) -> None:
        """An uplink, a pool and nodes of which each but this one has a confirmed block."""
        eth0 = self.kernel.add_device("eth0")
        await self.kernel.send([Put(Link("eth0", eth0, up=True)), Put(Addr(eth0, ip_interface("192.168.1.11/24")))])
        await self.store.create(IP_POOLS, IPPool(Meta(POOL), ip_network("10.244.0.0/16"), ipip_mode=mode))
        await self.store.create(NODES, Node(Meta(ME)))
        for number in range(2, nodes + 1):
            await self.add_node(number)

    async def add_node(self, number: int, **annotations: str) -> None:
        notes = {NODE_IPV4_ADDRESS: f"192.168.1.1{number}/24", **annotations}
        await self.store.create(NODES, Node(Meta(f"node{number}", annotations=notes)))
        block = ip_network(f"10.244.{number}.0/26")
        meta = Meta(affinity_name(f"node{number}", block))
        await self.store.create(BLOCK_AFFINITIES, BlockAffinity(meta, block, f"node{number}", AffinityState.CONFIRMED))

    async def annotate(self, node: str, key: str, value: str | None) -> None:
        await self.store.patch(NODES, node, {"metadata": {"annotations": {key: value}}})

    async def annotations(self, node: str = ME) -> dict[str, str]:
        return dict((await self.store.get(NODES, node)).meta.annotations)

    async def set_mode(self, mode: EncapMode) -> None:
        await self.store.patch(IP_POOLS, POOL, {"spec": {"ipipMode": str(mode)}})

    def route(self, destination: str) -> Route | None:
        wanted = ip_network(destination)
        return next((route for route in self.kernel.routes() if route.dst == wanted), None)

    def link(self, name: str) -> Link | None:
        return next((link for link in self.kernel.links() if link.name == name), None)

    def device(self, destination: str) -> str:
        """Name of the device of a route; empty where there is none."""
        route = self.route(destination)
        links = {link.ifindex: link.name for link in self.kernel.links()}
        return links.get(route.next_hops[0].ifindex, "gone") if route is not None and route.next_hops else ""

    def waits(self, destination: str) -> str:
        """What a destination waits for, up to the colon."""
        last = self.loop.last
        return last.applied.plan.waiting.get(ip_network(destination), "").partition(":")[0] if last is not None else ""

    async def quiet(self, seconds: float = 0.1) -> None:
        """Return when no pass has come for a while."""
        while True:
            before = self.passes
            await asyncio.sleep(seconds)
            if before == self.passes and self.loop.last is not None:
                return

    @contextlib.asynccontextmanager
    async def agent(self, *, tunnel_address: bool = True, **environment: str) -> AsyncIterator[Loop]:
        """One life of the agent; yields once API in-sync was reached and a pass was made."""
        config = load_config({"NODENAME": ME, "IP": "192.168.1.11/24", **environment}, hostname=ME)
        around = Surroundings(
            _LateStore(self.store, self),
            self.store.with_fault(self._refused),
            self.kernel,
            self.speaker,
            self._state_dir,
        )
        async with converging(config, around, tunnel_address=tunnel_address, observe=self._observed) as running:
            self.loop, self.view = running.loop, running.view
            yield running.loop

    def _refused(self, when: str, verb: str, _kind: str, _name: str) -> None:
        if self.refuse_patches and (when, verb) == ("before", "patch"):
            raise UnavailableError("the API server is away")

    def _observed(self, _compute: float, _apply: float, _undone: bool) -> None:
        self.passes += 1


class _LateStore(SlowStore):
    """A store whose watch tells late."""

    def __init__(self, store: MemoryStore, node: OneNode) -> None:
        super().__init__(store, lambda: 0)
        self._node = node

    async def watch(
        self, kind: Kind[R], *, resource_version: str, labels: str = "", fields: str = ""
    ) -> AsyncIterator[WatchEvent[R]]:
        found = self._store.watch(kind, resource_version=resource_version, labels=labels, fields=fields)
        async for event in found:
            if self._node.late:
                await asyncio.sleep(self._node.late)
            yield event


def block(number: int) -> str:
    """The block of a node, as prepare makes it."""
    return f"10.244.{number}.0/26"


def named(number: int) -> str:
    """The name of its IPAMBlock."""
    return block_name(ip_network(block(number)))
