"""What the agent relies on when it writes objects: versions, preconditions, defaults, subresources, refusals."""

from typing import Any

import pytest

from tests.contract.manifests import configmap, node, pool
from tests.contract.servers import MERGE, ApiUnderTest

POOLS = "/apis/projectcalico.org/v3/ippools"
BLOCKS = "/apis/projectcalico.org/v3/ipamblocks"
AFFINITIES = "/apis/projectcalico.org/v3/blockaffinities"


def block(name: str = "10-244-0-0-26", **spec: Any) -> dict[str, Any]:
    """An IPAMBlock of node1."""
    rest = {"allocations": [None, 0], "attributes": [{"handle_id": "h"}], "unallocated": [0], "strictAffinity": False}
    return {
        "apiVersion": "projectcalico.org/v3",
        "kind": "IPAMBlock",
        "metadata": {"name": name},
        "spec": {"cidr": "10.244.0.0/26", "affinity": "host:node1"} | rest | spec,
    }


def test_create_sets_what_the_server_owns(api_server: ApiUnderTest) -> None:
    forged = pool()
    forged["metadata"] |= {"uid": "forged", "generation": 7, "creationTimestamp": "2000-01-01T00:00:00Z"}
    made = api_server.request("POST", POOLS, forged)
    assert made.status == 201
    meta = made.body["metadata"]
    assert meta["generation"] == 1
    assert meta["uid"] != "forged"
    assert meta["creationTimestamp"] > "2026"
    assert api_server.request("GET", f"{POOLS}/p1").body == made.body


def test_defaults_are_stored(api_server: ApiUnderTest) -> None:
    spec = api_server.request("POST", POOLS, pool()).body["spec"]
    assert spec == {
        "cidr": "10.244.0.0/16",
        "ipipMode": "Never",
        "vxlanMode": "Never",
        "natOutgoing": False,
        "nodeSelector": "all()",
        "assignmentMode": "Automatic",
    }


def test_nulls_inside_a_list_are_values(api_server: ApiUnderTest) -> None:
    made = api_server.request("POST", BLOCKS, block())
    assert made.status == 201, made.body
    assert made.body["spec"]["allocations"] == [None, 0]
    assert made.body["spec"]["sequenceNumber"] == 0


def test_null_for_a_field_counts_as_absent(api_server: ApiUnderTest) -> None:
    made = api_server.request("POST", POOLS, pool(ipipMode=None, disabled=None)).body["spec"]
    assert made["ipipMode"] == "Never"
    assert "disabled" not in made


def test_update_needs_the_current_version(api_server: ApiUnderTest) -> None:
    made = api_server.request("POST", POOLS, pool()).body
    changed = {**made, "spec": {**made["spec"], "disabled": True}}
    assert api_server.request("PUT", f"{POOLS}/p1", changed).status == 200
    stale = api_server.request("PUT", f"{POOLS}/p1", changed)
    assert (stale.status, stale.body["reason"]) == (409, "Conflict")
    assert stale.body["details"] == {"name": "p1", "group": "projectcalico.org", "kind": "ippools"}
    blind = api_server.request("PUT", f"{POOLS}/p1", pool())
    assert (blind.status, blind.body["reason"]) == (422, "Invalid")
    assert "metadata.resourceVersion" in blind.body["message"]


def test_some_core_kinds_are_updated_blindly_and_leases_are_not(api_server: ApiUnderTest) -> None:
    maps = "/api/v1/namespaces/default/configmaps"
    api_server.request("POST", maps, configmap("c1", {"a": "1"}))
    assert api_server.request("PUT", f"{maps}/c1", configmap("c1", {"a": "2"})).body["data"] == {"a": "2"}
    leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
    lease = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "l1"},
        "spec": {"holderIdentity": "node1", "leaseDurationSeconds": 15, "renewTime": "2026-01-01T00:00:00.000000Z"},
    }
    made = api_server.request("POST", leases, lease).body
    assert made["spec"] == lease["spec"]
    assert api_server.request("PUT", f"{leases}/l1", lease).status == 422
    lease["metadata"] = made["metadata"]
    assert api_server.request("PUT", f"{leases}/l1", lease).status == 200


