"""Structural schemas (apiextensions.k8s.io/v1): defaults, pruning and validation in Kubernetes' words.

A walker of its own instead of jsonschema: defaulting and pruning have to walk the same structure, the causes must name
fields and values as the API server does, and it is ten times faster on an IPAMBlock. Pure.
"""

import json
import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from functools import cache
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any

from calico_py.lab.api.errors import Cause, Object
from calico_py.lab.api.rules import broken, has_rules

log = logging.getLogger(__name__)

Raw = Mapping[str, Any]

_PRESERVE = "x-kubernetes-preserve-unknown-fields"
_INT_OR_STRING = "x-kubernetes-int-or-string"
_EMBEDDED = "x-kubernetes-embedded-resource"
_JSON_TYPES: Mapping[type, str] = {
    dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"
}  # fmt: skip
_PLAIN_TYPES: Mapping[str, type] = {"string": str, "boolean": bool, "integer": int}
_PLAIN_KEYS = frozenset({"type", "nullable", "description"})
_STRING_MAP = {"type": "object", "additionalProperties": {"type": "string"}}
_META = {
    "type": "object",
    "properties": {
        **{name: {"type": "string"} for name in (
            "name", "generateName", "namespace", "uid", "resourceVersion", "creationTimestamp", "deletionTimestamp",
            "selfLink",
        )},
        "generation": {"type": "integer"},
        "deletionGracePeriodSeconds": {"type": "integer"},
        "labels": _STRING_MAP,
        "annotations": _STRING_MAP,
        "finalizers": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
        "ownerReferences": {
            "type": "array",
            "items": {"type": "object", _PRESERVE: True},
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["uid"],
        },
        "managedFields": {"type": "array", "items": {"type": "object", _PRESERVE: True}},
    },
}  # fmt: skip
_ROOT: Raw = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": _META}


class Schema:
    """The schema of one version of a kind.

    Args:
        raw: openAPIV3Schema of the CRD; empty means that nothing below the metadata is known, or kept.

    Attributes:
        root: the same with what every object has: apiVersion, kind, metadata.
    """

    def __init__(self, raw: Raw | None = None) -> None:
        self.raw: Raw = raw or {}
        self.root: Raw = {**self.raw, "properties": {**(self.raw.get("properties") or {}), **_ROOT}}
        self._ruled = has_rules(self.raw)

    def prune(self, obj: Object) -> list[str]:
        """Remove unknown fields in place; the answer is their paths."""
        return list(_prune(self.root, obj, ""))

    def default(self, obj: Object) -> None:
        """Set the fields that are absent and have a default, in place."""
        _default(self.root, obj)

    def validate(self, obj: Object) -> list[Cause]:
        """Everything that the schema forbids, in the order of the fields."""
        return list(_validate(self.root, obj, ""))

    def break_rules(self, before: Object | None, after: Object) -> list[Cause]:
        """What the CEL rules forbid of a change to an object that the schema allows."""
        return list(broken(self.root, before, after)) if self._ruled else []


def metadata_problems(meta: Object) -> list[Cause]:
    """What is wrong with the types in metadata; nothing else can be read before they are right."""
    return list(_validate(_META, meta, "metadata"))


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _children(schema: Raw, value: Any, path: str) -> Iterator[tuple[Raw, Any, str]]:
    """The members of an object or array with the schema of each, where there is one."""
    if isinstance(value, dict):
        properties = schema.get("properties") or {}
        rest = schema.get("additionalProperties")
        for name, member in value.items():
            if name in properties:
                yield properties[name], member, _join(path, name)
            elif isinstance(rest, Mapping):
                yield rest, member, f"{path}[{name}]" if not name.isidentifier() else _join(path, name)
    elif isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        for index, member in enumerate(value):
            yield schema["items"], member, f"{path}[{index}]"


def _plain_members(schema: Raw, value: Any) -> bool:
    """Whether all members are scalars of the one type that they may have: then there is nothing more to ask of them.

    The lists of an IPAMBlock are such, and long.
    """
    if isinstance(value, list):
        of, members = schema.get("items"), value
    elif "properties" not in schema and isinstance(value, dict):
        of, members = schema.get("additionalProperties"), list(value.values())
    else:
        return False
    if not isinstance(of, Mapping) or not of.keys() <= _PLAIN_KEYS:
        return False
    wanted, nullable = _PLAIN_TYPES.get(of.get("type", "")), of.get("nullable")
    return wanted is not None and all(type(each) is wanted or (each is None and nullable) for each in members)


