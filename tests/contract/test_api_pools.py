"""A bad manifest of our own kinds is refused with the field named, by schema or by CEL, on both servers."""

from typing import Any

import pytest

from tests.contract.manifests import pool
from tests.contract.servers import MERGE, ApiUnderTest

GROUP = "/apis/projectcalico.org/v3"
POOLS = f"{GROUP}/ippools"


def causes(api: ApiUnderTest, method: str, path: str, body: Any, **headers: str) -> dict[str, str]:
    """The fields that a refusal names, with what it says of each."""
    refused = api.request(method, path, body, **headers)
    assert refused.status == 422, refused.body
    found: dict[str, str] = {}
    for cause in refused.body["details"]["causes"]:
        found[cause["field"]] = f"{found.get(cause['field'], '')}{cause['message']}; "
    return found


@pytest.mark.parametrize(
    ("spec", "field", "said"),
    [
        ({"cidr": None}, "spec.cidr", "Required value"),
        ({"cidr": "10.244.0.0"}, "spec.cidr", "must be of type cidr"),
        ({"cidr": "10.244.0.0/33"}, "spec.cidr", "must be of type cidr"),
        ({"cidr": "10.244.0.1/16"}, "spec.cidr", "network without host bits"),
        ({"cidr": "169.254.0.0/24"}, "spec.cidr", "link-local"),
        ({"cidr": "fe80::/64"}, "spec.cidr", "link-local"),
        ({"cidr": "10.244.0.0/27"}, "spec.cidr", "at least one block"),
        ({"cidr": "fd00::/123"}, "spec.cidr", "at least one block"),
        ({"blockSize": 19}, "spec.blockSize", "20 to 32"),
        ({"blockSize": 33}, "spec.blockSize", "20 to 32"),
        ({"blockSize": 129}, "spec.blockSize", "less than or equal to 128"),
        ({"cidr": "fd00::/64", "blockSize": 26}, "spec.blockSize", "116 to 128"),
        ({"ipipMode": "always"}, "spec.ipipMode", '"Never", "Always", "CrossSubnet"'),
        ({"vxlanMode": "On"}, "spec.vxlanMode", '"Never", "Always", "CrossSubnet"'),
        ({"cidr": "fd00::/64", "ipipMode": "Always"}, "spec.ipipMode", "IPv4 only"),
        ({"ipipMode": "Always", "vxlanMode": "CrossSubnet"}, "spec.vxlanMode", "cannot both be on"),
        ({"natOutgoing": "yes"}, "spec.natOutgoing", "must be of type boolean"),
        ({"nodeSelector": "x" * 1025}, "spec.nodeSelector", "Too long"),
        ({"allowedUses": ["Everything"]}, "spec.allowedUses[0]", "Unsupported value"),
        ({"allowedUses": ["LoadBalancer", "Workload"]}, "spec.allowedUses", "no other use"),
        ({"namespaceSelector": "all()"}, "spec.namespaceSelector", "without Tunnel"),
        ({"assignmentMode": "Never"}, "spec.assignmentMode", '"Automatic", "Manual"'),
    ],
)
def test_a_bad_pool(api_server: ApiUnderTest, spec: dict[str, Any], field: str, said: str) -> None:
    assert said in causes(api_server, "POST", POOLS, pool(**spec))[field]


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"cidr": "fd00:10::/48"},
        {"cidr": "10.244.0.0/26"},
        {"cidr": "10.244.0.0/30", "disabled": True},
        {"cidr": "10.244.0.0/28", "blockSize": 28},
        {"cidr": "fd00::/116", "blockSize": 116, "vxlanMode": "Always"},
        {"blockSize": 0, "ipipMode": "CrossSubnet", "vxlanMode": "Never"},
        {"allowedUses": ["LoadBalancer"]},
        {"allowedUses": ["Workload"], "namespaceSelector": "has(team)"},
        {"nodeSelector": "zone == 'a'", "assignmentMode": "Manual", "disableBGPExport": True},
    ],
)
def test_a_good_pool(api_server: ApiUnderTest, spec: dict[str, Any]) -> None:
    made = api_server.request("POST", f"{POOLS}?fieldValidation=Strict", pool(**spec))
    assert made.status == 201, made.body


@pytest.mark.parametrize(
    ("patch", "field"),
    [
        ({"cidr": "10.0.0.0/8"}, "spec.cidr"),
        ({"blockSize": 27}, "spec.blockSize"),
        ({"vxlanMode": "Always"}, "spec.vxlanMode"),
    ],
)
def test_what_cannot_change(api_server: ApiUnderTest, patch: dict[str, Any], field: str) -> None:
    api_server.request("POST", POOLS, pool(ipipMode="Always"))
    assert field in causes(api_server, "PATCH", f"{POOLS}/p1", {"spec": patch}, Content_Type=MERGE)


