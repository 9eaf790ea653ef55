"""A Kubernetes cluster with nothing replaced: etcd, the control plane, nodes with kubelet, containerd, kube-proxy.

Pods' addresses and routes are calico-py's to make, which the cluster does not have until somebody installs it.
"""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from calico_py.lab import namespaces
from calico_py.lab.api import control_plane
from calico_py.lab.api.binaries import cached_all
from calico_py.lab.api.kubeconfig import write_kubeconfig
from calico_py.lab.cache import cache_directory
from calico_py.lab.live import Endpoint
from calico_py.lab.nodes import KUBECONFIG, LiveNode
from calico_py.lab.topology import LabSpec, NodePlace, compute_topology
from calico_py.model.names import NODE_SENDING
from calico_py.model.net import Address, Family
from tests.cluster import settings
from tests.contract.servers import Kubectl

CHECKOUT = Path(__file__).parents[2]
PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet")
PLUGINS = Path("/usr/lib/cni")  # Debian's containernetworking-plugins
_PLUGINS = ("bandwidth", "host-local", "loopback", "portmap", "ptp")


@dataclass(frozen=True, slots=True)
class Node:
    """A node: where commands run, and its processes."""

    place: NodePlace
    pid: int

    @property
    def name(self) -> str:
        """Of the Node object."""
        return self.place.name

    @property
    def root(self) -> Path:
        """Its file system."""
        return Path(f"/proc/{self.pid}/root")

    @property
    def network(self) -> Path:
        """Its network namespace."""
        return Path(f"/proc/{self.pid}/ns/net")

    def enter(self, *, net: str = "") -> list[str]:
        """The command before which a command runs inside, or (``net``: a path there) with the network of a pod."""
        network = f"--net={self.root}{net}" if net else "--net"
        return ["nsenter", f"--target={self.pid}", "--mount", "--uts", "--pid", "--cgroup", network, "--"]

    def run(self, *command: str, net: str = "", check: bool = True) -> str:
        """Run a command inside to its end; its output."""
        done = subprocess.run([*self.enter(net=net), *command], capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, f"{self.name}: {command}: {done.stderr}{done.stdout}"
        return done.stdout


@dataclass(frozen=True, slots=True)
class Pod(Endpoint):
    """A pod as an end of a flow.

    Attributes:
        kube: its node; addresses: all of its own; net: its network namespace, a path inside the node.
    """

    name: str = ""
    kube: Node | None = None
    addresses: tuple[Address, ...] = ()
    net: str = ""

    @property
    def network(self) -> Path:
        """Its network namespace."""
        return Path(f"{self.node.root}{self.net}")

    def enter(self) -> list[str]:
        """As the lab's."""
        assert self.kube is not None
        return [*self.kube.enter(net=self.net), "setpriv", "--pdeathsig", "TERM", "--"]

    def environment(self) -> dict[str, str]:
        """The caller's own."""
        return dict(os.environ)

    def address(self, family: Family | None = None) -> Address:
        """Its address of that family, or the first."""
        return next(address for address in self.addresses if family in (None, address.version))

    def has(self, family: Family) -> bool:
        """Whether it has an address of that family."""
        return any(address.version == family for address in self.addresses)


@dataclass(frozen=True, slots=True)
class ClusterKubectl(Kubectl):
    """kubectl where it reaches the API server, in the network of the control plane."""

    control: int = 0

    def command(self, *arguments: str) -> list[str]:
        """The command line."""
        return ["nsenter", f"--target={self.control}", "--net", "--", *Kubectl.command(self, *arguments)]


@dataclass(slots=True)
class Cluster:
    """A running cluster.

    Attributes:
        control: process that holds the network of the control plane, which is the pods' outside world as well.
        starts: from when to when the API server started: it answers, but has not read yet who has which rights.
    """

    name: str
    folder: Path
    control: int
    nodes: Mapping[str, Node]
    programs: Mapping[str, Path]
    plan: control_plane.Layout
    kubectl: ClusterKubectl
    starts: list[tuple[datetime, datetime]] = field(default_factory=list)
    _commands: dict[str, tuple[list[str], list[str]]] = field(default_factory=dict)
    _running: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    @property
    def outside(self) -> Path:
        """A network namespace outside the cluster: the control plane's."""
        return Path(f"/proc/{self.control}/ns/net")

    # -- processes

    def start(self, process: str) -> None:
        """Start a process by its name, such as ``kube-apiserver`` or ``node1-kubelet``."""
        prefix, command = self._commands[process]
        with self.log(process).open("ab") as out:
            self._running[process] = subprocess.Popen(
                [*prefix, *command], stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )

    def start_api_server(self) -> None:
        """Start kube-apiserver and wait until it is ready."""
        begun = datetime.now(UTC)
        self.start("kube-apiserver")
        certificate = self.plan.authority
        wait_until(certificate.exists, what="kube-apiserver makes its certificate")
        write_kubeconfig(self.kubectl.kubeconfig, self.plan.url, token=self.plan.token, authority=certificate)
        wait_until(lambda: answers(self), what="kube-apiserver is ready", look=[self.log("kube-apiserver")])
        self.starts.append((begun, datetime.now(UTC)))

    def stop(self, process: str, number: signal.Signals = signal.SIGKILL) -> None:
        """End a process and wait for it."""
        running = self._running.pop(process)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, number)
        running.wait()

    def end(self) -> None:
        """End all processes that were started here; those that they started end with the namespaces."""
        for process in reversed(tuple(self._running)):
            self.stop(process)

    def log(self, process: str) -> Path:
        """Where a process writes to."""
        return self.folder / f"{process}.log"

    # -- objects

    def get(self, *arguments: str) -> Any:
        """Objects, as kubectl has them."""
        return self.kubectl.json("get", *arguments)

    def ready_nodes(self) -> set[str]:
        """Names of those that are Ready."""
        return {
            item["metadata"]["name"]
            for item in self.get("nodes")["items"]
            for condition in item.get("status", {}).get("conditions", ())
            if condition["type"] == "Ready" and condition["status"] == "True"
        }

    def sending(self, pool: str) -> dict[str, str]:
        """How each node says that it sends to the pool: ``IPIP``, ``VXLAN`` or ``None``."""
        found = {}
        for item in self.get("nodes")["items"]:
            said = json.loads(item["metadata"].get("annotations", {}).get(NODE_SENDING, "{}"))
            found[item["metadata"]["name"]] = said.get(pool, {}).get("mode", "")
        return found

    def sends_by(self, pool: str, mode: str) -> bool:
        """Whether all nodes have followed an ipipMode, in a cluster of one subnet."""
        return set(self.sending(pool).values()) == {"IPIP" if mode == "Always" else "None"}

    def pod(self, name: str, namespace: str = "default") -> Pod:
        """A pod that runs, as an end of a flow."""
        found = self.get("pod", name, f"--namespace={namespace}")
        node = self.nodes[found["spec"]["nodeName"]]
        sandbox = self._sandbox(node, found["metadata"]["uid"])
        return Pod(
            node=LiveNode(node.place, node.pid),
            name=name,
            kube=node,
            addresses=tuple(ip_address(each["ip"]) for each in found["status"]["podIPs"]),
            net=sandbox,
        )

    def _sandbox(self, node: Node, uid: str) -> str:
        """The network namespace of a pod, by the process of its sandbox."""
        listed = node.run("ctr", "-n", "k8s.io", "containers", "ls", "-q", f'labels."io.kubernetes.pod.uid"=={uid}')
        for container in listed.split():
            spec = json.loads(node.run("ctr", "-n", "k8s.io", "containers", "info", container))
            for namespace in spec["Spec"]["linux"]["namespaces"]:
                if namespace["type"] == "network" and namespace.get("path", "").startswith("/var/run/netns"):
                    return str(namespace["path"]).removeprefix("/var")
        raise AssertionError(f"{node.name}: no sandbox of pod {uid}")


