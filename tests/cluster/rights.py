"""What a service account may do, and what it did by the API server's audit log; as ``verb resource[/part][.group]``."""

import json
from datetime import datetime
from typing import Any

from tests.cluster.kube_cluster import Cluster


def granted(kube: Cluster) -> set[str]:
    """By the agents' role in the cluster and in its namespace."""
    roles = (kube.get("clusterrole", "calico-node"), kube.get("role", "calico-node", "--namespace=kube-system"))
    return {
        f"{verb} {'.'.join(filter(None, (resource, group)))}"
        for role in roles
        for rule in role["rules"]
        for verb in rule["verbs"]
        for resource in rule["resources"]
        for group in rule["apiGroups"]
    }


def asked(kube: Cluster, account: str) -> tuple[set[str], set[str]]:
    """What an account asked for and got, and what was refused to it for want of rights."""
    got: set[str] = set()
    refused: set[str] = set()
    for line in (kube.folder / "audit.log").read_text().splitlines():
        event: dict[str, Any] = json.loads(line)
        if event["user"]["username"] == account and "objectRef" in event:
            reference = event["objectRef"]
            resource = "/".join(filter(None, (reference["resource"], reference.get("subresource"))))
            request = f"{event['verb']} {'.'.join(filter(None, (resource, reference.get('apiGroup'))))}"
            at = datetime.fromisoformat(event["requestReceivedTimestamp"])
            if event.get("responseStatus", {}).get("code") != 403:
                got.add(request)
            elif not any(begun <= at <= ready for begun, ready in kube.starts):
                refused.add(request)
    return got, refused
