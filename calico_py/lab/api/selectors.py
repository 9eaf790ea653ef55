"""Label and field selectors in Kubernetes' syntax, parsed once and asked often.

Pure. Which fields of a kind may be selected on is the kind's (resources).
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from calico_py.lab.api.errors import Object, bad_request

_SET = re.compile(r"^(?P<key>\S+)\s+(?P<op>in|notin)\s+\((?P<values>[^)]*)\)$")
_EQUAL = re.compile(r"^(?P<key>[^=!\s]+)\s*(?P<op>==|=|!=)\s*(?P<value>[^=!\s]*)$")
_EXISTS = re.compile(r"^(?P<op>!?)\s*(?P<key>[^=!\s()]+)$")
_KEY = re.compile(r"^([a-z0-9.-]+/)?[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$")


@dataclass(frozen=True, slots=True)
class Requirement:
    """A key and the values that it may, or may not, have.

    Attributes:
        values: None asks for the key's presence alone.
    """

    key: str
    values: frozenset[str] | None
    negated: bool = False

    def matches(self, found: str | None) -> bool:
        """Whether a value (None: absent) satisfies the requirement."""
        hit = found is not None if self.values is None else found in self.values
        return hit != self.negated


def _split(text: str) -> Iterable[str]:
    """Terms at the commas that are outside parentheses."""
    return (term for term in (part.strip() for part in re.split(r",(?![^(]*\))", text)) if term)


def _requirement(term: str, text: str) -> Requirement:
    if match := _SET.match(term):
        values = frozenset(value.strip() for value in match["values"].split(","))
        found = Requirement(match["key"], values, negated=match["op"] == "notin")
    elif match := _EQUAL.match(term):
        found = Requirement(match["key"], frozenset({match["value"]}), negated=match["op"] == "!=")
    elif match := _EXISTS.match(term):
        found = Requirement(match["key"], None, negated=bool(match["op"]))
    else:
        raise bad_request(f"unable to parse requirement: {term!r} in label selector {text!r}")
    if not _KEY.match(found.key):
        raise bad_request(f"unable to parse requirement: {found.key!r} is no label key")
    return found


def parse_labels(text: str) -> tuple[Requirement, ...]:
    """A label selector: ``a=b``, ``a!=b``, ``a in (b,c)``, ``a notin (b)``, ``a``, ``!a``, joined by commas.

    Raises:
        ApiError: 400 where the text is none.
    """
    return tuple(_requirement(term, text) for term in _split(text))


def parse_fields(text: str, supported: Iterable[str]) -> tuple[Requirement, ...]:
    """A field selector: ``a.b=c``, ``a.b==c``, ``a.b!=c``, joined by commas.

    Raises:
        ApiError: 400 where the text is none, or a field is not among the supported ones.
    """
    requirements = []
    for term in re.split(r"(?<!\\),", text):
        if not term:
            continue
        match = re.match(r"^(?P<key>[^=!]+)(?P<op>==|=|!=)(?P<value>.*)$", term)
        if not match:
            raise bad_request(f'invalid selector: "{text}"; can\'t understand "{term}"')
        if match["key"] not in supported:
            raise bad_request(f"field label not supported: {match['key']}")
        value = re.sub(r"\\([,=\\])", r"\1", match["value"])
        requirements.append(Requirement(match["key"], frozenset({value}), negated=match["op"] == "!="))
    return tuple(requirements)


def field_value(obj: Object, path: str) -> str:
    """The text that a field selector compares: the scalar at a dotted path, empty where absent."""
    found: object = obj
    for step in path.split("."):
        found = found.get(step) if isinstance(found, Mapping) else None
    if found is None:
        return ""
    if isinstance(found, bool):
        return "true" if found else "false"
    return str(found)


Predicate = Callable[[Object], bool]


def predicate(labels: tuple[Requirement, ...], fields: tuple[Requirement, ...]) -> Predicate | None:
    """A function that tells whether an object is selected; None where every object is."""
    if not labels and not fields:
        return None

    def matches(obj: Object) -> bool:
        own = obj["metadata"].get("labels") or {}
        return all(r.matches(own.get(r.key)) for r in labels) and all(
            r.matches(field_value(obj, r.key)) for r in fields
        )

    return matches
