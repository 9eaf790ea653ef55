"""A lab on a real kube-apiserver: the same commands, the same cluster."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from calico_py.lab import lifecycle, pods
from calico_py.lab.live import LiveLab
from calico_py.lab.pings import ping
from calico_py.lab.topology import ApiServer, LabSpec
from tests.lab.labs import NEEDS_KUBE, Traces, calico_py, kube_lab, processes_of, unique_name

pytestmark = [pytest.mark.root, *NEEDS_KUBE]


@pytest.fixture(scope="module")
def lab() -> Iterator[LiveLab]:
    with kube_lab() as found:
        yield found


def test_pods_on_a_real_api_server(lab: LiveLab) -> None:
    for node in ("node1", "node2"):
        record = pods.add(lab, f"on-{node}", node)
        assert pods.wait_until_routed(lab, record, within=20) == []
    assert ping(lab.endpoint("pod/on-node1"), lab.target("pod/on-node2"), count=2).ok
    pods.delete(lab, "on-node1")
    assert [item["metadata"]["name"] for item in lab.api().list("/api/v1/namespaces/default/pods")] == ["on-node2"]
    again = pods.add(lab, "on-node1", "node1")
    assert again.addresses
    told = json.loads(calico_py("lab", "status", "-o", "json", "--name", lab.state.name).stdout)
    assert [node["ready"] for node in told["nodes"]] == [True, True]


def test_nodes_check_the_servers_certificate(lab: LiveLab) -> None:
    config = (lab.node("node1").root / "etc/kubernetes/kubeconfig").read_text()
    assert "https://192.168.49.1:6443" in config
    assert "certificate-authority: /etc/kubernetes/ca.crt" in config


def test_down_leaves_no_server() -> None:
    before = Traces.now()
    spec = LabSpec(
        unique_name(), nodes=1, api=ApiServer.KUBE, commands={"agent": ("sleep", "9"), "speaker": ("sleep", "9")}
    )
    state = lifecycle.start(spec, lambda _: None)
    names = {Path(f"/proc/{pid}/comm").read_text().strip() for pid in processes_of(spec.name)}
    assert {"etcd", "kube-apiserver"} <= names
    assert state.api.exists()
    lifecycle.down(spec.name, reaped=False)
    assert before.left_by(spec.name) == []
