"""ADD and DEL as whole processes with addresses from a real kube-apiserver, beside Debian's ptp with host-local.

Calls of the three alternate, so that what else the machine does falls on all of them. The agent's parts run in a
process of their own (``bench_addresses.py serve KUBECONFIG FOLDER WARM``) that says when asked what it has sent.
"""

import asyncio
import gc
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import pytest

from calico_py.cni.deferred import DeferredDels
from calico_py.cni.server import Server
from calico_py.cni.verbs import Plugin, Surroundings
from calico_py.dataplane.wiring import NetlinkPodWiring
from calico_py.ipam.allocator import Allocator
from calico_py.ipam.journal import Journal, JournalFile
from calico_py.ipam.reconcile import Living
from calico_py.ipam.warm import WarmAddresses
from calico_py.kube.client import connect
from calico_py.model.blocks import IPAMConfiguration
from calico_py.model.meta import Meta
from tests.cni.runtime import Runtime, config
from tests.contract.servers import kube
from tests.fakes.ipam import pool
from tests.fakes.slow import SlowStore
from tests.netns.namespaces import Namespace

pytestmark = [pytest.mark.root, pytest.mark.bench]

ROOT = str(Path(__file__).resolve().parents[2])
PLUGINS = Path("/usr/lib/cni")
ROUNDS = 100
AT_ONCE = (50, 100)
WARM, COLD, PTP = "warm", "group commit", "ptp + host-local"
LIMITS = {WARM: 0.4, COLD: 1.5}  # of ptp's median in the same run


# The agent's process


async def serve(kubeconfig: str, folder: Path, warm: int) -> None:
    async with connect(kubeconfig) as store:
        counting = SlowStore(store, lambda: 0)
        pools, cooldown = [pool("10.64.0.0/16", name="bench")], IPAMConfiguration(Meta("default"))
        allocator = Allocator(
            counting,
            node=f"bench{warm}",
            labels=dict,
            pools=lambda: pools,
            config=lambda: cooldown,
            now=lambda: datetime.now(UTC),
        )
        journal = Journal(JournalFile(folder / "state" / "journal"), wait_for_disk="wait" in sys.argv)
        addresses = WarmAddresses(allocator, journal, base=warm, families=lambda: (4,), now=lambda: datetime.now(UTC))
        wiring = NetlinkPodWiring()
        plugin = Plugin(
            wiring=wiring,
            addresses=addresses,
            surroundings=Surroundings(ready=str, families=lambda: (4,), mtu=lambda: 1450),
            deferred=DeferredDels(folder / "state" / "del"),
        )
        await addresses.start(Living(()))
        await addresses.catch_up()
        gc.collect()
        gc.freeze()
        async with asyncio.TaskGroup() as tasks:
            work = (Server(plugin, path=folder / "run" / "cni.sock").serve(), wiring.run(), addresses.run())
            running = [tasks.create_task(each) for each in work]
            print("ready", flush=True)
            while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
                if line == "count":
                    calls = {f"{verb} {kind}": number for (verb, kind), number in counting.calls.items()}
                    print(json.dumps(calls | {"served": addresses.counts.served}), flush=True)
            for task in running:
                task.cancel()


@dataclass
class Served:
    """The agent's process."""

    process: subprocess.Popen[str]

    def count(self) -> dict[str, int]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print("count", file=self.process.stdin, flush=True)
        found: dict[str, int] = json.loads(self.process.stdout.readline())
        return found


