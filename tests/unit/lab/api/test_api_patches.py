"""Patches of all forms, and selectors."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_py.lab.api.errors import ApiError
from calico_py.lab.api.patches import merged, operated
from calico_py.lab.api.selectors import parse_fields, parse_labels, predicate
from calico_py.lab.api.strategic import strategically_merged

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    # The examples of RFC 7386, appendix A.
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch(target: Any, patch: Any, result: Any) -> None:
    assert merged(target, patch) == result


@given(JSON, JSON)
def test_a_merge_patch_applied_twice_is_applied_once(target: Any, patch: Any) -> None:
    once = merged(target, patch)
    assert merged(once, patch) == once


@pytest.mark.parametrize(
    ("target", "operations", "result"),
    [
        ({"a": [1, 3]}, [{"op": "add", "path": "/a/1", "value": 2}], {"a": [1, 2, 3]}),
        ({"a": [1]}, [{"op": "add", "path": "/a/-", "value": 2}], {"a": [1, 2]}),
        ({"a": {"b/c~d": 1}}, [{"op": "replace", "path": "/a/b~1c~0d", "value": 2}], {"a": {"b/c~d": 2}}),
        ({"a": [1, 2, 3]}, [{"op": "remove", "path": "/a/0"}], {"a": [2, 3]}),
        ({"a": 1, "b": {}}, [{"op": "move", "from": "/a", "path": "/b/c"}], {"b": {"c": 1}}),
        ({"a": [1]}, [{"op": "copy", "from": "/a", "path": "/b"}], {"a": [1], "b": [1]}),
        (
            {"a": 1},
            [{"op": "test", "path": "/a", "value": 1}, {"op": "add", "path": "/b", "value": 2}],
            {"a": 1, "b": 2},
        ),
        ({"a": 1}, [{"op": "replace", "path": "", "value": {"z": 1}}], {"z": 1}),
    ],
)
def test_json_patch(target: Any, operations: Any, result: Any) -> None:
    assert operated(target, operations) == result


@pytest.mark.parametrize(
    ("operations", "code"),
    [
        ([{"op": "test", "path": "/a", "value": 2}], 422),
        ([{"op": "remove", "path": "/none"}], 422),
        ([{"op": "replace", "path": "/none", "value": 1}], 422),
        ([{"op": "add", "path": "/l/5", "value": 1}], 422),
        ([{"op": "add", "path": "/l/x", "value": 1}], 422),
        ([{"op": "add", "path": "/a/b", "value": 1}], 422),
        ([{"op": "jump", "path": "/a"}], 400),
        ([{"op": "add"}], 400),
        ([{"op": "add", "path": "a", "value": 1}], 400),
        ([{"op": "replace", "path": "", "value": 1}], 400),
        ({"op": "add"}, 400),
    ],
)
def test_a_json_patch_that_cannot_be(operations: Any, code: int) -> None:
    with pytest.raises(ApiError) as refused:
        operated({"a": 1, "l": [1]}, operations)
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"data": {"a": "1"}}, {"data": {"a": None, "b": "2"}}, {"data": {"b": "2"}}),
        (
            {"conditions": [{"type": "Ready", "status": "False"}, {"type": "Disk", "status": "True"}]},
            {"conditions": [{"type": "Ready", "status": "True"}]},
            {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Disk", "status": "True"}]},
        ),
        (
            {"containers": [{"name": "a", "env": [{"name": "X", "value": "1"}]}]},
            {"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "a", "image": "i"}]},
            {"containers": [{"name": "a", "env": [{"name": "X", "value": "1"}], "image": "i"}]},
        ),
        (
            {"volumes": [{"name": "a"}, {"name": "b"}]},
            {"volumes": [{"name": "a", "$patch": "delete"}]},
            {"volumes": [{"name": "b"}]},
        ),
        ({"taints": [{"key": "a"}, {"key": "b"}]}, {"taints": [{"key": "b"}]}, {"taints": [{"key": "b"}]}),
        ({"finalizers": ["a"]}, {"finalizers": ["b"]}, {"finalizers": ["a", "b"]}),
        ({"finalizers": ["a", "b"]}, {"$deleteFromPrimitiveList/finalizers": ["a"]}, {"finalizers": ["b"]}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"$patch": "replace", "d": 3}}, {"a": {"d": 3}}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"$retainKeys": ["c"], "c": 3}}, {"a": {"c": 3}}),
        (
            {"ports": [{"port": 80, "name": "x"}]},
            {"ports": [{"port": 80, "name": "y"}]},
            {"ports": [{"port": 80, "name": "y"}]},
        ),
    ],
)
def test_strategic_merge(target: Any, patch: Any, result: Any) -> None:
    assert strategically_merged(target, patch) == result


def test_an_unknown_directive_is_refused() -> None:
    with pytest.raises(ApiError, match=r"\$patch"):
        strategically_merged({}, {"a": {"$patch": "dance"}})


@pytest.mark.parametrize(
    ("selector", "labels", "matches"),
    [
        ("a=b", {"a": "b"}, True),
        ("a==b,c!=d", {"a": "b"}, True),
        ("a=b", {}, False),
        ("a!=b", {}, True),
        ("a in (b, c)", {"a": "c"}, True),
        ("a in (b,c),d", {"a": "c"}, False),
        ("a notin (b,c)", {"a": "b"}, False),
        ("a notin (b,c)", {}, True),
        ("a", {"a": ""}, True),
        ("!a", {"a": ""}, False),
        ("! a", {}, True),
        ("projectcalico.org/hostname-hash=X7", {"projectcalico.org/hostname-hash": "X7"}, True),
        ("a=", {"a": ""}, True),
        ("", {}, True),
    ],
)
def test_label_selectors(selector: str, labels: dict[str, str], matches: bool) -> None:
    test = predicate(parse_labels(selector), ())
    assert (test is None or test({"metadata": {"labels": labels}})) == matches


@pytest.mark.parametrize("selector", ["a=b=c", "a in b", "=b", "a b", "a/b/c=d", "-a=b", "a,,=,b"])
def test_no_label_selector(selector: str) -> None:
    with pytest.raises(ApiError, match="unable to parse"):
        parse_labels(selector)


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ("metadata.name=x", True),
        ("metadata.name!=x", False),
        ("spec.node=,metadata.name==x", True),
        ("spec.flag=true", True),
        ("spec.size=3", True),
        (r"spec.text=a\,b\=c", True),
    ],
)
def test_field_selectors(selector: str, matches: bool) -> None:
    obj = {"metadata": {"name": "x"}, "spec": {"flag": True, "size": 3, "text": "a,b=c"}}
    fields = ("metadata.name", "spec.node", "spec.flag", "spec.size", "spec.text")
    test = predicate((), parse_fields(selector, fields))
    assert test is not None
    assert test(obj) == matches


@pytest.mark.parametrize("selector", ["spec.other=x", "nonsense"])
def test_no_field_selector(selector: str) -> None:
    with pytest.raises(ApiError):
        parse_fields(selector, ("metadata.name",))
