"""What people type at a cluster besides apply."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.contract.manifests import configmap, node, pool
from tests.contract.servers import ApiUnderTest, Kubectl


@pytest.fixture
def made(kubectl: Kubectl) -> Kubectl:
    """Kubectl with the pool p1 in place."""
    kubectl("create", "-f-", stdin=pool(ipipMode="Always", natOutgoing=True))
    return kubectl


def spec(kubectl: Kubectl) -> Any:
    """What the pool says now."""
    return kubectl.json("get", "ippool", "p1")["spec"]


def test_get_shows_the_columns(made: Kubectl) -> None:
    head, row = made("get", "ippools").stdout.splitlines()
    assert head.split() == ["NAME", "CIDR", "IPIP", "VXLAN", "NAT", "ALLOCATABLE", "AGE"]
    # Allocatable is empty as long as nobody has judged the pool.
    assert re.fullmatch(r"p1 +10\.244\.0\.0/16 +Always +Never +true +\d+s", row)


def test_get_in_other_forms(made: Kubectl) -> None:
    assert made("get", "ippools", "-o", "name").stdout == "ippool.projectcalico.org/p1\n"
    assert "\n  ipipMode: Always\n" in made("get", "ippool", "p1", "-o", "yaml").stdout
    assert made("get", "ippool", "p1", "-o", "jsonpath={.spec.cidr}").stdout == "10.244.0.0/16"
    assert made("get", "ippools.projectcalico.org/p1").stdout.splitlines()[1].startswith("p1 ")
    assert made("get", "ippools.v3.projectcalico.org", "--no-headers").stdout.startswith("p1 ")


def test_get_selects(made: Kubectl) -> None:
    made("create", "-f-", stdin=pool("p2", cidr="10.245.0.0/16"))
    made("label", "ippool", "p2", "zone=b", "tier=x")
    names = ("get", "ippools", "-o", "name")
    assert made(*names, "-l", "zone=b,tier in (x,y)").stdout == "ippool.projectcalico.org/p2\n"
    assert made(*names, "-l", "zone!=b").stdout == "ippool.projectcalico.org/p1\n"
    assert made(*names, "-l", "!zone").stdout == "ippool.projectcalico.org/p1\n"
    assert made(*names, "--field-selector", "metadata.name=p2").stdout == "ippool.projectcalico.org/p2\n"
    assert "field label not supported: spec.cidr" in made(*names, "--field-selector", "spec.cidr=x", fails=True).stderr


def test_get_sorts_and_pages(made: Kubectl) -> None:
    for number in range(5):
        made("create", "-f-", stdin=pool(f"q{number}", cidr=f"10.{number}.0.0/16"))
    paged = made("get", "ippools", "--chunk-size=2", "-o", "name").stdout.split()
    assert paged == ["ippool.projectcalico.org/p1", *(f"ippool.projectcalico.org/q{number}" for number in range(5))]
    by_cidr = made("get", "ippools", "--sort-by=.spec.cidr", "--no-headers").stdout.splitlines()
    assert [line.split()[0] for line in by_cidr] == ["q0", "q1", "q2", "p1", "q3", "q4"]


@contextmanager
def watching(kubectl: Kubectl, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A kubectl that goes on printing, with its first line read."""
    process = subprocess.Popen(kubectl.command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_get_watches(made: Kubectl) -> None:
    with watching(made, "get", "ippools", "-w", "--output-watch-events") as process:
        assert process.stdout is not None
        assert process.stdout.readline().split()[:3] == ["EVENT", "NAME", "CIDR"]
        assert process.stdout.readline().split()[:2] == ["ADDED", "p1"]
        made("patch", "ippool", "p1", "--type=merge", "-p", '{"spec":{"ipipMode":"Never"}}')
        assert process.stdout.readline().split()[:4] == ["MODIFIED", "p1", "10.244.0.0/16", "Never"]
        made("create", "-f-", stdin=pool("p2", cidr="10.245.0.0/16"))
        assert process.stdout.readline().split()[:2] == ["ADDED", "p2"]
        made("delete", "ippool", "p1")
        assert process.stdout.readline().split()[:2] == ["DELETED", "p1"]


def test_edit(made: Kubectl) -> None:
    out = made("edit", "ippool", "p1", editor="sed -i 's/ipipMode: Always/ipipMode: CrossSubnet/'").stdout
    assert out == "ippool.projectcalico.org/p1 edited\n"
    assert spec(made)["ipipMode"] == "CrossSubnet"
    assert made("edit", "ippool", "p1", editor="true").stderr == "Edit cancelled, no changes made.\n"


def test_edit_is_refused_with_the_field(made: Kubectl, tmp_path: Path) -> None:
    # Kubectl opens the editor again with the reason on top; this one then changes nothing more.
    script, seen = tmp_path / "editor", tmp_path / "seen"
    script.write_text(f'#!/bin/sh\ncp "$1" {seen}\nsed -i "s/ipipMode: Always/ipipMode: Sometimes/" "$1"\n')
    script.chmod(0o755)
    assert "no valid changes were saved" in made("edit", "ippool", "p1", editor=str(script), fails=True).stderr
    assert 'spec.ipipMode: Unsupported value: "Sometimes"' in seen.read_text()
    assert spec(made)["ipipMode"] == "Always"


@pytest.mark.parametrize(
    ("form", "patch"),
    [
        ("merge", {"spec": {"ipipMode": "Never", "natOutgoing": None}}),
        (
            "json",
            [
                {"op": "test", "path": "/spec/ipipMode", "value": "Always"},
                {"op": "replace", "path": "/spec/ipipMode", "value": "Never"},
                {"op": "remove", "path": "/spec/natOutgoing"},
            ],
        ),
    ],
)
def test_patch(made: Kubectl, form: str, patch: Any) -> None:
    command = ("patch", "ippool", "p1", f"--type={form}", "-p", json.dumps(patch))
    assert made(*command).stdout == "ippool.projectcalico.org/p1 patched\n"
    assert (spec(made)["ipipMode"], spec(made)["natOutgoing"]) == ("Never", False)


def test_a_json_patch_whose_test_fails_changes_nothing(made: Kubectl) -> None:
    patch = [
        {"op": "replace", "path": "/spec/natOutgoing", "value": False},
        {"op": "test", "path": "/spec/ipipMode", "value": "Never"},
    ]
    made("patch", "ippool", "p1", "--type=json", "-p", json.dumps(patch), fails=True)
    assert spec(made)["natOutgoing"] is True


def test_strategic_patches_are_for_core_kinds(made: Kubectl) -> None:
    patch = ("--type=strategic", "-p", '{"metadata":{"labels":{"a":"b"}},"data":{"y":null}}')
    assert "is not supported by projectcalico.org/v3" in made("patch", "ippool", "p1", *patch, fails=True).stderr
    made("create", "-f-", stdin=configmap("c1", {"x": "1", "y": "2"}))
    made("patch", "configmap", "c1", *patch)
    assert made.json("get", "configmap", "c1")["data"] == {"x": "1"}


def test_taint(kubectl: Kubectl) -> None:
    kubectl("create", "-f-", stdin=node("n1"))
    kubectl("taint", "node", "n1", "one=1:NoSchedule", "two=2:NoSchedule")
    kubectl("taint", "node", "n1", "one-")
    taints = kubectl.json("get", "node", "n1")["spec"]["taints"]
    assert [taint["key"] for taint in taints if not taint["key"].startswith("node.kubernetes.io/")] == ["two"]


def test_cordon(kubectl: Kubectl) -> None:
    kubectl("create", "-f-", stdin=node("n1"))
    kubectl("cordon", "n1")
    assert kubectl.json("get", "node", "n1")["spec"]["unschedulable"] is True


def test_label_and_annotate(made: Kubectl) -> None:
    assert made("label", "ippool", "p1", "a=b", "c=d").stdout == "ippool.projectcalico.org/p1 labeled\n"
    assert "already has a value" in made("label", "ippool", "p1", "a=x", fails=True).stderr
    made("label", "ippool", "p1", "a=x", "c-", "--overwrite")
    assert made("annotate", "ippool", "p1", "note=some text").stdout == "ippool.projectcalico.org/p1 annotated\n"
    meta = made.json("get", "ippool", "p1")["metadata"]
    assert (meta["labels"], meta["annotations"]) == ({"a": "x"}, {"note": "some text"})
    assert meta["generation"] == 1, "metadata does not count"


def test_replace(made: Kubectl) -> None:
    assert made("replace", "-f-", stdin=pool(ipipMode="Never")).stdout == "ippool.projectcalico.org/p1 replaced\n"
    assert (spec(made)["ipipMode"], spec(made)["natOutgoing"]) == ("Never", False)
    assert "NotFound" in made("replace", "-f-", stdin=pool("p9"), fails=True).stderr


def test_replace_of_what_has_changed_since_is_a_conflict(made: Kubectl) -> None:
    old = made.json("get", "ippool", "p1")
    made("label", "ippool", "p1", "a=b")
    error = made("replace", "-f-", stdin=old, fails=True).stderr
    assert 'Operation cannot be fulfilled on ippools.projectcalico.org "p1": the object has been modified' in error


def test_create_twice(made: Kubectl) -> None:
    error = made("create", "-f-", stdin=pool(), fails=True).stderr
    assert 'Error from server (AlreadyExists): error when creating "STDIN": ippools.projectcalico.org "p1"' in error


def test_delete(made: Kubectl) -> None:
    assert made("delete", "ippool", "p1").stdout == 'ippool.projectcalico.org "p1" deleted\n'
    error = made("delete", "ippool", "p1", fails=True).stderr
    assert error == 'Error from server (NotFound): ippools.projectcalico.org "p1" not found\n'
    assert made("delete", "ippool", "p1", "--ignore-not-found").stdout == ""


@pytest.mark.parametrize("cascade", ["background", "foreground", "orphan"])
def test_delete_cascades(made: Kubectl, cascade: str) -> None:
    made("delete", "ippool", "p1", f"--cascade={cascade}", "--wait=false")
    made("get", "ippool", "p1", "--ignore-not-found")


def test_delete_by_label_and_all(made: Kubectl) -> None:
    made("create", "-f-", stdin=pool("p2", cidr="10.245.0.0/16"))
    made("label", "ippool", "p2", "zone=b")
    assert made("delete", "ippools", "-l", "zone=b").stdout == 'ippool.projectcalico.org "p2" deleted\n'
    made("delete", "ippools", "--all")
    assert made("get", "ippools").stderr == "No resources found\n"


def test_delete_waits_for_a_finalizer(made: Kubectl) -> None:
    hold = {"metadata": {"finalizers": ["contract.example.org/hold"]}}
    made("patch", "ippool", "p1", "--type=merge", "-p", json.dumps(hold))
    with watching(made, "delete", "ippool", "p1") as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert made.json("get", "ippool", "p1")["metadata"]["deletionTimestamp"]
        time.sleep(0.2)
        assert process.poll() is None
        made("patch", "ippool", "p1", "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
        assert process.wait(20) == 0
    made("get", "ippool", "p1", fails=True)


def test_wait(made: Kubectl) -> None:
    assert "condition met" in made("wait", "ippool/p1", "--for=jsonpath={.spec.ipipMode}=Always").stdout
    with watching(made, "wait", "ippool/p1", "--for=jsonpath={.spec.ipipMode}=Never", "--timeout=20s") as process:
        time.sleep(0.3)
        made("patch", "ippool", "p1", "--type=merge", "-p", '{"spec":{"ipipMode":"Never"}}')
        assert process.wait(20) == 0
    error = made("wait", "ippool/p1", "--for=jsonpath={.spec.ipipMode}=Always", "--timeout=1s", fails=True).stderr
    assert "timed out waiting for the condition on ippools/p1" in error
    with watching(made, "wait", "ippool/p1", "--for=delete", "--timeout=20s") as process:
        time.sleep(0.3)
        made("delete", "ippool", "p1")
        assert process.wait(20) == 0


def test_wait_for_a_condition_in_status(made: Kubectl) -> None:
    status = {
        "status": {
            "conditions": [
                {
                    "type": "Allocatable",
                    "status": "True",
                    "reason": "OK",
                    "message": "in use",
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                }
            ]
        }
    }
    made("patch", "ippool", "p1", "--type=merge", "-p", json.dumps(status))
    assert "status" not in made.json("get", "ippool", "p1"), "the main resource does not write status"
    made("patch", "ippool", "p1", "--subresource=status", "--type=merge", "-p", json.dumps(status))
    assert "condition met" in made("wait", "ippool/p1", "--for=condition=Allocatable", "--timeout=5s").stdout
    assert made("get", "ippools").stdout.splitlines()[1].split()[5] == "True"


def test_explain(kubectl: Kubectl) -> None:
    out = kubectl("explain", "ippool.spec.ipipMode").stdout
    assert "FIELD: ipipMode <string>" in out
    assert re.search(r"ENUM:\s+Never\s+Always\s+CrossSubnet", out)
    out = kubectl("explain", "ippools", "--recursive").stdout
    assert re.search(r"cidr\s+<string> -required-", out)
    assert "metadata" in out
    assert 'field "nothing" does not exist' in kubectl("explain", "ippool.spec.nothing", fails=True).stderr


def test_describe_shows_fields_and_events(api_server: ApiUnderTest, made: Kubectl) -> None:
    meta = made.json("get", "ippool", "p1")["metadata"]
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "p1.1", "namespace": "default"},
        "involvedObject": {"kind": "IPPool", "name": "p1", "uid": meta["uid"], "apiVersion": "projectcalico.org/v3"},
        "reason": "CIDROverlap",
        "message": "the pool overlaps another",
        "type": "Warning",
        "count": 2,
        "source": {"component": "calico-py"},
        "firstTimestamp": "2026-01-01T00:00:00Z",
        "lastTimestamp": "2026-01-01T00:00:00Z",
    }
    assert api_server.request("POST", "/api/v1/namespaces/default/events", event).status == 201
    out = made("describe", "ippool", "p1").stdout
    assert re.search(r"Ipip Mode: +Always", out)
    assert re.search(r"Warning +CIDROverlap .*calico-py +the pool overlaps another", out)


