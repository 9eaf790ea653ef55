"""A cluster for the tests of IPAM: one store, a clock that the test moves, an allocator for each node."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from calico_py.ipam.allocator import Allocator
from calico_py.ipam.blocks import Allocation, allocations, block_problems, borrowed
from calico_py.ipam.requests import Assigned, AssignRequest
from calico_py.model.blocks import AffinityState, BlockAffinity, IPAMBlock, IPAMConfiguration, IPAMHandle
from calico_py.model.kinds import BLOCK_AFFINITIES, IPAM_BLOCKS, IPAM_HANDLES
from calico_py.model.meta import Meta
from calico_py.model.names import LABEL_BORROWED
from calico_py.model.net import Address, Family, Network, parse_network
from calico_py.model.pools import IPPool
from calico_py.model.store import Store
from tests.fakes.store import MemoryStore

POD = {"namespace": "default", "pod": "web"}


def pool(cidr: str, block_size: int = 0, *, name: str = "", **fields: object) -> IPPool:
    """A pool with Calico's block size unless told otherwise."""
    network = parse_network(cidr, field="cidr")
    size = block_size or (26 if network.version == 4 else 122)
    return IPPool(Meta(name or f"pool-{cidr}"), network, size, **fields)  # type: ignore[arg-type]  # of IPPool


def config(**fields: object) -> IPAMConfiguration:
    """An IPAMConfiguration that says only that; no cooldown unless told otherwise."""
    return IPAMConfiguration(Meta("default"), **{"ip_cooldown_seconds": 0, **fields})  # type: ignore[arg-type]


def workload(container: str, *families: Family, **fields: object) -> AssignRequest:
    """What a CNI ADD asks for."""
    return AssignRequest(f"k8s-pod-network.{container}", POD, families or (4,), **fields)  # type: ignore[arg-type]


@dataclass
class IPAMCluster:
    """Pools, configuration and time are what the test sets."""

    pools: list[IPPool]
    config: IPAMConfiguration = field(default_factory=config)
    store: MemoryStore = field(default_factory=MemoryStore)
    now: datetime = datetime(2026, 5, 4, 12, 0, 0, 250_000, UTC)
    labels: dict[str, dict[str, str]] = field(default_factory=dict)
    reserved: list[Network] = field(default_factory=list)
    taken: set[Network] = field(default_factory=set)
    gone_since: dict[str, datetime] = field(default_factory=dict)
    rest: float = 0
    watched: Callable[[], Mapping[str, BlockAffinity]] | None = None

    def node(self, name: str, store: Store | None = None) -> Allocator:
        """A new allocator for a node, as after a start of its agent."""
        return Allocator(
            store or self.store,
            node=name,
            labels=lambda: self.labels.get(name, {}),
            pools=lambda: self.pools,
            config=lambda: self.config,
            now=self.tick,
            reserved=lambda: self.reserved,
            taken=lambda: self.taken,
            gone_since=lambda: self.gone_since.get(name),
            rest=self.rest,
            affinities=self.watched,
        )

    def tick(self) -> datetime:
        """The time, a microsecond later at each look, so that no two events are simultaneous."""
        self.now += timedelta(microseconds=1)
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)

    async def blocks(self) -> list[IPAMBlock]:
        """All blocks, by CIDR."""
        return sorted((await self.store.list(IPAM_BLOCKS)).items, key=lambda b: (b.cidr.version, b.cidr))

    async def affinities(self) -> list[BlockAffinity]:
        """All affinities."""
        return list((await self.store.list(BLOCK_AFFINITIES)).items)

    async def handles(self) -> Mapping[str, IPAMHandle]:
        """All handles, by id."""
        return {h.handle_id: h for h in (await self.store.list(IPAM_HANDLES)).items}

    async def held(self) -> dict[Address, Allocation]:
        """Every address that somebody holds."""
        return {a.address: a for b in await self.blocks() for a in allocations(b) if not a.cooling}


def addresses(assigned: tuple[Assigned, ...]) -> list[str]:
    """As text."""
    return [str(a.address) for a in assigned]


async def problems(cluster: IPAMCluster) -> list[str]:
    """What contradicts itself once nothing runs any more: blocks, affinities, handles."""
    found = []
    affinities = {a.cidr: a for a in await cluster.affinities() if not a.deleted}
    counts: dict[str, Counter[Network]] = {}
    for block in await cluster.blocks():
        found += [f"{block.cidr}: {problem}" for problem in block_problems(block)]
        lent = block.meta.labels.get(LABEL_BORROWED) == "true"
        if lent != bool(borrowed(block)):
            found.append(f"{block.cidr}: label borrowed is {lent}")
        if block.deleted:
            found.append(f"{block.cidr}: deletion is half done")
        affinity = affinities.pop(block.cidr, None)
        if block.node is not None and (affinity is None or affinity.node != block.node):
            found.append(f"{block.cidr}: is of {block.node}, its affinity is {affinity}")
        if affinity is not None and affinity.state != AffinityState.CONFIRMED:
            found.append(f"{block.cidr}: affinity is {affinity.state}")
        for a in allocations(block):
            if not a.cooling:
                counts.setdefault(a.handle, Counter())[block.cidr] += 1
    found += [f"{cidr}: affinity of {a.node} ({a.state}) without a block" for cidr, a in affinities.items()]
    handles = {handle_id: dict(h.blocks) for handle_id, h in (await cluster.handles()).items()}
    if handles != counts:
        found.append(f"handles: found {handles}, expected {counts}")
    return found
