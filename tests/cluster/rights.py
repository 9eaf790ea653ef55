"""What a service account may do, and what it did by the API server's audit log; as ``verb resource[/subresource]``."""

import json
from pathlib import Path
from typing import Any

from tests.cluster.kube_cluster import Cluster


def granted(kube: Cluster) -> set[str]:
    """By the agents' role in the cluster and in its namespace."""
    roles = (kube.get("clusterrole", "calico-node"), kube.get("role", "calico-node", "--namespace=kube-system"))
    return {
        f"{verb} {resource}"
        for role in roles
        for rule in role["rules"]
        for verb in rule["verbs"]
        for resource in rule["resources"]
    }


def asked(log: Path, account: str) -> set[tuple[str, bool]]:
    """What an account asked for, and whether it was refused for want of rights."""
    found = set()
    for line in log.read_text().splitlines():
        event: dict[str, Any] = json.loads(line)
        if event["user"]["username"] == account and "objectRef" in event:
            reference = event["objectRef"]
            resource = "/".join(filter(None, (reference["resource"], reference.get("subresource"))))
            found.add((f"{event['verb']} {resource}", event.get("responseStatus", {}).get("code") == 403))
    return found
