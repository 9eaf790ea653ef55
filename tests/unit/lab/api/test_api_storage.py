"""Storage: versions, what survives a restart, and how far back a watch can go."""

from pathlib import Path

import pytest

from calico_py.lab.api.errors import ApiError, Object
from calico_py.lab.api.storage import Storage

POOLS = "ippools.projectcalico.org"


def obj(name: str, namespace: str = "", **spec: int) -> Object:
    """A small object."""
    meta = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {"metadata": meta, "spec": spec}


def test_versions_are_one_sequence_over_all_resources() -> None:
    storage = Storage()
    first = storage.put(POOLS, obj("a"))
    second = storage.put("nodes", obj("n"))
    third = storage.remove(POOLS, first)
    versions = [int(each["metadata"]["resourceVersion"]) for each in (first, second, third)]
    assert versions == [storage.version - 2, storage.version - 1, storage.version]


def test_lists_are_in_the_order_of_namespace_and_name() -> None:
    storage = Storage()
    for name, namespace in (("b", "y"), ("a", "y"), ("c", "x")):
        storage.put("pods", obj(name, namespace))
    assert [each["metadata"]["name"] for each in storage.list("pods")] == ["c", "a", "b"]
    assert [each["metadata"]["name"] for each in storage.list("pods", "y")] == ["a", "b"]


def test_a_stored_object_does_not_change() -> None:
    storage = Storage()
    first = storage.put(POOLS, obj("a", size=1))
    storage.put(POOLS, {**first, "spec": {"size": 2}})
    assert first["spec"] == {"size": 1}
    (_, change) = storage.changes(POOLS, 1)
    assert change.previous == first


def test_a_restart_keeps_objects_and_versions(tmp_path: Path) -> None:
    before = Storage(tmp_path / "db")
    kept = before.put(POOLS, obj("a", size=1))
    before.remove(POOLS, before.put(POOLS, obj("b")))
    version = before.version
    before.close()
    after = Storage(tmp_path / "db")
    assert after.list(POOLS) == [kept]
    assert after.version == version
    assert int(after.put(POOLS, obj("c"))["metadata"]["resourceVersion"]) == version + 1
    after.close()


def test_a_process_that_was_killed_leaves_whole_writes(tmp_path: Path) -> None:
    killed = Storage(tmp_path / "db")
    killed.put(POOLS, obj("a"))
    # The other connection sees what is in the file, though this one was never closed.
    other = Storage(tmp_path / "db")
    assert [each["metadata"]["name"] for each in other.list(POOLS)] == ["a"]
    other.close()
    killed.close()


def test_a_watch_of_the_last_version_survives_a_restart_an_older_one_does_not(tmp_path: Path) -> None:
    before = Storage(tmp_path / "db")
    old = int(before.put(POOLS, obj("a"))["metadata"]["resourceVersion"])
    last = int(before.put(POOLS, obj("b"))["metadata"]["resourceVersion"])
    before.close()
    after = Storage(tmp_path / "db")
    assert after.changes(POOLS, last) == []
    with pytest.raises(ApiError, match="too old resource version") as gone:
        after.changes(POOLS, old)
    assert gone.value.code == 410
    after.close()


def test_changes_begin_after_the_version_asked_for() -> None:
    storage = Storage()
    versions = [int(storage.put(POOLS, obj("a", size=n))["metadata"]["resourceVersion"]) for n in range(3)]
    found = storage.changes(POOLS, versions[0])
    assert [change.version for change in found] == versions[1:]
    assert storage.changes(POOLS, storage.version) == []
    assert storage.changes("nodes", versions[0]) == []


def test_the_window_holds_what_it_promises_and_no_more_than_double() -> None:
    storage = Storage(window=5)
    versions = [int(storage.put(POOLS, obj("a", size=n))["metadata"]["resourceVersion"]) for n in range(40)]
    assert len(storage.changes(POOLS, versions[-6])) == 5
    with pytest.raises(ApiError):
        storage.changes(POOLS, versions[-12])
    storage.put("nodes", obj("n"))
    assert len(storage.changes("nodes", versions[0])) == 1, "each resource has its own window"


def test_listeners_hear_of_their_resource_until_they_stop() -> None:
    storage = Storage()
    heard: list[str] = []
    stop = storage.listen(POOLS, lambda: heard.append("pool"))
    storage.listen("nodes", lambda: heard.append("node"))
    storage.put(POOLS, obj("a"))
    stop()
    storage.put(POOLS, obj("b"))
    assert heard == ["pool"]
