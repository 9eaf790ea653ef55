"""The shapes of results, version by version, as the specification's conventions have them."""

import json
from ipaddress import ip_address, ip_interface
from typing import Any

import pytest

from calico_py.cni.errors import CNIError, Code
from calico_py.cni.results import AddResult, ResultInterface, render_add, render_error, render_versions

RESULT = AddResult(
    interfaces=[
        ResultInterface("cali1", "ee:ee:ee:ee:ee:ee", 1450),
        ResultInterface("eth0", "02:00:00:00:00:01", 1450, "/run/netns/x"),
    ],
    addresses=[
        (ip_interface("10.65.0.1/32"), ip_address("169.254.1.1")),
        (ip_interface("fd65::1/128"), ip_address("fe80::1")),
    ],
    dns={"nameservers": ["10.96.0.10"]},
)


def rendered(version: str, previous: dict[str, Any] | None = None) -> Any:
    return json.loads(render_add(version, RESULT, previous))


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_before_0_3_0(version: str) -> None:
    assert rendered(version) == {
        "cniVersion": version,
        "ip4": {
            "ip": "10.65.0.1/32",
            "gateway": "169.254.1.1",
            "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}],
        },
        "ip6": {"ip": "fd65::1/128", "gateway": "fe80::1", "routes": [{"dst": "::/0", "gw": "fe80::1"}]},
        "dns": {"nameservers": ["10.96.0.10"]},
    }


@pytest.mark.parametrize("version", ["0.3.0", "0.3.1", "0.4.0"])
def test_before_1_0_0(version: str) -> None:
    result = rendered(version)
    assert result["interfaces"][1] == {"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/run/netns/x"}
    assert result["ips"][0] == {
        "version": "4",
        "interface": 1,
        "address": "10.65.0.1/32",
        "gateway": "169.254.1.1",
    }
    assert result["ips"][1]["version"] == "6"


def test_1_0_0() -> None:
    result = rendered("1.0.0")
    assert "mtu" not in result["interfaces"][0]
    assert result["ips"] == [
        {"interface": 1, "address": "10.65.0.1/32", "gateway": "169.254.1.1"},
        {"interface": 1, "address": "fd65::1/128", "gateway": "fe80::1"},
    ]
    assert result["routes"] == [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}, {"dst": "::/0", "gw": "fe80::1"}]


def test_1_1_0() -> None:
    assert [each["mtu"] for each in rendered("1.1.0")["interfaces"]] == [1450, 1450]


def test_behind_another_plugin() -> None:
    previous = {"cniVersion": "1.0.0", "interfaces": [{"name": "net1"}], "ips": [{"interface": 0}], "x": 1}
    result = rendered("1.0.0", previous)
    assert [each["name"] for each in result["interfaces"]] == ["net1", "cali1", "eth0"]
    assert [each["interface"] for each in result["ips"]] == [0, 2, 2]
    assert result["x"] == 1


def test_an_error() -> None:
    error = CNIError(Code.TRY_AGAIN_LATER, "not yet", "because")
    assert json.loads(render_error("1.0.0", error)) == {
        "cniVersion": "1.0.0",
        "code": 11,
        "msg": "not yet",
        "details": "because",
    }


def test_versions() -> None:
    assert json.loads(render_versions("0.4.0"))["cniVersion"] == "0.4.0"
