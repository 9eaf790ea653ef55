"""A CRD that nothing in calico-py has heard of, applied while the server runs, works in all verbs."""

import json
import re
import time
from collections.abc import Callable, Iterator

import pytest

from tests.contract.manifests import GADGET_CRD, GADGETS, gadget
from tests.contract.servers import MERGE, ApiUnderTest, Kubectl
from tests.contract.test_kubectl_verbs import watching

_CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_CRD = "crd/gadgets.contract.example.org"


def _until(done: Callable[[], bool]) -> None:
    """Wait for what a real server does behind its answer."""
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def defined(running_server: ApiUnderTest) -> Iterator[None]:
    """The kind, on a server that was started without it."""
    assert running_server.request("POST", _CRDS, GADGET_CRD).status == 201
    _until(lambda: running_server.request("GET", GADGETS).status == 200)
    yield
    running_server.request("DELETE", f"{_CRDS}/gadgets.contract.example.org")


@pytest.fixture
def gadgets(defined: None, api_server: ApiUnderTest, kubectl: Kubectl) -> Kubectl:
    """Kubectl with the kind defined and one object of it."""
    del defined
    api_server.request("DELETE", GADGETS)
    assert api_server.request("POST", GADGETS, gadget()).status == 201
    return kubectl


def test_it_is_found_by_all_its_names(gadgets: Kubectl) -> None:
    for name in (
        "gadgets",
        "gadget",
        "gd",
        "Gadget",
        "gadgets.contract.example.org",
        "gadgets.v1.contract.example.org",
    ):
        assert gadgets("get", name, "-o", "name").stdout == "gadget.contract.example.org/g1\n"


def test_columns_defaults_and_wide(gadgets: Kubectl) -> None:
    gadgets("apply", "-f-", stdin=gadget("g2", colour="green", parts=[{"name": "x", "weight": 1}]))
    lines = gadgets("get", "gd", "-o", "wide").stdout.splitlines()
    assert lines[0].split() == ["NAME", "COLOUR", "SIZE", "READY", "PARTS"]
    assert lines[1].split() == ["g1", "red", "3"]
    assert lines[2].split() == ["g2", "green", "3", '[{"name":"x","weight":1}]']


def test_every_way_to_change_it(gadgets: Kubectl) -> None:
    gadgets("delete", "gd", "g1")
    assert "created" in gadgets("apply", "-f-", stdin=gadget()).stdout
    assert "unchanged" in gadgets("apply", "-f-", stdin=gadget()).stdout
    assert "configured" in gadgets("apply", "-f-", stdin=gadget(size=4, notes={"free": ["text", 1]})).stdout
    gadgets("patch", "gd", "g1", "--type=merge", "-p", '{"spec":{"port":"http"}}')
    gadgets("patch", "gd", "g1", "--type=json", "-p", '[{"op":"replace","path":"/spec/port","value":80}]')
    gadgets("label", "gd", "g1", "a=b")
    gadgets("annotate", "gd", "g1", "c=d")
    gadgets("edit", "gd", "g1", editor="sed -i s/red/green/")
    found = gadgets.json("get", "gd", "g1")
    assert found["spec"] == {"colour": "green", "size": 4, "port": 80, "notes": {"free": ["text", 1]}}
    assert (found["metadata"]["labels"], found["metadata"]["generation"]) == ({"a": "b"}, 5)
    gadgets("replace", "-f-", stdin=gadget(size=9))
    assert gadgets.json("get", "gd", "g1")["spec"] == {"colour": "red", "size": 9}


def test_server_side_apply_merges_lists_by_key(gadgets: Kubectl) -> None:
    one = ("apply", "--server-side", "--field-manager=one", "-f-")
    two = ("apply", "--server-side", "--field-manager=two", "-f-")
    gadgets(*one, stdin=gadget("g2", parts=[{"name": "a", "weight": 1}]))
    gadgets(*two, stdin=gadget("g2", parts=[{"name": "b", "weight": 2}]))
    parts = gadgets.json("get", "gd", "g2")["spec"]["parts"]
    assert parts == [{"name": "a", "weight": 1}, {"name": "b", "weight": 2}]
    error = gadgets(*two, stdin=gadget("g2", parts=[{"name": "a", "weight": 9}]), fails=True).stderr
    assert '.spec.parts[name="a"].weight' in error
    gadgets(*one, stdin=gadget("g2"))
    assert gadgets.json("get", "gd", "g2")["spec"]["parts"] == [{"name": "b", "weight": 2}]


@pytest.mark.parametrize(
    ("spec", "field", "said"),
    [
        ({"size": 0}, "spec.size", "Invalid value: 0: spec.size in body should be greater than or equal to 1"),
        ({"size": "x"}, "spec.size", 'Invalid value: "string": spec.size in body must be of type integer: "string"'),
        ({"colour": "blue"}, "spec.colour", 'Unsupported value: "blue": supported values: "red", "green"'),
        ({"size": None}, "spec.size", "Required value"),
        (
            {"port": 1.5},
            "spec.port",
            'Invalid value: "number": spec.port in body must be of type integer,string: "number"',
        ),
        ({"parts": [{"weight": 1}]}, "spec.parts[0].name", "Required value"),
        ({"parts": [{"name": "a"}, {"name": "a"}]}, "spec.parts[1]", 'Duplicate value: {"name":"a"}'),
        ({"parts": [{"name": str(n)} for n in range(4)]}, "spec.parts", "Too many: 4: must have at most 3 items"),
        ({"size": 100}, "spec.size", 'Invalid value: "object": size is too large'),
    ],
)
def test_what_breaks_its_schema_is_refused_by_name(
    gadgets: Kubectl, api_server: ApiUnderTest, spec: dict[str, object], field: str, said: str
) -> None:
    del gadgets
    refused = api_server.request("POST", GADGETS, gadget("g2", **spec))
    assert (refused.status, refused.body["reason"]) == (422, "Invalid")
    assert refused.body["message"].startswith('Gadget.contract.example.org "g2" is invalid: ')
    causes = {cause["field"]: cause["message"] for cause in refused.body["details"]["causes"]}
    assert causes[field] == said