def test_update_of_another_incarnation(api_server: ApiUnderTest) -> None:
    made = api_server.request("POST", POOLS, pool()).body
    made["metadata"]["uid"] = "11111111-2222-3333-4444-555555555555"
    refused = api_server.request("PUT", f"{POOLS}/p1", made)
    assert (refused.status, refused.body["reason"]) == (409, "Conflict")
    assert "Precondition failed: UID in precondition" in refused.body["message"]


def test_an_update_that_changes_nothing_makes_no_version(api_server: ApiUnderTest) -> None:
    made = api_server.request("POST", POOLS, pool()).body
    same = api_server.request("PUT", f"{POOLS}/p1", made).body
    assert same["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]
    empty = api_server.request("PATCH", f"{POOLS}/p1", {}, Content_Type=MERGE).body
    assert empty["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]


def test_versions_grow_over_all_kinds(api_server: ApiUnderTest) -> None:
    versions = [
        int(api_server.request("POST", path, obj).body["metadata"]["resourceVersion"])
        for path, obj in ((POOLS, pool()), ("/api/v1/nodes", node("n1")), (POOLS, pool("p2", cidr="10.9.0.0/16")))
    ]
    assert versions == sorted(set(versions))


def test_a_patch_may_carry_a_version(api_server: ApiUnderTest) -> None:
    made = api_server.request("POST", POOLS, pool()).body
    version = made["metadata"]["resourceVersion"]
    patch = {"metadata": {"resourceVersion": version, "labels": {"a": "b"}}}
    assert api_server.request("PATCH", f"{POOLS}/p1", patch, Content_Type=MERGE).status == 200
    patch["metadata"]["labels"] = {"a": "c"}
    late = api_server.request("PATCH", f"{POOLS}/p1", patch, Content_Type=MERGE)
    assert (late.status, late.body["reason"]) == (409, "Conflict")


def test_a_node_is_annotated_by_merge_patches(api_server: ApiUnderTest) -> None:
    api_server.request("POST", "/api/v1/nodes", node("n1", annotations={"keep": "1", "drop": "2"}))
    patch = {"metadata": {"annotations": {"projectcalico.org/IPv4Address": "192.0.2.1/24", "drop": None}}}
    done = api_server.request("PATCH", "/api/v1/nodes/n1", patch, Content_Type=MERGE)
    assert done.status == 200
    notes = done.body["metadata"]["annotations"]
    assert {key: notes.get(key) for key in ("keep", "drop", "projectcalico.org/IPv4Address")} == {
        "keep": "1",
        "drop": None,
        "projectcalico.org/IPv4Address": "192.0.2.1/24",
    }


@pytest.mark.parametrize("key", ["uid", "resourceVersion"])
def test_delete_with_preconditions(api_server: ApiUnderTest, key: str) -> None:
    meta = api_server.request("POST", POOLS, pool()).body["metadata"]
    wrong = {"uid": "11111111-2222-3333-4444-555555555555", "resourceVersion": "1"}[key]
    options = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {key: wrong}}
    refused = api_server.request("DELETE", f"{POOLS}/p1", options)
    assert (refused.status, refused.body["reason"]) == (409, "Conflict")
    options["preconditions"] = {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]}
    gone = api_server.request("DELETE", f"{POOLS}/p1", options)
    assert (gone.status, gone.body["status"]) == (200, "Success")
    assert gone.body["details"]["uid"] == meta["uid"]
    assert api_server.request("DELETE", f"{POOLS}/p1", options).status == 404


