"""What the server knows of a kind: its names, schema, columns and selectable fields; from a CRD, or from a table.

Pure: JSON in, frozen values out.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from calico_py.lab.api.errors import Object
from calico_py.lab.api.schema import Schema

CRD_GROUP = "apiextensions.k8s.io"


@dataclass(frozen=True, slots=True)
class Column:
    """A printer column.

    Attributes:
        path: JSONPath below the object, such as ``.spec.cidr``.
        value: computes the cell instead, for core kinds.
        priority: 0 is shown always, more with ``-o wide``.
    """

    name: str
    type: str
    path: str = ""
    value: Callable[[Object], str | int] | None = None
    priority: int = 0
    format: str = ""
    description: str = ""


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind as it is served under one version.

    Attributes:
        fields: paths that a field selector may name, besides metadata.name and metadata.namespace.
        status: there is a status subresource; the main resource ignores changes of status.
        strict: an update needs a resourceVersion, as for all custom resources and some core kinds.
        strategic: takes strategic merge patches, as core kinds alone do.
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
    strategic: bool = False
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


ANY = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


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
        schema=Schema(ANY),
        strict=bool(group),
    )
