"""The convergence of several nodes on one machine: each in a thread that is in its node's namespace.

Each has its own copy of the API's objects and its own speaker. What an agent writes to its Node, and what the test
says, reaches the copies as messages, in order. A node that is deaf gets them later, as from a watch that hangs.
"""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from pathlib import Path

from calico_py.agent.configuration.config import load_config
from calico_py.agent.receiver import Phase
from calico_py.dataplane.ipip import Engine
from calico_py.dataplane.netlink import LinuxKernel
from calico_py.ipam.blocks import new_block
from calico_py.model.blocks import AffinityState, BlockAffinity
from calico_py.model.kinds import BLOCK_AFFINITIES, IP_POOLS, IPAM_BLOCKS, NODES
from calico_py.model.meta import Meta
from calico_py.model.names import NODE_IPV4_ADDRESS, NODE_IPV4_IPIP_TUNNEL, affinity_labels, affinity_name
from calico_py.model.nodes import Node
from calico_py.model.pools import EncapMode, IPPool
from tests.fakes.convergence import Converging, Surroundings, converging
from tests.fakes.speaker import FakeSpeaker
from tests.fakes.store import MemoryStore
from tests.netns.tunnel_nodes import Node as Place
from tests.netns.tunnel_nodes import inside

POOL = "default"

Message = Callable[["NodeAgent"], Awaitable[object]]


class NodeAgent:
    """One node's agent, but for what has no part in convergence."""

    def __init__(self, place: Place, cluster: Sequence[Place], folder: Path) -> None:
        self.place = place
        self.name = _name(place)
        self.others: list[NodeAgent] = []
        self.converging: Converging
        self.started = threading.Event()
        self._cluster = cluster
        self._folder = folder
        self._store: MemoryStore
        self._speaker = FakeSpeaker()
        self._loop = asyncio.new_event_loop()
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self._hears = asyncio.Event()
        self._hears.set()
        self._end = asyncio.Event()

    def run(self) -> None:
        """What the thread does, until ``stop``."""
        with inside(self.place.namespace), asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._run())

    # From other threads

    @property
    def engine(self) -> Engine:
        """What encapsulates on this node."""
        last = self.converging.loop.last
        return last.applied.ipip.engine if last is not None else Engine.NONE

    @property
    def phase(self) -> Phase:
        """Of its receiver."""
        last = self.converging.loop.last
        return last.receiver.phase if last is not None else Phase.DOWN

    @property
    def tunnel(self) -> str:
        """Address of its tunnel, once it is announced; empty else."""
        notes = self.converging.view.nodes.objects[self.name].meta.annotations
        return notes.get(NODE_IPV4_IPIP_TUNNEL, "")

    def tell(self, message: Message) -> None:
        """To be acted on when it is heard."""
        self._loop.call_soon_threadsafe(self._messages.put_nowait, message)

    def be_deaf(self) -> None:
        """Messages wait from now on."""
        self._loop.call_soon_threadsafe(self._hears.clear)

    def hear(self) -> None:
        """All that has waited comes at once."""
        self._loop.call_soon_threadsafe(self._hears.set)

    def stop(self) -> None:
        """The agent ends; its kernel stays as it is."""
        self._loop.call_soon_threadsafe(self._end.set)

    # Messages

    async def set_mode(self, mode: EncapMode) -> None:
        """The pool has another ipipMode."""
        await self._store.patch(IP_POOLS, POOL, {"spec": {"ipipMode": str(mode)}})

    async def set_paths(self, *, announced: bool) -> None:
        """The sessions with all other nodes are up; their blocks are announced or not."""
        for other in self.others:
            routes = frozenset({ip_network(other.place.block)}) if announced else frozenset()
            self._speaker.peer(ip_address(other.place.address), routes)

    # In the thread

    async def _run(self) -> None:
        self._store = MemoryStore()  # its database belongs to the thread
        await self._prepare()
        config = load_config({"NODENAME": self.name, "IP": f"{self.place.address}/24"}, hostname=self.name)
        async with LinuxKernel() as kernel, asyncio.TaskGroup() as tasks:
            around = Surroundings(self._store, self._store, kernel, self._speaker, self._folder)
            async with converging(config, around) as self.converging:
                talking = [tasks.create_task(self._listen()), tasks.create_task(self._say())]
                self.started.set()
                await self._end.wait()
                for task in talking:
                    task.cancel()

    async def _prepare(self) -> None:
        """A pool that tunnels, and nodes with a block each, from which this one's tunnel has its address."""
        pool = IPPool(Meta(POOL), ip_network("10.244.0.0/16"), ipip_mode=EncapMode.ALWAYS)
        await self._store.create(IP_POOLS, pool)
        for place in self._cluster:
            notes = {NODE_IPV4_ADDRESS: f"{place.address}/24"}
            await self._store.create(NODES, Node(Meta(_name(place), annotations=notes)))
            cidr = ip_network(place.block)
            meta = Meta(affinity_name(_name(place), cidr), labels=affinity_labels(_name(place), cidr))
            affinity = BlockAffinity(meta, cidr, _name(place), AffinityState.CONFIRMED)
            await self._store.create(BLOCK_AFFINITIES, affinity)
        own = new_block(ip_network(self.place.block), node=self.name, now=datetime.now(UTC))
        await self._store.create(IPAM_BLOCKS, own)

    async def _listen(self) -> None:
        while True:
            message = await self._messages.get()
            await self._hears.wait()
            await message(self)

    async def _say(self) -> None:
        """What the agent writes to its own Node goes to the others."""
        listing = await self._store.list(NODES)
        (said,) = [dict(node.meta.annotations) for node in listing.items if node.name == self.name]
        self._tell_others(said)
        async for event in self._store.watch(NODES, resource_version=listing.resource_version):
            if event.name == self.name and event.object is not None:
                now = dict(event.object.meta.annotations)
                self._tell_others({key: now.get(key) for key in said | now if said.get(key) != now.get(key)})
                said = now

    def _tell_others(self, annotations: Mapping[str, str | None]) -> None:
        async def told(other: NodeAgent) -> None:
            await other._store.patch(NODES, self.name, {"metadata": {"annotations": annotations}})

        for other in self.others:
            other.tell(told)


def _name(place: Place) -> str:
    return f"node{place.number}"


@contextlib.contextmanager
def agents(cluster: Sequence[Place], folder: Path) -> Iterator[list[NodeAgent]]:
    """An agent on each node, ended with the block; each has made its first pass."""
    made = [NodeAgent(place, cluster, folder / _name(place)) for place in cluster]
    for agent in made:
        agent.others = [other for other in made if other is not agent]
    with ThreadPoolExecutor(len(made)) as threads:
        running: list[Future[None]] = [threads.submit(agent.run) for agent in made]
        try:
            for agent, future in zip(made, running, strict=True):
                while not agent.started.wait(0.1):
                    assert not future.done(), future.exception()
            yield made
        finally:
            for agent, future in zip(made, running, strict=True):
                if not future.done():
                    agent.stop()
            for future in running:
                future.result(60)
