"""A cluster for each file of tests, in which the tests follow each other."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster import images, settings
from tests.cluster.kube_cluster import CHECKOUT, Cluster, Node, cluster, wait_until

DAEMONSETS = ("calico-node", "calico-py-speaker", "calico-py-tunnel")


@dataclass(frozen=True, slots=True)
class Installed:
    """What was seen while calico-py was installed.

    Attributes:
        ready_before: nodes that were Ready before. seconds: until all were.
        traces: what a network plugin could have left on each node, before.
    """

    ready_before: frozenset[str]
    seconds: float
    traces: Mapping[str, Mapping[str, str]]


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The images that nodes have."""
    folder = tmp_path_factory.mktemp("images")
    busybox, own = folder / "busybox.tar", folder / "calico-py.tar"
    images.write_busybox(busybox, [settings.PAUSE_IMAGE, images.TEST_IMAGE])
    images.write_calico_py(own)
    return [busybox, own]


@pytest.fixture(scope="module")
def kube(tmp_path_factory: pytest.TempPathFactory, archives: list[Path]) -> Iterator[Cluster]:
    """The cluster, without a network."""
    with cluster(tmp_path_factory.mktemp("cluster"), images=archives) as made:
        yield made


@pytest.fixture(scope="module")
def installed(kube: Cluster) -> Installed:
    """calico-py is installed in the way of its users."""
    time.sleep(2)  # a node that would become Ready by itself has had the time
    before = frozenset(kube.ready_nodes())
    found = {name: traces(node) for name, node in kube.nodes.items()}
    kube.kubectl("apply", "-k", str(CHECKOUT / "deploy"))
    seconds = wait_until(lambda: kube.ready_nodes() == set(kube.nodes), within=120, what="all nodes are Ready")
    for name in DAEMONSETS:
        rolled_out(kube, name)
    return Installed(before, seconds, found)


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


def rolled_out(kube: Cluster, name: str, *, kind: str = "daemonset", namespace: str = "kube-system") -> None:
    """Wait until a rollout is complete."""
    kube.kubectl("rollout", "status", f"{kind}/{name}", f"--namespace={namespace}", "--timeout=55s")


def manifest(name: str) -> str:
    """Path of a manifest beside the tests."""
    return str(Path(__file__).with_name("manifests") / name)