def test_describe_node(kubectl: Kubectl) -> None:
    kubectl("create", "-f-", stdin=node("n1", labels={"a": "b"}))
    out = kubectl("describe", "node", "n1").stdout
    assert re.search(r"Name: +n1", out)
    assert "Non-terminated Pods:" in out


def test_commands_that_look_at_the_server(kubectl: Kubectl) -> None:
    assert re.search(r"ippools +projectcalico.org/v3 +false +IPPool", kubectl("api-resources").stdout)
    assert "projectcalico.org/v3" in kubectl("api-versions").stdout.split()
    assert kubectl("get", "--raw", "/readyz").stdout == "ok"
    assert "Server Version: v1.34" in kubectl("version").stdout


def test_namespaces_hold_their_objects(kubectl: Kubectl) -> None:
    lost = configmap("c1", {}, namespace="nowhere")
    assert 'namespaces "nowhere" not found' in kubectl("create", "-f-", stdin=lost, fails=True).stderr
    kubectl("create", "-f-", stdin={"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "somewhere"}})
    try:
        kubectl("create", "-f-", stdin=configmap("c1", {"a": "b"}, namespace="somewhere"))
        kubectl("create", "-f-", stdin=configmap("c1", {"a": "c"}))
        data = {
            (item["metadata"]["namespace"], item["data"]["a"])
            for item in kubectl.json("get", "configmaps", "-A")["items"]
            if item["metadata"]["name"] == "c1"
        }
        assert data == {("somewhere", "b"), ("default", "c")}
    finally:
        kubectl("delete", "namespace", "somewhere", "--wait=false")


def test_create_by_words(kubectl: Kubectl) -> None:
    kubectl("create", "configmap", "c1", "--from-literal=a=b", "--from-literal=c=")
    assert kubectl.json("get", "configmap", "c1")["data"] == {"a": "b", "c": ""}
    assert 'configmaps "c1" already exists' in kubectl("create", "configmap", "c1", fails=True).stderr
    kubectl("create", "secret", "generic", "s1", "--from-literal=a=b")
    secret = kubectl.json("get", "secret", "s1")
    assert (secret["data"], secret["type"]) == ({"a": "Yg=="}, "Opaque")
    kubectl("create", "serviceaccount", "a1")
    kubectl("delete", "secret/s1", "serviceaccount/a1")
    kubectl("create", "namespace", "elsewhere")
    assert kubectl.json("get", "namespace", "elsewhere")["status"]["phase"] == "Active"
    kubectl("delete", "namespace", "elsewhere", "--wait=false")
