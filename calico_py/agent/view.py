"""ClusterView: the reflectors of one agent, joined to a ClusterState.

What is watched does not grow with the pods of other nodes: affinities change with claims, and of the blocks only
this node's own and those that lend an address are watched.
"""

import asyncio
import logging
import operator
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from calico_py.agent.lending_blocks import LendingBlocks
from calico_py.agent.own_blocks import OwnBlocks
from calico_py.agent.pod_facts import PodLookup
from calico_py.kube.reflector import Reflector
from calico_py.model.bgp import BGPConfiguration, FelixConfiguration
from calico_py.model.blocks import IPAMBlock, IPAMConfiguration
from calico_py.model.cluster import ClusterState
from calico_py.model.intent import Problem
from calico_py.model.kinds import (
    BGP_CONFIGURATIONS,
    BLOCK_AFFINITIES,
    FELIX_CONFIGURATIONS,
    IP_POOLS,
    IP_RESERVATIONS,
    IPAM_CONFIGURATIONS,
    NODES,
)
from calico_py.model.meta import Meta
from calico_py.model.net import Address, Network
from calico_py.model.nodes import Node
from calico_py.model.pools import IPPool
from calico_py.model.store import Store
from calico_py.routing.holders import find_holders
from calico_py.routing.pools import select_pools
from calico_py.trouble import Trouble

log = logging.getLogger(__name__)

DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Watched:
    """One reflector's condition, for status and readiness.

    Attributes:
        error: why it is not in sync, or why it may be out of date; empty if all is well.
    """

    plural: str
    in_sync: bool
    objects: int
    error: str


async def _none() -> tuple[Address, ...]:
    """No pod lives here."""
    return ()