def test_delete_of_many_by_label(api_server: ApiUnderTest) -> None:
    for number in range(3):
        obj = pool(f"p{number}", cidr=f"10.{number}.0.0/16")
        obj["metadata"]["labels"] = {"odd": str(number % 2)}
        api_server.request("POST", POOLS, obj)
    assert api_server.request("DELETE", f"{POOLS}?labelSelector=odd%3D0").status == 200
    assert [item["metadata"]["name"] for item in api_server.request("GET", POOLS).body["items"]] == ["p1"]


def test_status_is_a_resource_of_its_own(api_server: ApiUnderTest) -> None:
    condition = {
        "type": "Allocatable",
        "status": "False",
        "reason": "CIDROverlap",
        "message": "overlaps p0",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    obj = pool() | {"status": {"conditions": [condition]}}
    made = api_server.request("POST", POOLS, obj).body
    assert "status" not in made
    patch = {"status": {"conditions": [condition]}, "spec": {"disabled": True}, "metadata": {"labels": {"a": "b"}}}
    done = api_server.request("PATCH", f"{POOLS}/p1/status", patch, Content_Type=MERGE)
    assert done.body["status"]["conditions"] == [condition]
    assert "disabled" not in done.body["spec"]
    assert done.body["metadata"]["generation"] == 1
    put = {**done.body, "spec": {**done.body["spec"], "disabled": True}, "status": {}}
    done = api_server.request("PUT", f"{POOLS}/p1", put)
    assert done.body["status"]["conditions"] == [condition]
    assert done.body["spec"]["disabled"] is True
    assert done.body["metadata"]["generation"] == 2


def test_a_kind_without_status_has_no_such_subresource(api_server: ApiUnderTest) -> None:
    api_server.request("POST", BLOCKS, block())
    assert api_server.request("GET", f"{BLOCKS}/10-244-0-0-26/status").status == 404


def test_finalizers_hold_an_object(api_server: ApiUnderTest) -> None:
    obj = pool()
    obj["metadata"]["finalizers"] = ["contract.example.org/hold"]
    api_server.request("POST", POOLS, obj)
    going = api_server.request("DELETE", f"{POOLS}/p1").body
    assert going["metadata"]["deletionTimestamp"]
    again = api_server.request("DELETE", f"{POOLS}/p1").body
    assert again["metadata"]["deletionTimestamp"] == going["metadata"]["deletionTimestamp"]
    patch = {"metadata": {"finalizers": None}}
    assert api_server.request("PATCH", f"{POOLS}/p1", patch, Content_Type=MERGE).status == 200
    assert api_server.request("GET", f"{POOLS}/p1").status == 404


def test_generate_name(api_server: ApiUnderTest) -> None:
    obj = pool()
    obj["metadata"] = {"generateName": "p-"}
    names = {api_server.request("POST", POOLS, obj).body["metadata"]["name"] for _ in range(2)}
    assert len(names) == 2
    assert all(name.startswith("p-") and len(name) > 4 for name in names)


def test_dry_run_answers_as_if(api_server: ApiUnderTest) -> None:
    made = api_server.request("POST", f"{POOLS}?dryRun=All", pool())
    assert (made.status, made.body["spec"]["ipipMode"]) == (201, "Never")
    assert api_server.request("GET", f"{POOLS}/p1").status == 404
    api_server.request("POST", POOLS, pool())
    patch = {"spec": {"disabled": True}}
    assert api_server.request("PATCH", f"{POOLS}/p1?dryRun=All", patch, Content_Type=MERGE).body["spec"]["disabled"]
    assert api_server.request("DELETE", f"{POOLS}/p1?dryRun=All").status == 200
    assert "disabled" not in api_server.request("GET", f"{POOLS}/p1").body["spec"]


@pytest.mark.parametrize(
    ("method", "path", "body", "outcome"),
    [
        ("GET", f"{POOLS}/none", None, (404, "NotFound")),
        ("DELETE", f"{POOLS}/none", None, (404, "NotFound")),
        ("PUT", f"{POOLS}/p2", pool(), (400, "BadRequest")),
        ("POST", POOLS, pool("Upper"), (422, "Invalid")),
        ("POST", POOLS, pool("has_underscore"), (422, "Invalid")),
        ("POST", POOLS, {**pool(), "metadata": {}}, (422, "Invalid")),
        ("POST", POOLS, {**pool(), "kind": "IPAMBlock"}, (422, "Invalid")),
        ("POST", POOLS, {**pool(), "apiVersion": "projectcalico.org/v9"}, (400, "BadRequest")),
        ("POST", POOLS, b"{not json", (400, "BadRequest")),
        ("PATCH", f"{POOLS}/p1", {"spec": {}}, (415, "UnsupportedMediaType")),
        ("POST", f"{POOLS}?fieldValidation=Loose", pool("p5"), (422, "Invalid")),
        ("GET", f"{POOLS}?labelSelector=a%3D%3D%3Db", None, (400, "BadRequest")),
        ("GET", f"{POOLS}?fieldSelector=spec.cidr%3Dx", None, (400, "BadRequest")),
        ("GET", f"{POOLS}?limit=some", None, (400, "BadRequest")),
        ("GET", f"{POOLS}?watch=true&timeoutSeconds=long", None, (400, "BadRequest")),
        ("POST", POOLS, {**pool(), "metadata": {"name": 5}}, (400, "BadRequest")),
        ("POST", POOLS, {**pool(), "metadata": {"name": "p5", "labels": {"a": 1}}}, (400, "BadRequest")),
        ("POST", POOLS, {**pool("p5"), "spec": []}, (422, "Invalid")),
    ],
)
def test_refusals(api_server: ApiUnderTest, method: str, path: str, body: object, outcome: tuple[int, str]) -> None:
    api_server.request("POST", POOLS, pool())
    before = api_server.request("GET", POOLS).body["items"]
    refused = api_server.request(method, path, body)
    assert (refused.status, refused.body["reason"]) == outcome, refused.body
    assert (refused.body["kind"], refused.body["code"]) == ("Status", refused.status)
    assert api_server.request("GET", POOLS).body["items"] == before


def test_namespaced_objects_keep_to_their_namespace(api_server: ApiUnderTest) -> None:
    path = "/api/v1/namespaces/default/configmaps"
    assert api_server.request("POST", path, configmap("c1", {"a": "b"})).body["metadata"]["namespace"] == "default"
    other = api_server.request("POST", path, configmap("c2", {}, namespace="kube-system"))
    assert (other.status, other.body["reason"]) == (400, "BadRequest")
    lost = api_server.request("POST", "/api/v1/namespaces/nowhere/configmaps", configmap("c1", {}))
    assert lost.status == 404
    names = {item["metadata"]["name"] for item in api_server.request("GET", "/api/v1/configmaps").body["items"]}
    assert "c1" in names


def test_unknown_fields_are_warned_of_by_default(api_server: ApiUnderTest) -> None:
    made = api_server.request("POST", POOLS, pool(nonsense=1))
    assert made.status == 201
    assert made.headers["Warning"] == '299 - "unknown field \\"spec.nonsense\\""'
    assert "nonsense" not in made.body["spec"]


def test_kinds_of_calico_keep_fields_that_we_do_not_know(api_server: ApiUnderTest) -> None:
    felix = {
        "apiVersion": "projectcalico.org/v3",
        "kind": "FelixConfiguration",
        "metadata": {"name": "default"},
        "spec": {"bpfEnabled": False, "programClusterRoutes": "Enabled", "healthTimeoutOverrides": [{"name": "x"}]},
    }
    path = "/apis/projectcalico.org/v3/felixconfigurations"
    made = api_server.request("POST", f"{path}?fieldValidation=Strict", felix)
    assert (made.status, made.body["spec"]) == (201, felix["spec"])
    felix["spec"] = {"programClusterRoutes": "Sometimes"}
    felix["metadata"] = {"name": "other"}
    assert api_server.request("POST", path, felix).status == 422
