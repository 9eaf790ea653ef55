"""x-kubernetes-validations: the CEL rules of a schema, asked of an object that the schema itself allows.

CEL is the library's (common-expression-language); Kubernetes' own functions are here as far as CRDs of networks use
them. A rule that needs another one is not enforced, and the log says so once.
"""

import ipaddress
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from typing import Any

import cel

from calico_py.lab.api.errors import Cause

log = logging.getLogger(__name__)

Raw = Mapping[str, Any]

_RULES = "x-kubernetes-validations"


def has_rules(schema: Any) -> bool:
    """Whether any part of a schema has a rule."""
    if isinstance(schema, Mapping):
        return bool(schema.get(_RULES)) or any(has_rules(each) for each in schema.values())
    return False


def broken(schema: Raw, before: Any, after: Any, path: str = "") -> Iterator[Cause]:
    """What the rules forbid of a change from ``before`` (None: there was nothing) to ``after``."""
    for rule in schema.get(_RULES) or ():
        if before is None and re.search(r"\boldSelf\b", rule["rule"]) and not rule.get("optionalOldSelf"):
            continue
        try:
            held = _evaluate(rule["rule"], before, after)
        except _EvaluationError as error:
            told = f"{error} evaluating rule: {rule.get('message') or rule['rule']}"
            yield Cause(path, "FieldValueInvalid", f'Invalid value: "{_type_name(after)}": {told}')
            continue
        if held is False:
            yield _cause(rule, before, after, path)
    for member_schema, was, now, at in _members(schema, before, after, path):
        if now is not None:
            yield from broken(member_schema, was, now, at)


def _members(schema: Raw, before: Any, after: Any, path: str) -> Iterator[tuple[Raw, Any, Any, str]]:
    """The parts of a value with what each was before; members of a list can be told apart by their keys alone."""
    if isinstance(after, dict):
        old = before if isinstance(before, dict) else {}
        rest = schema.get("additionalProperties")
        properties = schema.get("properties") or {}
        for name, now in after.items():
            member = properties.get(name, rest)
            if isinstance(member, Mapping):
                at = f"{path}.{name}" if path else name
                yield member, old.get(name), now, at
    elif isinstance(after, list) and isinstance(schema.get("items"), Mapping):
        keys = schema.get("x-kubernetes-list-map-keys") or ()
        known = [each for each in before or () if isinstance(each, dict)] if keys else []
        for index, now in enumerate(after):
            was = next((each for each in known if all(each.get(key) == now.get(key) for key in keys)), None)
            yield schema["items"], was, now, f"{path}[{index}]"


def _cause(rule: Raw, before: Any, after: Any, path: str) -> Cause:
    message = rule.get("message") or f"failed rule: {rule['rule']}"
    if rule.get("messageExpression"):
        with suppress(_EvaluationError):
            message = str(_evaluate(rule["messageExpression"], before, after) or message)
    at = path + rule.get("fieldPath", "") if path else rule.get("fieldPath", "").lstrip(".")
    if rule.get("reason") == "FieldValueRequired":
        return Cause(at, "FieldValueRequired", f"Required value: {message}")
    if rule.get("reason") == "FieldValueForbidden":
        return Cause(at, "FieldValueForbidden", f"Forbidden: {message}")
    return Cause(at, rule.get("reason") or "FieldValueInvalid", f'Invalid value: "{_type_name(after)}": {message}')


def _type_name(value: Any) -> str:
    for of, name in ((dict, "object"), (list, "array"), (str, "string"), (bool, "boolean"), (int, "integer")):
        if isinstance(value, of):
            return name
    return "number"


class _EvaluationError(Exception):
    """The expression makes no sense of this object, which counts as broken."""


def _evaluate(expression: str, before: Any, after: Any) -> Any:
    """The value of an expression; None where it needs a function that is not here."""
    program = _compiled(expression)
    if program is None:
        return None
    context = cel.Context()
    for name, function in _FUNCTIONS.items():
        context.add_function(name, function)
    context.add_variable("self", after)
    if before is not None:
        context.add_variable("oldSelf", before)
    try:
        return program.execute(context)
    except (RuntimeError, ValueError, TypeError, LookupError) as error:
        if "Undefined variable or function" not in str(error):
            raise _EvaluationError(str(error)) from None
        _complain(expression, str(error))
        return None


@cache
def _compiled(expression: str) -> cel.Program | None:
    try:
        return cel.compile(expression)
    except ValueError as error:
        _complain(expression, str(error))
        return None


@cache
def _complain(expression: str, error: str) -> None:
    log.warning("a CEL rule is not enforced, it cannot be evaluated here: %s: %s", expression, error)


def _parses(parse: Callable[[str], object]) -> Callable[[str], bool]:
    def fits(text: str) -> bool:
        try:
            parse(text)
        except ValueError:
            return False
        return True

    return fits


# CEL has no type for an address or a network here: a map with one entry stands for each, and compares as such.
_Cidr = Mapping[str, str]
_Ip = Mapping[str, str]


def _cidr(text: str) -> _Cidr:
    if "/" not in text:
        raise ValueError(f"{text!r} is no CIDR")
    return {"cidr": str(ipaddress.ip_interface(text))}


def _ip(of: str | _Cidr) -> _Ip:
    text = of if isinstance(of, str) else of["cidr"].partition("/")[0]
    return {"ip": str(ipaddress.ip_address(text))}


def _masked(of: _Cidr) -> _Cidr:
    return {"cidr": str(ipaddress.ip_network(of["cidr"], strict=False))}


def _contains_cidr(outer: _Cidr, inner: str | _Cidr) -> bool:
    one = ipaddress.ip_network(outer["cidr"], strict=False)
    two = ipaddress.ip_network(inner if isinstance(inner, str) else inner["cidr"], strict=False)
    return one.version == two.version and two.subnet_of(one)  # type: ignore[arg-type]  # the versions were compared


def _contains_ip(outer: _Cidr, inner: str | _Ip) -> bool:
    address = ipaddress.ip_address(inner if isinstance(inner, str) else inner["ip"])
    return address in ipaddress.ip_network(outer["cidr"], strict=False)


def _find(text: str, pattern: str) -> str:
    match = re.search(pattern, text)
    return match[0] if match else ""


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "cidr": _cidr,
    "containsCIDR": _contains_cidr,
    "containsIP": _contains_ip,
    "family": lambda ip: ipaddress.ip_address(ip["ip"]).version,
    "ip": _ip,
    "isCIDR": _parses(_cidr),
    "isIP": _parses(ipaddress.ip_address),
    "masked": _masked,
    "prefixLength": lambda cidr: int(cidr["cidr"].partition("/")[2]),
    "find": _find,
    "indexOf": lambda text, part: text.find(part),
    "join": lambda parts, by="": by.join(parts),
    "lastIndexOf": lambda text, part: text.rfind(part),
    "lowerAscii": lambda text: text.lower(),
    "replace": lambda text, old, new: text.replace(old, new),
    "split": lambda text, by: text.split(by),
    "substring": lambda text, start, end=None: text[start:end],
    "trim": lambda text: text.strip(),
    "upperAscii": lambda text: text.upper(),
}