def test_kubectl_says_which_field_is_wrong(gadgets: Kubectl) -> None:
    error = gadgets("create", "-f-", stdin=gadget("g2", size=0), fails=True).stderr
    assert "spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1" in error
    error = gadgets("create", "-f-", stdin=gadget("g2", parts=[{"name": "a", "wait": 1}], siez=1), fails=True).stderr
    assert 'unknown field "spec.parts[0].wait"' in error
    assert 'unknown field "spec.siez"' in error


def test_watch_wait_and_status(gadgets: Kubectl) -> None:
    status = json.dumps({"status": {"conditions": [{"type": "Ready", "status": "True"}]}})
    with watching(gadgets, "get", "gd", "-w") as process:
        assert process.stdout is not None
        assert [process.stdout.readline().split()[0] for _ in range(2)] == ["NAME", "g1"]
        gadgets("patch", "gd", "g1", "--subresource=status", "--type=merge", "-p", status)
        assert process.stdout.readline().split() == ["g1", "red", "3", "True"]
    assert "condition met" in gadgets("wait", "gd/g1", "--for=condition=Ready", "--timeout=5s").stdout
    assert gadgets.json("get", "gd", "g1")["metadata"]["generation"] == 1
    assert "Ready" in gadgets("get", "gd", "g1", "--subresource=status", "-o", "yaml").stdout


def test_selectable_fields(gadgets: Kubectl) -> None:
    gadgets("apply", "-f-", stdin=gadget("g2", colour="green"))
    for selector, names in (
        ("spec.colour=green", ["g2"]),
        ("spec.colour!=green", ["g1"]),
        ("metadata.name=g1", ["g1"]),
    ):
        found = gadgets("get", "gd", "--field-selector", selector, "-o", "name").stdout.split()
        assert [each.rpartition("/")[2] for each in found] == names
    assert "field label not supported" in gadgets("get", "gd", "--field-selector", "spec.size=3", fails=True).stderr


def test_explain_and_describe(gadgets: Kubectl) -> None:
    out = gadgets("explain", "gadget.spec").stdout
    assert "What the gadget should be." in out
    assert re.search(r"size\s+<integer> -required-", out)
    assert re.search(r"parts\s+<\[\]Object>", out)
    assert re.search(r"Colour: +red", gadgets("describe", "gd", "g1").stdout)


def test_the_kind_comes_and_goes(kubectl: Kubectl) -> None:
    other = json.loads(
        json.dumps(GADGET_CRD).replace("gadget", "widget").replace("Gadget", "Widget").replace('"gd"', '"wd"')
    )
    widget = {**gadget("w1"), "kind": "Widget"}
    assert "created" in kubectl("apply", "-f-", stdin=other).stdout
    kubectl("wait", "crd/widgets.contract.example.org", "--for=condition=established", "--timeout=20s")
    kubectl("apply", "-f-", stdin=widget)
    kubectl("delete", "wd", "w1")
    assert kubectl("get", "wd").stderr == "No resources found in default namespace.\n"
    kubectl("apply", "-f-", stdin=widget)
    kubectl("delete", "crd", "widgets.contract.example.org")
    gone = kubectl("get", "widgets", fails=True).stderr
    assert "could not find the requested resource" in gone or "doesn't have a resource type" in gone
    kubectl("apply", "-f-", stdin=other)
    kubectl("wait", "crd/widgets.contract.example.org", "--for=condition=established", "--timeout=20s")
    assert kubectl("get", "wd").stderr == "No resources found in default namespace.\n", "its objects went with it"
    kubectl("delete", "crd", "widgets.contract.example.org")


def test_a_changed_definition_counts(gadgets: Kubectl, api_server: ApiUnderTest) -> None:
    changed = json.loads(json.dumps(GADGET_CRD))
    properties = changed["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    properties["colour"]["enum"].append("blue")
    gadgets("replace", "-f-", stdin=changed)
    patch = {"spec": {"colour": "blue"}}
    _until(lambda: api_server.request("PATCH", f"{GADGETS}/g1", patch, Content_Type=MERGE).status == 200)
    gadgets("replace", "-f-", stdin=GADGET_CRD)


def test_a_definition_with_a_wrong_name_is_refused(kubectl: Kubectl) -> None:
    wrong = {**GADGET_CRD, "metadata": {"name": "things.contract.example.org"}}
    error = kubectl("apply", "-f-", stdin=wrong, fails=True).stderr
    assert (
        'metadata.name: Invalid value: "things.contract.example.org": must be spec.names.plural+"."+spec.group' in error
    )
