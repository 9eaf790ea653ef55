"""The convergence of one node, with everything real but the API server, the kernel and the BGP speaker."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from ipaddress import ip_interface, ip_network
from pathlib import Path as FilePath

from calico_py.agent.config import load_config
from calico_py.agent.learned import Learner
from calico_py.agent.loop import Loop
from calico_py.agent.own_address import OwnAddress
from calico_py.agent.publish import NodePublisher
from calico_py.agent.receiver import wants_ipip
from calico_py.agent.tunnel_address import TunnelAddress
from calico_py.agent.view import ClusterView
from calico_py.dataplane.converge import Dataplane
from calico_py.ipam.allocator import Allocator
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
from calico_py.model.store import UnavailableError
from tests.fakes.kernel import FakeKernel
from tests.fakes.store import MemoryStore
from tests.fakes.waiting import until

ME = "node1"
POOL = "default"


class FakeSpeaker:
    """Remembers what it was told last; says what the test lets it say."""

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
    """

    def __init__(self, state_dir: FilePath, *, kernel_ipip: bool = True) -> None:
        self.refuse_patches = False
        self.store = MemoryStore()
        self.kernel = FakeKernel(ipip=kernel_ipip)
        self.speaker = FakeSpeaker()
        self.passes = 0
        self._state_dir = state_dir
        self.loop: Loop
        self.view: ClusterView
        self.tunnel_address: TunnelAddress

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
        reactions: list[Callable[[], None]] = []

        def changed() -> None:
            for react in reactions:
                react()

        config = load_config({"NODENAME": ME, "IP": "192.168.1.11/24", **environment}, hostname=ME)
        view = self.view = ClusterView(self.store, ME, changed, lambda: self.tunnel_address.refresh())  # noqa: PLW0108 - it comes later
        publisher = NodePublisher(self.store.with_fault(self._refused), ME, lambda: view.nodes.objects.get(ME))
        own = OwnAddress(config, self.store, self.kernel, publisher, on_change=changed)
        allocator = Allocator(
            self.store,
            node=ME,
            labels=view.labels,
            pools=lambda: tuple(view.pools.objects.values()),
            config=view.ipam_configuration,
            now=lambda: datetime.now(UTC),
        )
        address = self.tunnel_address = TunnelAddress(
            allocator, needed=lambda: wants_ipip(view.pools.objects.values()), on_change=changed
        )
        learner = Learner(self.speaker, changed)
        dataplane = Dataplane(self.kernel, state_dir=self._state_dir)
        loop = self.loop = Loop(
            config,
            view=view,
            kernel=self.kernel,
            dataplane=dataplane,
            learner=learner,
            speaker=self.speaker,
            publisher=publisher,
            own=own,
            tunnel_address=address,
        )
        loop.observe = self._observed
        reactions += [loop.mark, publisher.refresh]

        async def follow() -> None:
            async for event in self.kernel.events():
                if dataplane.on_event(event):
                    loop.mark()

        async def keep_address() -> None:
            await view.wait_in_sync()
            address.refresh()
            if tunnel_address:
                await address.run()

        parts = (view.run(), publisher.run(), own.run(), learner.run(), loop.run(), follow(), keep_address())
        tasks = [asyncio.create_task(part) for part in parts]
        try:
            await until(lambda: loop.last is not None)
            yield loop
        finally:
            ended = [task for task in tasks if task.done()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for task in ended:
                task.result()

    def _refused(self, when: str, verb: str, _kind: str, _name: str) -> None:
        if self.refuse_patches and (when, verb) == ("before", "patch"):
            raise UnavailableError("the API server is away")

    def _observed(self, _compute: float, _apply: float, _undone: bool) -> None:
        self.passes += 1


def block(number: int) -> str:
    """The block of a node, as prepare makes it."""
    return f"10.244.{number}.0/26"


def named(number: int) -> str:
    """The name of its IPAMBlock."""
    return block_name(ip_network(block(number)))
