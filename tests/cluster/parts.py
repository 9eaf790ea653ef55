"""The parts of calico-py in the cluster: DaemonSets, their pods and processes."""

from typing import Any

from tests.cluster.kube_cluster import Cluster, Node

DAEMONSETS = ("calico-node", "calico-py-speaker", "calico-py-tunnel")
AGENTS = ("--namespace=kube-system", "daemonset/calico-node")
IMAGE = "docker.io/calico-py/calico-py"


def pods_of(kube: Cluster, daemonset: str) -> list[dict[str, Any]]:
    """Its pods."""
    found: list[dict[str, Any]] = kube.get("pods", "--namespace=kube-system", f"--selector=k8s-app={daemonset}")[
        "items"
    ]
    return found


def pid_of(node: Node, part: str) -> str:
    """The process of a ``calico-py PART``, by the node's own numbers."""
    pattern = f"^/opt/calico-py/bin/python /opt/calico-py/bin/calico-py {part}"
    return node.run("pgrep", "--oldest", "--full", pattern).strip()


def kill(node: Node, part: str) -> None:
    """SIGKILL from its node: PID 1 of a container hears no signal from inside."""
    node.run("kill", "-KILL", pid_of(node, part))


def restarts(kube: Cluster) -> dict[str, int]:
    """How often each container was started again, by its pod."""
    return {
        item["metadata"]["name"]: status["restartCount"]
        for name in DAEMONSETS
        for item in pods_of(kube, name)
        for status in item["status"]["containerStatuses"]
    }


def images_of(kube: Cluster) -> set[str]:
    """References of all images that run."""
    return {
        container["image"]
        for name in DAEMONSETS
        for item in pods_of(kube, name)
        for container in item["spec"]["containers"] + item["spec"].get("initContainers", [])
    }
