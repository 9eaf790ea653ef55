"""Many nodes with addresses on a real API server, and the leader's collection as a process of its own.

``python -m tests.contract.leading KUBECONFIG NODE`` leads as the agent of that node does, until killed.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Address, ip_network
from pathlib import Path

from calico_py.agent.cluster.announcer import Announcer
from calico_py.agent.cluster.leader import Leader
from calico_py.agent.cluster.pods import Pods
from calico_py.agent.reactions import Reactions
from calico_py.agent.view import ClusterView
from calico_py.ipam import blocks
from calico_py.ipam.allocator import Allocator
from calico_py.ipam.collector import Collector
from calico_py.kube.client import KubeStore, connect
from calico_py.kube.events import Recorder
from calico_py.model.blocks import AffinityState, Attribute, BlockAffinity, IPAMBlock, IPAMHandle
from calico_py.model.kinds import BLOCK_AFFINITIES, IP_POOLS, IPAM_BLOCKS, IPAM_HANDLES, NODES
from calico_py.model.meta import Meta
from calico_py.model.names import affinity_labels, affinity_name, handle_name, warm_handle
from calico_py.model.net import Network
from calico_py.model.nodes import Node
from tests.fakes.ipam import pool

ROOT = Path(__file__).resolve().parents[2]
POOL = "10.64.0.0/14"
AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Held:
    """A node that has a block with addresses: of pods, of its tunnel, and warm ones.

    Attributes:
        number: from 0; names node and block.
        pods: how many addresses are pods'.
    """

    number: int
    pods: int

    @property
    def node(self) -> str:
        """Its name."""
        return f"node-{self.number:03}"

    @property
    def cidr(self) -> Network:
        """Of its block."""
        first = IPv4Address(int(ip_network(POOL).network_address) + 64 * self.number)
        return ip_network(f"{first}/26")

    def pod_name(self, index: int) -> str:
        """Of one of its pods."""
        return f"pod-{self.number}-{index}"

    def owners(self) -> Iterator[Attribute]:
        """One for each address."""
        at = {"node": self.node, "timestamp": "2026-05-04 12:00:00 +0000 UTC"}
        yield Attribute(f"ipip-tunnel-addr-{self.node}", {**at, "type": "ipipTunnelAddress"})
        yield Attribute(warm_handle(self.node), at)
        for index in range(self.pods):
            notes = {**at, "namespace": "default", "pod": self.pod_name(index)}
            yield Attribute(f"k8s-pod-network.{self.number:08x}{index:08x}", notes)

    def block(self) -> IPAMBlock:
        """As the API has it."""
        block = blocks.new_block(self.cidr, node=self.node, now=datetime.now(UTC))
        for ordinal, owner in enumerate(self.owners()):
            block = blocks.assign_at(block, ordinal, owner)
        return blocks.sealed(block)


async def fill(store: KubeStore, held: Iterable[Held]) -> None:
    """Make nodes, blocks, affinities and handles, and a pool that contains them."""
    await store.create(IP_POOLS, pool(POOL, name="many"))
    slots = asyncio.Semaphore(AT_ONCE)

    async def make(one: Held) -> None:
        meta = Meta(affinity_name(one.node, one.cidr), labels=affinity_labels(one.node, one.cidr))
        async with slots:
            await store.create(NODES, Node(Meta(one.node)))
            await store.create(BLOCK_AFFINITIES, BlockAffinity(meta, one.cidr, one.node, AffinityState.CONFIRMED))
            await store.create(IPAM_BLOCKS, one.block())
            for owner in one.owners():
                handle = owner.handle_id or ""
                await store.create(IPAM_HANDLES, IPAMHandle(Meta(handle_name(handle)), handle, {one.cidr: 1}))

    async with asyncio.TaskGroup() as tasks:
        for one in held:
            tasks.create_task(make(one))


async def left(store: KubeStore, of: Iterable[Held]) -> dict[str, int]:
    """How much of these nodes the API still has."""
    cidrs = {held.node: held.cidr for held in of}
    mine = frozenset(cidrs.values())
    found = [block for block in (await store.list(IPAM_BLOCKS)).items if not block.deleted and block.cidr in mine]
    return {
        "addresses": sum(not a.cooling for block in found for a in blocks.allocations(block)),
        "blocks": len(found),
        "affinities": sum(claim.node in cidrs for claim in (await store.list(BLOCK_AFFINITIES)).items),
        "handles": sum(bool(mine & handle.blocks.keys()) for handle in (await store.list(IPAM_HANDLES)).items),
    }


async def lead(kubeconfig: str, node: str) -> None:
    """The leader's work, as the agent of a node composes it."""
    async with connect(kubeconfig) as store:
        on_change = Reactions()
        view = ClusterView(store, node, on_change)
        allocator = Allocator(
            store,
            node=node,
            labels=view.labels,
            pools=view.usable_pools,
            config=view.ipam_configuration,
            now=lambda: datetime.now(UTC),
            reserved=view.reserved,
        )
        recorder = Recorder(store, node)
        pods = Pods(store)
        collector = Collector(
            store,
            allocator,
            nodes=lambda: list(view.nodes.objects),
            pods=pods.list,
            now=lambda: datetime.now(UTC),
        )
        leader = Leader(
            store,
            node,
            view,
            announcer=Announcer(recorder, lambda _: ""),
            collect=lambda grace: collector.collect(grace=grace),
            pod_ends=pods.wait_for_end,
        )
        on_change.append(leader.mark)
        async with asyncio.TaskGroup() as tasks:
            for part in (view.run(), leader.run(), recorder.run()):
                tasks.create_task(part)


@contextlib.contextmanager
def leading(kubeconfig: Path, node: str, log: Path) -> Iterator[int]:
    """The leader as a process; gives its id."""
    command = [sys.executable, "-m", "tests.contract.leading", str(kubeconfig), node]
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command], stdout=out, stderr=out, start_new_session=True, cwd=ROOT
        )
    try:
        yield process.pid
        assert process.poll() is None, log.read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def peak_mib(pid: int) -> float:
    """The largest resident size that a process has had, MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024


async def until_nothing_is_left(store: KubeStore, of: Sequence[Held], within: float) -> float:
    """Seconds until the API has nothing of these nodes any more."""
    began = time.monotonic()
    while any((found := await left(store, of)).values()):
        assert time.monotonic() - began < within, f"after {within} s there is still {found}"
        await asyncio.sleep(0.5)
    return time.monotonic() - began


if __name__ == "__main__":
    asyncio.run(lead(*sys.argv[1:]))
