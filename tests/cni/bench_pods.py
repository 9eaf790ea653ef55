"""ADD and DEL as a runtime sees them: whole processes, real agents, a real kube-apiserver; beside ptp with host-local.

Three nodes of a lab: one with warm addresses, one without, and one whose agent is stopped, for Debian's ptp. Their
calls alternate, with a pause in which what goes on behind an answer ends, so that it is in nobody's way. The shim is
built as for the image.

As ``bench_pods.py drive`` it is the runtime inside a node: makes the pods' namespaces, spawns plugins, times them.
"""

import contextlib
import ctypes
import json
import os
import platform
import re
import shutil
import signal
import ssl
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest

from calico_py.cni.installer import ensure_shim
from calico_py.lab import agents, objects, readiness
from calico_py.lab.cache import cache_directory
from calico_py.lab.live import LiveLab
from calico_py.lab.nodes import LiveNode
from tests.figures import Figure, Figures
from tests.lab.labs import kube_lab

pytestmark = [
    pytest.mark.root,
    pytest.mark.bench,
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("etcd") is None, reason="etcd is not installed: apt-get install etcd-server"),
    pytest.mark.skipif(not Path("/usr/lib/cni/ptp").exists(), reason="needs Debian's containernetworking-plugins"),
]

ROUNDS = 200
PAUSE = 0.05  # seconds
WARM, COLD, PTP = "warm addresses", "group commit", "ptp + host-local"
PLUGINS = "/usr/lib/cni"

_CLONE_NEWNET = 0x40000000


# The runtime, inside a node


def drive() -> None:
    """Serve requests, one a line: {"pods": N} makes N namespaces, {"calls": [...]} spawns all and waits for all."""
    libc, own = ctypes.CDLL(None, use_errno=True), os.open("/proc/self/ns/net", os.O_RDONLY)
    pods: list[int] = []
    for line in sys.stdin:
        request = json.loads(line)
        for _ in range(request.get("pods", 0)):
            assert libc.unshare(_CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
            pods.append(os.open("/proc/self/ns/net", os.O_RDONLY))
        assert libc.setns(own, _CLONE_NEWNET) == 0
        print(json.dumps(_spawn(request.get("calls", []), pods)), flush=True)


def _spawn(calls: list[dict[str, Any]], pods: list[int]) -> dict[str, Any]:
    """Milliseconds from the first spawn to the last end, and what the failed ones said."""
    prepared = []
    for call in calls:
        (stdin, feed), (read, stdout) = os.pipe(), os.pipe()
        os.write(feed, call["stdin"].encode())
        os.close(feed)
        env = {**call["env"], "CNI_NETNS": f"/proc/{os.getpid()}/fd/{pods[call['pod']]}"}
        prepared.append((call["program"], env, stdin, read, stdout))
    start, processes = time.perf_counter(), []
    for program, env, stdin, _, stdout in prepared:
        actions = [(os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, stdout, 1)]
        processes.append(os.posix_spawn(program, [program], env, file_actions=actions))
    statuses = [os.waitpid(process, 0)[1] for process in processes]
    took, failed = time.perf_counter() - start, []
    for status, (_, _, stdin, read, stdout) in zip(statuses, prepared, strict=True):
        os.close(stdout)
        if status:
            failed.append(os.read(read, 4096).decode())
        os.close(stdin)
        os.close(read)
    return {"ms": took * 1e3, "failed": failed}


# The calls


@dataclass(slots=True)
class Node:
    """One of the three: a node, how its pods get their network, and a runtime inside."""

    name: str
    program: str
    config: dict[str, Any]
    runtime: "subprocess.Popen[str]"
    pods: int = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.runtime.kill()
        self.runtime.communicate()

    def make_pods(self, number: int) -> range:
        """Network namespaces; by which numbers they are known."""
        self._ask({"pods": number})
        self.pods += number
        return range(self.pods - number, self.pods)

    def call(self, verb: str, pods: Sequence[int], uids: Sequence[str]) -> float:
        """Milliseconds until the calls for all of these pods, made at once, have ended; all must succeed."""
        answer = self._ask({"calls": [self._call(verb, pod, uids[pod]) for pod in pods]})
        assert not answer["failed"], answer["failed"]
        return float(answer["ms"])

    def _call(self, verb: str, pod: int, uid: str) -> dict[str, Any]:
        of = {"K8S_POD_NAMESPACE": "default", "K8S_POD_NAME": f"{self.label}-{pod}", "K8S_POD_UID": uid}
        env = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": f"{self.label}{pod}",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": PLUGINS,
            "CNI_ARGS": ";".join(["IgnoreUnknown=1", *(f"{key}={value}" for key, value in of.items())]),
        }
        return {"program": self.program, "env": env, "stdin": json.dumps(self.config), "pod": pod}

    @property
    def label(self) -> str:
        """Of its pods' names."""
        return self.name.split()[0]

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.runtime.stdin is not None
        assert self.runtime.stdout is not None
        print(json.dumps(request), file=self.runtime.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self.runtime.stdout.readline())
        return answer


