"""Calico's selector language over labels: ``all()``, ``has(zone) && zone in {"a", "b"}``, and so on. Pure.

Grammar (libcalico-go, lib/selector), loosest first: ``||``, ``&&``, ``!``, then one of ``all()``, ``has(LABEL)``,
``LABEL == "v"``, ``LABEL != "v"``, ``LABEL in {"v", ...}``, ``LABEL not in {...}``, ``LABEL contains "v"``,
``LABEL starts with "v"``, ``LABEL ends with "v"``, or parentheses. Literals stand in single or double quotes, without
escapes. ``!=`` and ``not in`` hold for an object without the label. ``global()`` is for policies and refused here.
"""

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from calico_py.model.net import InvalidError

Labels = Mapping[str, str]
_Test = Callable[[Labels], bool]

MAX_LENGTH = 1024
MAX_LABEL = 512
_MAX_DEPTH = 100

_TOKEN = re.compile(
    r"""[ \t]*(?:
      (?P<call>(?:has|all|global)\()
    | (?P<word>[A-Za-z0-9_./-]+)
    | "(?P<double>[^"]*)" | '(?P<single>[^']*)'
    | (?P<sign>==|!=|&&|\|\||[!(){},])
    )""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Selector:
    """A parsed selector; equal texts are equal selectors."""

    text: str
    _test: _Test

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Selector) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def matches(self, labels: Labels) -> bool:
        """Whether an object with these labels is selected."""
        return self._test(labels)


@functools.lru_cache(maxsize=256)  # an ADD asks for those of all pools
def parse_selector(text: str, *, field: str) -> Selector:
    """The selector that the text spells; an empty text selects everything.

    Raises:
        InvalidError: it is none, is longer than 1024 characters, or uses ``global()``.
    """
    if len(text) > MAX_LENGTH:
        raise InvalidError(field, text, f"a selector of at most {MAX_LENGTH} characters")
    try:
        return Selector(text, _Parser(text).parse())
    except _SyntaxError as error:
        raise InvalidError(field, text, f"a selector such as zone == 'a' ({error})") from None


class _SyntaxError(Exception):
    """What is wrong, and where."""


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int

    def __str__(self) -> str:
        return f"{self.text!r} at character {self.at + 1}" if self.kind != "end" else "the end"


def _tokenize(text: str) -> Iterator[_Token]:
    at, end = 0, len(text.rstrip(" \t"))
    while at < end:
        found = _TOKEN.match(text, at, end)
        if found is None:
            raise _SyntaxError(f"cannot read it from character {at + 1} on")
        kind = found.lastgroup or ""
        yield _Token("literal" if kind in ("double", "single") else kind, found[kind], found.start(kind))
        at = found.end()
    yield _Token("end", "", end)


class _Parser:
    """Recursive descent over the tokens of one text."""

    def __init__(self, text: str) -> None:
        self._tokens = list(_tokenize(text))
        self._at = 0
        self._depth = 0

    def parse(self) -> _Test:
        if self._peek().kind == "end":
            return lambda _: True
        test = self._any()
        if self._peek().kind != "end":
            raise _SyntaxError(f"did not expect {self._peek()}")
        return test

    def _peek(self) -> _Token:
        return self._tokens[self._at]

    def _next(self) -> _Token:
        token = self._tokens[self._at]
        self._at = min(self._at + 1, len(self._tokens) - 1)
        return token

    def _accept(self, kind: str, text: str) -> bool:
        token = self._peek()
        if (token.kind, token.text) == (kind, text):
            self._next()
            return True
        return False

    def _expect(self, kind: str, text: str = "") -> str:
        token = self._next()
        if token.kind != kind or (text and token.text != text):
            raise _SyntaxError(f"expected {text or f'a {kind}'}, found {token}")
        return token.text

    def _any(self) -> _Test:
        tests = [self._every()]
        while self._accept("sign", "||"):
            tests.append(self._every())
        return tests[0] if len(tests) == 1 else lambda labels: any(test(labels) for test in tests)

    def _every(self) -> _Test:
        tests = [self._negated()]
        while self._accept("sign", "&&"):
            tests.append(self._negated())
        return tests[0] if len(tests) == 1 else lambda labels: all(test(labels) for test in tests)

    def _negated(self) -> _Test:
        negations = 0
        while self._accept("sign", "!"):
            negations += 1
        test = self._primary()
        return (lambda labels: not test(labels)) if negations % 2 else test

    def _primary(self) -> _Test:
        token = self._next()
        if (token.kind, token.text) == ("sign", "("):
            return self._parenthesis()
        if token.kind == "call":
            return self._call(token)
        if token.kind == "word":
            return self._comparison(_label(token))
        raise _SyntaxError(f"expected a label, has(, all( or (, found {token}")

    def _parenthesis(self) -> _Test:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise _SyntaxError(f"more than {_MAX_DEPTH} parentheses in each other")
        test = self._any()
        self._expect("sign", ")")
        self._depth -= 1
        return test

    def _call(self, token: _Token) -> _Test:
        if token.text == "global(":
            raise _SyntaxError("global() selects no node and no namespace")
        if token.text == "all(":
            self._expect("sign", ")")
            return lambda _: True
        label = _label(self._next())
        self._expect("sign", ")")
        return lambda labels: label in labels

    def _comparison(self, label: str) -> _Test:
        operator = self._next()
        if operator.kind not in ("sign", "word"):
            raise _SyntaxError(f"expected an operator after {label}, found {operator}")
        match operator.text:
            case "==" | "!=" | "contains":
                return _compare(operator.text, label, self._expect("literal"))
            case "starts" | "ends":
                self._expect("word", "with")
                return _compare(operator.text, label, self._expect("literal"))
            case "startswith" | "endswith":
                return _compare(operator.text.removesuffix("with"), label, self._expect("literal"))
            case "not":
                self._expect("word", "in")
                return _member(label, self._set(), member=False)
            case "in" | "notin":
                return _member(label, self._set(), member=operator.text == "in")
        raise _SyntaxError(f"expected an operator after {label}, found {operator}")

    def _set(self) -> frozenset[str]:
        self._expect("sign", "{")
        values: set[str] = set()
        while self._peek().kind == "literal":  # as in Calico a comma may follow the last one
            values.add(self._next().text)
            if not self._accept("sign", ","):
                break
        self._expect("sign", "}")
        return frozenset(values)


def _label(token: _Token) -> str:
    if token.kind != "word" or len(token.text) > MAX_LABEL:
        raise _SyntaxError(f"expected a label of at most {MAX_LABEL} characters, found {token}")
    return token.text


def _compare(operator: str, label: str, value: str) -> _Test:
    match operator:
        case "==":
            return lambda labels: labels.get(label) == value
        case "!=":
            return lambda labels: labels.get(label) != value
        case "contains":
            return lambda labels: label in labels and value in labels[label]
        case "starts":
            return lambda labels: label in labels and labels[label].startswith(value)
    return lambda labels: label in labels and labels[label].endswith(value)


def _member(label: str, values: frozenset[str], *, member: bool) -> _Test:
    if member:
        return lambda labels: labels.get(label) in values
    return lambda labels: labels.get(label) not in values
