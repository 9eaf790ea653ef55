"""What the verbs mean: create, update, patch, delete, list and watch, with everything that a write implies.

Synchronous and without HTTP, so that the unit tests' store and the server are the same code.
"""

import json
import re
import secrets
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from calico_py.lab.api import errors, ownership
from calico_py.lab.api.errors import Cause, Object, bad_request
from calico_py.lab.api.resources import Registry, Resource
from calico_py.lab.api.schema import metadata_problems
from calico_py.lab.api.selection import Event, Selection, in_version, told
from calico_py.lab.api.storage import Storage

_SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_MAX_NAME = 253
# What only the server writes; an update keeps the stored value.
_SERVER_OWNED = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation")
_NOT_BY_STATUS = ("labels", "annotations", "finalizers", "ownerReferences")
# What the generation does not count.
_BLIND = ("metadata", "status", "apiVersion", "kind")

Hook = Callable[[Resource, Object | None, Object | None], None]


@dataclass(frozen=True, slots=True)
class Options:
    """What a request says besides the object.

    Attributes:
        validation: ``Strict`` refuses unknown fields, ``Warn`` drops them with a warning, ``Ignore`` without.
        subresource: ``status``, or empty for the object itself.
        manager: who writes, for managedFields; where empty, nothing is noted.
        warnings: collects the sentences that go back with the answer.
    """

    dry_run: bool = False
    validation: str = "Ignore"
    subresource: str = ""
    manager: str = ""
    warnings: list[str] = field(default_factory=list)


