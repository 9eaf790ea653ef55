"""What the server knows of a kind: its names, schema, columns and selectable fields; from a CRD, or from a table.

Pure: JSON in, frozen values out.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from calico_py.lab.api.errors import Object
from calico_py.lab.api.schema import Schema

CRD_GROUP = "apiextensions.k8s.io"


@dataclass(frozen=True, slots=True)
class Column:
    """A printer column.

    Attributes:
        path: JSONPath below the object, such as ``.spec.cidr``.
        priority: 0 is shown always, more with ``-o wide``.
    """

    name: str
    type: str
    path: str
    priority: int = 0
    format: str = ""
    description: str = ""


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind as it is served under one version.

    Attributes:
        fields: paths that a field selector may name, besides metadata.name and metadata.namespace.
        status: there is a status subresource; the main resource ignores changes of status.
        strict: a custom resource: an update needs a resourceVersion, a patch is never strategic.
    """

    group: str
    version: str
    kind: str
    plural: str
    singular: str
    list_kind: str
    namespaced: bool = False
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    schema: Schema = field(default_factory=Schema)
    columns: tuple[Column, ...] = ()
    fields: tuple[str, ...] = ()
    status: bool = False
    strict: bool = True
    stored: bool = True

    @property
    def key(self) -> str:
        """The name of the resource in storage, whatever the version: ``ippools.projectcalico.org``."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def api_version(self) -> str:
        """``projectcalico.org/v3``, or ``v1`` for the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def selectable(self) -> tuple[str, ...]:
        """All paths that a field selector may name."""
        scope = ("metadata.name", "metadata.namespace") if self.namespaced else ("metadata.name",)
        return scope + self.fields


def from_crd(crd: Object) -> tuple[Resource, ...]:
    """The resources of a CustomResourceDefinition: one for each version that it serves."""
    spec = crd["spec"]
    names = spec["names"]
    found = []
    for version in spec["versions"]:
        if not version.get("served"):
            continue
        singular = names.get("singular") or names["kind"].lower()
        found.append(
            Resource(
                group=spec["group"],
                version=version["name"],
                kind=names["kind"],
                plural=names["plural"],
                singular=singular,
                list_kind=names.get("listKind") or f"{names['kind']}List",
                namespaced=spec["scope"] == "Namespaced",
                short_names=tuple(names.get("shortNames") or ()),
                categories=tuple(names.get("categories") or ()),
                schema=Schema((version.get("schema") or {}).get("openAPIV3Schema") or {}),
                columns=_columns(version),
                fields=tuple(entry["jsonPath"].lstrip(".") for entry in version.get("selectableFields") or ()),
                status="status" in (version.get("subresources") or {}),
                stored=bool(version.get("storage")),
            )
        )
    return tuple(found)


def _columns(version: Object) -> tuple[Column, ...]:
    own = tuple(
        Column(
            name=entry["name"],
            type=entry["type"],
            path=entry["jsonPath"],
            priority=entry.get("priority", 0),
            format=entry.get("format", ""),
            description=entry.get("description", ""),
        )
        for entry in version.get("additionalPrinterColumns") or ()
    )
    return own or (Column("Age", "date", ".metadata.creationTimestamp"),)


class Registry:
    """All kinds that are served; grows and shrinks with the CRDs."""

    def __init__(self, resources: Iterable[Resource] = ()) -> None:
        self._resources: dict[tuple[str, str, str], Resource] = {}
        for resource in resources:
            self.add(resource)

    def add(self, resource: Resource) -> None:
        """Serve a kind, or serve it by its new definition."""
        self._resources[resource.group, resource.version, resource.plural] = resource

    def define(self, crd: Object) -> None:
        """Serve exactly the versions that a CRD has now."""
        self.forget(crd["spec"]["group"], crd["spec"]["names"]["plural"])
        for resource in from_crd(crd):
            self.add(resource)

    def forget(self, group: str, plural: str) -> None:
        """Serve a kind no longer, in no version."""
        gone = [key for key in self._resources if (key[0], key[2]) == (group, plural)]
        for key in gone:
            del self._resources[key]

    def get(self, group: str, version: str, plural: str) -> Resource | None:
        """The kind that is served under those names, or None."""
        return self._resources.get((group, version, plural))

    def of_kind(self, api_version: str, kind: str) -> Resource | None:
        """The kind that an object names, or None."""
        return next((r for r in self._resources.values() if (r.api_version, r.kind) == (api_version, kind)), None)

    def all(self) -> list[Resource]:
        """Every kind in every version, the core group first."""
        return sorted(self._resources.values(), key=lambda r: (r.group, r.version, r.plural))


