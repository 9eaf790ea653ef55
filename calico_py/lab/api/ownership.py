"""Who set which field: metadata.managedFields and what server-side apply makes of it. Pure.

A field is named by its path in the notation of FieldsV1: ``f:name`` for a member of an object, ``k:{...}`` for the
member of a list with these keys, ``v:...`` for a value of a set. Lists without keys, and objects whose schema says so,
are owned as a whole.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from calico_py.lab.api.errors import ApiError, Object

Raw = Mapping[str, Any]
Path = tuple[str, ...]

_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
# What no manager owns: the name of the object, what the server writes, and the record itself.
_NOBODYS = frozenset(
    {"name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "selfLink",
     "deletionTimestamp", "deletionGracePeriodSeconds", "generateName"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """The fields of one manager, by one way of writing (``Apply`` or ``Update``)."""

    manager: str
    operation: str
    api_version: str
    time: str
    paths: frozenset[Path]
    subresource: str = ""

    @property
    def identity(self) -> tuple[str, str, str]:
        """What tells entries apart."""
        return self.manager, self.operation, self.subresource


def leaves(schema: Raw, obj: Object) -> dict[Path, Any]:
    """The fields of an object that can be owned, with their values."""
    found = {("f:metadata", f"f:{name}") for name in _NOBODYS}
    pairs = ((path, value) for path, value in _leaves(schema, obj, ()) if path[:2] not in found)
    return {path: value for path, value in pairs if path[0] not in ("f:apiVersion", "f:kind")}


def _leaves(schema: Raw, value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, dict) and value and schema.get("x-kubernetes-map-type") != "atomic":
        properties, rest = schema.get("properties") or {}, schema.get("additionalProperties")
        for name, member in value.items():
            of = properties.get(name) or (rest if isinstance(rest, Mapping) else {})
            yield from _leaves(of, member, (*path, f"f:{name}"))
    elif isinstance(value, list) and value and schema.get("x-kubernetes-list-type") == "map":
        for member in value:
            yield from _leaves(schema.get("items") or {}, member, (*path, _key(schema, member)))
    elif isinstance(value, list) and schema.get("x-kubernetes-list-type") == "set":
        for member in value:
            yield (*path, "v:" + json.dumps(member, sort_keys=True)), member
    else:
        yield path, value


def _key(schema: Raw, member: Any) -> str:
    if not isinstance(member, dict):
        return "v:" + json.dumps(member, sort_keys=True)  # invalid, which validation will tell
    keys = {key: member.get(key) for key in schema.get("x-kubernetes-list-map-keys") or ()}
    return "k:" + json.dumps(keys, sort_keys=True, separators=(",", ":"))


def read(obj: Object) -> list[Entry]:
    """The entries of an object's managedFields."""
    return [
        Entry(
            manager=each.get("manager", ""),
            operation=each.get("operation", "Update"),
            api_version=each.get("apiVersion", ""),
            time=each.get("time", ""),
            paths=frozenset(_paths(each.get("fieldsV1") or {}, ())),
            subresource=each.get("subresource", ""),
        )
        for each in obj["metadata"].get("managedFields") or ()
        if each
    ]


def _paths(fields: Object, path: Path) -> Iterator[Path]:
    for name, below in fields.items():
        if name == ".":
            continue
        if below:
            yield from _paths(below, (*path, name))
        else:
            yield (*path, name)


def write(entries: Iterable[Entry]) -> list[Object]:
    """The entries as managedFields; those that own nothing are left out."""
    found = []
    for entry in entries:
        if not entry.paths:
            continue
        fields: Object = {}
        for path in sorted(entry.paths):
            at = fields
            for step in path:
                at = at.setdefault(step, {})
        written: Object = {"manager": entry.manager, "operation": entry.operation, "apiVersion": entry.api_version}
        written |= {"time": entry.time, "fieldsType": "FieldsV1", "fieldsV1": fields}
        found.append(written | ({"subresource": entry.subresource} if entry.subresource else {}))
    return found


def updated(schema: Raw, before: Object | None, after: Object, writer: Entry) -> list[Object]:
    """The managedFields after an ordinary write: what it changed is the writer's, what it removed nobody's."""
    was, now = leaves(schema, before) if before else {}, leaves(schema, after)
    changed = frozenset(path for path, value in now.items() if path not in was or was[path] != value)
    entries = []
    own = None
    for entry in read(after):
        if entry.identity == writer.identity:
            own = entry
        else:
            entries.append(replace(entry, paths=frozenset(p for p in entry.paths - changed if p in now)))
    kept = frozenset(path for path in own.paths if path in now) if own else frozenset()
    if own and kept | changed == own.paths:
        entries.append(own)
    else:
        entries.append(replace(writer, paths=kept | changed))
    return write(entries)


