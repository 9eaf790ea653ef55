"""The CRD files: complete, in the form that a real server takes, and in step with the model."""

import json
from importlib import resources
from typing import Any

import pytest
import yaml

from calico_py.lab.api.definitions import shipped
from calico_py.lab.api.resources import from_crd
from calico_py.model import kinds
from calico_py.model.net import InvalidError
from calico_py.model.store import Kind

CRDS = {crd["spec"]["names"]["kind"]: crd for crd in shipped()}
# What a structural schema may say (apiextensions.k8s.io/v1 JSONSchemaProps), as far as we say it.
KEYWORDS = {
    "description", "type", "properties", "required", "items", "additionalProperties", "enum", "default", "format",
    "minimum", "maximum", "maxLength", "maxItems", "pattern", "nullable", "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys", "x-kubernetes-map-type", "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
}  # fmt: skip


def schema(crd: Any) -> Any:
    """The schema of the one version."""
    (version,) = crd["spec"]["versions"]
    return version["schema"]["openAPIV3Schema"]


def test_every_kind_of_the_decision_is_there() -> None:
    assert set(CRDS) == {
        "BGPConfiguration", "BGPFilter", "BGPPeer", "BlockAffinity", "ClusterInformation", "FelixConfiguration",
        "IPAMBlock", "IPAMConfiguration", "IPAMHandle", "IPPool", "IPReservation", "KubeControllersConfiguration",
    }  # fmt: skip


def test_the_kustomization_lists_every_file() -> None:
    folder = resources.files("calico_py").joinpath("crds")
    files = {file.name for file in folder.iterdir() if file.name.endswith(".yaml")} - {"kustomization.yaml"}
    assert set(yaml.safe_load(folder.joinpath("kustomization.yaml").read_text())["resources"]) == files


@pytest.mark.parametrize("kind", sorted(CRDS))
def test_names_and_group(kind: str) -> None:
    spec = CRDS[kind]["spec"]
    assert CRDS[kind]["metadata"]["name"] == f"{spec['names']['plural']}.projectcalico.org"
    assert (spec["group"], spec["scope"]) == ("projectcalico.org", "Cluster")
    assert [version["name"] for version in spec["versions"]] == ["v3"]


@pytest.mark.parametrize("kind", sorted(CRDS))
def test_the_schema_says_nothing_by_accident(kind: str) -> None:
    def check(part: Any, path: str) -> None:
        assert set(part) <= KEYWORDS, path
        # A colon or comma in an unquoted description makes another key, or null, of the rest.
        assert isinstance(part.get("description", ""), str), path
        assert all(value is not None for value in part.values()), path
        for name, member in (part.get("properties") or {}).items():
            assert "description" in member or name in ("apiVersion", "kind", "metadata"), f"{path}.{name} says nothing"
            check(member, f"{path}.{name}")
        for key in ("items", "additionalProperties"):
            if isinstance(part.get(key), dict):
                check(part[key], f"{path}[{key}]")

    check(schema(CRDS[kind]), kind)


def all_kinds() -> list[Kind[Any]]:
    """Every kind of the model that has a CRD."""
    found = [value for value in vars(kinds).values() if isinstance(value, Kind)]
    return [kind for kind in found if kind.group == "projectcalico.org"]


@pytest.mark.parametrize("kind", all_kinds(), ids=lambda kind: kind.kind)
def test_the_model_has_the_names_of_the_crd(kind: Kind[Any]) -> None:
    (resource,) = from_crd(CRDS[kind.kind])
    assert (resource.group, resource.version, resource.plural) == (kind.group, kind.version, kind.plural)
    assert resource.namespaced == kind.namespaced


EXAMPLES: dict[str, dict[str, Any]] = {
    "IPPool": {"cidr": "10.0.0.0/16"},
    "BlockAffinity": {"cidr": "10.0.0.0/26", "node": "n", "state": "pending"},
    "IPAMBlock": {
        "cidr": "10.0.0.0/31", "allocations": [None, 0], "attributes": [{"handle_id": "h"}], "unallocated": [0],
        "strictAffinity": False,
    },
    "IPAMHandle": {"handleID": "h", "block": {"10.0.0.0/26": 1}},
}  # fmt: skip


@pytest.mark.parametrize("kind", all_kinds(), ids=lambda kind: kind.kind)
def test_what_the_model_writes_is_what_the_crd_takes(kind: Kind[Any]) -> None:
    (resource,) = from_crd(CRDS[kind.kind])
    obj = {
        "apiVersion": "projectcalico.org/v3",
        "kind": kind.kind,
        "metadata": {"name": "x"},
        "spec": dict(EXAMPLES.get(kind.kind, {})),
    }
    resource.schema.default(obj)
    written = json.loads(json.dumps(kind.encode(kind.decode(obj))))
    assert resource.schema.prune(written) == []
    assert resource.schema.validate(written) == []
    assert resource.schema.break_rules(obj, written) == []
    assert kind.decode(written) == kind.decode(obj)


@pytest.mark.parametrize(
    "spec",
    [
        {"cidr": "10.0.0.1/16"},
        {"cidr": "10.0.0.0/16", "blockSize": 19},
        {"cidr": "fd00::/64", "blockSize": 26},
        {"cidr": "10.0.0.0/27"},
        {"cidr": "fd00::/64", "ipipMode": "Always"},
        {"cidr": "10.0.0.0/16", "ipipMode": "Always", "vxlanMode": "Always"},
        {"cidr": "10.0.0.0/16", "ipipMode": "Sometimes"},
    ],
)
def test_codec_and_crd_refuse_the_same_field(spec: dict[str, Any]) -> None:
    (resource,) = from_crd(CRDS["IPPool"])
    obj = {"apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": "x"}, "spec": spec}
    resource.schema.default(obj)
    causes = resource.schema.validate(obj) or resource.schema.break_rules(None, obj)
    with pytest.raises(InvalidError) as refused:
        kinds.IP_POOLS.decode(obj)
    assert refused.value.field in {cause.field for cause in causes}


def test_no_default_where_ours_differs_from_calico() -> None:
    properties = schema(CRDS["IPAMConfiguration"])["properties"]["spec"]["properties"]
    assert "default" not in properties["ipCooldownSeconds"]
    for kind in ("FelixConfiguration", "BGPConfiguration"):
        fields = schema(CRDS[kind])["properties"]["spec"]["properties"]
        assert "default" not in fields["programClusterRoutes"]
