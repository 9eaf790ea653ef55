"""One cluster for all tests here: they follow each other in the order of their files' names."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster import images, settings
from tests.cluster.kube_cluster import CHECKOUT, Cluster, cluster, wait_until


@dataclass(frozen=True, slots=True)
class Installed:
    """What was seen while calico-py was installed.

    Attributes:
        ready_before: nodes that were Ready before. seconds: until all were.
    """

    ready_before: frozenset[str]
    seconds: float


@pytest.fixture(scope="session")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The cluster, without a network."""
    folder = tmp_path_factory.mktemp("cluster")
    busybox, own = folder / "busybox.tar", folder / "calico-py.tar"
    images.write_busybox(busybox, [settings.PAUSE_IMAGE, images.TEST_IMAGE])
    images.write_calico_py(own)
    with cluster(folder, images=[busybox, own]) as made:
        yield made


@pytest.fixture(scope="session")
def installed(kube: Cluster) -> Installed:
    """calico-py is installed in the way of its users."""
    time.sleep(2)  # a node that would become Ready by itself has had the time
    before = frozenset(kube.ready_nodes())
    kube.kubectl("apply", "-k", str(CHECKOUT / "deploy"))
    seconds = wait_until(lambda: kube.ready_nodes() == set(kube.nodes), within=120, what="all nodes are Ready")
    for name in ("calico-node", "calico-py-speaker", "calico-py-tunnel"):
        rolled_out(kube, name)
    return Installed(before, seconds)


def rolled_out(kube: Cluster, name: str, *, kind: str = "daemonset", namespace: str = "kube-system") -> None:
    """Wait until a rollout is complete."""
    kube.kubectl("rollout", "status", f"{kind}/{name}", f"--namespace={namespace}", "--timeout=55s")


def manifest(name: str) -> str:
    """Path of a manifest beside the tests."""
    return str(Path(__file__).with_name("manifests") / name)
