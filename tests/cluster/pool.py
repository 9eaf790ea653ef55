"""The default pools of the cluster: changes, and whether nodes have followed them."""

import json

from calico_py.model.net import Family
from tests.cluster.kube_cluster import Cluster, Node, wait_until

POOL, POOL6 = "default-ipv4-ippool", "default-ipv6-ippool"
_CIDRS = {4: "10.244.0.0/16", 6: "fd00:10:244::/48"}


def set_mode(kube: Cluster, mode: str) -> None:
    """Switch the pool, and wait until every node sends in that way."""
    change(kube, {"ipipMode": mode})
    wait_until(lambda: kube.sends_by(POOL, mode), what=f"all nodes follow {mode}")


def set_nat(kube: Cluster, *, value: bool, pool: str = POOL) -> None:
    """Set a pool's natOutgoing."""
    change(kube, {"natOutgoing": value}, pool)


def hides(node: Node, family: Family = 4) -> bool:
    """Whether the node's table of calico-py hides pods behind the node's address."""
    return _CIDRS[family] in node.run("nft", "list", "set", "inet", "calico-py", f"masquerade{family}")


def change(kube: Cluster, fields: dict[str, object], pool: str = POOL) -> None:
    """Change fields of its spec."""
    kube.kubectl("patch", "ippool", pool, "--type=merge", f"--patch={json.dumps({'spec': fields})}")
