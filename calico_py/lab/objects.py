"""What the lab writes to the API as a cluster's kubelets and controllers would: namespaces, Nodes, Pods. Pure."""

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address
from types import MappingProxyType
from typing import Any

from calico_py.lab.topology import LabSpec, NodePlace
from calico_py.model import names
from calico_py.model.net import parse_network
from calico_py.model.pools import EncapMode

NODES = "/api/v1/nodes"
NAMESPACES = "/api/v1/namespaces"
PODS = "/api/v1/namespaces/default/pods"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
POOLS = f"/apis/{names.GROUP}/{names.VERSION}/ippools"
AFFINITIES = f"/apis/{names.GROUP}/{names.VERSION}/blockaffinities"

_CONTAINER = "pause"


def namespaces() -> list[dict[str, Any]]:
    """The namespaces that every cluster has."""
    return [_object("v1", "Namespace", name) for name in ("default", "kube-system", "kube-public", "kube-node-lease")]


def node(place: NodePlace) -> dict[str, Any]:
    """A Node as its kubelet registers it."""
    labels = {"kubernetes.io/hostname": place.name, "kubernetes.io/os": "linux"}
    return _object("v1", "Node", place.name, labels=labels) | {"spec": {}}


def node_status(place: NodePlace) -> dict[str, Any]:
    """Patch of the subresource status: addresses of both families, and Ready."""
    addresses = [
        {"type": "InternalIP", "address": str(place.ipv4.ip)},
        {"type": "InternalIP", "address": str(place.ipv6.ip)},
        {"type": "Hostname", "address": place.name},
    ]
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "the lab's supervisor runs it"}
    return {"status": {"addresses": addresses, "conditions": [ready]}}


def pod(name: str, node_name: str, annotations: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
    """A Pod that the scheduler has placed."""
    spec = {"nodeName": node_name, "containers": [{"name": _CONTAINER, "image": _CONTAINER}]}
    return _object("v1", "Pod", name, namespace="default", annotations=dict(annotations)) | {"spec": spec}


def pod_status(addresses: Sequence[IPv4Address | IPv6Address], host: NodePlace) -> dict[str, Any]:
    """Patch of the subresource status: Running, with its addresses."""
    container = {"name": _CONTAINER, "image": _CONTAINER, "imageID": "", "ready": True, "restartCount": 0}
    status = {
        "phase": "Running",
        "containerStatuses": [container],
        "hostIP": str(host.ipv4.ip),
        "podIP": str(addresses[0]) if addresses else "",
        "podIPs": [{"ip": str(address)} for address in addresses],
        "conditions": [{"type": "Ready", "status": "True"}],
    }
    return {"status": status}


def further_pools(spec: LabSpec) -> list[dict[str, Any]]:
    """IPPool objects for the pools beyond the first of each family."""
    return [
        _object(f"{names.GROUP}/{names.VERSION}", "IPPool", f"pool-{number}") | {"spec": pool_spec(cidr, spec.ipip)}
        for number, cidr in enumerate(spec.further_pools(), start=2)
    ]


def pool_spec(cidr: str, mode: EncapMode) -> dict[str, Any]:
    """The fields of an IPPool. IPIP is IPv4 in IPv4 (RFC 2003): a pool of IPv6 has none."""
    ipv4 = parse_network(cidr, field="--pool").version == 4
    return {"cidr": cidr, "ipipMode": str(mode if ipv4 else EncapMode.NEVER), "natOutgoing": ipv4}


def _object(api_version: str, kind: str, name: str, **metadata: Any) -> dict[str, Any]:
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": name, **metadata}}
