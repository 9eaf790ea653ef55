"""A selector means what its tree means, however it is spelled; and no text makes the parser fail otherwise."""

import contextlib
from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from calico_py.model.net import InvalidError
from calico_py.model.selectors import parse_selector

LABEL = st.sampled_from(["a", "b", "zone", "kubernetes.io/os", "in", "has", "not"])
VALUE = st.sampled_from(["", "x", "xy", "a && b", "y x"])
LABELS = st.dictionaries(LABEL, VALUE)


def quoted(value: str) -> st.SearchStrategy[str]:
    return st.sampled_from([f"'{value}'", f'"{value}"'])


@st.composite
def trees(draw: st.DrawFn, depth: int = 3) -> tuple[str, tuple[object, ...]]:
    kind = draw(st.integers(0, 8 if depth else 5))
    label, value = draw(LABEL), draw(VALUE)
    if kind == 0:
        return "all()", ("all",)
    if kind == 1:
        return f"has({label})", ("has", label)
    if kind in (2, 3):
        operator = draw(st.sampled_from(["==", "!=", "contains", "starts with", "ends with"]))
        return f"{label} {operator} {draw(quoted(value))}", (operator, label, value)
    if kind in (4, 5):
        values = draw(st.lists(VALUE, max_size=3))
        operator = draw(st.sampled_from(["in", "not in"]))
        spelled = ", ".join([draw(quoted(v)) for v in values]) + draw(st.sampled_from(["", ","] if values else [""]))
        return f"{label} {operator} {{{spelled}}}", (operator, label, tuple(values))
    if kind == 6:
        text, inner = draw(trees(depth - 1))
        return f"!({text})", ("!", inner)
    parts = draw(st.lists(trees(depth - 1), min_size=2, max_size=3))
    operator = "&&" if kind == 7 else "||"
    space = draw(st.sampled_from(["", " ", " \t"]))
    return f"{space}{operator}{space}".join(f"({t})" for t, _ in parts), (operator, *[m for _, m in parts])


def means(tree: tuple[object, ...], labels: Mapping[str, str]) -> bool:
    match tree:
        case ("all",):
            return True
        case ("has", str(label)):
            return label in labels
        case ("==", str(label), value):
            return label in labels and labels[label] == value
        case ("!=", str(label), value):
            return not (label in labels and labels[label] == value)
        case ("contains", str(label), str(value)):
            return label in labels and labels[label].find(value) >= 0
        case ("starts with", str(label), str(value)):
            return label in labels and labels[label][: len(value)] == value
        case ("ends with", str(label), str(value)):
            return label in labels and labels[label][len(labels[label]) - len(value) :] == value
        case ("in", str(label), tuple(values)):
            return label in labels and labels[label] in values
        case ("not in", str(label), tuple(values)):
            return not (label in labels and labels[label] in values)
        case ("!", tuple(inner)):
            return not means(inner, labels)
        case ("&&", *inner):
            return all(means(part, labels) for part in inner if isinstance(part, tuple))
        case ("||", *inner):
            return any(means(part, labels) for part in inner if isinstance(part, tuple))
    raise AssertionError(tree)


@given(trees(), LABELS)
def test_a_selector_means_what_its_tree_means(tree: tuple[str, tuple[object, ...]], labels: dict[str, str]) -> None:
    text, meaning = tree
    if len(text) <= 1024:
        assert parse_selector(text, field="f").matches(labels) is means(meaning, labels)


@given(trees(), trees(), trees(), LABELS)
def test_and_binds_closer_than_or(
    a: tuple[str, tuple[object, ...]],
    b: tuple[str, tuple[object, ...]],
    c: tuple[str, tuple[object, ...]],
    labels: dict[str, str],
) -> None:
    text = f"({a[0]}) || ({b[0]}) && ({c[0]})"
    if len(text) <= 1024:
        expected = means(a[1], labels) or (means(b[1], labels) and means(c[1], labels))
        assert parse_selector(text, field="f").matches(labels) is expected


@given(st.one_of(st.text(), st.text(alphabet="has(all)gob!&|={}'\", inot")))
def test_no_text_makes_the_parser_fail_in_another_way(text: str) -> None:
    with contextlib.suppress(InvalidError):
        parse_selector(text, field="f").matches({"a": "b"})
