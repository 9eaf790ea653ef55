"""What writes of CustomResourceDefinitions and Namespaces imply for everything else."""

from calico_py.lab.api import errors
from calico_py.lab.api.builtin import builtin
from calico_py.lab.api.errors import Cause, Object
from calico_py.lab.api.resources import CRD_GROUP, Registry, Resource
from calico_py.lab.api.storage import Storage
from calico_py.lab.api.verbs import Options, Verbs

NAMESPACES = ("default", "kube-node-lease", "kube-public", "kube-system")
_CRDS = f"customresourcedefinitions.{CRD_GROUP}"


class Cluster:
    """Verbs over a storage with the rules of a cluster: kinds follow their CRDs, objects their namespace.

    Attributes:
        verbs: for every request.
    """

    def __init__(self, storage: Storage) -> None:
        self.registry = Registry(builtin())
        self.verbs = Verbs(storage, self.registry, admit=self._admit, written=self._written)
        for crd in storage.list(_CRDS):
            self.registry.define(crd)
        for name in NAMESPACES:
            if storage.get("namespaces", "", name) is None:
                self._create(
                    "", "v1", "namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
                )

    def define(self, crd: Object) -> None:
        """Create a CRD, or bring the one of its name up to date, as ``kubectl apply`` would."""
        resource = self._resource(CRD_GROUP, "v1", "customresourcedefinitions")
        name = crd["metadata"]["name"]
        if self.verbs.storage.get(_CRDS, "", name) is None:
            self.verbs.create(resource, "", crd)
        else:
            self.verbs.patch(resource, "", name, lambda current: {**current, "spec": crd["spec"]})

    def _resource(self, group: str, version: str, plural: str) -> Resource:
        found = self.registry.get(group, version, plural)
        assert found is not None
        return found

    def _create(self, group: str, version: str, plural: str, obj: Object) -> None:
        self.verbs.create(self._resource(group, version, plural), "", obj)

    def _admit(self, resource: Resource, before: Object | None, after: Object | None) -> None:
        if after is None:
            return
        namespace = after["metadata"].get("namespace")
        if namespace and before is None and self.verbs.storage.get("namespaces", "", namespace) is None:
            raise errors.not_found("", "namespaces", namespace)
        if resource.key == _CRDS:
            causes = list(_crd_problems(after))
            if causes:
                raise errors.invalid(resource.group, resource.kind, after["metadata"]["name"], causes)

    def _written(self, resource: Resource, before: Object | None, after: Object | None) -> None:
        if resource.key == _CRDS:
            self._crd_written(resource, before, after)
        elif resource.key == "namespaces":
            self._namespace_written(resource, before, after)

    def _crd_written(self, resource: Resource, before: Object | None, after: Object | None) -> None:
        if after is None:
            assert before is not None
            names, group = before["spec"]["names"], before["spec"]["group"]
            for served in [
                each for each in self.registry.all() if (each.group, each.plural) == (group, names["plural"])
            ]:
                self._delete_all(served, "")
            self.registry.forget(group, names["plural"])
            return
        self.registry.define(after)
        status = _crd_status(after, self.verbs.now())
        if not (after.get("status") or {}).get("conditions"):
            self.verbs.patch(
                resource,
                "",
                after["metadata"]["name"],
                lambda crd: {**crd, "status": status},
                Options(subresource="status"),
            )

    def _namespace_written(self, resource: Resource, before: Object | None, after: Object | None) -> None:
        if after is None:
            assert before is not None
            for served in self.registry.all():
                if served.namespaced:
                    self._delete_all(served, before["metadata"]["name"])
        elif before is None:
            status = {"phase": "Active"}
            name = after["metadata"]["name"]
            self.verbs.patch(resource, "", name, lambda ns: {**ns, "status": status}, Options(subresource="status"))

    def _delete_all(self, resource: Resource, namespace: str) -> None:
        """Remove the objects of a kind whose definition or namespace is gone; finalizers have lost their say."""
        for obj in tuple(self.verbs.storage.list(resource.key, namespace)):
            self.verbs.storage.remove(resource.key, obj)


def _crd_problems(crd: Object) -> list[Cause]:
    """The mistakes in a CRD that would make the server trip later."""
    spec = crd.get("spec") or {}
    names, causes = spec.get("names") or {}, []
    for path, value in (
        ("spec.group", spec.get("group")),
        ("spec.names.plural", names.get("plural")),
        ("spec.names.kind", names.get("kind")),
        ("spec.scope", spec.get("scope")),
        ("spec.versions", spec.get("versions")),
    ):
        if not value:
            causes.append(Cause(path, "FieldValueRequired", "Required value"))
    if causes:
        return causes
    wanted = f"{names['plural']}.{spec['group']}"
    if crd["metadata"]["name"] != wanted:
        message = f'Invalid value: "{crd["metadata"]["name"]}": must be spec.names.plural+"."+spec.group'
        causes.append(Cause("metadata.name", "FieldValueInvalid", message))
    for index, version in enumerate(spec["versions"]):
        if not (version.get("schema") or {}).get("openAPIV3Schema"):
            path = f"spec.versions[{index}].schema.openAPIV3Schema"
            causes.append(Cause(path, "FieldValueRequired", "Required value: schemas are required"))
    return causes


def _crd_status(crd: Object, now: str) -> Object:
    names = dict(crd["spec"]["names"])
    names.setdefault("singular", names["kind"].lower())
    names.setdefault("listKind", f"{names['kind']}List")
    conditions = [
        {"type": "NamesAccepted", "reason": "NoConflicts", "message": "no conflicts found"},
        {"type": "Established", "reason": "InitialNamesAccepted", "message": "the initial names have been accepted"},
    ]
    return {
        "acceptedNames": names,
        "conditions": [each | {"status": "True", "lastTransitionTime": now} for each in conditions],
        "storedVersions": [version["name"] for version in crd["spec"]["versions"] if version.get("storage")],
    }
