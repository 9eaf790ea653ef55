"""What the agents did in all the tests before these, and their removal: the last tests of the cluster."""

import pytest

from tests.cluster.conftest import Installed, traces
from tests.cluster.kube_cluster import CHECKOUT, Cluster, wait_until
from tests.cluster.parts import DAEMONSETS, pods_of
from tests.cluster.rights import asked, granted
from tests.cluster.workloads import rolled_out

pytestmark = [pytest.mark.root, pytest.mark.timeout(120), pytest.mark.usefixtures("installed")]

ACCOUNT = "system:serviceaccount:kube-system:calico-node"


def test_the_agents_may_do_what_they_do_and_no_more(kube: Cluster) -> None:
    """By the API server's audit log of all that was done in this cluster."""
    got, refused = asked(kube, ACCOUNT)
    assert refused == set()
    assert granted(kube) - got == set()


def test_the_audit_log_tells_what_is_refused(kube: Cluster) -> None:
    token = kube.kubectl("create", "token", "default").stdout.strip()
    kube.kubectl("get", "secrets", f"--token={token}", fails=True)
    stranger = "system:serviceaccount:default:default"
    assert "list secrets" in asked(kube, stranger)[1]


def test_removal_leaves_nothing(kube: Cluster, installed: Installed) -> None:
    """Though pods run."""
    assert kube.get("pods")["items"]
    agents = [f"daemonset/{name}" for name in DAEMONSETS]
    kube.kubectl("delete", "--namespace=kube-system", *agents, "--wait=true")
    wait_until(lambda: not any(pods_of(kube, name) for name in DAEMONSETS), what="the pods are gone")
    kube.kubectl("apply", "-k", str(CHECKOUT / "deploy" / "uninstall"))
    rolled_out(kube, "calico-py-cleanup")
    kube.kubectl("delete", "-k", str(CHECKOUT / "deploy" / "uninstall"))
    kube.kubectl("delete", "-k", str(CHECKOUT / "deploy"), "--ignore-not-found", "--wait=false")
    for node in kube.nodes.values():
        assert traces(node) == installed.traces[node.name], node.name
    wait_until(lambda: not kube.ready_nodes(), what="the nodes are NotReady")
    wait_until(lambda: "projectcalico.org" not in kube.kubectl("get", "crds").stdout, what="the CRDs are gone")
    for item in kube.get("nodes")["items"]:
        ours = [key for key in item["metadata"].get("annotations", {}) if "calico" in key]
        assert ours == [], item["metadata"]["name"]
        assert [key for key in item["metadata"]["labels"] if "calico" in key] == []
    assert asked(kube, ACCOUNT)[1] == set()  # by the agents at their end and the cleanup
