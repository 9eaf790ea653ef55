"""Parts: the pieces of a running agent, and the few answers that need several of them."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from calico_py.agent.configuration.config import AgentConfig
from calico_py.agent.learned import Learner
from calico_py.agent.loop import Loop
from calico_py.agent.mtu import choose_pod_mtu
from calico_py.agent.own_address import OwnAddress
from calico_py.agent.pod_addresses import list_pod_addresses
from calico_py.agent.publish import NodePublisher
from calico_py.agent.reactions import Reactions
from calico_py.agent.tunnel_address import TunnelAddress
from calico_py.agent.view import ClusterView
from calico_py.dataplane.converge import Dataplane
from calico_py.dataplane.wiring import NetlinkPodWiring
from calico_py.ipam.allocator import Allocator
from calico_py.ipam.choice import selects_node
from calico_py.ipam.reconcile import Living, ReconcileReport
from calico_py.model.intent import Problem
from calico_py.model.kernel import Kernel
from calico_py.model.net import FAMILIES, Family
from calico_py.model.pools import AllowedUse, IPPool
from calico_py.model.store import Store


@dataclass(slots=True)
class Parts:
    """All of them.

    Attributes:
        server: address of the API server, for people.
        env_problems: where pools differ from the environment.
        pools_settled: there is one of each family that the environment wants, or all that it makes have been made.
        on_change: called when anything that is watched changed, but for addresses in blocks that route nothing else.
        on_blocks: called when a block changed.
    """

    config: AgentConfig
    server: str
    store: Store
    kernel: Kernel
    view: ClusterView
    publisher: NodePublisher
    own: OwnAddress
    allocator: Allocator
    tunnel_address: TunnelAddress
    learner: Learner
    dataplane: Dataplane
    wiring: NetlinkPodWiring
    loop: Loop
    on_change: Reactions
    on_blocks: Reactions
    env_problems: tuple[Problem, ...] = ()
    pools_settled: bool = False

    def pools(self) -> tuple[IPPool, ...]:
        """The pools that may be used."""
        return self.view.usable_pools()

    @property
    def has_node(self) -> bool:
        """This node has a Node object; one that was deleted gets nothing more."""
        return self.config.node in self.view.nodes.objects

    def families(self) -> tuple[Family, ...]:
        """Of which a pod of this node gets an address: those that the node has, with a pool that selects the node.

        A pool that is disabled counts: rather no pod than one without the family that all others have. One that is
        being deleted is there until its last pod has gone, and new ones do without.
        """
        return self._families_of(pool for pool in self._selecting() if not pool.meta.deleting)

    def _selecting(self) -> list[IPPool]:
        """Pools for pods whose nodeSelector holds for this node, open or closed."""
        if not self.has_node:
            return []
        labels = self.view.labels()
        return [
            pool for pool in self.pools() if AllowedUse.WORKLOAD in pool.allowed_uses and selects_node(pool, labels)
        ]

    def _families_of(self, pools: Iterable[IPPool]) -> tuple[Family, ...]:
        served = {pool.cidr.version for pool in pools}
        return tuple(f for f in self.addressed() if f in served)

    def addressed(self) -> tuple[Family, ...]:
        """The families of which this node has an address."""
        return tuple(f for f in FAMILIES if self.own.address(f) is not None)

    def not_ready(self) -> str:
        """Why no ADD can be served now, as a sentence; empty if it can.

        A closed pool is no reason: the node would become NotReady by it, and Kubernetes would evict what runs there.
        """
        if not self.view.in_sync:
            late = [watched for watched in self.view.watched() if not watched.in_sync]
            what = ", ".join(dict.fromkeys(watched.plural for watched in late))
            why = late[0].error or self.own.problem or "the first list has not come yet"
            return f"not in sync with the API server yet ({what}): {why}"
        if self.own.problem:
            return self.own.problem
        if not self.has_node:
            return f"Node {self.config.node} does not exist any more: stop this agent, or let the kubelet make it again"
        if not self.pools_settled:
            return "the environment's pools are not looked after yet: if it stays, the agent's log says why"
        if not self._families_of(self._selecting()):
            return "no IPPool serves this node: create one, or set CALICO_IPV4POOL_CIDR"
        return ""

    async def free_all_but(self, containers: Collection[str]) -> ReconcileReport:
        """Free the addresses that this node's pods have, but for these containers', and for those that it routes.

        Raises:
            StoreError, IPAMError: the API failed, or was written too often.
        """
        living = Living(containers=containers, addresses=await list_pod_addresses(self.kernel))
        return await self.allocator.reconcile(living)

    def pod_mtu(self) -> int:
        """Of the pods that are made now, bytes."""
        return choose_pod_mtu(self.config.mtu, self.loop.uplink_mtu, self.pools()).mtu