class ClusterView:
    """All that this agent watches.

    Args:
        node: name of this node.
        on_change: called when anything changed that routes, tunnels or sessions depend on; must not block.
        on_pools: called before on_change when it was a pool.
        on_blocks: called before on_change when it was a block. Most of their changes, a pod's address taken or
            released, concern nothing else, and on_change is not called.
        living: the addresses of this node's pods.
    """

    def __init__(
        self,
        store: Store,
        node: str,
        on_change: Callable[[], None],
        on_pools: Callable[[], None] = lambda: None,
        on_blocks: Callable[[], None] = lambda: None,
        *,
        living: Callable[[], Awaitable[Iterable[Address]]] = _none,
    ) -> None:
        def on_pool_change() -> None:
            on_pools()
            on_change()

        def on_claim_change() -> None:
            self.own_blocks.follow()
            self.lending_blocks.follow()
            on_change()

        def on_block_change() -> None:
            on_blocks()
            if self._block_facts_changed():
                on_change()

        self._node = node
        self._last_said: dict[str, Node] = {}
        self._block_facts: object = None
        self._selected: tuple[list[IPPool], tuple[IPPool, ...]] = ([], ())
        trouble = Trouble(log)  # an API that is away is one trouble, however much is watched
        self.nodes = Reflector(store, NODES, on_change, trouble=trouble)
        self.pools = Reflector(store, IP_POOLS, on_pool_change, trouble=trouble)
        self.affinities = Reflector(store, BLOCK_AFFINITIES, on_claim_change, trouble=trouble)
        self.own_blocks = OwnBlocks(store, node, on_block_change, self.affinities, trouble=trouble)
        self.lending_blocks = LendingBlocks(
            store,
            node,
            on_block_change,
            affinities=self.affinities,
            pools=self.pools,
            nodes=self.nodes,
            living=living,
            trouble=trouble,
        )
        self.bgp = Reflector(store, BGP_CONFIGURATIONS, on_change, trouble=trouble)
        self.felix = Reflector(store, FELIX_CONFIGURATIONS, on_change, trouble=trouble)
        self.ipam = Reflector(store, IPAM_CONFIGURATIONS, on_change, trouble=trouble)
        self.reservations = Reflector(store, IP_RESERVATIONS, on_change, trouble=trouble)
        self.lookup = PodLookup(store, node, trouble=trouble)

    def _block_facts_changed(self) -> bool:
        before = self._block_facts
        self._block_facts = [
            (watch.in_sync, dict(watch.invalid), find_routed(watch.objects.values()))
            for watch in (self.own_blocks, self.lending_blocks)
        ]
        return self._block_facts != before

    def reflectors(self) -> tuple[Reflector, ...]:  # type: ignore[type-arg]  # of different kinds
        """Each of them."""
        return (
            self.nodes,
            self.pools,
            self.affinities,
            self.own_blocks,
            self.lending_blocks,
            self.bgp,
            self.felix,
            self.ipam,
            self.reservations,
            self.lookup.pods,
            self.lookup.namespaces,
        )

    async def run(self) -> None:
        """Keep all current, for ever."""
        async with asyncio.TaskGroup() as tasks:
            for reflector in self.reflectors():
                tasks.create_task(reflector.run(), name=f"reflector {reflector.kind.plural}")

    async def wait_in_sync(self) -> None:
        """Return once every kind has been listed."""
        for reflector in self.reflectors():
            await reflector.wait_in_sync()

    @property
    def in_sync(self) -> bool:
        """API in-sync: each kind has been listed once since the process began."""
        return all(reflector.in_sync for reflector in self.reflectors())

    def watched(self) -> Iterator[Watched]:
        """The condition of each reflector."""
        for reflector in self.reflectors():
            yield Watched(reflector.kind.plural, reflector.in_sync, len(reflector.objects), reflector.last_error)

    def state(self) -> ClusterState:
        """The cluster as it is now; it stays so while a computation goes on."""
        configs = self.bgp.objects
        self._last_said = {name: _as_last_said(n, self._last_said.get(name)) for name, n in self.nodes.objects.items()}
        return ClusterState(
            nodes=self._last_said,
            pools=dict(self.pools.objects),
            affinities=dict(self.affinities.objects),
            blocks=self.blocks(),
            bgp=configs.get(DEFAULT) or BGPConfiguration(Meta(DEFAULT)),
            node_bgp={name.removeprefix("node."): c for name, c in configs.items() if name.startswith("node.")},
            felix=self.felix.objects.get(DEFAULT) or FelixConfiguration(Meta(DEFAULT)),
        )

    def blocks(self) -> dict[Network, IPAMBlock]:
        """The node's own blocks, and those that lend addresses."""
        found = {**self.lending_blocks.objects, **self.own_blocks.objects}
        return {block.cidr: block for block in found.values()}

    def ipam_configuration(self) -> IPAMConfiguration:
        """Cluster-wide rules of allocation."""
        return self.ipam.objects.get(DEFAULT) or IPAMConfiguration(Meta(DEFAULT))

    def usable_pools(self) -> tuple[IPPool, ...]:
        """The pools that may be used. An ADD asks several times, and pools seldom change."""
        found = list(self.pools.objects.values())
        before, usable = self._selected
        if len(found) != len(before) or not all(map(operator.is_, found, before)):
            usable = select_pools(found).usable
            self._selected = found, usable
        return usable

    def reserved(self) -> tuple[Network, ...]:
        """What no pod may be given automatically."""
        return tuple(cidr for found in self.reservations.objects.values() for cidr in found.reserved_cidrs)

    def labels(self) -> dict[str, str]:
        """This node's labels."""
        found = self.nodes.objects.get(self._node)
        return dict(found.meta.labels) if found is not None else {}

    def uid(self, kind: str, name: str) -> str:
        """Of an object that is watched, though it may be one that cannot be used; empty where there is none."""
        for reflector in self.reflectors():
            if reflector.kind.kind != kind:
                continue
            if name in reflector.objects:
                return str(reflector.objects[name].meta.uid)
            if name in reflector.invalid:
                return reflector.invalid[name].uid
        return ""

    def problems(self) -> tuple[Problem, ...]:
        """The objects that the server holds and that cannot be used, and the annotations of nodes."""
        objects = (
            Problem(kind, name, "Invalid", f"{kind} {name} is not used: {error}; mend or delete it")
            for kind, reflector in ((reflector.kind.kind, reflector) for reflector in self.reflectors())
            for name, error in sorted(reflector.invalid.items())
        )
        annotations = (
            Problem("Node", name, "Invalid", f"Node {name}: {sentence}; the annotation counts as absent")
            for name, node in sorted(self.nodes.objects.items())
            for sentence in node.invalid
        )
        return (*objects, *annotations)


def _as_last_said(node: Node, before: Node | None) -> Node:
    """A node whose annotation of an address someone removed or broke: it has the one that it last had.

    Its own agent puts the annotation back; until then neither its routes nor its sessions go. Another Node of the same
    name is another node, and one that took back all that it said (--cleanup) has left.
    """
    if before is None or before.meta.uid != node.meta.uid or (before.sending is not None and node.sending is None):
        return node
    ipv4, ipv6 = node.ipv4 or before.ipv4, node.ipv6 or before.ipv6
    said_all = ipv4 is node.ipv4 and ipv6 is node.ipv6
    return node if said_all else replace(node, ipv4=ipv4, ipv6=ipv6)


def find_routed(blocks: Iterable[IPAMBlock]) -> Mapping[Network, object]:
    """What routing reads of blocks (routing.holders), in a form that can be compared."""
    return {
        block.cidr: (block.node, block.deleted, find_holders((), {block.cidr: block}).by_prefix) for block in blocks
    }