@contextmanager
def serving(kubeconfig: Path, folder: Path, warm: int) -> Iterator[Served]:
    more = ["wait"] if os.environ.get("CALICO_PY_BENCH_WAIT") else []
    process = subprocess.Popen(
        [sys.executable, __file__, "serve", str(kubeconfig), str(folder), str(warm), *more],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": ROOT},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield Served(process)
    finally:
        process.kill()
        process.communicate()


# The calls


@dataclass
class Driver:
    """A program that spawns plugins where the shim's paths lead, and times them."""

    enter: list[str]
    process: subprocess.Popen[str] = field(init=False)

    def __post_init__(self) -> None:
        self.process = subprocess.Popen(
            [*self.enter, sys.executable, __file__, "drive"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": ROOT},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def time(self, calls: list[dict[str, Any]]) -> float:
        """Milliseconds from the first spawn to the last end."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(calls), file=self.process.stdin, flush=True)
        answer = json.loads(self.process.stdout.readline())
        assert not answer["failed"], answer["failed"]
        return float(answer["ms"])


def drive() -> None:
    for line in sys.stdin:
        calls, pipes = json.loads(line), []
        for call in calls:
            stdin, feed = os.pipe()
            read, stdout = os.pipe()
            os.write(feed, call["stdin"].encode())
            os.close(feed)
            pipes.append((call, stdin, read, stdout))
        processes = []
        start = time.perf_counter()
        for call, stdin, _read, stdout in pipes:
            actions = [(os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, stdout, 1)]
            processes.append(os.posix_spawn(call["program"], [call["program"]], call["env"], file_actions=actions))
        statuses = [os.waitpid(process, 0)[1] for process in processes]
        took = time.perf_counter() - start
        failed = []
        for status, (_, stdin, read, stdout) in zip(statuses, pipes, strict=True):
            os.close(stdout)
            if status:
                failed.append(os.read(read, 4096).decode())
            os.close(stdin)
            os.close(read)
        print(json.dumps({"ms": took * 1e3, "failed": failed}), flush=True)


@dataclass(frozen=True)
class Kind:
    """One of the three."""

    name: str
    program: str
    config: dict[str, Any]
    driver: Driver

    def call(self, verb: str, number: int, pod: Namespace) -> dict[str, Any]:
        env = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": f"{self.name[:3]}{number}",
            "CNI_NETNS": pod.path,
            "CNI_IFNAME": "eth0",
            "CNI_PATH": str(PLUGINS),
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE={self.name};K8S_POD_NAME=pod{number}",
        }
        return {"program": self.program, "env": env, "stdin": json.dumps(self.config)}


def tell(name: str, times: list[float]) -> str:
    some = sorted(times)
    late = some[int(len(some) * 0.99)]
    return f"{name:18} min {some[0]:6.2f}  median {statistics.median(some):6.2f}  p99 {late:6.2f} ms"


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix=f"cpy{os.getpid()}-bench"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.mark.skipif(not (PLUGINS / "ptp").exists(), reason="needs Debian's containernetworking-plugins")
def test_add_and_del_beside_ptp(host: Namespace, shim: Path, folder: Path, new_pod: Callable[[], Namespace]) -> None:
    assert threading.current_thread() is threading.main_thread(), "what is spawned here is inside the host's namespace"
    for words in (
        "link add uplink type veth peer name outside",
        "address add 198.51.100.1/24 dev uplink",
        "link set uplink up",
        "link set outside up",
        "route add default via 198.51.100.254",
    ):
        host.run("ip", *words.split())  # kube-apiserver wants a default route
    ptp_config = {
        "cniVersion": "1.0.0",
        "name": "ptp",
        "type": "ptp",
        "ipam": {"type": "host-local", "subnet": "10.65.0.0/16", "dataDir": str(folder / "host-local")},
    }
    runtimes = {8: Runtime(shim), 0: Runtime(shim)}
    try:
        with (
            kube(folder) as api,
            serving(api.kubeconfig, runtimes[8].folder, 8) as warm_agent,
            serving(api.kubeconfig, runtimes[0].folder, 0),
            Driver(runtimes[8].enter) as drive_warm,
            Driver(runtimes[0].enter) as drive_cold,
            Driver([]) as drive_ptp,
        ):
            warm = Kind(WARM, str(shim), config(), drive_warm)
            cold = Kind(COLD, str(shim), config(), drive_cold)
            ptp = Kind(PTP, str(PLUGINS / "ptp"), ptp_config, drive_ptp)
            measure((warm, cold, ptp), warm_agent, new_pod)
    finally:
        for runtime in runtimes.values():
            runtime.close()


def measure(kinds: tuple[Kind, ...], warm_agent: Served, new_pod: Callable[[], Namespace]) -> None:
    pods = {kind.name: [new_pod() for _ in range(ROUNDS)] for kind in kinds}
    before = warm_agent.count()
    for verb in ("ADD", "DEL"):
        times: dict[str, list[float]] = {kind.name: [] for kind in kinds}
        for number in range(ROUNDS):
            for kind in kinds:
                call = kind.call(verb, number, pods[kind.name][number])
                times[kind.name].append(kind.driver.time([call]))
        for kind in kinds:
            print(f"{verb} {tell(kind.name, times[kind.name])}")
        median = {name: statistics.median(some) for name, some in times.items()}
        for name, limit in LIMITS.items():
            assert median[name] <= limit * median[PTP], f"{verb} {name}: more than {limit} of {PTP} in the same run"
    blocks = ROUNDS // 64 + 1  # at the end of each the next is claimed by the ADD that finds no address left
    assert warm_agent.count()["served"] >= ROUNDS - blocks, "pods that come one by one get warm addresses"
    for number in AT_ONCE:
        for kind in kinds:
            many = [new_pod() for _ in range(number)]
            took = kind.driver.time([kind.call("ADD", 1000 * number + each, pod) for each, pod in enumerate(many)])
            gone = kind.driver.time([kind.call("DEL", 1000 * number + each, pod) for each, pod in enumerate(many)])
            print(f"{number} at once, {kind.name:18} ADD {took:6.0f} ms, DEL {gone:6.0f} ms")
    print("requests of the warm agent:", {k: v - before.get(k, 0) for k, v in warm_agent.count().items()})


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(serve(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])))
    else:
        drive()
