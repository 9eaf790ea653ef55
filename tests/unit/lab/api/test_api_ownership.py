"""managedFields and server-side apply, as functions."""

import json
from typing import Any

import pytest

from calico_py.lab.api.errors import ApiError, Object
from calico_py.lab.api.ownership import Entry, applied, read, updated, write

SCHEMA: dict[str, Any] = {
    "properties": {
        "spec": {
            "type": "object",
            "properties": {
                "parts": {
                    "type": "array",
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["name"],
                    "items": {"type": "object"},
                },
                "set": {"type": "array", "x-kubernetes-list-type": "set"},
                "list": {"type": "array"},
                "atom": {"type": "object", "x-kubernetes-map-type": "atomic"},
            },
        }
    }
}


def writer(name: str, operation: str = "Apply") -> Entry:
    """An entry that owns nothing yet."""
    return Entry(name, operation, "g/v1", "now", frozenset())


def obj(fields: list[Object] | None = None, **spec: Any) -> Object:
    """An object with that spec."""
    return {
        "apiVersion": "g/v1",
        "kind": "K",
        "metadata": {"name": "x"} | ({"managedFields": fields} if fields else {}),
        "spec": spec,
    }


def owners(found: Object) -> dict[str, set[str]]:
    """Who owns what, readable."""
    return {entry.manager: {"/".join(path) for path in entry.paths} for entry in read(found)}


def apply(live: Object, manager: str, *, force: bool = False, **spec: Any) -> Object:
    """Server-side apply of that spec."""
    return applied(SCHEMA, live, obj(**spec), writer(manager), force=force)


def update(before: Object, manager: str, **spec: Any) -> Object:
    """An ordinary write of that spec."""
    after = obj(before["metadata"].get("managedFields"), **spec)
    after["metadata"]["managedFields"] = updated(SCHEMA, before, after, writer(manager, "Update"))
    return after


def test_an_update_owns_what_it_changes() -> None:
    first = update(obj(), "one", a=1, b=2)
    assert owners(first) == {"one": {"f:spec/f:a", "f:spec/f:b"}}
    second = update(first, "two", a=1, b=3)
    assert owners(second) == {"one": {"f:spec/f:a"}, "two": {"f:spec/f:b"}}
    third = update(second, "three", b=3)
    assert owners(third) == {"two": {"f:spec/f:b"}}, "what is gone is nobody's"


def test_an_update_that_changes_nothing_owns_nothing() -> None:
    first = update(obj(), "one", a=1)
    assert update(first, "two", a=1)["metadata"]["managedFields"] == first["metadata"]["managedFields"]


def test_fields_are_written_and_read_alike() -> None:
    entries = [Entry("m", "Update", "g/v1", "t", frozenset({("f:a", 'k:{"name":"x"}', "f:b"), ("f:c",)}), "status")]
    assert read({"metadata": {"managedFields": write(entries)}}) == entries


def test_apply_owns_its_configuration_and_drops_what_it_leaves_out() -> None:
    first = apply(obj(c=9), "one", a=1, b={"x": 1, "y": 2})
    assert first["spec"] == {"a": 1, "b": {"x": 1, "y": 2}, "c": 9}
    second = apply(first, "one", a=2, b={"y": 2})
    assert second["spec"] == {"a": 2, "b": {"y": 2}, "c": 9}
    assert owners(second) == {"one": {"f:spec/f:a", "f:spec/f:b/f:y"}}
    assert apply(second, "one")["spec"] == {"c": 9}, "an object that is empty by it goes too"


def test_a_field_that_two_applied_goes_when_both_have_left_it() -> None:
    shared = apply(apply(obj(), "one", a=1), "two", a=1)
    assert owners(shared) == {"one": {"f:spec/f:a"}, "two": {"f:spec/f:a"}}
    left = apply(shared, "one")
    assert left["spec"] == {"a": 1}
    assert "spec" not in apply(left, "two"), "nothing is left of it"


def test_another_value_for_a_field_of_another_is_a_conflict() -> None:
    live = update(apply(obj(), "one", a=1, b=1, c=1), "two", a=1, b=2, c=1)
    with pytest.raises(
        ApiError, match=r'Apply failed with 1 conflict: conflict with "two" using g/v1: \.spec\.b'
    ) as error:
        apply(live, "three", b=3)
    assert error.value.details["causes"] == [
        {"reason": "FieldManagerConflict", "message": 'conflict with "two" using g/v1', "field": ".spec.b"}
    ]
    with pytest.raises(ApiError, match=r'conflicts with "one" using g/v1:\n- \.spec\.a\n- \.spec\.c'):
        apply(live, "three", a=3, c=3)
    forced = apply(live, "three", b=3, force=True)
    assert forced["spec"]["b"] == 3
    assert owners(forced) == {"three": {"f:spec/f:b"}, "one": {"f:spec/f:a", "f:spec/f:c"}}


def test_lists_by_their_kind() -> None:
    live = apply(obj(), "one", parts=[{"name": "a", "w": 1}], set=["x"], list=[1, 2], atom={"p": 1})
    assert 'f:spec/f:parts/k:{"name":"a"}/f:w' in owners(live)["one"]
    assert {'f:spec/f:set/v:"x"', "f:spec/f:list", "f:spec/f:atom"} <= owners(live)["one"]
    both = apply(live, "two", parts=[{"name": "b", "w": 2}, {"name": "a", "u": 3}], set=["y"])
    assert both["spec"]["parts"] == [{"name": "a", "w": 1, "u": 3}, {"name": "b", "w": 2}]
    assert both["spec"]["set"] == ["x", "y"]
    with pytest.raises(ApiError, match="conflict"):
        apply(both, "two", list=[1])
    alone = apply(both, "one", list=[1, 2])
    assert alone["spec"] == {
        "parts": [{"name": "a", "u": 3}, {"name": "b", "w": 2}],
        "set": ["y"],
        "list": [1, 2],
    }


def test_the_live_object_is_not_touched() -> None:
    live = apply(obj(), "one", a={"b": {"c": 1}}, parts=[{"name": "a", "w": {"v": 1}}])
    text = json.dumps(live)
    apply(live, "one", a={"b": {}})
    assert json.dumps(live) == text


def test_a_member_of_a_list_goes_when_nobody_has_its_key() -> None:
    live = apply(obj(), "one", parts=[{"name": "a", "w": 1, "x": {"y": 2}}, {"name": "b"}])
    named = apply(live, "two", parts=[{"name": "a"}])
    alone = apply(named, "one", parts=[{"name": "b"}])
    assert alone["spec"]["parts"] == [{"name": "a"}, {"name": "b"}], "the other still names it"
    assert apply(alone, "two")["spec"]["parts"] == [{"name": "b"}]
    kept = update(apply(obj(), "one", parts=[{"name": "a", "w": 1}]), "two", parts=[{"name": "a", "w": 1, "v": 2}])
    assert apply(kept, "one")["spec"]["parts"] == [{"name": "a", "v": 2}], "with what others set, its key stays"
