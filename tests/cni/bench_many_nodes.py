"""ADD in a cluster of 5,000 nodes, at rest and while their annotations change, on a real kube-apiserver.

Each change lets the agent compute the way to all nodes anew. Another node leads, as for all but one of them. As
``python -m tests.cni.bench_many_nodes KUBECONFIG`` it is what changes them, until killed.
"""

import asyncio
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path

import pytest

from calico_py.kube.client import KubeStore, connect
from calico_py.model.blocks import AffinityState, BlockAffinity
from calico_py.model.kinds import BLOCK_AFFINITIES, NODES
from calico_py.model.meta import Meta
from calico_py.model.names import NODE_IPV4_ADDRESS, NODE_SENDING, affinity_labels, affinity_name
from calico_py.model.nodes import Node
from tests.cni.bench_cni import ROOT, call_line
from tests.cni.faulty_api import FaultyApi
from tests.cni.real_agent import NODE, RealAgent, eventually, make_pod
from tests.cni.runtime import Runtime
from tests.contract.servers import ApiUnderTest, kube
from tests.figures import Figure, Figures
from tests.netns.namespaces import Namespace

pytestmark = [pytest.mark.root, pytest.mark.bench, pytest.mark.timeout(600)]

MANY = 5000
ROUNDS = 60
AT_ONCE = 16
PAUSE = 0.1  # seconds
POOL, BLOCK_SIZE = ip_network("10.224.0.0/11"), 24  # a block suffices for all pods
UPLINK = ip_network("192.168.0.0/16")
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"
FELIX = "/apis/projectcalico.org/v3/felixconfigurations"


def name_of(number: int) -> str:
    return f"other-{number:04}"


async def fill(store: KubeStore) -> None:
    """Nodes on this node's subnet, each with a block."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def make(number: int) -> None:
        node, cidr = name_of(number), ip_network((int(POOL.network_address) + 256 * (number + 64), BLOCK_SIZE))
        address = {NODE_IPV4_ADDRESS: f"{UPLINK[number + 256]}/16"}
        meta = Meta(affinity_name(node, cidr), labels=affinity_labels(node, cidr))
        async with slots:
            await store.create(NODES, Node(Meta(node)))
            await store.patch(NODES, node, {"metadata": {"annotations": address}})
            await store.create(BLOCK_AFFINITIES, BlockAffinity(meta, cidr, node, AffinityState.CONFIRMED))

    async with asyncio.TaskGroup() as tasks:
        for number in range(MANY):
            tasks.create_task(make(number))


async def change(kubeconfig: str) -> None:
    """Say of one node after the other that it sends otherwise, as after a change of the pool's mode."""
    async with connect(kubeconfig) as store:
        for turn, number in itertools.product(itertools.count(), range(MANY)):
            sending = {"default": {"mode": "IPIP" if turn % 2 else "None", "since": "2026-05-04T12:00:00Z"}}
            patch = {"metadata": {"annotations": {NODE_SENDING: json.dumps(sending)}}}
            await store.patch(NODES, name_of(number), patch)
            await asyncio.sleep(0.01)


@contextmanager
def changing(kubeconfig: Path) -> Iterator[None]:
    command = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "tests.cni.bench_many_nodes", str(kubeconfig)]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        yield
        assert process.poll() is None
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.fixture
def server(host: Namespace) -> Iterator[ApiUnderTest]:
    """In the node's namespace, whose uplink has the node's address."""
    host.run("ip", "link", "add", "uplink", "type", "veth", "peer", "name", "wire")
    for device in ("uplink", "wire"):
        host.run("ip", "link", "set", device, "up")
    host.run("ip", "address", "add", f"{UPLINK[1]}/16", "dev", "uplink")
    host.run("ip", "route", "add", "default", "via", str(UPLINK[2]))  # without one no kube-apiserver starts
    with tempfile.TemporaryDirectory(prefix=f"cpy{os.getpid()}-kube-") as folder, kube(Path(folder)) as api:
        api.request("POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}})
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        held = {"holderIdentity": name_of(0), "leaseDurationSeconds": 3600, "acquireTime": now, "renewTime": now}
        lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "calico-py-leader"}}
        assert api.request("POST", LEASES, {**lease, "spec": held}).status == 201
        felix = {"metadata": {"name": "default"}, "spec": {"programClusterRoutes": "Enabled"}}
        made = api.request("POST", FELIX, {"apiVersion": "projectcalico.org/v3", "kind": "FelixConfiguration", **felix})
        assert made.status == 201, made.body
        yield api


async def call_each(runtime: Runtime, shim: Path, lines: list[str]) -> list[float]:
    """Milliseconds of each call."""
    times = []
    driver = await asyncio.create_subprocess_exec(
        *runtime.enter,
        *(sys.executable, str(Path(ROOT) / "tests" / "cni" / "bench_cni.py"), "drive", str(shim)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": ROOT},
    )
    assert driver.stdin is not None
    assert driver.stdout is not None
    for line in lines:
        driver.stdin.write(line.encode() + b"\n")
        times.append(float(await driver.stdout.readline()))
        await asyncio.sleep(PAUSE)
    driver.stdin.close()
    await driver.wait()
    return times


async def test_add_among_many_nodes(  # noqa: PLR0917 - fixtures
    server: ApiUnderTest,
    host: Namespace,
    runtime: Runtime,
    shim: Path,
    new_pod: Callable[[], Namespace],
    figures: Figures,
) -> None:
    """ADD among 5,000 nodes."""
    environment = {"IP": "autodetect", "IP6": "none", "CALICO_IPV4POOL_CIDR": str(POOL), "CALICO_IPV6POOL_CIDR": ""}
    environment |= {"IP_AUTODETECTION_METHOD": "interface=uplink", "CALICO_IPV4POOL_BLOCK_SIZE": str(BLOCK_SIZE)}
    no_faults = FaultyApi(server, random.Random(1))
    async with connect(str(server.kubeconfig)) as store:
        await fill(store)
    agent = RealAgent(runtime, no_faults, environment, kubeconfig=server.kubeconfig)
    with agent.running():
        await agent.wait_until_ready(within=60)
        await eventually(
            "routes to all other nodes", lambda: len(host.ip("route", "show", "proto", "80")) >= MANY, within=60
        )
        pods = [new_pod() for _ in range(2 * ROUNDS)]
        for number in range(len(pods)):
            make_pod(server, f"pod{number}")
        lines = [call_line("ADD", number, pod) for number, pod in enumerate(pods)]
        at_rest = sorted(await call_each(runtime, shim, lines[:ROUNDS]))
        with changing(server.kubeconfig):
            await asyncio.sleep(3)
            times = sorted(await call_each(runtime, shim, lines[ROUNDS:]))
    what, beside = f"ADD among {MANY} nodes that change", "at rest"
    median, rest = statistics.median(times), statistics.median(at_rest)
    figures.tell(Figure(f"{what}, median", median, "ms", 30.0, beside, rest))
    figures.tell(Figure(f"{what}, slowest of {ROUNDS}", times[-1], "ms", 150.0, beside, at_rest[-1]))


if __name__ == "__main__":
    asyncio.run(change(sys.argv[1]))
