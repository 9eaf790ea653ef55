"""What runs in the cluster for the tests' sake: the manifests beside this file."""

from pathlib import Path

from tests.cluster.images import TEST_IMAGE
from tests.cluster.kube_cluster import Cluster, Pod

MANIFESTS = Path(__file__).with_name("manifests")


def apply(kube: Cluster, name: str) -> None:
    """Apply a manifest."""
    kube.kubectl("apply", "-f", str(MANIFESTS / name))


def delete(kube: Cluster, name: str) -> None:
    """Delete what a manifest has, and wait until it is gone."""
    kube.kubectl("delete", "-f", str(MANIFESTS / name), "--ignore-not-found", "--wait=true")


def rolled_out(kube: Cluster, name: str, *, kind: str = "daemonset", namespace: str = "kube-system") -> None:
    """Wait until a rollout is complete."""
    kube.kubectl("rollout", "status", f"{kind}/{name}", f"--namespace={namespace}", "--timeout=55s")


def web_pods(kube: Cluster) -> list[Pod]:
    """The pods of the Deployment ``web``, two on each node of three."""
    apply(kube, "web.yaml")
    rolled_out(kube, "web", kind="deployment", namespace="default")
    return running(kube, "web")


def one_on_each_node(kube: Cluster) -> list[Pod]:
    """The pods of the DaemonSet ``one-each``."""
    apply(kube, "one-each.yaml")
    rolled_out(kube, "one-each", namespace="default")
    return running(kube, "one-each")


def running(kube: Cluster, app: str) -> list[Pod]:
    """The pods with that label which nobody is deleting, by name."""
    found = kube.get("pods", f"--selector=app={app}")["items"]
    return [kube.pod(item["metadata"]["name"]) for item in found if "deletionTimestamp" not in item["metadata"]]


def one_pod(name: str, node: str, annotations: dict[str, str]) -> dict[str, object]:
    """A pod on a node that does nothing."""
    container = {"name": "idle", "image": TEST_IMAGE}
    spec = {"nodeName": node, "dnsPolicy": "Default", "terminationGracePeriodSeconds": 1, "containers": [container]}
    metadata = {"name": name, "annotations": annotations}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
