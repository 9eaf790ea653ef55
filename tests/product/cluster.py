"""A real cluster for this folder's tests: a lab with pods, its pool switched by kubectl, flows that count losses."""

import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from calico_py.lab import flows, lifecycle, pods, readiness
from calico_py.lab.flow import SIZE
from calico_py.lab.flows import FlowResult, RunningFlow
from calico_py.lab.live import LiveLab
from calico_py.lab.processes import find_by_environment
from calico_py.lab.topology import ApiServer, LabSpec
from calico_py.model.net import Family
from calico_py.model.pools import EncapMode

FULL_MTU = 1450 - 28  # bytes of UDP payload that fill a pod's MTU (IPv4 20, UDP 8)
POOL = "default-ipv4-ippool"
NODES = ("node1", "node2", "node3")

POOL6 = "default-ipv6-ippool"
DUAL_STACK = ("10.244.0.0/16", "fd00:10:244::/56")

# Device and protocol of a route to another node's block.
TUNNEL = ("tunl0", "80")
BGP = ("eth0", "81")
API = ("eth0", "80")


def eventually(
    what: str, check: Callable[[], object], *, within: float = 30.0, last: Callable[[], object] = lambda: ""
) -> None:
    """Wait for a truth; what was there instead is told when it never comes."""
    deadline = time.monotonic() + within
    while not (found := check()):
        assert time.monotonic() < deadline, f"{what}: not within {within} s, found {last() or found!r}"
        time.sleep(0.05)