def answers(made: Cluster) -> bool:
    """Whether the API server is ready."""
    done = subprocess.run(made.kubectl.command("get", "--raw", "/readyz"), capture_output=True, check=False)
    return done.returncode == 0


def wait_until(
    condition: Callable[[], object], *, within: float = 60.0, what: str = "", look: Sequence[Path] = ()
) -> float:
    """Wait for a condition; the seconds that it took. A failure tells the ends of the logs to look at."""
    begun = time.monotonic()
    while not condition():
        if time.monotonic() - begun > within:
            ends = "".join(f"\n{log}:\n{log.read_text(errors='replace')[-1500:]}" for log in look)
            raise AssertionError(f"not within {within:.0f} s: {what}{ends}")
        time.sleep(0.2)  # most conditions cost a process of kubectl
    return time.monotonic() - begun


@contextlib.contextmanager
def cluster(folder: Path, images: Callable[[], Sequence[Path]], *, nodes: int = 3) -> Iterator[Cluster]:
    """A cluster with so many nodes, none of them Ready yet; all of it is gone afterwards.

    ``folder`` is for what is on disk, in a folder of the cluster's own; every node has the ``images``, archives that
    are asked for when the control plane runs.
    """
    cache = cache_directory(os.environ)
    programs = cached_all(PROGRAMS, cache)
    name = f"cpy{os.getpid():x}{secrets.token_hex(2)}"
    own = folder / name
    own.mkdir(parents=True)
    holder = subprocess.Popen(
        [sys.executable, "-m", "tests.cluster.holder", name, str(own), str(nodes)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=CHECKOUT,
        start_new_session=True,
    )
    try:
        assert holder.stdout is not None
        pids = json.loads(holder.stdout.readline())
        made = _describe(name, own, pids, programs, cache)
        try:
            _start(made, images)
            yield made
        finally:
            made.end()
    finally:
        for stream in (holder.stdin, holder.stdout):
            assert stream is not None
            stream.close()
        holder.wait()


def _describe(name: str, folder: Path, pids: dict[str, int], programs: Mapping[str, Path], cache: Path) -> Cluster:
    topology = compute_topology(LabSpec(name=name, nodes=len(pids) - 1))
    address, control, kubeconfig = str(topology.core4.ip), pids["control"], folder / "kubeconfig"
    plan = control_plane.layout(folder, address=address, advertise=address)
    etcd, server = control_plane.commands(plan, cache)
    audit = settings.write_audit_policy(folder)
    manager = settings.controller_manager(programs["kube-controller-manager"], kubeconfig, plan.authority)
    enter = ["nsenter", f"--target={control}", "--net", "--pid", "--"]
    return Cluster(
        name=name,
        folder=folder,
        control=control,
        nodes={place.name: Node(place, pids[place.name]) for place in topology.nodes},
        programs=programs,
        plan=plan,
        kubectl=ClusterKubectl(programs["kubectl"], kubeconfig, folder / "kubectl-cache", control=control),
        _commands={
            "etcd": (enter, etcd),
            "kube-apiserver": (enter, [*settings.api_server(server), *audit]),
            "kube-controller-manager": (enter, manager),
            "kube-scheduler": (enter, settings.scheduler(programs["kube-scheduler"], kubeconfig)),
        },
    )


def _start(made: Cluster, images: Callable[[], Sequence[Path]]) -> None:
    made.start("etcd")
    made.start_api_server()
    for node in made.nodes.values():
        _prepare(made, node)
    for process in ("kube-controller-manager", "kube-scheduler"):
        made.start(process)
    made.kubectl("create", "-f", "-", stdin=settings.KUBEADM_CONFIG)
    _spread_images(made, images())
    for node in made.nodes.values():
        _start_containerd(made, node)
        authority = "etc/kubernetes/authority.crt"
        (node.root / authority).write_bytes(made.plan.authority.read_bytes())
        write_kubeconfig(
            node.root / KUBECONFIG.lstrip("/"), made.plan.url, token=made.plan.token, authority=Path("/", authority)
        )
        made.start(f"{node.name}-kubelet")
        made.start(f"{node.name}-kube-proxy")
    wait_until(
        lambda: len(made.get("nodes")["items"]) == len(made.nodes),
        what="nodes register themselves",
        look=[made.log(f"{name}-kubelet") for name in made.nodes],
    )


def _spread_images(made: Cluster, images: Sequence[Path]) -> None:
    """Import once; the other nodes share the files, which are only read, and get copies of the two databases."""
    first, *others = made.nodes.values()
    _start_containerd(made, first)
    for archive in images:
        import_image(first, archive)
    made.stop(f"{first.name}-containerd", signal.SIGTERM)
    source = made.folder / first.name / "containerd"
    for node in others:
        target = made.folder / node.name / "containerd"
        subprocess.run(["cp", "--archive", "--link", f"{source}/.", target], check=True)
        for database in target.rglob("*.db"):
            content = database.read_bytes()
            database.unlink()
            database.write_bytes(content)


def _start_containerd(made: Cluster, node: Node) -> None:
    """A kubelet that finds none ends, and here is no systemd that starts it again."""
    process = f"{node.name}-containerd"
    log = made.log(process)
    log.unlink(missing_ok=True)
    made.start(process)
    wait_until(lambda: "successfully booted" in log.read_text(), what=f"{process} is there", look=[log])


def _prepare(made: Cluster, node: Node) -> None:
    """Files of a node, and what runs there."""
    for path, text in settings.files(node.place).items():
        (node.root / path.lstrip("/")).write_text(text)
    for plugin in _PLUGINS:
        target = node.root / "opt/cni/bin" / plugin
        target.write_bytes((PLUGINS / plugin).read_bytes())
        target.chmod(0o755)
    # nsenter does not enter control groups.
    into = 'for group in /sys/fs/cgroup/*; do echo $$ > $group/cgroup.procs; done; export TMPDIR=/run/tmp; exec "$@"'
    prefix = [*node.enter(), "sh", "-euc", into, "node"]
    made._commands |= {
        f"{node.name}-containerd": (prefix, ["containerd", f"--config={settings.CONTAINERD_CONFIG}"]),
        f"{node.name}-kubelet": (prefix, settings.kubelet(made.programs["kubelet"], node.place)),
        f"{node.name}-kube-proxy": (prefix, settings.proxy(made.programs["kube-proxy"], node.place)),
    }


def import_image(node: Node, archive: Path) -> None:
    """Import an image into the node's containerd."""
    with archive.open("rb") as content:
        done = subprocess.run(
            [*node.enter(), "ctr", "-n", "k8s.io", "images", "import", "--snapshotter", "overlayfs", "-"],
            stdin=content,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr


def fetch(network: Path, url: str) -> str:
    """What a URL answers to somebody in a network namespace; empty if nothing within 3 s."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with namespaces.inside(network), contextlib.suppress(OSError), opener.open(url, timeout=3) as answer:
        return str(answer.read().decode().strip())
    return ""