class Verbs:
    """The verbs on all kinds of a registry, over one storage.

    Args:
        admit: called before a write with what is there and what is to be; may raise ApiError.
        written: called after a write with what was and what is there.
    """

    def __init__(
        self,
        storage: Storage,
        registry: Registry,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        admit: Hook = lambda _resource, _before, _after: None,
        written: Hook = lambda _resource, _before, _after: None,
    ) -> None:
        self.storage = storage
        self.registry = registry
        self._clock = clock
        self._admit = admit
        self._written = written

    def now(self) -> str:
        """RFC 3339, to the second, as in metadata."""
        return self._clock().strftime("%Y-%m-%dT%H:%M:%SZ")

    def get(self, resource: Resource, namespace: str, name: str) -> Object:
        """One object, in the version asked for.

        Raises:
            ApiError: 404.
        """
        found = self.storage.get(resource.key, namespace, name)
        if found is None:
            raise errors.not_found(resource.group, resource.plural, name)
        return in_version(resource, found)

    def list(self, resource: Resource, selection: Selection) -> Sequence[Object]:
        """The objects selected, in the order of their names."""
        matches = selection.predicate(resource)
        found = self.storage.list(resource.key, selection.namespace)
        return [in_version(resource, obj) for obj in found if matches is None or matches(obj)]

    def create(self, resource: Resource, namespace: str, obj: Object, options: Options | None = None) -> Object:
        """Make a new object.

        Raises:
            ApiError: 409 AlreadyExists, 422 Invalid, 400.
        """
        options = options or Options()
        obj = self._place(resource, namespace, obj)
        meta = obj["metadata"]
        if meta.get("resourceVersion"):
            raise bad_request("resourceVersion should not be set on objects to be created")
        if not meta.get("name") and meta.get("generateName"):
            meta["name"] = meta["generateName"] + secrets.token_hex(3)[:5]
        self._shape(resource, obj, options)
        for name in (*_SERVER_OWNED, "selfLink"):
            meta.pop(name, None)
        if resource.status:
            obj.pop("status", None)
        meta |= {"uid": str(uuid.uuid4()), "creationTimestamp": self.now(), "generation": 1}
        self._check(resource, None, obj)
        if self.storage.get(resource.key, namespace, meta["name"]) is not None:
            raise errors.already_exists(resource.group, resource.plural, meta["name"])
        return self._put(resource, None, obj, options)

    def update(
        self, resource: Resource, namespace: str, name: str, obj: Object, options: Options | None = None
    ) -> Object:
        """Replace an object; where ``obj`` carries a resourceVersion or uid, only if they are still the same.

        Raises:
            ApiError: 404, 409 Conflict, 422 Invalid, 400.
        """
        options = options or Options()
        obj = self._place(resource, namespace, obj)
        if obj["metadata"].get("name") != name:
            found = obj["metadata"].get("name", "")
            raise bad_request(f"the name of the object ({found}) does not match the name on the URL ({name})")
        current = self.get(resource, namespace, name)
        if not obj["metadata"].get("resourceVersion") and resource.strict:
            cause = Cause(
                "metadata.resourceVersion", "FieldValueInvalid", "Invalid value: 0: must be specified for an update"
            )
            raise errors.invalid(resource.group, resource.kind, name, [cause])
        return self._replace(resource, current, obj, options)

    def patch(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        change: Callable[[Object], Object],
        options: Options | None = None,
    ) -> Object:
        """Replace an object by a function of a copy of it; a resourceVersion that it sets must be the current one.

        Raises:
            ApiError: 404, 409 Conflict, 422 Invalid, 400.
        """
        current = self.get(resource, namespace, name)
        changed = self._place(resource, namespace, change(copied(current)))
        if changed["metadata"].get("name") != name:
            raise bad_request("the name of an object cannot be changed by a patch")
        return self._replace(resource, current, changed, options or Options())

    def apply(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        config: Object,
        options: Options,
        *,
        force: bool = False,
    ) -> tuple[Object, bool]:
        """Server-side apply by ``options.manager``; the answer says whether the object was made by it.

        Raises:
            ApiError: 409 where another manager has a field of the configuration, 422, 400.
        """
        config = self._place(resource, namespace, config)
        meta = config["metadata"]
        if meta.get("managedFields"):
            raise bad_request("metadata.managedFields must be nil")
        if meta.setdefault("name", name) != name:
            raise bad_request(f"the name of the object ({meta['name']}) does not match the name on the URL ({name})")
        if not options.subresource:
            # Status is not for appliers of the object itself.
            config = {key: value for key, value in config.items() if key != "status" or not resource.status}
        writer = self._writer(resource, options, "Apply")
        quiet = replace(options, manager="")
        schema = resource.schema.root
        if self.storage.get(resource.key, namespace, name) is None:
            paths = frozenset(ownership.leaves(schema, config))
            meta["managedFields"] = ownership.write([replace(writer, paths=paths)])
            return self.create(resource, namespace, config, quiet), True

        def change(live: Object) -> Object:
            return ownership.applied(schema, live, config, writer, force=force)

        return self.patch(resource, namespace, name, change, quiet), False

    def delete(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        *,
        uid: str = "",
        resource_version: str = "",
        options: Options | None = None,
    ) -> Object:
        """Remove an object, or mark it as going where finalizers hold it; the answer is its last state.

        Raises:
            ApiError: 404, 409 Conflict where uid or resourceVersion are given and differ.
        """
        options = options or Options()
        current = self.get(resource, namespace, name)
        meta = current["metadata"]
        for label, wanted, found in (
            ("UID", uid, meta["uid"]),
            ("ResourceVersion", resource_version, meta["resourceVersion"]),
        ):
            if wanted and wanted != found:
                why = f"Precondition failed: {label} in precondition: {wanted}, {label} in object meta: {found}"
                raise errors.conflict(resource.group, resource.plural, name, why)
        self._admit(resource, current, None)
        if options.dry_run:
            return current
        if not meta.get("finalizers"):
            return self._remove(resource, current, current)
        if meta.get("deletionTimestamp"):
            return current
        going = {"deletionTimestamp": self.now(), "deletionGracePeriodSeconds": 0, "generation": meta["generation"] + 1}
        marked = {**current, "metadata": {**meta, **going}}
        return in_version(resource, self.storage.put(resource.key, marked))

    def changes(self, resource: Resource, selection: Selection, since: int) -> tuple[Sequence[Event], int]:
        """What a watch with that selection has to tell after a version, and the version that it has then seen.

        Raises:
            ApiError: 410 where that is too long ago.
        """
        events = told(resource, selection, self.storage.changes(resource.key, since))
        return events, max(self.storage.version, since)

    def _place(self, resource: Resource, namespace: str, obj: Object) -> Object:
        """A shallow copy of the object, at home in the kind and namespace of the request."""
        meta = obj.get("metadata")
        if not isinstance(meta, dict):
            if meta is not None:
                raise bad_request("metadata must be an object")
            meta = {}
        if obj.get("apiVersion") != resource.api_version:
            raise bad_request(
                f"the API version in the data ({obj.get('apiVersion')}) does not match the expected API version "
                f"({resource.api_version})"
            )
        meta = {name: value for name, value in meta.items() if value is not None}
        if problems := metadata_problems(meta):
            raise bad_request(f"{resource.kind} in version {resource.version!r} cannot be handled: {problems[0]}")
        if obj.get("kind") != resource.kind:
            message = f"Invalid value: {json.dumps(obj.get('kind'))}: must be {resource.kind}"
            cause = Cause("kind", "FieldValueInvalid", message)
            raise errors.invalid(resource.group, str(obj.get("kind")), meta.get("name", ""), [cause])
        if resource.namespaced:
            if meta.get("namespace", namespace) != namespace:
                raise bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request"
                )
            meta["namespace"] = namespace
        else:
            meta.pop("namespace", None)
        return {**obj, "metadata": meta}

    def _shape(self, resource: Resource, obj: Object, options: Options) -> None:
        """Prune and default in place; unknown fields are refused, told or dropped as the request says."""
        unknown = resource.schema.prune(obj)
        if unknown and options.validation == "Strict":
            listed = ", ".join(f'unknown field "{path}"' for path in unknown)
            raise bad_request(
                f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}: '
                f"strict decoding error: {listed}"
            )
        if options.validation == "Warn":
            options.warnings.extend(f'unknown field "{path}"' for path in unknown)
        resource.schema.default(obj)

    def _check(self, resource: Resource, before: Object | None, after: Object) -> None:
        name = after["metadata"].get("name", "")
        causes = _name_problems(name) if before is None else []
        causes += resource.schema.validate(after)
        # A rule may count on the types and on what is required, so it is not asked where those are wrong.
        if all(cause.reason == "FieldValueInvalid" for cause in causes):
            causes += resource.schema.break_rules(before, after)
        if causes:
            raise errors.invalid(resource.group, resource.kind, name, causes)
        self._admit(resource, before, after)

    def _replace(self, resource: Resource, current: Object, obj: Object, options: Options) -> Object:
        meta, old = obj["metadata"], current["metadata"]
        name = old["name"]
        if meta.get("uid", old["uid"]) != old["uid"]:
            why = f"Precondition failed: UID in precondition: {meta['uid']}, UID in object meta: {old['uid']}"
            raise errors.conflict(resource.group, resource.plural, name, why)
        if meta.get("resourceVersion", old["resourceVersion"]) != old["resourceVersion"]:
            raise errors.conflict(resource.group, resource.plural, name, errors.MODIFIED)
        if resource.status:
            obj = _status_only(current, obj) if options.subresource == "status" else _all_but_status(current, obj)
        self._shape(resource, obj, options)
        meta = obj["metadata"]
        if "managedFields" in old:
            meta.setdefault("managedFields", old["managedFields"])
        for key in (*_SERVER_OWNED, "resourceVersion"):
            if key in old:
                meta[key] = old[key]
            else:
                meta.pop(key, None)
        if _essence(obj) != _essence(current):
            meta["generation"] = old["generation"] + 1
        self._check(resource, current, obj)
        return self._put(resource, current, obj, options)

    def _put(self, resource: Resource, before: Object | None, after: Object, options: Options) -> Object:
        if before is not None and in_version(resource, before) == after:
            return before
        if options.manager:
            writer = self._writer(resource, options, "Update")
            fields = ownership.updated(resource.schema.root, before, after, writer)
            after = {**after, "metadata": {**after["metadata"], "managedFields": fields}}
        if options.dry_run:
            return after
        meta = after["metadata"]
        if meta.get("deletionTimestamp") and not meta.get("finalizers"):
            return self._remove(resource, before, after)
        stored = self.storage.put(resource.key, after)
        self._written(resource, before, stored)
        return in_version(resource, stored)

    def _writer(self, resource: Resource, options: Options, operation: str) -> ownership.Entry:
        return ownership.Entry(
            options.manager, operation, resource.api_version, self.now(), frozenset(), options.subresource
        )

    def _remove(self, resource: Resource, before: Object | None, last: Object) -> Object:
        gone = self.storage.remove(resource.key, last)
        self._written(resource, before, None)
        return in_version(resource, gone)