def applied(schema: Raw, live: Object, config: Object, writer: Entry, *, force: bool) -> Object:
    """The live object with a configuration applied by its manager, managedFields included.

    Fields that the manager applied before and no longer names go, unless another manager has them too.

    Raises:
        ApiError: 409 where another manager has a field with another value, and force is not given.
    """
    wanted, present = leaves(schema, config), leaves(schema, live)
    others = [entry for entry in read(live) if entry.identity != writer.identity]
    own = next((entry for entry in read(live) if entry.identity == writer.identity), None)
    differing = {path for path, value in wanted.items() if path in present and present[path] != value}
    handed_over = _client_side_applied(schema, live, writer)
    conflicts = [(entry, path) for entry in others for path in sorted(entry.paths & differing - handed_over)]
    if conflicts and not force:
        raise _conflict(conflicts)
    merged: Object = _merged(schema, live, config)
    dropped = (own.paths if own else frozenset()) - frozenset(wanted)
    # What tells a list's members apart goes last, and takes the member along.
    for path in sorted(dropped - frozenset(path for entry in others for path in entry.paths), key=_is_key):
        _remove(merged, path)
    _note_last_applied(merged, config, writer)
    left = leaves(schema, merged)
    entries = [replace(entry, paths=frozenset(p for p in entry.paths - differing if p in left)) for entry in others]
    mine = frozenset(wanted)
    entries.insert(0, own if own and own.paths == mine else replace(writer, paths=mine))
    merged["metadata"]["managedFields"] = write(entries)
    return merged


def _client_side_applied(schema: Raw, live: Object, writer: Entry) -> frozenset[Path]:
    """What kubectl applied on the client's side and nobody has changed since: its server-side apply may change it."""
    text = (live["metadata"].get("annotations") or {}).get(_LAST_APPLIED)
    if writer.manager != "kubectl" or not text:
        return frozenset()
    try:
        config = json.loads(text)
    except ValueError:
        return frozenset()
    present = leaves(schema, live)
    return frozenset(path for path, value in leaves(schema, config).items() if present.get(path) == value)


def _note_last_applied(obj: Object, config: Object, writer: Entry) -> None:
    """Where kubectl once applied on the client's side, its note has to follow, or going back would undo changes."""
    notes = obj["metadata"].get("annotations") or {}
    if writer.manager == "kubectl" and _LAST_APPLIED in notes:
        text = json.dumps(config, sort_keys=True, separators=(",", ":")) + "\n"
        obj["metadata"]["annotations"] = {**notes, _LAST_APPLIED: text}


def _merged(schema: Raw, live: Any, config: Any) -> Any:
    """A copy of the live value with the configuration's values set, as deep as ownership goes."""
    if isinstance(config, dict) and isinstance(live, dict) and schema.get("x-kubernetes-map-type") != "atomic":
        properties, rest = schema.get("properties") or {}, schema.get("additionalProperties")
        out = dict(live)
        for name, value in config.items():
            of = properties.get(name) or (rest if isinstance(rest, Mapping) else {})
            out[name] = _merged(of, live.get(name), value)
        return out
    kind = schema.get("x-kubernetes-list-type")
    if isinstance(config, list) and isinstance(live, list) and kind == "map":
        items = schema.get("items") or {}
        by_key = {_key(schema, member): member for member in live}
        for member in config:
            by_key[_key(schema, member)] = _merged(items, by_key.get(_key(schema, member)), member)
        return list(by_key.values())
    if isinstance(config, list) and isinstance(live, list) and kind == "set":
        return [*live, *(member for member in config if member not in live)]
    return json.loads(json.dumps(config))


def _remove(value: Any, path: Sequence[str]) -> None:
    """Take a field out; objects and lists that become empty by it go too."""
    step, rest = path[0], path[1:]
    form, _, text = step.partition(":")
    if isinstance(value, list):
        if form == "f":
            return  # it was an object when the field was owned
        wanted = json.loads(text)
        for member in [each for each in value if each == wanted or (form == "k" and _has(each, wanted))]:
            if not rest or (_is_key(path) and member == wanted):
                value.remove(member)
            elif not _is_key(path):
                _remove(member, rest)
    elif isinstance(value, dict) and text in value:
        if rest:
            # The merge copied only what the configuration names: copy on the way down.
            value[text] = json.loads(json.dumps(value[text]))
            _remove(value[text], rest)
        if not rest or value[text] in ({}, []):
            del value[text]


def _is_key(path: Sequence[str]) -> bool:
    """Whether a path names one of the fields by which members of a list are told apart."""
    member, field = path[-2:] if len(path) > 1 else ("", "")
    return member.startswith("k:") and field.removeprefix("f:") in json.loads(member[2:])


def _has(member: Any, keys: Object) -> bool:
    return isinstance(member, dict) and all(member.get(key) == value for key, value in keys.items())


def _dotted(path: Path) -> str:
    """A path for people: ``.spec.parts[name="a"].weight``."""
    out = ""
    for form, _, text in (step.partition(":") for step in path):
        if form == "k":
            out += "[" + ",".join(f"{key}={json.dumps(value)}" for key, value in json.loads(text).items()) + "]"
        else:
            out += f".{text}" if form == "f" else f"[={text}]"
    return out


def _conflict(conflicts: Sequence[tuple[Entry, Path]]) -> ApiError:
    by_entry: dict[tuple[str, str], list[str]] = defaultdict(list)
    for entry, path in conflicts:
        by_entry[entry.manager, entry.api_version].append(_dotted(path))
    texts, causes = [], []
    for (manager, version), fields in by_entry.items():
        message = f'conflict with "{manager}" using {version}'
        causes += [{"reason": "FieldManagerConflict", "message": message, "field": field} for field in fields]
        if len(fields) == 1:
            texts.append(f"{message}: {fields[0]}")
        else:
            texts.append(f'conflicts with "{manager}" using {version}:\n' + "\n".join(f"- {field}" for field in fields))
    noun = "conflict" if len(conflicts) == 1 else "conflicts"
    message = f"Apply failed with {len(conflicts)} {noun}: " + "\n".join(texts)
    return ApiError(409, "Conflict", message, {"causes": causes})
