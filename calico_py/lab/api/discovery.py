"""Discovery: which groups, versions and kinds are served, in the plain form and in the aggregated one. Pure."""

from collections.abc import Iterable
from itertools import groupby

from calico_py.lab.api.errors import Object
from calico_py.lab.api.resources import Registry, Resource

VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
STATUS_VERBS = ["get", "patch", "update"]
AGGREGATED = ("v2", "v2beta1")


def _versions(resources: Iterable[Resource]) -> list[str]:
    return list(dict.fromkeys(resource.version for resource in resources))


def groups(registry: Registry) -> dict[str, list[Resource]]:
    """The resources by group, the core group under the empty name first."""
    return {group: list(found) for group, found in groupby(registry.all(), key=lambda resource: resource.group)}


def api_versions() -> Object:
    """``/api``: the versions of the core group."""
    return {
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": ""}],
    }


def group(name: str, resources: Iterable[Resource]) -> Object:
    """One named group."""
    versions = [{"groupVersion": f"{name}/{version}", "version": version} for version in _versions(resources)]
    return {"kind": "APIGroup", "apiVersion": "v1", "name": name, "versions": versions, "preferredVersion": versions[0]}


def group_list(registry: Registry) -> Object:
    """``/apis``: the named groups."""
    found = [group(name, resources) for name, resources in groups(registry).items() if name]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": found}


def resource_list(api_version: str, resources: Iterable[Resource]) -> Object:
    """``/api/v1`` and ``/apis/GROUP/VERSION``: the kinds of one version."""
    found: list[Object] = []
    for each in resources:
        entry = {"name": each.plural, "singularName": each.singular, "namespaced": each.namespaced, "kind": each.kind}
        entry |= {"verbs": VERBS, "storageVersionHash": ""}
        entry |= {"shortNames": list(each.short_names)} if each.short_names else {}
        entry |= {"categories": list(each.categories)} if each.categories else {}
        found.append(entry)
        if each.status:
            found.append(entry | {"name": f"{each.plural}/status", "singularName": "", "verbs": STATUS_VERBS})
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version, "resources": found}


def _aggregated_resource(resource: Resource) -> Object:
    kind = {"group": resource.group, "version": resource.version, "kind": resource.kind}
    entry: Object = {
        "resource": resource.plural,
        "responseKind": kind,
        "scope": "Namespaced" if resource.namespaced else "Cluster",
        "singularResource": resource.singular,
        "verbs": VERBS,
    }
    if resource.short_names:
        entry["shortNames"] = list(resource.short_names)
    if resource.categories:
        entry["categories"] = list(resource.categories)
    if resource.status:
        entry["subresources"] = [{"subresource": "status", "responseKind": kind, "verbs": STATUS_VERBS}]
    return entry


def aggregated(registry: Registry, version: str, *, core: bool) -> Object:
    """The whole of ``/api`` or ``/apis`` in one document (apidiscovery.k8s.io)."""
    items = []
    for name, resources in groups(registry).items():
        if core != (name == ""):
            continue
        versions = [
            {
                "version": served,
                "resources": [_aggregated_resource(each) for each in resources if each.version == served],
                "freshness": "Current",
            }
            for served in _versions(resources)
        ]
        items.append({"metadata": {"name": name, "creationTimestamp": None}, "versions": versions})
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": f"apidiscovery.k8s.io/{version}",
        "metadata": {},
        "items": items,
    }
