"""Strategic merge patch, which kubectl sends for core kinds: a merge patch whose lists merge by key.

Pure. The merge keys are those of the core API (k8s.io/api, ``patchMergeKey`` tags) by the name of the field; a list
without one is replaced, as in a merge patch.
"""

from collections.abc import Mapping
from typing import Any

from calico_py.lab.api.errors import bad_request

_KEYS: Mapping[str, tuple[str, ...]] = {
    "addresses": ("type",),
    "conditions": ("type",),
    "containers": ("name",),
    "env": ("name",),
    "ephemeralContainers": ("name",),
    "hostAliases": ("ip",),
    "imagePullSecrets": ("name",),
    "initContainers": ("name",),
    "ownerReferences": ("uid",),
    # A container's ports have containerPort, a service's have port.
    "ports": ("containerPort", "port"),
    "secrets": ("name",),
    "volumeMounts": ("mountPath",),
    "volumes": ("name",),
}
_SETS = frozenset({"finalizers", "podCIDRs"})


def strategically_merged(target: Any, patch: Any) -> Any:
    """The target with a strategic merge patch applied; neither is changed.

    Raises:
        ApiError: 400 for a directive that does not exist.
    """
    if not isinstance(patch, Mapping):
        return patch
    directive = patch.get("$patch")
    if directive == "replace":
        return {name: value for name, value in patch.items() if name != "$patch"}
    if directive not in (None, "merge"):
        raise bad_request(f"unknown directive in a strategic merge patch: $patch: {directive!r}")
    out = dict(target) if isinstance(target, Mapping) else {}
    if isinstance(patch.get("$retainKeys"), list):
        out = {name: value for name, value in out.items() if name in patch["$retainKeys"]}
    for name, value in patch.items():
        if name.startswith("$deleteFromPrimitiveList/"):
            field = name.partition("/")[2]
            out[field] = [member for member in _list(out.get(field)) if member not in _list(value)]
        elif name.startswith("$"):
            continue
        elif value is None:
            out.pop(name, None)
        elif isinstance(value, list):
            out[name] = _merged_list(name, _list(out.get(name)), value)
        else:
            out[name] = strategically_merged(out.get(name), value)
    return out


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _merged_list(name: str, found: list[Any], patch: list[Any]) -> list[Any]:
    if name in _SETS:
        return [*found, *(member for member in patch if member not in found)]
    members = [member for member in patch if isinstance(member, Mapping) and "$patch" in member]
    if any(member["$patch"] == "replace" for member in members):
        return [member for member in patch if "$patch" not in member]
    keys = [key for key in _KEYS.get(name, ()) if any(isinstance(each, Mapping) and key in each for each in patch)]
    if not keys:
        return patch
    if not all(isinstance(each, Mapping) for each in (*found, *patch)):
        raise bad_request(f"{name}: a list that is merged by {keys[0]} holds objects and nothing else")
    key = keys[0]
    out = list(found)
    for member in patch:
        position = next((at for at, own in enumerate(out) if own.get(key) == member.get(key)), None)
        if member.get("$patch") == "delete":
            out = [own for own in out if own.get(key) != member.get(key)]
        elif position is None:
            out.append(strategically_merged({}, member))
        else:
            out[position] = strategically_merged(out[position], member)
    return out