@dataclass(frozen=True)
class Cluster:
    """A lab that is up, with pod pN on nodeN."""

    lab: LiveLab

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """Run kubectl; its own words where it fails."""
        environment = {**os.environ, "KUBECONFIG": str(self.lab.state.kubeconfig)}
        cache = f"--cache-dir={self.lab.state.path}/kubectl"
        done = subprocess.run(
            ["kubectl", cache, *arguments], input=stdin, capture_output=True, text=True, check=False, env=environment
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def apply_mode(self, mode: str) -> None:
        """`kubectl apply` of the pool's manifest with another ipipMode and nothing else."""
        manifest = {
            "apiVersion": "projectcalico.org/v3",
            "kind": "IPPool",
            "metadata": {"name": POOL},
            "spec": {"cidr": "10.244.0.0/16", "ipipMode": mode, "natOutgoing": True},
        }
        self.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))

    def delete_pool(self, pool: str) -> None:
        """Delete it as a person would who does not wait for its last address."""
        self.kubectl("delete", "ippool", pool, "--wait=false")

    def force_pool_away(self, pool: str) -> None:
        """Take the finalizer off a pool that is being deleted, though pods have its addresses."""
        self.kubectl("patch", "ippool", pool, "--type=merge", "-p", '{"metadata": {"finalizers": null}}')
        gone = ("get", "ippool", pool, "--ignore-not-found")
        eventually("the pool is gone", lambda: not self.kubectl(*gone))

    def api_fed(self) -> None:
        """Let the API program routes without encapsulation, and BGP none."""
        for kind, value in (("FelixConfiguration", "Enabled"), ("BGPConfiguration", "Disabled")):
            manifest = {
                "apiVersion": "projectcalico.org/v3",
                "kind": kind,
                "metadata": {"name": "default"},
                "spec": {"programClusterRoutes": value},
            }
            self.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))

    def bgp_fed(self) -> None:
        """The default again, BGP's side first: so at no time is it nobody's to program them."""
        for kind in ("bgpconfiguration", "felixconfiguration"):
            self.kubectl("delete", kind, "default")

    def routes(self, node: str, family: Family = 4) -> dict[str, tuple[str, str]]:
        """Device and protocol of each route of a node to a block of another one, by iproute2's own words."""
        output = self.lab.endpoint(node).run(["ip", f"-{family}", "route", "show"]).stdout
        found = re.findall(r"^(\S+/(?:26|122)) via \S+ dev (\S+) proto (\S+)", output, re.MULTILINE)
        return {prefix: (device, protocol) for prefix, device, protocol in found}

    def wait_for(self, *ways: tuple[str, str], nodes: Sequence[str] = NODES, family: Family = 4) -> None:
        """Until each route of each node goes one of these ways (device, protocol), and each way is in use."""
        found: list[dict[str, tuple[str, str]]] = []

        def arrived() -> bool:
            found[:] = [self.routes(node, family) for node in nodes]
            used = {way for routes in found for way in routes.values()}
            return used == set(ways) and all(len(routes) == len(NODES) - 1 for routes in found)

        eventually(f"routes by {ways}", arrived, last=lambda: found)

    def status(self, node: str = "node1") -> dict[str, Any]:
        """What a node says of itself; of every field that no agent answers, while there is none."""
        answer = self.lab.endpoint(node).run(["curl", "-s", "http://127.0.0.1:9099/status"]).stdout
        found = json.loads(answer) if answer else defaultdict(lambda: "no agent answers")
        assert isinstance(found, dict)
        return found

    def agents(self) -> dict[str, int]:
        """Process ids of the agents."""
        return {node: find_by_environment(f"LAB_PROCESS={self.lab.state.name}/{node}-agent")[0] for node in NODES}

    @contextlib.contextmanager
    def stopped_agents(self) -> Iterator[Callable[[str], None]]:
        """All agents stopped (SIGSTOP); gives the call that lets one go on. All go on at the end."""
        pids = self.agents()
        for pid in pids.values():
            os.kill(pid, signal.SIGSTOP)
        try:
            yield lambda node: os.kill(pids[node], signal.SIGCONT)
        finally:
            for pid in pids.values():
                os.kill(pid, signal.SIGCONT)

    @contextlib.contextmanager
    def flow(
        self, source: str, target: str, *, size: int = SIZE, port: int = 7777, family: Family = 4
    ) -> Iterator[RunningFlow]:
        """1,000 datagrams a second each way, from here on."""
        endpoints = self.lab.endpoint(source), self.lab.endpoint(target)
        with flows.running_flow(*endpoints, size=size, port=port, family=family) as running:
            yield running

    def packets(self, node: str, seconds: float = 1.0) -> str:
        """What a node's uplink carries, as tcpdump prints it."""
        argv = ["timeout", str(seconds), "tcpdump", "-lnni", "eth0", "udp or ip proto 4"]
        return self.lab.endpoint(node).run(argv).stdout

    @contextlib.contextmanager
    def tcp_stream(self, source: str, target: str, *, family: Family = 4) -> Iterator[Callable[[], int]]:
        """A TCP stream of 20 Mbit/s while the block runs; gives the call that counts timeouts of either end so far."""
        address = str(self.lab.endpoint(target).address(family))
        ends = (source, target)
        before = [self.tcp_timeouts(end) for end in ends]
        server = self.lab.endpoint(target).popen(["iperf3", "-s", "-1"], stdout=subprocess.DEVNULL)
        eventually("iperf3 listens", lambda: self._sockets(target, "listening"))
        argv = ["iperf3", "-c", address, "-t", "600", "-b", "20M"]
        client = self.lab.endpoint(source).popen(argv, stdout=subprocess.DEVNULL)
        try:
            eventually("the stream's two connections", lambda: len(self._sockets(target, "established")) > 1)
            yield lambda: sum(map(self.tcp_timeouts, ends)) - sum(before)
            assert client.poll() is None, "the stream broke"
        finally:
            for process in (client, server):
                process.terminate()
                process.wait()

    def _sockets(self, where: str, state: str) -> list[str]:
        """The sockets of iperf3's port in a state of ss(8)."""
        argv = ["ss", "-tnH", "state", state, "sport", "=", ":5201"]
        return self.lab.endpoint(where).run(argv).stdout.splitlines()

    def tcp_timeouts(self, where: str) -> int:
        """TcpExtTCPTimeouts of a namespace."""
        output = self.lab.endpoint(where).run(["nstat", "-asz", "TcpExtTCPTimeouts"]).stdout
        return int(re.findall(r"TcpExtTCPTimeouts\s+(\d+)", output)[0])


@contextlib.contextmanager
def cluster(
    *,
    subnets: int = 1,
    ipip: EncapMode = EncapMode.ALWAYS,
    pools: tuple[str, ...] = DUAL_STACK[:1],
    api: ApiServer = ApiServer.EMBEDDED,
) -> Iterator[Cluster]:
    """Three nodes with a pod each, taken down however the block ends."""
    name = f"tgl{os.getpid()}{secrets.token_hex(2)}"
    spec = LabSpec(name, len(NODES), subnets, api=api, ipip=ipip, pools=pools)
    try:
        lifecycle.start(spec, lambda _: None)
        lab = LiveLab(name)
        readiness.wait_until_ready(lab, within=60)
        for number, node in enumerate(NODES, 1):
            pods.add(lab, f"p{number}", node)
        yield Cluster(lab)
    finally:
        lifecycle.down(name, reaped=False)


def lost(results: dict[str, FlowResult]) -> dict[str, str]:
    """Losses by flow, each way, with the first numbers that are missing; only those that lost."""
    return {
        label: f"there {result.there.lost} {result.there.missing}, back {result.back.lost} {result.back.missing}"
        for label, result in results.items()
        if result.lost
    }
