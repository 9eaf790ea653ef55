"""``kubectl apply``, from both sides: what it creates, changes, removes and refuses."""

import json

from tests.contract.manifests import configmap, pool
from tests.contract.servers import ApiUnderTest, Kubectl

_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


def test_apply_creates_changes_and_leaves_alone(kubectl: Kubectl) -> None:
    assert kubectl("apply", "-f-", stdin=pool(ipipMode="Always")).stdout == "ippool.projectcalico.org/p1 created\n"
    made = kubectl.json("get", "ippool", "p1")
    assert kubectl("apply", "-f-", stdin=pool(ipipMode="Always")).stdout == "ippool.projectcalico.org/p1 unchanged\n"
    assert kubectl.json("get", "ippool", "p1")["metadata"] == made["metadata"]
    assert kubectl("apply", "-f-", stdin=pool(ipipMode="Never")).stdout == "ippool.projectcalico.org/p1 configured\n"
    changed = kubectl.json("get", "ippool", "p1")
    assert changed["spec"]["ipipMode"] == "Never"
    assert changed["metadata"]["uid"] == made["metadata"]["uid"]
    assert changed["metadata"]["generation"] == made["metadata"]["generation"] + 1


def test_apply_removes_a_field_that_the_manifest_no_longer_has(kubectl: Kubectl) -> None:
    kubectl("apply", "-f-", stdin=pool(ipipMode="Always", disabled=True))
    kubectl("apply", "-f-", stdin=pool())
    spec = kubectl.json("get", "ippool", "p1")["spec"]
    assert "disabled" not in spec
    assert spec["ipipMode"] == "Never", "the default is back"


def test_apply_keeps_what_another_tool_set(kubectl: Kubectl) -> None:
    kubectl("apply", "-f-", stdin=pool())
    kubectl("patch", "ippool", "p1", "--type=merge", "-p", '{"spec":{"disabled":true}}')
    kubectl("apply", "-f-", stdin=pool(ipipMode="Always"))
    spec = kubectl.json("get", "ippool", "p1")["spec"]
    assert (spec["disabled"], spec["ipipMode"]) == (True, "Always")


def test_apply_of_a_core_kind_merges_strategically(kubectl: Kubectl) -> None:
    kubectl("apply", "-f-", stdin=configmap("c1", {"a": "1", "b": "2"}))
    kubectl("apply", "-f-", stdin=configmap("c1", {"a": "3"}, labels={"x": "y"}))
    found = kubectl.json("get", "configmap", "c1")
    assert found["data"] == {"a": "3"}
    assert found["metadata"]["labels"] == {"x": "y"}


def test_apply_of_several_objects_from_a_folder(kubectl: Kubectl) -> None:
    folder = kubectl.cache.parent / "manifests"
    folder.mkdir()
    (folder / "a.yaml").write_text(json.dumps(pool("p1")))
    (folder / "b.yaml").write_text(
        json.dumps(pool("p2", cidr="10.245.0.0/16")) + "\n---\n" + json.dumps(pool("p3", cidr="fd00:10::/48"))
    )
    out = kubectl("apply", "-f", str(folder)).stdout
    assert out == "".join(f"ippool.projectcalico.org/{name} created\n" for name in ("p1", "p2", "p3"))


def test_a_dry_run_on_the_server_changes_nothing_but_checks(kubectl: Kubectl) -> None:
    assert "created (server dry run)" in kubectl("apply", "--dry-run=server", "-f-", stdin=pool()).stdout
    assert "NotFound" in kubectl("get", "ippool", "p1", fails=True).stderr
    assert "spec.ipipMode" in kubectl("apply", "--dry-run=server", "-f-", stdin=pool(ipipMode="No"), fails=True).stderr


def test_diff_shows_what_apply_would_change(kubectl: Kubectl) -> None:
    kubectl("apply", "-f-", stdin=pool(ipipMode="Always"))
    out = kubectl("diff", "-f-", stdin=pool(ipipMode="Never"), fails=True).stdout
    assert "-  ipipMode: Always" in out
    assert "+  ipipMode: Never" in out


def test_a_field_that_the_schema_does_not_know_is_refused(kubectl: Kubectl) -> None:
    error = kubectl("apply", "-f-", stdin=pool(ipipmode="Always"), fails=True).stderr
    assert 'strict decoding error: unknown field "spec.ipipmode"' in error


