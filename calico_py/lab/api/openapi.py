"""OpenAPI v3: what ``kubectl explain`` shows, and what tells kubectl that the server checks fields by itself.

Pure. One document for each group and version. Schemas are those of the CRDs; operations say no more than kubectl reads.
"""

import hashlib
import json
from collections.abc import Iterable

from calico_py.lab.api.errors import Object
from calico_py.lab.api.resources import Resource

_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
_STRING = {"type": "string"}
_STRINGS = {"type": "object", "additionalProperties": _STRING}
_META_SCHEMA: Object = {
    "description": "What every object has: its name, labels, annotations and what the server notes about it.",
    "type": "object",
    "properties": {
        "annotations": {**_STRINGS, "description": "Notes by tools; not for selection."},
        "creationTimestamp": {"type": "string", "format": "date-time", "description": "When it was made."},
        "deletionTimestamp": {"type": "string", "format": "date-time", "description": "Since when it is going."},
        "finalizers": {"type": "array", "items": _STRING, "description": "Who must let go before it can be removed."},
        "generateName": {"type": "string", "description": "Beginning of a name that the server completes."},
        "generation": {"type": "integer", "format": "int64", "description": "Counts the changes of its specification."},
        "labels": {**_STRINGS, "description": "Keys and values for selection."},
        "managedFields": {"type": "array", "items": {"type": "object"}, "description": "Who set which field."},
        "name": {"type": "string", "description": "Its name, unique within kind and namespace."},
        "namespace": {"type": "string", "description": "The namespace that it is in."},
        "ownerReferences": {"type": "array", "items": {"type": "object"}, "description": "The objects that it is for."},
        "resourceVersion": {"type": "string", "description": "Changes with every write; opaque."},
        "uid": {"type": "string", "description": "Unique over all time."},
    },
}
_KIND = {
    "apiVersion": {"type": "string", "description": "Group and version of the schema."},
    "kind": {"type": "string", "description": "Kind of the object."},
}
_WRITE = ("dryRun", "fieldManager", "fieldValidation")
_READ = ("fieldSelector", "labelSelector", "limit", "continue", "resourceVersion", "timeoutSeconds", "watch")
_PATCHES = ("json-patch+json", "merge-patch+json", "apply-patch+yaml")


def index(resources: Iterable[Resource]) -> Object:
    """``/openapi/v3``: where the document of each group and version is; the hash lets clients keep it."""
    by_version: dict[str, list[Resource]] = {}
    for resource in resources:
        by_version.setdefault(_prefix(resource), []).append(resource)
    return {"paths": {prefix: {"serverRelativeURL": _url(prefix, found)} for prefix, found in by_version.items()}}


def document(resources: Iterable[Resource]) -> Object:
    """The document of one group and version."""
    paths: Object = {}
    schemas: Object = {_META: _META_SCHEMA}
    for resource in resources:
        paths |= _paths(resource)
        schemas |= _schemas(resource)
    info = {"title": "Kubernetes", "version": "v1.34.0"}
    return {"openapi": "3.0.0", "info": info, "paths": paths, "components": {"schemas": schemas}}


def _prefix(resource: Resource) -> str:
    return f"apis/{resource.group}/{resource.version}" if resource.group else f"api/{resource.version}"


def _url(prefix: str, resources: list[Resource]) -> str:
    text = json.dumps(document(resources), sort_keys=True)
    return f"/openapi/v3/{prefix}?hash={hashlib.sha256(text.encode()).hexdigest().upper()}"


def _component(resource: Resource) -> str:
    group = ".".join(reversed(resource.group.split("."))) if resource.group else "io.k8s.api.core"
    return f"{group}.{resource.version}.{resource.kind}"


def _schemas(resource: Resource) -> Object:
    kinds = [{"group": resource.group, "version": resource.version, "kind": resource.kind}]
    raw = dict(resource.schema.raw) or {"type": "object"}
    reference = {"allOf": [{"$ref": f"#/components/schemas/{_META}"}], "description": "Name, labels and the like."}
    properties = {**(raw.get("properties") or {}), **_KIND, "metadata": reference}
    name = _component(resource)
    listed = {
        "type": "object",
        "description": f"Several objects of the kind {resource.kind}.",
        "properties": {**_KIND, "items": {"type": "array", "items": {"$ref": f"#/components/schemas/{name}"}}},
        "x-kubernetes-group-version-kind": [kinds[0] | {"kind": resource.list_kind}],
    }
    own = {**raw, "properties": properties, "x-kubernetes-group-version-kind": kinds}
    return {name: own, f"{name}List": listed}


def _paths(resource: Resource) -> Object:
    prefix = f"/{_prefix(resource)}/" + ("namespaces/{namespace}/" if resource.namespaced else "")
    collection = f"{prefix}{resource.plural}"
    paths = {
        collection: {"get": _operation(resource, "list", _READ), "post": _operation(resource, "post", _WRITE)},
        f"{collection}/{{name}}": {
            "get": _operation(resource, "get", ()),
            "put": _operation(resource, "put", _WRITE),
            "patch": _operation(resource, "patch", (*_WRITE, "force")),
            "delete": _operation(resource, "delete", ("dryRun", "gracePeriodSeconds", "propagationPolicy")),
        },
    }
    if resource.namespaced:
        paths[f"/{_prefix(resource)}/{resource.plural}"] = {"get": _operation(resource, "list", _READ)}
    return paths


def _operation(resource: Resource, action: str, query: Iterable[str]) -> Object:
    reference = {"$ref": f"#/components/schemas/{_component(resource)}{'List' if action == 'list' else ''}"}
    content = {"application/json": {"schema": reference}}
    operation: Object = {
        "operationId": f"{action}{resource.version}{resource.kind}",
        "parameters": [{"name": name, "in": "query", "schema": _STRING} for name in query],
        "responses": {"200": {"description": "OK", "content": content}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": {
            "group": resource.group,
            "version": resource.version,
            "kind": resource.kind,
        },
    }
    if action in ("post", "put"):
        operation["requestBody"] = {"content": content}
    elif action == "patch":
        media = (*_PATCHES, "strategic-merge-patch+json") if resource.strategic else _PATCHES
        operation["requestBody"] = {
            "content": {f"application/{each}": {"schema": {"type": "object"}} for each in media}
        }
    return operation