def _runtime(node: LiveNode) -> "subprocess.Popen[str]":
    command = [*node.enter(), sys.executable, __file__, "drive"]
    path = {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen(command, **pipes, text=True, env={**os.environ, **path})  # type: ignore[call-overload,no-any-return]  # a dict of both pipes


@pytest.fixture(scope="module")
def lab() -> Iterator[LiveLab]:
    with kube_lab(nodes=3) as found:
        agents.change(found, "node2", "restart", env={"CALICO_PY_WARM_ADDRESSES": "0"})
        readiness.wait_until_ready(found, within=60)
        agents.change(found, "node3", "stop")
        time.sleep(3)
        yield found


@pytest.fixture(scope="module")
def nodes(lab: LiveLab) -> Iterator[tuple[Node, Node, Node]]:
    ours = {"cniVersion": "1.0.0", "name": "k8s-pod-network", "type": "calico-py"}
    ipam = {"type": "host-local", "subnet": "10.65.0.0/16", "dataDir": "/run/host-local"}
    theirs = {"cniVersion": "1.0.0", "name": "ptp", "type": "ptp", "ipam": ipam}
    shim = str(ensure_shim(cache_directory(os.environ) / "shim", target=f"{platform.machine()}-linux-musl"))
    one, two, three = lab.nodes
    with (
        Node(WARM, shim, ours, _runtime(one)) as warm,
        Node(COLD, shim, ours, _runtime(two)) as cold,
        Node(PTP, f"{PLUGINS}/ptp", theirs, _runtime(three)) as ptp,
    ):
        yield warm, cold, ptp


def make_pods(lab: LiveLab, node: Node, place: str, number: int, uids: list[str]) -> range:
    """Pods in the API, as the scheduler leaves them to a kubelet, and their namespaces."""
    for pod in (made := node.make_pods(number)):
        found = lab.api().create(objects.PODS, objects.pod(f"{node.label}-{pod}", place))
        uids.append(found["metadata"]["uid"])
    time.sleep(0.5)  # what is watched has arrived
    return made


def requests(lab: LiveLab) -> dict[tuple[str, str], int]:
    """How many the API server has answered, by verb and resource."""
    api = lab.api()
    asked = urllib.request.Request(f"{api.server}/metrics", headers={"Authorization": f"Bearer {api.token}"})
    with urllib.request.urlopen(asked, context=ssl.create_default_context(cafile=api.ca), timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    found: dict[tuple[str, str], int] = {}
    for line in lines:
        if line.startswith("apiserver_request_total{"):
            labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
            key = labels["verb"], labels["resource"]
            found[key] = found.get(key, 0) + int(float(line.rpartition(" ")[2]))
    return found


def settled(lab: LiveLab) -> dict[tuple[str, str], int]:
    """The same, once nothing of IPAM is written any more."""
    before = requests(lab)
    for _ in range(50):
        time.sleep(0.4)
        after = requests(lab)
        if all(before.get(key) == number for key, number in after.items() if key[1].startswith("ipam")):
            return after
        before = after
    raise AssertionError("IPAM goes on writing without a cause")


# The figures


def test_one_by_one(lab: LiveLab, nodes: tuple[Node, Node, Node], figures: Figures) -> None:
    """ADD and DEL, one by one."""
    uids: dict[str, list[str]] = {node.name: [] for node in nodes}
    for node, place in zip(nodes, lab.nodes, strict=True):
        make_pods(lab, node, place.place.name, ROUNDS, uids[node.name])
    settled(lab)
    found: dict[str, dict[str, list[float]]] = {}
    for verb in ("ADD", "DEL"):
        times = found[verb] = {node.name: [] for node in nodes}
        for pod in range(ROUNDS):
            for node in nodes:
                times[node.name].append(node.call(verb, [pod], uids[node.name]))
                time.sleep(PAUSE)
    limits: dict[tuple[str, str], tuple[float | None, float | None, float | None]] = {
        ("ADD", WARM): (3.0, 0.4, 15.0),
        ("ADD", COLD): (None, 1.5, None),
        ("DEL", WARM): (4.0, None, None),
    }
    for verb, times in found.items():
        for name in (WARM, COLD):
            median, ratio, late = limits.get((verb, name), (None, None, None))
            ours, theirs = sorted(times[name]), sorted(times[PTP])
            what, middle, last = f"{verb} by {name}", ROUNDS // 2, int(ROUNDS * 0.99) - 1
            figures.tell(Figure(f"{what}, best", ours[0], "ms", None, PTP, theirs[0]))
            figures.tell(Figure(f"{what}, median", ours[middle], "ms", median, PTP, theirs[middle], ratio))
            figures.tell(Figure(f"{what}, 99th percentile", ours[last], "ms", late, PTP, theirs[last]))


def test_many_at_once(lab: LiveLab, nodes: tuple[Node, Node, Node], figures: Figures) -> None:
    """ADD and DEL, many at once."""
    warm, cold, ptp = nodes
    for number in (50, 100):
        times: dict[str, float] = {}
        for node, place in zip(nodes, lab.nodes, strict=True):
            uids = [""] * node.pods
            pods = make_pods(lab, node, place.place.name, number, uids)
            before = settled(lab)
            times[node.name] = node.call("ADD", pods, uids)
            answered, after = requests(lab), settled(lab)
            times[f"DEL {node.name}"] = node.call("DEL", pods, uids)
            if node is cold and number == 50:
                figures.tell(
                    Figure("block writes before the answers of 50", _blocks(answered) - _blocks(before), "", 10)
                )
            if node is warm:
                told = f"for each of {number} pods at once, {WARM}"
                figures.tell(Figure(f"block writes {told}", (_blocks(after) - _blocks(before)) / number, "", 0.5))
                handles = (after.get(key, 0) - before.get(key, 0) for key in (("POST", "ipamhandles"),))
                figures.tell(Figure(f"handles created {told}", sum(handles) / number, "", 1))
        for name, limit in ((WARM, 500.0 if number == 100 else None), (COLD, 400.0 if number == 50 else None)):
            figures.tell(Figure(f"{number} ADDs at once by {name}", times[name], "ms", limit, PTP, times[PTP]))
        gone = (times[f"DEL {each}"] for each in (WARM, PTP))
        figures.tell(Figure(f"{number} DELs at once, {WARM}", next(gone), "ms", None, PTP, next(gone)))
    assert ptp.pods == warm.pods


def _blocks(counts: dict[tuple[str, str], int]) -> int:
    return sum(counts.get((verb, "ipamblocks"), 0) for verb in ("PUT", "PATCH", "POST"))


def test_without_the_api(lab: LiveLab, nodes: tuple[Node, Node, Node], figures: Figures) -> None:
    """ADD without the API.

    No request comes before the answer: ADD is served, as fast as ever, while the server is stopped.
    """
    warm = nodes[0]
    uids = [""] * warm.pods
    pods = make_pods(lab, warm, "node1", 6, uids)
    settled(lab)
    servers = [entry["pid"] for entry in lab.state.read_processes() if entry.get("process") == "api"]
    assert servers
    with _stopped(servers):
        times = [warm.call("ADD", [pod], uids) for pod in pods]
    figures.tell(Figure(f"ADD by {WARM} while the API server is stopped, median of 6", statistics.median(times), "ms"))
    for pod in pods:
        warm.call("DEL", [pod], uids)


@contextlib.contextmanager
def _stopped(processes: Sequence[int]) -> Iterator[None]:
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)


if __name__ == "__main__":
    drive()
