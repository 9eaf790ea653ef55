"""The default pool of the cluster: changes, and whether nodes have followed them."""

import json

from tests.cluster.kube_cluster import Cluster, Node, wait_until

POOL = "default-ipv4-ippool"


def set_mode(kube: Cluster, mode: str) -> None:
    """Switch the pool, and wait until every node sends in that way."""
    change(kube, {"ipipMode": mode})
    wait_until(lambda: kube.sends_by(POOL, mode), what=f"all nodes follow {mode}")


def set_nat(kube: Cluster, *, value: bool) -> None:
    """Set the pool's natOutgoing."""
    change(kube, {"natOutgoing": value})


def hides(node: Node) -> bool:
    """Whether the node's table of calico-py hides pods behind the node's address."""
    return "10.244.0.0/16" in node.run("nft", "list", "set", "inet", "calico-py", "masquerade4")


def change(kube: Cluster, fields: dict[str, object]) -> None:
    """Change fields of its spec."""
    kube.kubectl("patch", "ippool", POOL, "--type=merge", f"--patch={json.dumps({'spec': fields})}")