@pytest.mark.parametrize("patch", [{"blockSize": 26}, {"ipipMode": "Never", "vxlanMode": "CrossSubnet"}])
def test_what_can_change(api_server: ApiUnderTest, patch: dict[str, Any]) -> None:
    api_server.request("POST", POOLS, pool(ipipMode="Always"))
    assert api_server.request("PATCH", f"{POOLS}/p1", {"spec": patch}, Content_Type=MERGE).status == 200


def test_an_ipv6_cidr_may_be_written_another_way(api_server: ApiUnderTest) -> None:
    api_server.request("POST", POOLS, pool(cidr="fd00:10::/48"))
    patch = {"spec": {"cidr": "FD00:0010:0::/48"}}
    assert api_server.request("PATCH", f"{POOLS}/p1", patch, Content_Type=MERGE).status == 200


@pytest.mark.parametrize(
    ("kind", "plural", "spec", "field"),
    [
        ("BGPPeer", "bgppeers", {"node": "a", "nodeSelector": "all()"}, "spec.nodeSelector"),
        ("BGPPeer", "bgppeers", {"peerIP": "192.0.2.1", "peerSelector": "all()"}, "spec.peerSelector"),
        ("BGPPeer", "bgppeers", {"peerSelector": "all()", "asNumber": 64512}, "spec.asNumber"),
        ("BGPPeer", "bgppeers", {"peerIP": "192.0.2.300"}, "spec.peerIP"),
        ("BGPPeer", "bgppeers", {"reachableBy": "192.0.2.1"}, "spec.reachableBy"),
        ("BGPPeer", "bgppeers", {"asNumber": 4294967296}, "spec.asNumber"),
        ("BGPConfiguration", "bgpconfigurations", {"listenPort": 0}, "spec.listenPort"),
        ("BGPConfiguration", "bgpconfigurations", {"programClusterRoutes": "Yes"}, "spec.programClusterRoutes"),
        (
            "BGPConfiguration",
            "bgpconfigurations",
            {"nodeToNodeMeshEnabled": False, "nodeMeshPassword": {"secretKeyRef": {"key": "k", "name": "s"}}},
            "spec.nodeMeshPassword",
        ),
        ("IPAMConfiguration", "ipamconfigurations", {"maxBlocksPerHost": -1}, "spec.maxBlocksPerHost"),
        ("IPAMConfiguration", "ipamconfigurations", {"ipCooldownSeconds": 1201}, "spec.ipCooldownSeconds"),
        ("IPReservation", "ipreservations", {"reservedCIDRs": ["10.0.0.0/8", "x"]}, "spec.reservedCIDRs[1]"),
        ("BGPFilter", "bgpfilters", {"exportV4": [{"cidr": "10.0.0.0/8"}]}, "spec.exportV4[0].action"),
    ],
)
def test_a_bad_object_of_another_kind(
    api_server: ApiUnderTest, kind: str, plural: str, spec: dict[str, Any], field: str
) -> None:
    obj = {"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": "default"}, "spec": spec}
    assert field in causes(api_server, "POST", f"{GROUP}/{plural}", obj)


@pytest.mark.parametrize("address", ["192.0.2.1", "192.0.2.1:1179", "2001:db8::1", "[2001:db8::1]:1179"])
def test_addresses_of_peers(api_server: ApiUnderTest, address: str) -> None:
    spec = {"peerIP": address, "asNumber": 4200000000}
    obj = {"apiVersion": "projectcalico.org/v3", "kind": "BGPPeer", "metadata": {"name": "x"}, "spec": spec}
    made = api_server.request("POST", f"{GROUP}/bgppeers", obj)
    assert made.status == 201, made.body


@pytest.mark.parametrize(
    ("kind", "plural", "spec"),
    [
        (
            "IPReservation",
            "ipreservations",
            {"reservedCIDRs": ["192.168.2.3", "10.0.2.3/32", "cafe:f00d::/123", "fd00::1"]},
        ),
        ("IPAMConfiguration", "ipamconfigurations", {"strictAffinity": False, "maxBlocksPerHost": 4}),
        ("IPAMConfiguration", "ipamconfigurations", {"strictAffinity": False, "autoAllocateBlocks": False}),
    ],
)
def test_what_calicos_users_apply(api_server: ApiUnderTest, kind: str, plural: str, spec: dict[str, Any]) -> None:
    obj = {"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": "default"}, "spec": spec}
    made = api_server.request("POST", f"{GROUP}/{plural}", obj)
    assert made.status == 201, made.body
    assert made.body["spec"].items() >= spec.items()


def test_a_cooldown_that_nobody_set_stays_unset(api_server: ApiUnderTest) -> None:
    obj = {
        "apiVersion": "projectcalico.org/v3",
        "kind": "IPAMConfiguration",
        "metadata": {"name": "default"},
        "spec": {},
    }
    made = api_server.request("POST", f"{GROUP}/ipamconfigurations", obj)
    assert made.body["spec"] == {"autoAllocateBlocks": True, "maxBlocksPerHost": 0, "strictAffinity": False}
