"""The real agent as a process on a node of the test's own, before an API server that can be made to fail."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from calico_py.lab.api.kubeconfig import write_kubeconfig
from tests.cni.faulty_api import FaultyApi
from tests.cni.runtime import Runtime, config
from tests.contract.servers import MERGE, ApiUnderTest
from tests.netns.namespaces import Namespace

NODE = "node1"
ADDRESS = "192.0.2.1"
BLOCKS = "/apis/projectcalico.org/v3/ipamblocks"
POOLS = {4: "10.244.0.0/16", 6: "fd10:244::/64"}


@dataclass
class RealAgent:
    """`calico-py node` on the node of a runtime; not running yet.

    Attributes:
        environment: beside what every agent here gets.
        prefix: of the command, such as a program that moves its clock.
        kubeconfig: of the server itself, without faults; None for the one before it.
    """

    runtime: Runtime
    faults: FaultyApi
    environment: dict[str, str] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()
    kubeconfig: Path | None = None
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """What all its lives said."""
        return self.runtime.folder / "agent.log"

    @property
    def runs(self) -> bool:
        """Whether it has not ended by itself."""
        return self.process is not None and self.process.poll() is None

    @property
    def last_words(self) -> str:
        """The end of that."""
        return self.log.read_text()[-4000:]

    @property
    def conflists(self) -> Path:
        """Where it writes the network configuration."""
        return self.runtime.folder / "net.d"

    def start(self) -> None:
        """Begin a life."""
        kubeconfig = self.kubeconfig or write_kubeconfig(self.runtime.folder / "kubeconfig", self.faults.url)
        self.conflists.mkdir(exist_ok=True)
        environment = {
            **{name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ},
            "NODENAME": NODE,
            "KUBECONFIG": str(kubeconfig),
            "IP": f"{ADDRESS}/32",
            "IP6": "2001:db8::1/128",
            "CALICO_NETWORKING_BACKEND": "none",
            "CALICO_IPV4POOL_CIDR": POOLS[4],
            "CALICO_IPV4POOL_IPIP": "Never",
            "CALICO_IPV6POOL_CIDR": POOLS[6],
            "CALICO_PY_CNI_CONF_DIR": str(self.conflists),
            "CALICO_PY_METRICS_PORT": "0",
        }
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [*self.runtime.enter, *self.prefix, str(Path(sys.executable).with_name("calico-py")), "node"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment | self.environment,
            )

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End that life."""
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait()
        self.process = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """A life for the length of the block, or more of them."""
        self.start()
        try:
            yield
        finally:
            if self.process is not None:
                self.end()

    async def wait_until_ready(self, *, within: float = 30.0) -> None:
        """Until it serves ADD."""
        deadline = time.monotonic() + within
        while (answer := await self.runtime.call("STATUS", config("1.1.0"))).status:
            assert self.process is not None
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, answer.stdout + self.log.read_text()
            await asyncio.sleep(0.1)


@asynccontextmanager
async def faulty(api: ApiUnderTest, *, seed: int = 1) -> AsyncIterator[FaultyApi]:
    """The API server of a cluster whose one Node is the test's, with faults that are all off."""
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}, "spec": {}}
    assert api.request("POST", "/api/v1/nodes", node).status == 201
    if api.name == "embedded":
        for name in ("default", "kube-system"):
            made = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
            api.request("POST", "/api/v1/namespaces", made)
    async with FaultyApi(api, random.Random(seed)).listening() as proxy:
        yield proxy


def make_pod(api: ApiUnderTest, name: str, *, annotations: Mapping[str, str] | None = None) -> None:
    """A Pod that the scheduler has placed on the node."""
    meta = {"name": name, "namespace": "default", "annotations": dict(annotations or {})}
    spec = {"nodeName": NODE, "containers": [{"name": "pause", "image": "pause"}]}
    made = api.request(
        "POST", "/api/v1/namespaces/default/pods", {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}
    )
    assert made.status == 201, made.body


def report_addresses(api: ApiUnderTest, pod: str, addresses: list[str]) -> None:
    """What its kubelet says of a pod that runs."""
    status = {"phase": "Running", "podIP": addresses[0], "podIPs": [{"ip": address} for address in addresses]}
    path = f"/api/v1/namespaces/default/pods/{pod}/status"
    assert api.request("PATCH", path, {"status": status}, Content_Type=MERGE).status == 200


def addresses_of(result: Any) -> list[str]:
    """Of an ADD's result, without their prefixes."""
    return [entry["address"].split("/")[0] for entry in result["ips"]]


def pod_addresses(pod: Namespace) -> set[str]:
    """What a pod's interface really has."""
    (device,) = pod.ip("address", "show", "eth0")
    return {info["local"] for info in device["addr_info"] if info["scope"] == "global"}


def held(agent: RealAgent) -> dict[str, str]:
    """Handles by address, those that cool down left out, as the API's blocks have them."""
    found = {}
    for item in agent.faults.api.request("GET", BLOCKS).body["items"]:
        spec = item["spec"]
        for ordinal, index in enumerate(spec["allocations"]):
            owner = spec["attributes"][index] if index is not None else {}
            if owner.get("handle_id"):
                found[str(ip_network(spec["cidr"])[ordinal])] = owner["handle_id"]
    return found


async def eventually(what: str, check: Callable[[], Any], *, within: float = 20.0) -> Any:
    """Wait for a truth."""
    deadline = time.monotonic() + within
    while not (found := check()):
        assert time.monotonic() < deadline, f"{what}: not within {within} s"
        await asyncio.sleep(0.1)
    return found
