"""Schemas: defaults, pruning, refusals and CEL rules, in Kubernetes' words."""

import logging
from typing import Any

import pytest

from calico_py.lab.api.errors import Object
from calico_py.lab.api.schema import Schema

SPEC: dict[str, Any] = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "properties": {
                "mode": {"type": "string", "default": "Never", "enum": ["Never", "Always"]},
                "long": {"type": "string", "minLength": 2},
                "name": {"type": "string", "maxLength": 4, "pattern": "^(?i)(AB|CD)+$"},
                "size": {"type": "integer", "minimum": 1, "maximum": 9, "exclusiveMaximum": True},
                "ratio": {"type": "number", "multipleOf": 0.5},
                "port": {"x-kubernetes-int-or-string": True},
                "slots": {"type": "array", "items": {"type": "integer", "nullable": True}},
                "nested": {"type": "object", "properties": {"deep": {"type": "boolean", "default": True}}},
                "map": {"type": "object", "additionalProperties": {"type": "integer", "minimum": 0}},
                "set": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                "either": {"anyOf": [{"type": "string"}, {"type": "boolean"}]},
                "when": {"type": "string", "format": "date-time"},
            },
        }
    },
}


def spec(**fields: Any) -> Object:
    """An object with that spec."""
    return {"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "x"}, "spec": fields}


def defaulted(**fields: Any) -> Any:
    """The spec after pruning and defaults."""
    obj = spec(**fields)
    Schema(SPEC).prune(obj)
    Schema(SPEC).default(obj)
    return obj["spec"]


def test_defaults_fill_what_is_absent_and_nothing_else() -> None:
    assert defaulted() == {"mode": "Never"}
    assert defaulted(mode="Always", nested={}) == {"mode": "Always", "nested": {"deep": True}}
    assert defaulted(nested={"deep": False})["nested"] == {"deep": False}


def test_a_default_is_not_shared_between_objects() -> None:
    schema = Schema({"properties": {"spec": {"properties": {"list": {"type": "array", "default": []}}}}})
    one, two = spec(), spec()
    schema.default(one)
    one["spec"]["list"].append(1)
    schema.default(two)
    assert two["spec"]["list"] == []


def test_unknown_fields_are_pruned_and_named() -> None:
    obj = spec(mode="Always", odd=1, nested={"deep": True, "odd": 2}, free={"any": {"thing": [1]}}, map={"k": 1})
    obj["metadata"]["odd"] = 3
    obj["extra"] = {}
    assert sorted(Schema(SPEC).prune(obj)) == ["extra", "metadata.odd", "spec.nested.odd", "spec.odd"]
    assert obj["spec"] == {
        "mode": "Always",
        "nested": {"deep": True},
        "free": {"any": {"thing": [1]}},
        "map": {"k": 1},
    }
    assert "extra" not in obj
    assert "odd" not in obj["metadata"]


def test_null_counts_as_absent_except_where_it_may_be_a_value() -> None:
    assert defaulted(mode=None, slots=[None, 1]) == {"mode": "Never", "slots": [None, 1]}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"mode": "Some"}, 'spec.mode: Unsupported value: "Some": supported values: "Never", "Always"'),
        ({"mode": 1}, 'spec.mode: Invalid value: "integer": spec.mode in body must be of type string: "integer"'),
        ({"long": "a"}, 'spec.long: Invalid value: "a": spec.long in body should be at least 2 chars long'),
        ({"name": "ababab"}, "spec.name: Too long: may not be more than 4 bytes"),
        ({"name": "abx"}, 'spec.name: Invalid value: "abx": spec.name in body should match'),
        ({"name": "ab\n"}, "spec.name in body should match"),
        ({"size": 0}, "spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1"),
        ({"size": 9}, "spec.size: Invalid value: 9: spec.size in body should be less than 9"),
        ({"size": True}, 'must be of type integer: "boolean"'),
        ({"ratio": 0.3}, "should be a multiple of 0.5"),
        ({"port": []}, 'must be of type integer,string: "array"'),
        ({"slots": [1, "x"]}, 'spec.slots[1]: Invalid value: "string"'),
        ({"map": {"k": -1}}, "spec.map.k: Invalid value: -1"),
        ({"map": {"10.0.0.0/26": "x"}}, 'spec.map[10.0.0.0/26]: Invalid value: "string"'),
        ({"set": ["a", "b", "a"]}, 'spec.set[2]: Duplicate value: "a"'),
        ({"either": 1}, "must validate at least one schema (anyOf)"),
        ({"when": "yesterday"}, 'must be of type date-time: "yesterday"'),
    ],
)
def test_what_the_schema_forbids(fields: dict[str, Any], told: str) -> None:
    causes = Schema(SPEC).validate(spec(**fields))
    assert len(causes) == 1
    assert told in str(causes[0])


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "CDab", "size": 8, "ratio": 1, "port": 1, "slots": [], "map": {}},
        {"port": "http", "ratio": 1.5, "either": False, "when": "2026-01-02T03:04:05.678Z", "size": 3.0},
    ],
)
def test_what_the_schema_allows(fields: dict[str, Any]) -> None:
    assert Schema(SPEC).validate(spec(**fields)) == []