def _prune(schema: Raw, value: Any, path: str) -> Iterator[str]:
    if isinstance(value, dict):
        properties = schema.get("properties") or {}
        if schema.get(_EMBEDDED):
            properties = {**properties, **_ROOT}
        if not schema.get("additionalProperties") and not schema.get(_PRESERVE):
            for name in [name for name in value if name not in properties]:
                del value[name]
                yield _join(path, name)
        # A null counts as absent unless the field may be null.
        for name, member in properties.items():
            if name in value and value[name] is None and not member.get("nullable"):
                del value[name]
    if not _plain_members(schema, value):
        for member_schema, member, at in _children(schema, value, path):
            if isinstance(member, dict | list):
                yield from _prune(member_schema, member, at)


def _default(schema: Raw, value: Any) -> None:
    if isinstance(value, dict):
        for name, member in (schema.get("properties") or {}).items():
            if "default" in member and name not in value:
                value[name] = deepcopy(member["default"])
    if not _plain_members(schema, value):
        for member_schema, member, _ in _children(schema, value, ""):
            if isinstance(member, dict | list):
                _default(member_schema, member)


def _validate(schema: Raw, value: Any, path: str) -> Iterator[Cause]:
    if value is None and schema.get("nullable"):
        return
    problem = _type_problem(schema, value, path)
    if problem:
        yield problem
        return
    if "enum" in schema and value not in schema["enum"]:
        supported = ", ".join(_quoted(each) for each in schema["enum"])
        yield Cause(
            path, "FieldValueNotSupported", f"Unsupported value: {_quoted(value)}: supported values: {supported}"
        )
    for check in _CHECKS.get(type(value), ()):
        yield from check(schema, value, path)
    if not _plain_members(schema, value):
        for member_schema, member, at in _children(schema, value, path):
            yield from _validate(member_schema, member, at)
    yield from _combinations(schema, value, path)


def _quoted(value: Any) -> str:
    if isinstance(value, dict):
        return '"object"' if not value else json.dumps(value, separators=(",", ":"))
    return json.dumps(value, separators=(",", ":"))


def _invalid(path: str, value: Any, rule: str) -> Cause:
    return Cause(path, "FieldValueInvalid", f"Invalid value: {_quoted(value)}: {path} in body {rule}")


def _type_problem(schema: Raw, value: Any, path: str) -> Cause | None:
    wanted = schema.get("type")
    found = _JSON_TYPES[type(value)]
    if schema.get(_INT_OR_STRING):
        wanted, fits = "integer,string", found in ("integer", "string")
    elif not wanted:
        return None
    else:
        fits = wanted == found or (wanted == "number" and found == "integer")
        fits = fits or (wanted == "integer" and isinstance(value, float) and value.is_integer())
    if fits:
        return None
    return Cause(
        path,
        "FieldValueTypeInvalid",
        f'Invalid value: "{found}": {path} in body must be of type {wanted}: "{found}"',
    )


def _check_number(schema: Raw, value: float, path: str) -> Iterator[Cause]:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and (value < low or (schema.get("exclusiveMinimum") and value == low)):
        word = "greater than" if schema.get("exclusiveMinimum") else "greater than or equal to"
        yield _invalid(path, value, f"should be {word} {low}")
    if high is not None and (value > high or (schema.get("exclusiveMaximum") and value == high)):
        word = "less than" if schema.get("exclusiveMaximum") else "less than or equal to"
        yield _invalid(path, value, f"should be {word} {high}")
    if schema.get("multipleOf") and math.fmod(value, schema["multipleOf"]):
        yield _invalid(path, value, f"should be a multiple of {schema['multipleOf']}")


@cache
def _compiled(pattern: str) -> re.Pattern[str] | None:
    """A pattern in Go's syntax (RE2) for Python; None where Python cannot read it, and it is not enforced then."""
    # Go takes flags anywhere, and its $ is the very end.
    flags = "".join(re.findall(r"\(\?([ims]+)\)", pattern))
    text = re.sub(r"\(\?[ims]+\)", "", pattern)
    text = re.sub(r"(?<!\\)\$$", r"\\Z", text)
    try:
        return re.compile(f"(?{flags}){text}" if flags else text, re.ASCII)
    except re.error as error:
        log.warning("the pattern %r is not enforced: %s", pattern, error)
        return None


