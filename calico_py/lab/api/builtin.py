"""The core kinds that calico-py, its lab and kubectl touch: names, columns and selectable fields, in one table.

Their inner fields are kept as they come and not checked.
"""

from collections.abc import Iterable
from typing import Any

from calico_py.lab.api.errors import Object
from calico_py.lab.api.resources import ANY, CRD_GROUP, Column, Resource
from calico_py.lab.api.schema import Schema

_AGE = Column("Age", "date", ".metadata.creationTimestamp")
_RBAC = "rbac.authorization.k8s.io"
_POD_FIELDS = ("spec.nodeName", "status.phase", "status.podIP", "spec.restartPolicy", "spec.serviceAccountName")
_EVENT_FIELDS = (
    *(f"involvedObject.{part}" for part in ("kind", "name", "namespace", "uid", "apiVersion", "resourceVersion")),
    "reason",
    "type",
    "source",
    "reportingComponent",
)


def _kind(
    kind: str,
    plural: str,
    *short: str,
    group: str = "",
    namespaced: bool = True,
    status: bool = False,
    columns: Iterable[Column] = (_AGE,),
    fields: Iterable[str] = (),
    defaults: Object | None = None,
    strict: bool = False,
) -> Resource:
    properties = {name: {"default": value} for name, value in (defaults or {}).items()}
    return Resource(
        group=group,
        version="v1",
        kind=kind,
        plural=plural,
        singular=kind.lower(),
        list_kind=f"{kind}List",
        namespaced=namespaced,
        short_names=short,
        schema=Schema({**ANY, "properties": properties}),
        columns=tuple(columns),
        fields=tuple(fields),
        status=status,
        strict=strict,
        strategic=True,
    )


def _condition(obj: Object, wanted: str) -> str:
    conditions = (obj.get("status") or {}).get("conditions") or ()
    return next((each.get("status", "") for each in conditions if each.get("type") == wanted), "")


def _node_status(node: Object) -> str:
    words = {"True": "Ready", "False": "NotReady"}
    status = words.get(_condition(node, "Ready"), "Unknown")
    return status + (",SchedulingDisabled" if (node.get("spec") or {}).get("unschedulable") else "")


def _node_address(node: Object) -> str:
    addresses = (node.get("status") or {}).get("addresses") or ()
    return next((each.get("address", "") for each in addresses if each.get("type") == "InternalIP"), "<none>")


def _containers(pod: Object) -> list[Any]:
    return (pod.get("status") or {}).get("containerStatuses") or []


def _pod_ready(pod: Object) -> str:
    total = len((pod.get("spec") or {}).get("containers") or ())
    return f"{sum(bool(each.get('ready')) for each in _containers(pod))}/{total}"


def _pod_status(pod: Object) -> str:
    if pod["metadata"].get("deletionTimestamp"):
        return "Terminating"
    return str((pod.get("status") or {}).get("phase") or "Pending")


def _restarts(pod: Object) -> int:
    return sum(int(each.get("restartCount") or 0) for each in _containers(pod))


def _about(event: Object) -> str:
    about = event.get("involvedObject") or {}
    return f"{about.get('kind', '').lower()}/{about.get('name', '')}"


_NODE = (
    Column("Status", "string", value=_node_status),
    _AGE,
    Column("Version", "string", ".status.nodeInfo.kubeletVersion"),
    Column("Internal-IP", "string", value=_node_address, priority=1),
)
_POD = (
    Column("Ready", "string", value=_pod_ready),
    Column("Status", "string", value=_pod_status),
    Column("Restarts", "integer", value=_restarts),
    _AGE,
    Column("IP", "string", ".status.podIP", priority=1),
    Column("Node", "string", ".spec.nodeName", priority=1),
)
_EVENT = (
    Column("Last Seen", "date", ".lastTimestamp"),
    Column("Type", "string", ".type"),
    Column("Reason", "string", ".reason"),
    Column("Object", "string", value=_about),
    Column("Message", "string", ".message"),
)


def builtin() -> tuple[Resource, ...]:
    """The core kinds."""
    data = Column("Data", "integer", value=lambda obj: len(obj.get("data") or ()))
    phase = Column("Status", "string", ".status.phase")
    holder = Column("Holder", "string", ".spec.holderIdentity")
    return (
        _kind("Node", "nodes", "no", namespaced=False, status=True, columns=_NODE, fields=["spec.unschedulable"]),
        _kind("Pod", "pods", "po", status=True, columns=_POD, fields=_POD_FIELDS),
        _kind("Event", "events", "ev", columns=_EVENT, fields=_EVENT_FIELDS),
        _kind(
            "Namespace",
            "namespaces",
            "ns",
            namespaced=False,
            status=True,
            columns=(phase, _AGE),
            fields=["status.phase"],
        ),
        _kind("ConfigMap", "configmaps", "cm", columns=(data, _AGE)),
        _kind(
            "Secret",
            "secrets",
            columns=(Column("Type", "string", ".type"), data, _AGE),
            fields=["type"],
            defaults={"type": "Opaque"},
        ),
        _kind("ServiceAccount", "serviceaccounts", "sa"),
        _kind("Service", "services", "svc", status=True),
        _kind("DaemonSet", "daemonsets", "ds", group="apps", status=True),
        _kind("Deployment", "deployments", "deploy", group="apps", status=True),
        _kind("Lease", "leases", group="coordination.k8s.io", columns=(holder, _AGE), strict=True),
        _kind("Role", "roles", group=_RBAC),
        _kind("RoleBinding", "rolebindings", group=_RBAC),
        _kind("ClusterRole", "clusterroles", group=_RBAC, namespaced=False),
        _kind("ClusterRoleBinding", "clusterrolebindings", group=_RBAC, namespaced=False),
        _kind(
            "CustomResourceDefinition",
            "customresourcedefinitions",
            "crd",
            "crds",
            group=CRD_GROUP,
            namespaced=False,
            status=True,
            strict=True,
        ),
    )
