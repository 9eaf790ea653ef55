"""What the agent's reflectors rely on: lists and watches that lose nothing, and say so when they would."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from typing import Any

import pytest

from tests.contract.conftest import WINDOW
from tests.contract.manifests import node, pool
from tests.contract.servers import MERGE, ApiUnderTest
from tests.contract.test_api_objects import AFFINITIES, BLOCKS, POOLS, block

NODES = "/api/v1/nodes"
METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"

Event = tuple[str, dict[str, Any]]


@contextmanager
def watch(api: ApiUnderTest, path: str, **headers: str) -> Iterator[Iterator[Event]]:
    """The events of a watch, as they come."""
    joined = f"{path}{'&' if '?' in path else '?'}watch=true&timeoutSeconds=20"
    with api.open("GET", joined, **headers) as response:
        yield _events(response)


def _events(response: HTTPResponse) -> Iterator[Event]:
    for line in response:
        event = json.loads(line)
        yield event["type"], event["object"]


def told(events: Iterator[Event], count: int) -> list[tuple[str, str]]:
    """The next events as (type, name)."""
    return [(kind, obj["metadata"]["name"]) for kind, obj in (next(events) for _ in range(count))]


def version(api: ApiUnderTest, path: str = POOLS) -> str:
    """Where a watch after a list goes on."""
    found: str = api.request("GET", path).body["metadata"]["resourceVersion"]
    return found


def label(api: ApiUnderTest, path: str, value: str | None) -> None:
    """Set or remove the label x."""
    patch = {"metadata": {"labels": {"x": value}}}
    assert api.request("PATCH", path, patch, Content_Type=MERGE).status == 200


def test_a_watch_goes_on_where_a_list_ended(api_server: ApiUnderTest) -> None:
    api_server.request("POST", POOLS, pool())
    since = version(api_server)
    label(api_server, f"{POOLS}/p1", "1")
    api_server.request("POST", POOLS, pool("p2", cidr="10.9.0.0/16"))
    with watch(api_server, f"{POOLS}?resourceVersion={since}") as events:
        assert told(events, 2) == [("MODIFIED", "p1"), ("ADDED", "p2")]
        api_server.request("DELETE", f"{POOLS}/p1")
        kind, obj = next(events)
        assert (kind, obj["metadata"]["name"], obj["metadata"]["labels"]) == ("DELETED", "p1", {"x": "1"})
        assert int(obj["metadata"]["resourceVersion"]) > int(since)


@pytest.mark.parametrize("query", ["", "?resourceVersion=0"])
def test_a_watch_without_a_version_begins_with_what_is_there(api_server: ApiUnderTest, query: str) -> None:
    api_server.request("POST", POOLS, pool())
    version(api_server)
    with watch(api_server, POOLS + query) as events:
        assert told(events, 1) == [("ADDED", "p1")]
        label(api_server, f"{POOLS}/p1", "1")
        assert told(events, 1) == [("MODIFIED", "p1")]


def test_a_watch_by_label_sees_objects_come_and_go(api_server: ApiUnderTest) -> None:
    api_server.request("POST", POOLS, pool())
    since = version(api_server)
    with watch(api_server, f"{POOLS}?labelSelector=x%3D1&resourceVersion={since}") as events:
        label(api_server, f"{POOLS}/p1", "1")
        assert told(events, 1) == [("ADDED", "p1")]
        label(api_server, f"{POOLS}/p1", "2")
        kind, obj = next(events)
        assert (kind, obj["metadata"]["labels"]) == ("DELETED", {"x": "1"}), "as it was when it still matched"
        assert obj["metadata"]["resourceVersion"] == version(api_server)
        label(api_server, f"{POOLS}/p1", "3")
        label(api_server, f"{POOLS}/p1", "1")
        assert told(events, 1) == [("ADDED", "p1")], "what did not match before and after is not told"


def test_blocks_are_selected_by_their_affinity(api_server: ApiUnderTest) -> None:
    api_server.request("POST", BLOCKS, block())
    api_server.request("POST", BLOCKS, block("10-244-0-64-26", cidr="10.244.0.64/26", affinity="host:node2"))
    path = f"{BLOCKS}?fieldSelector=spec.affinity%3Dhost:node2"
    found = api_server.request("GET", path).body
    assert [item["metadata"]["name"] for item in found["items"]] == ["10-244-0-64-26"]
    with watch(api_server, f"{path}&resourceVersion={found['metadata']['resourceVersion']}") as events:
        patch = {"spec": {"affinity": "host:node2"}}
        api_server.request("PATCH", f"{BLOCKS}/10-244-0-0-26", patch, Content_Type=MERGE)
        assert told(events, 1) == [("ADDED", "10-244-0-0-26")]


def test_affinities_are_selected_by_labels(api_server: ApiUnderTest) -> None:
    for name in ("node1", "node2"):
        obj = {
            "apiVersion": "projectcalico.org/v3",
            "kind": "BlockAffinity",
            "metadata": {"name": f"{name}-10-0-0-0-26", "labels": {"projectcalico.org/hostname-hash": name.upper()}},
            "spec": {"cidr": "10.0.0.0/26", "node": name, "state": "confirmed"},
        }
        made = api_server.request("POST", AFFINITIES, obj)
        assert (made.status, made.body["spec"]["deleted"]) == (201, False)
    path = f"{AFFINITIES}?labelSelector=projectcalico.org/hostname-hash%3DNODE2"
    assert [item["spec"]["node"] for item in api_server.request("GET", path).body["items"]] == ["node2"]


def test_bookmarks(api_server: ApiUnderTest) -> None:
    since = version(api_server)
    query = f"watch=true&timeoutSeconds=3&allowWatchBookmarks=true&resourceVersion={since}"
    with api_server.open("GET", f"{POOLS}?{query}") as response:
        bookmarks = list(_events(response))
    if api_server.name == "kube" and not bookmarks:
        return  # The real server promises none; with an etcd that reports no progress they are rare.
    kind, obj = bookmarks[0]
    assert (kind, obj["kind"], obj["apiVersion"]) == ("BOOKMARK", "IPPool", "projectcalico.org/v3")
    assert int(obj["metadata"]["resourceVersion"]) >= int(since)
    with watch(api_server, f"{POOLS}?resourceVersion={obj['metadata']['resourceVersion']}") as events:
        api_server.request("POST", POOLS, pool())
        assert told(events, 1) == [("ADDED", "p1")]


def test_a_version_that_is_too_old_is_gone(api_server: ApiUnderTest) -> None:
    api_server.request("POST", POOLS, pool())
    # The real server's window begins when it starts; the embedded one's has to be outrun.
    for number in range(2 * WINDOW + 1 if api_server.name == "embedded" else 1):
        label(api_server, f"{POOLS}/p1", str(number))
    with watch(api_server, f"{POOLS}?resourceVersion=1") as events:
        kind, status = next(events)
        assert (kind, status["code"], status["reason"]) == ("ERROR", 410, "Expired")
        assert "too old resource version" in status["message"]
        assert list(events) == [], "and it ends there"


def test_a_watch_ends_after_its_time(api_server: ApiUnderTest) -> None:
    since = version(api_server)
    with api_server.open("GET", f"{POOLS}?watch=true&timeoutSeconds=1&resourceVersion={since}") as response:
        assert [event for event in _events(response) if event[0] != "BOOKMARK"] == []


def test_nodes_as_metadata_only(api_server: ApiUnderTest) -> None:
    made = api_server.request("POST", NODES, node("n1", annotations={"a": "b"})).body
    found = api_server.request("GET", NODES, Accept=METADATA_LIST).body
    assert (found["kind"], found["apiVersion"]) == ("PartialObjectMetadataList", "meta.k8s.io/v1")
    assert found["items"][0]["metadata"]["uid"] == made["metadata"]["uid"]
    assert "spec" not in found["items"][0]
    one = api_server.request("GET", f"{NODES}/n1", Accept=METADATA).body
    assert (one["kind"], one["metadata"]["annotations"]["a"], "spec" in one) == ("PartialObjectMetadata", "b", False)
    since = found["metadata"]["resourceVersion"]
    with watch(api_server, f"{NODES}?resourceVersion={since}", Accept=METADATA) as events:
        label(api_server, f"{NODES}/n1", "1")
        # A real server's own controllers may touch the node as well.
        kind, obj = next(event for event in events if event[1]["metadata"].get("labels"))
        assert (kind, obj["kind"], obj["metadata"]["labels"]["x"]) == ("MODIFIED", "PartialObjectMetadata", "1")
        assert "spec" not in obj


def test_tables(api_server: ApiUnderTest) -> None:
    api_server.request("POST", POOLS, pool(ipipMode="Always"))
    found = api_server.request("GET", POOLS, Accept=TABLE).body
    assert (found["kind"], found["apiVersion"]) == ("Table", "meta.k8s.io/v1")
    names = [column["name"] for column in found["columnDefinitions"]]
    assert names == ["Name", "CIDR", "IPIP", "VXLAN", "NAT", "Allocatable", "Age"]
    (row,) = found["rows"]
    assert row["cells"][:6] == ["p1", "10.244.0.0/16", "Always", "Never", False, None]
    assert (row["object"]["kind"], row["object"]["metadata"]["name"]) == ("PartialObjectMetadata", "p1")
    whole = api_server.request("GET", f"{POOLS}?includeObject=Object", Accept=TABLE).body
    assert whole["rows"][0]["object"]["spec"]["ipipMode"] == "Always"


def test_a_form_that_does_not_exist_is_not_acceptable(api_server: ApiUnderTest) -> None:
    assert api_server.request("GET", POOLS, Accept="text/html").status == 406


def test_pages(api_server: ApiUnderTest) -> None:
    for number in range(5):
        api_server.request("POST", POOLS, pool(f"p{number}", cidr=f"10.{number}.0.0/16"))
    names, query, pages = [], "limit=2", 0
    while query:
        page = api_server.request("GET", f"{POOLS}?{query}").body
        names += [item["metadata"]["name"] for item in page["items"]]
        token = page["metadata"].get("continue")
        assert page["metadata"].get("remainingItemCount") == (5 - len(names) or None)
        query, pages = f"limit=2&continue={token}" if token else "", pages + 1
    assert (names, pages) == ([f"p{number}" for number in range(5)], 3)


def test_a_list_that_is_not_older_than(api_server: ApiUnderTest) -> None:
    made = api_server.request("POST", POOLS, pool()).body["metadata"]["resourceVersion"]
    for query in (f"resourceVersion={made}&resourceVersionMatch=NotOlderThan", "resourceVersion=0"):
        found = api_server.request("GET", f"{POOLS}?{query}").body
        assert int(found["metadata"]["resourceVersion"]) >= int(made) or query.endswith("=0")
    late = api_server.request("GET", f"{POOLS}?resourceVersion=999999999")
    assert (late.status, late.body["reason"]) == (504, "Timeout")


def test_many_watchers_see_the_same(api_server: ApiUnderTest) -> None:
    since = version(api_server)
    responses = [
        api_server.open("GET", f"{POOLS}?watch=true&timeoutSeconds=20&resourceVersion={since}") for _ in range(20)
    ]
    try:
        for number in range(3):
            api_server.request("POST", POOLS, pool(f"p{number}", cidr=f"10.{number}.0.0/16"))
        for response in responses:
            assert told(_events(response), 3) == [("ADDED", f"p{number}") for number in range(3)]
    finally:
        for response in responses:
            response.close()
