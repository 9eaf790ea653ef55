"""The selector language, case by case; what cannot be read is refused with the field and the place."""

import pytest

from calico_py.model.net import InvalidError
from calico_py.model.selectors import parse_selector

LABELS = {"zone": "eu-west", "tier": "", "app.kubernetes.io/name": "web", "in": "x"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", True),
        (" \t", True),
        ("all()", True),
        ("!all()", False),
        ("all( )", True),
        ("has(zone)", True),
        ("has( zone )", True),
        ("has(absent)", False),
        ("!has(absent)", True),
        ("!!has(zone)", True),
        ("zone == 'eu-west'", True),
        ('zone == "eu-west"', True),
        ("zone=='eu-west'", True),
        ("zone != 'eu-west'", False),
        ("absent == ''", False),
        ("absent != 'x'", True),
        ("tier == ''", True),
        ("zone in {'a', 'eu-west'}", True),
        ("zone in {}", False),
        ("zone in{'eu-west'}", True),
        ("zone in {'eu-west',}", True),
        ("zone not in {'a'}", True),
        ("zone notin {'eu-west'}", False),
        ("absent in {'a'}", False),
        ("absent not in {'a'}", True),
        ("zone contains 'u-w'", True),
        ("absent contains ''", False),
        ("zone starts with 'eu'", True),
        ("zone starts  with 'west'", False),
        ("zone ends with 'west'", True),
        ("zone endswith 'west'", True),
        ("app.kubernetes.io/name == 'web'", True),
        ("in in {'x'}", True),
        ("has(zone) && has(absent) || all()", True),
        ("has(absent) && (has(zone) || all())", False),
        ("!has(absent) && !has(other)", True),
        ("!(has(zone) || has(absent))", False),
        ("zone == 'a&&b' || zone == 'eu-west'", True),
    ],
)
def test_selectors(text: str, expected: bool) -> None:
    assert parse_selector(text, field="spec.nodeSelector").matches(LABELS) is expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("global()", "global() selects no node"),
        ("zone", "expected an operator after zone, found the end"),
        ("zone ==", "expected a literal, found the end"),
        ("zone == eu", "expected a literal, found 'eu' at character 9"),
        ("zone = 'a'", "cannot read it from character 5 on"),
        ("zone & 'a'", "cannot read it from"),
        ("zone == 'a", "cannot read it from"),
        ("zone in {,}", "expected }, found ','"),
        ("zone in {'a',,}", "expected }, found ','"),
        ("zone in {'a', b}", "expected }, found 'b'"),
        ("zone in {'a' 'b'}", "expected }"),
        ("zone not {'a'}", "expected in"),
        ("zone starts 'a'", "expected with"),
        ("has(zone", "expected )"),
        ("has()", "expected a label"),
        ("all(zone)", "expected )"),
        ("(all()", "expected )"),
        ("all())", "did not expect ')'"),
        ("all() all()", "did not expect 'all('"),
        ("&& all()", "expected a label, has(, all( or ("),
        ("'a' == zone", "expected a label"),
        ("zone like 'a'", "expected an operator after zone, found 'like'"),
        ("zone\n== 'a'", "cannot read it from"),
        ("!" + "(" * 101 + "all()" + ")" * 101, "more than 100 parentheses"),
    ],
)
def test_what_is_no_selector_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InvalidError) as caught:
        parse_selector(text, field="spec.nodeSelector")
    assert caught.value.field == "spec.nodeSelector"
    assert reason in str(caught.value)


def test_lengths_are_limited() -> None:
    with pytest.raises(InvalidError, match="at most 1024 characters"):
        parse_selector("all() && " * 200 + "all()", field="f")
    with pytest.raises(InvalidError, match="at most 512 characters"):
        parse_selector(f"has({'a' * 513})", field="f")


def test_equal_texts_are_equal_selectors() -> None:
    assert parse_selector("all()", field="a") == parse_selector("all()", field="b")
    assert len({parse_selector("all()", field="a"), parse_selector("all()", field="b")}) == 1
    assert parse_selector("all()", field="a") != parse_selector("has(a)", field="a")