def rule(text: str, message: str = "no", **more: Any) -> Schema:
    """A schema with one rule on spec."""
    rules = [{"rule": text, "message": message} | more]
    preserve = {"x-kubernetes-preserve-unknown-fields": True}
    return Schema({"properties": {"spec": {"type": "object", **preserve, "x-kubernetes-validations": rules}}})


@pytest.mark.parametrize(
    ("text", "good", "bad"),
    [
        ("!has(self.a) || self.a > 2", {"a": 3}, {"a": 1}),
        ("size(self.l) < 3 && 'x' in self.l", {"l": ["x"]}, {"l": ["y"]}),
        ("self.l.all(e, isCIDR(e))", {"l": ["10.0.0.0/8", "fd00::/8"]}, {"l": ["10.0.0.0"]}),
        ("isIP(self.a)", {"a": "2001:db8::1"}, {"a": "2001:db8::x"}),
        ("cidr(self.a).prefixLength() >= 16", {"a": "10.0.0.0/16"}, {"a": "10.0.0.0/8"}),
        ("cidr(self.a).masked() == cidr(self.a)", {"a": "fd00::/64"}, {"a": "fd00::1/64"}),
        ("cidr(self.a).ip().family() == 6", {"a": "fd00::/64"}, {"a": "10.0.0.0/8"}),
        ("cidr(self.a).containsIP('10.1.2.3')", {"a": "10.0.0.0/8"}, {"a": "11.0.0.0/8"}),
        ("cidr(self.a).containsCIDR('10.1.0.0/16')", {"a": "10.0.0.0/8"}, {"a": "10.1.2.0/24"}),
        ("self.a.split(':')[1] == 'b'", {"a": "a:b"}, {"a": "a:c"}),
        ("self.a.matches('^x+$')", {"a": "xx"}, {"a": "xy"}),
        ("self.a.lowerAscii().startsWith('ab')", {"a": "ABc"}, {"a": "xBc"}),
    ],
)
def test_rules(text: str, good: dict[str, Any], bad: dict[str, Any]) -> None:
    assert rule(text).break_rules(None, spec(**good)) == []
    (cause,) = rule(text).break_rules(None, spec(**bad))
    assert str(cause) == 'spec: Invalid value: "object": no'


def test_a_rule_about_a_change_is_asked_of_changes_only() -> None:
    schema = rule("self.a == oldSelf.a", fieldPath=".a")
    assert schema.break_rules(None, spec(a=1)) == []
    assert schema.break_rules(spec(a=1), spec(a=1)) == []
    (cause,) = schema.break_rules(spec(a=1), spec(a=2))
    assert cause.field == "spec.a"


def test_reason_and_expression_of_a_message() -> None:
    (cause,) = rule("false", reason="FieldValueForbidden").break_rules(None, spec())
    assert str(cause) == "spec: Forbidden: no"
    (cause,) = rule("false", messageExpression="'a is ' + self.a").break_rules(None, spec(a="x"))
    assert cause.message.endswith("a is x")


def test_a_rule_that_fails_to_evaluate_refuses() -> None:
    (cause,) = rule("self.a.b == 1").break_rules(None, spec())
    assert "evaluating rule: no" in cause.message


def test_a_rule_that_needs_an_unknown_function_is_let_through_and_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert rule("quantity(self.a).isInteger()").break_rules(None, spec(a="1k")) == []
    assert "is not enforced" in caplog.text


def test_members_of_keyed_lists_are_compared_with_themselves() -> None:
    item = {
        "type": "object",
        "properties": {"k": {"type": "string"}, "v": {"type": "integer"}},
        "x-kubernetes-validations": [{"rule": "self.v >= oldSelf.v", "message": "shrinks"}],
    }
    listed = {
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["k"],
        "items": item,
    }
    schema = Schema({"properties": {"spec": {"type": "object", "properties": {"l": listed}}}})
    before = spec(l=[{"k": "a", "v": 1}, {"k": "b", "v": 5}])
    assert schema.break_rules(before, spec(l=[{"k": "b", "v": 6}, {"k": "a", "v": 1}, {"k": "c", "v": 0}])) == []
    (cause,) = schema.break_rules(before, spec(l=[{"k": "b", "v": 4}]))
    assert cause.field == "spec.l[0]"