def _check_string(schema: Raw, value: str, path: str) -> Iterator[Cause]:
    if len(value) < schema.get("minLength", 0):
        yield _invalid(path, value, f"should be at least {schema['minLength']} chars long")
    if "maxLength" in schema and len(value) > schema["maxLength"]:
        yield Cause(path, "FieldValueTooLong", f"Too long: may not be more than {schema['maxLength']} bytes")
    pattern = _compiled(schema["pattern"]) if "pattern" in schema else None
    if pattern and not pattern.search(value):
        yield _invalid(path, value, f"should match '{schema['pattern']}'")
    fits = _FORMATS.get(schema.get("format", ""))
    if fits and not fits(value):
        told = f'Invalid value: {_quoted(value)}: {path} in body must be of type {schema["format"]}: "{value}"'
        yield Cause(path, "FieldValueTypeInvalid", told)


def _check_array(schema: Raw, value: list[Any], path: str) -> Iterator[Cause]:
    if len(value) < schema.get("minItems", 0):
        yield _invalid(path, len(value), f"should have at least {schema['minItems']} items")
    if "maxItems" in schema and len(value) > schema["maxItems"]:
        yield Cause(path, "FieldValueTooMany", f"Too many: {len(value)}: must have at most {schema['maxItems']} items")
    kind = schema.get("x-kubernetes-list-type")
    if kind not in ("set", "map"):
        return
    keys = schema.get("x-kubernetes-list-map-keys") or ()
    seen = set()
    for index, member in enumerate(value):
        found = {key: member.get(key) for key in keys} if kind == "map" and isinstance(member, dict) else member
        identity = json.dumps(found, sort_keys=True)
        if identity in seen:
            yield Cause(f"{path}[{index}]", "FieldValueDuplicate", f"Duplicate value: {_quoted(found)}")
        seen.add(identity)


def _check_object(schema: Raw, value: Object, path: str) -> Iterator[Cause]:
    for name in schema.get("required") or ():
        if name not in value:
            yield Cause(_join(path, name), "FieldValueRequired", "Required value")
    if "maxProperties" in schema and len(value) > schema["maxProperties"]:
        most = schema["maxProperties"]
        yield Cause(path, "FieldValueTooMany", f"Too many: {len(value)}: must have at most {most} properties")
    if len(value) < schema.get("minProperties", 0):
        yield _invalid(path, value, f"should have at least {schema['minProperties']} properties")


_CHECKS: Mapping[type, tuple[Callable[[Raw, Any, str], Iterator[Cause]], ...]] = {
    int: (_check_number,),
    float: (_check_number,),
    str: (_check_string,),
    list: (_check_array,),
    dict: (_check_object,),
}


def _combinations(schema: Raw, value: Any, path: str) -> Iterator[Cause]:
    for each in schema.get("allOf") or ():
        yield from _validate(each, value, path)
    if "anyOf" in schema and all(any(_validate(each, value, path)) for each in schema["anyOf"]):
        yield _invalid(path, value, "must validate at least one schema (anyOf)")
    if "oneOf" in schema and sum(not any(_validate(each, value, path)) for each in schema["oneOf"]) != 1:
        yield _invalid(path, value, "must validate one and only one schema (oneOf)")
    if "not" in schema and not any(_validate(schema["not"], value, path)):
        yield _invalid(path, value, "must not validate the schema (not)")


def _parses(parse: Callable[[str], object]) -> Callable[[str], bool]:
    def fits(text: str) -> bool:
        try:
            parse(text)
        except ValueError:
            return False
        return True

    return fits


_DATE_TIME = re.compile(r"^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)$")
_UUID = re.compile(r"^[0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}$")
# Formats that the API server knows; it ignores all others.
_FORMATS: Mapping[str, Callable[[str], bool]] = {
    "ipv4": _parses(IPv4Address),
    "ipv6": _parses(IPv6Address),
    "cidr": lambda text: "/" in text and _parses(lambda net: ip_network(net, strict=False))(text),
    "date-time": lambda text: bool(_DATE_TIME.match(text)),
    "uuid": lambda text: bool(_UUID.match(text)),
}
