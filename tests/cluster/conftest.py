"""One cluster for all files of this folder, whose tests follow each other in the order of their names.

What a test changes it takes back, or the tests behind it are written for it: test_removal.py is the last.
"""

import contextlib
import time
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster import images
from tests.cluster.kube_cluster import CHECKOUT, Cluster, Node, Pod, cluster, wait_until
from tests.cluster.parts import DAEMONSETS
from tests.cluster.workloads import apply, one_on_each_node, rolled_out, web_pods
from tests.conftest import Turns


@dataclass(frozen=True, slots=True)
class Installed:
    """What was seen while calico-py was installed.

    Attributes:
        ready_before: nodes that were Ready before. placed_before: pods that had a node before.
        seconds: until all nodes were Ready.
        traces: what a network plugin could have left on each node, before.
    """

    ready_before: frozenset[str]
    placed_before: frozenset[str]
    seconds: float
    traces: Mapping[str, Mapping[str, str]]


# Debian's packages of what a cluster is made of, by something that is there where they are.
NEEDED = {
    "/bin/busybox": "busybox-static",
    "/usr/bin/containerd": "containerd",
    "/usr/bin/etcd": "etcd-server",
    "/usr/bin/mmdebstrap": "mmdebstrap",
    "/usr/lib/cni/portmap": "containernetworking-plugins",
    "/usr/sbin/iptables": "iptables",
    "/usr/sbin/runc": "runc",
}


@pytest.fixture(scope="package")
def kube(turns: Turns, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The cluster, without a network. The images are built while its control plane starts."""
    if missing := [package for path, package in NEEDED.items() if not Path(path).exists()]:
        pytest.skip(f"a cluster needs apt-get install {' '.join(missing)}")
    folder, archives = tmp_path_factory.mktemp("cluster"), tmp_path_factory.mktemp("images")
    with ThreadPoolExecutor(1) as builder, contextlib.ExitStack() as stack:
        with turns.beside_others():
            built = builder.submit(images.build, archives)
            made = stack.enter_context(cluster(folder, built.result))
        yield made
        with turns.beside_others():
            stack.close()


@pytest.fixture(scope="package")
def installed(kube: Cluster, turns: Turns) -> Installed:
    """calico-py is installed in the way of its users, in a cluster in which pods wait for a network."""
    with turns.beside_others():
        apply(kube, "web.yaml")
        time.sleep(2)  # a node that would become Ready by itself has had the time
        ready = frozenset(kube.ready_nodes())
        placed = frozenset(
            item["metadata"]["name"] for item in kube.get("pods")["items"] if item["spec"].get("nodeName")
        )
        found = {name: traces(node) for name, node in kube.nodes.items()}
        kube.kubectl("apply", "-k", str(CHECKOUT / "deploy"))
        seconds = wait_until(lambda: kube.ready_nodes() == set(kube.nodes), within=120, what="all nodes are Ready")
        for name in DAEMONSETS:
            rolled_out(kube, name)
    return Installed(ready, placed, seconds, found)


@pytest.fixture
def pods(kube: Cluster, installed: Installed) -> list[Pod]:
    """The pods of a Deployment, two on each node."""
    del installed
    return web_pods(kube)


@pytest.fixture
def ends(kube: Cluster, installed: Installed) -> list[Pod]:
    """The pods of a DaemonSet, one on each node."""
    del installed
    return one_on_each_node(kube)


def traces(node: Node) -> dict[str, str]:
    """Devices, routes, addresses, rules, files and settings of a node, as far as they are not of the moment."""
    commands = {
        "devices": "ls /sys/class/net",
        "routes": "ip route show table all | sort; ip -6 route show table all | sort",
        "addresses": "ip -brief address",
        "neighbours": "ip neighbour show nud permanent",
        "tables": "nft list tables | grep -i calico || true",
        "files": "find /etc/cni /opt/cni /run/calico-py /var/lib/calico-py ! -type d 2>/dev/null | sort",
        "settings": "sysctl -a --pattern 'net.ipv[46].(ip_forward|conf.(all|default|eth0)[.](forwarding|rp_filter))'",
    }
    return {name: node.run("sh", "-c", command) for name, command in commands.items()}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Function) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure tells what the cluster and the agents said: the cluster is gone when somebody reads it."""
    report = yield
    made = item.funcargs.get("kube")
    if report.failed and isinstance(made, Cluster):
        report.sections.append(("the cluster", _describe(made)))
    return report


def _describe(kube: Cluster) -> str:
    said = []
    for what in ("nodes", "pods", "ippools", "blockaffinities", "events"):
        with contextlib.suppress(AssertionError):
            lines = kube.kubectl("get", what, "--all-namespaces", "-o", "wide").stdout.splitlines()
            said += [*(line[:250] for line in lines[-30:]), ""]
    for name in kube.nodes:
        for log in sorted((kube.folder / name / "log" / "pods").glob("kube-system_calico-*/*/*.log")):
            said += [f"{name}: {log.parent.name}", *_last_lines(log), ""]
    return "\n".join(said)


def _last_lines(log: Path) -> list[str]:
    return [line[:300] for line in log.read_text(errors="replace").splitlines()[-15:]]