_ANY = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
_AGE = Column("Age", "date", ".metadata.creationTimestamp")


def _core(
    kind: str, plural: str, *short: str, group: str = "", columns: Iterable[Column] = (), namespaced: bool = True
) -> Resource:
    return Resource(
        group=group,
        version="v1",
        kind=kind,
        plural=plural,
        singular=kind.lower(),
        list_kind=f"{kind}List",
        namespaced=namespaced,
        short_names=short,
        schema=Schema(_ANY),
        columns=(*columns, _AGE),
        strict=False,
    )


_POD_FIELDS = ("spec.nodeName", "status.phase", "status.podIP", "spec.restartPolicy", "spec.serviceAccountName")
_EVENT_FIELDS = tuple(
    f"involvedObject.{part}" for part in ("kind", "name", "namespace", "uid", "apiVersion", "resourceVersion")
)
_EVENT_FIELDS += ("reason", "type", "source", "reportingComponent")


def builtin() -> tuple[Resource, ...]:
    """The core kinds that calico-py, its lab and kubectl touch; their inner fields are not checked."""
    node = _core("Node", "nodes", "no", namespaced=False)
    pod = _core("Pod", "pods", "po", columns=[
        Column("Status", "string", ".status.phase"),
        Column("IP", "string", ".status.podIP"),
        Column("Node", "string", ".spec.nodeName"),
    ])  # fmt: skip
    event = _core("Event", "events", "ev", columns=[
        Column("Last Seen", "date", ".lastTimestamp"),
        Column("Type", "string", ".type"),
        Column("Reason", "string", ".reason"),
        Column("Message", "string", ".message"),
    ])  # fmt: skip
    namespace = _core("Namespace", "namespaces", "ns", namespaced=False, columns=[
        Column("Status", "string", ".status.phase"),
    ])  # fmt: skip
    lease = _core("Lease", "leases", group="coordination.k8s.io", columns=[
        Column("Holder", "string", ".spec.holderIdentity"),
    ])  # fmt: skip
    crd = _core("CustomResourceDefinition", "customresourcedefinitions", "crd", "crds", group=CRD_GROUP,
                namespaced=False)  # fmt: skip
    return (
        replace(node, status=True, fields=("spec.unschedulable",)),
        replace(pod, status=True, fields=_POD_FIELDS),
        replace(event, fields=_EVENT_FIELDS),
        replace(namespace, status=True, fields=("status.phase",)),
        _core("ConfigMap", "configmaps", "cm"),
        replace(_core("Secret", "secrets"), fields=("type",)),
        _core("ServiceAccount", "serviceaccounts", "sa"),
        _core("Service", "services", "svc"),
        replace(_core("DaemonSet", "daemonsets", "ds", group="apps"), status=True),
        lease,
        replace(crd, status=True, categories=("api-extensions",)),
    )


def untyped(group: str, version: str, kind: str, plural: str, *, namespaced: bool) -> Resource:
    """A kind without a schema, for objects whose CRD nobody has applied."""
    return Resource(
        group=group,
        version=version,
        kind=kind,
        plural=plural,
        singular=kind.lower(),
        list_kind=f"{kind}List",
        namespaced=namespaced,
        schema=Schema(_ANY),
        strict=bool(group),
    )