def test_an_unknown_field_is_told_or_dropped_where_asked(kubectl: Kubectl) -> None:
    told = kubectl("apply", "--validate=warn", "-f-", stdin=pool(ipipmode="Always"))
    assert 'unknown field "spec.ipipmode"' in told.stderr
    assert "ipipmode" not in kubectl.json("get", "ippool", "p1")["spec"]
    ignored = kubectl("apply", "--validate=ignore", "-f-", stdin=pool(ipipmode="Never"))
    assert "ipipmode" not in ignored.stderr


def test_server_side_apply_creates_changes_and_removes(kubectl: Kubectl) -> None:
    assert "serverside-applied" in kubectl("apply", "--server-side", "-f-", stdin=pool(disabled=True)).stdout
    version = kubectl.json("get", "ippool", "p1")["metadata"]["resourceVersion"]
    kubectl("apply", "--server-side", "-f-", stdin=pool(disabled=True))
    assert kubectl.json("get", "ippool", "p1")["metadata"]["resourceVersion"] == version, "nothing changed"
    kubectl("apply", "--server-side", "-f-", stdin=pool(ipipMode="Always"))
    found = kubectl.json("get", "ippool", "p1")
    assert found["spec"]["ipipMode"] == "Always"
    assert "disabled" not in found["spec"]
    assert _LAST_APPLIED not in found["metadata"].get("annotations", {})


def test_server_side_apply_meets_another_manager(kubectl: Kubectl) -> None:
    kubectl("apply", "--server-side", "-f-", stdin=pool(ipipMode="Always"))
    kubectl("patch", "ippool", "p1", "--type=merge", "-p", '{"spec":{"ipipMode":"CrossSubnet"}}')
    error = kubectl("apply", "--server-side", "-f-", stdin=pool(ipipMode="Never"), fails=True).stderr
    assert 'conflict with "kubectl-patch" using projectcalico.org/v3: .spec.ipipMode' in error
    assert kubectl.json("get", "ippool", "p1")["spec"]["ipipMode"] == "CrossSubnet"
    kubectl("apply", "--server-side", "--force-conflicts", "-f-", stdin=pool(ipipMode="Never"))
    assert kubectl.json("get", "ippool", "p1")["spec"]["ipipMode"] == "Never"


def test_two_appliers_share_an_object(kubectl: Kubectl) -> None:
    kubectl("apply", "--server-side", "--field-manager=one", "-f-", stdin=pool(natOutgoing=True))
    kubectl("apply", "--server-side", "--field-manager=two", "-f-", stdin=pool(disabled=True))
    kubectl("apply", "--server-side", "--field-manager=one", "-f-", stdin=pool())
    spec = kubectl.json("get", "ippool", "p1")["spec"]
    assert spec["disabled"] is True, "the other's field stays"
    assert spec["natOutgoing"] is False, "nobody wants it any more, so the default is back"
    assert spec["cidr"] == "10.244.0.0/16"


def test_from_client_side_to_server_side_and_back(kubectl: Kubectl) -> None:
    kubectl("apply", "-f-", stdin=pool(ipipMode="Always", disabled=True))
    kubectl("apply", "--server-side", "-f-", stdin=pool(ipipMode="Never"))
    found = kubectl.json("get", "ippool", "p1")
    assert found["spec"]["ipipMode"] == "Never"
    assert "disabled" not in found["spec"], "the fields of client-side apply were handed over"
    kubectl("apply", "-f-", stdin=pool(ipipMode="CrossSubnet"))
    assert kubectl.json("get", "ippool", "p1")["spec"]["ipipMode"] == "CrossSubnet"


def test_managed_fields_name_who_wrote_what(api_server: ApiUnderTest, kubectl: Kubectl) -> None:
    kubectl("apply", "-f-", stdin=pool())
    kubectl("label", "ippool", "p1", "a=b")
    entries = api_server.request("GET", "/apis/projectcalico.org/v3/ippools/p1").body["metadata"]["managedFields"]
    by_manager = {entry["manager"]: entry["fieldsV1"] for entry in entries}
    assert "f:cidr" in by_manager["kubectl-client-side-apply"]["f:spec"]
    assert "f:a" in by_manager["kubectl-label"]["f:metadata"]["f:labels"]
