"""Thirty pods at once on one node of a real cluster: by calico-py, and by ptp with host-local in its place.

Both conflists have the same plugins chained behind; a file that sorts before calico-py's own puts the other in force.
calico-py's pods get addresses of both families, ptp's of IPv4.
"""

import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from calico_py.lab import namespaces
from calico_py.lab.client import Api
from calico_py.lab.objects import PODS
from tests.cluster import images
from tests.cluster.kube_cluster import CHECKOUT, Cluster, Node, cluster, wait_until
from tests.cluster.parts import DAEMONSETS
from tests.cluster.workloads import rolled_out
from tests.figures import Figure, Figures

pytestmark = [pytest.mark.root, pytest.mark.bench, pytest.mark.timeout(900)]

RUNS = 5
PODS_AT_ONCE = 30
OURS, PTP = "calico-py", "ptp + host-local"
CONFLISTS = "etc/cni/net.d"
SETTLE = 3.0  # seconds, until containerd has seen a conflist and the devices of deleted pods are gone


@pytest.fixture
def node(tmp_path: Path) -> Iterator[tuple[Cluster, Node]]:
    """The one node of a cluster with calico-py."""
    archives = images.build(tmp_path)
    with cluster(tmp_path, lambda: archives, nodes=1) as kube:
        kube.kubectl("apply", "-k", str(CHECKOUT / "deploy"))
        wait_until(lambda: kube.ready_nodes() == set(kube.nodes), within=120, what="the node is Ready")
        for name in DAEMONSETS:
            rolled_out(kube, name)
        time.sleep(5)
        yield kube, next(iter(kube.nodes.values()))


def test_thirty_pods(node: tuple[Cluster, Node], figures: Figures) -> None:
    """Thirty pods at once on a node."""
    kube, place = node
    (ours,) = (place.root / CONFLISTS).glob("*.conflist")
    other = place.root / CONFLISTS / "00-ptp.conflist"
    api = Api(kube.plan.url, kube.plan.token, str(kube.plan.authority))
    times: dict[str, list[float]] = {OURS: [], PTP: []}
    _seconds(kube, api, place, "first")
    for run in range(RUNS):
        for name, some in times.items():
            if name == PTP:
                other.write_text(_with_ptp(ours.read_text()))
            else:
                other.unlink(missing_ok=True)
            time.sleep(SETTLE)
            some.append(_seconds(kube, api, place, f"{'ours' if name == OURS else 'ptp'}{run}"))
    print({name: [round(each, 2) for each in some] for name, some in times.items()})
    median, theirs = (statistics.median(times[name]) for name in (OURS, PTP))
    figures.tell(
        Figure(
            "30 pods at once on one node are Running, median of 5", median, "s", None, PTP, theirs, ratio_at_most=1.1
        )
    )


def _with_ptp(ours: str) -> str:
    """calico-py's conflist with ptp instead of it."""
    document: dict[str, Any] = json.loads(ours)
    ipam = {"type": "host-local", "ranges": [[{"subnet": "10.65.0.0/16"}]], "dataDir": "/run/host-local"}
    document["plugins"][0] = {"type": "ptp", "ipam": ipam}
    return json.dumps({**document, "name": "ptp"})


def _seconds(kube: Cluster, api: Api, node: Node, label: str) -> float:
    """From the first request until all are Running; they are gone afterwards."""
    with namespaces.inside(kube.outside):
        begun = time.monotonic()
        for number in range(PODS_AT_ONCE):
            api.request("POST", PODS, _pod(f"{label}-{number}", label, node.name))
        while _left(api, label, "status.phase!=Running"):
            assert time.monotonic() - begun < 120, f"{label}: not all pods run"
            time.sleep(0.1)
        took = time.monotonic() - begun
        for number in range(PODS_AT_ONCE):
            api.delete(f"{PODS}/{label}-{number}")
        while _left(api, label, ""):
            assert time.monotonic() - begun < 240, f"{label}: not all pods go"
            time.sleep(0.2)
    return took


def _left(api: Api, label: str, fields: str) -> bool:
    """Whether there are such pods; the answer is short."""
    return bool(api.list(f"{PODS}?labelSelector=run%3D{label}&fieldSelector={fields.replace('!=', '%21%3D')}&limit=1"))


def _pod(name: str, label: str, node: str) -> dict[str, Any]:
    spec = {
        "nodeName": node,
        "terminationGracePeriodSeconds": 1,
        "dnsPolicy": "Default",
        "containers": [{"name": "idle", "image": images.TEST_IMAGE}],
    }
    metadata = {"name": name, "labels": {"run": label}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
