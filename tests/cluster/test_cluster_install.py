"""`kubectl apply -k deploy/` gives a cluster its network."""

import pytest

from tests.cluster.conftest import Installed
from tests.cluster.kube_cluster import Cluster

pytestmark = [pytest.mark.root, pytest.mark.timeout(1800)]

DAEMONSETS = ("calico-node", "calico-py-speaker", "calico-py-tunnel")


def test_nodes_become_ready_with_it(kube: Cluster, installed: Installed) -> None:
    assert installed.ready_before == frozenset()
    assert kube.ready_nodes() == set(kube.nodes)


@pytest.mark.usefixtures("installed")
def test_no_container_is_privileged_and_none_restarted(kube: Cluster) -> None:
    for pod in kube.get("pods", "--namespace=kube-system")["items"]:
        for container in pod["spec"]["containers"] + pod["spec"].get("initContainers", []):
            assert not container["securityContext"].get("privileged"), container["name"]
            assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
        restarts = [status["restartCount"] for status in pod["status"]["containerStatuses"]]
        assert restarts == [0], pod["metadata"]["name"]


@pytest.mark.usefixtures("installed")
def test_the_default_pool_lies_where_kubeadm_says(kube: Cluster) -> None:
    (pool,) = kube.get("ippools")["items"]
    assert pool["spec"]["cidr"] == "10.244.0.0/16"
    assert pool["spec"]["ipipMode"] == "Always"


@pytest.mark.usefixtures("installed")
def test_pods_that_the_scheduler_placed_are_of_the_newest_template(kube: Cluster) -> None:
    for name in DAEMONSETS:
        pods = kube.get("pods", "--namespace=kube-system", f"--selector=k8s-app={name}")["items"]
        assert {pod["spec"]["nodeName"] for pod in pods} == set(kube.nodes)
        assert {pod["metadata"]["labels"]["pod-template-generation"] for pod in pods} == {"1"}