def copied(obj: Object) -> Object:
    """A deep copy of JSON."""
    found: Object = json.loads(json.dumps(obj))
    return found


def _status_only(current: Object, obj: Object) -> Object:
    """What a write to the status subresource makes: the new status, all else as it is."""
    kept = {name: current["metadata"][name] for name in _NOT_BY_STATUS if name in current["metadata"]}
    meta = {name: value for name, value in obj["metadata"].items() if name not in _NOT_BY_STATUS} | kept
    out = {**copied(current), "metadata": copied(meta)}
    out.pop("status", None)
    return out | ({"status": obj["status"]} if "status" in obj else {})


def _all_but_status(current: Object, obj: Object) -> Object:
    """What a write to the main resource makes, where status is one of its own."""
    out = {key: value for key, value in obj.items() if key != "status"}
    return out | ({"status": copied(current["status"])} if "status" in current else {})


def _essence(obj: Object) -> Object:
    return {key: value for key, value in obj.items() if key not in _BLIND}


def _name_problems(name: str) -> list[Cause]:
    if not name:
        return [Cause("metadata.name", "FieldValueRequired", "Required value: name or generateName is required")]
    if len(name) <= _MAX_NAME and re.fullmatch(_SUBDOMAIN, name):
        return []
    rule = (
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start "
        f"and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '{_SUBDOMAIN}')"
    )
    return [Cause("metadata.name", "FieldValueInvalid", f"Invalid value: {json.dumps(name)}: {rule}")]
