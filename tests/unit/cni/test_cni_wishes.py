"""Annotations of pods and namespaces: what comes before what, and what a wrong one says."""

import json
from ipaddress import ip_address
from typing import Any

import pytest

from calico_py.cni.config import Call, parse_call
from calico_py.cni.errors import CNIError, Code
from calico_py.cni.wire import Request
from calico_py.cni.wishes import PodFacts, with_wishes

PREFIX = "cni.projectcalico.org/"


def call(args: str = "", **config: Any) -> Call:
    env = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/run/netns/x",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/opt/cni/bin",
        "CNI_ARGS": f"K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_UID=u1;{args}",
    }
    return parse_call(Request(env, json.dumps({"cniVersion": "1.0.0", "name": "net", **config}).encode()))


def facts(pod: dict[str, str] | None = None, namespace: dict[str, str] | None = None) -> PodFacts:
    def named(some: dict[str, str] | None) -> dict[str, str]:
        return {PREFIX + key: value for key, value in (some or {}).items()}

    return PodFacts(named(pod), named(namespace), {"team": "shop"})


def test_a_pod_that_asks_for_nothing_gets_what_the_configuration_says() -> None:
    found = with_wishes(call(ipam={"ipv4_pools": ["a"], "ipv6_pools": ["b"]}), facts())
    assert (found.pools, found.families, found.addresses, found.mac) == (("a", "b"), (), (), "")
    assert found.namespace_labels == {"team": "shop"}
    assert found.uid == "u1"


def test_the_pod_comes_before_the_namespace_and_that_before_the_configuration() -> None:
    configured = call(ipam={"ipv4_pools": ["conf4"], "ipv6_pools": ["conf6"]})
    around = {"ipv4pools": '["ns4"]', "ipFamilies": '["IPv4"]'}
    assert with_wishes(configured, facts(None, around)).pools == ("ns4", "conf6")
    own = {"ipv4pools": '["10.0.0.0/16", "pod4"]', "ipFamilies": '["IPv6", "IPv4"]'}
    found = with_wishes(configured, facts(own, around))
    assert found.pools == ("10.0.0.0/16", "pod4", "conf6")
    assert found.families == (4, 6)
    assert with_wishes(configured, facts(None, around)).families == (4,)


def test_addresses_and_mac_are_the_pods_alone_and_the_calls_own_come_first() -> None:
    own = {"ipAddrs": '["192.168.3.7", "fd00::7/128"]', "hwAddr": "1C:0c:0a:c0:ff:ee"}
    found = with_wishes(call(), facts(own))
    assert found.addresses == (ip_address("192.168.3.7"), ip_address("fd00::7"))
    assert found.mac == "1c:0c:0a:c0:ff:ee"
    assert with_wishes(call(), facts(None, own)).addresses == ()
    told = with_wishes(call("IP=10.0.0.1;MAC=02:00:00:00:00:01"), facts(own))
    assert told.addresses == (ip_address("10.0.0.1"),)
    assert told.mac == "02:00:00:00:00:01"
    capable = call(runtimeConfig={"ips": ["10.0.0.2/32"], "mac": "02:00:00:00:00:02"})
    assert with_wishes(capable, facts(own)).addresses == (ip_address("10.0.0.2"),)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("ipAddrs", "10.0.0.1", "a JSON list of strings"),
        ("ipAddrs", '["10.0.0.300"]', "'10.0.0.300' is none"),
        ("ipAddrs", '["10.0.0.1", "10.0.0.2"]', "at most one address of each family"),
        ("ipv4pools", '{"a": 1}', "names or CIDRs"),
        ("ipv6pools", "[1]", "names or CIDRs"),
        ("ipFamilies", '["IPv5"]', '"IPv4", "IPv6" or both'),
        ("ipFamilies", "[]", '"IPv4", "IPv6" or both'),
        ("hwAddr", "1c:0c", "six pairs"),
        ("ipAddrsNoIpam", '["10.0.0.1"]', "does not have this feature"),
        ("ipv4pools", "[" * 100_000, "a JSON list of strings"),
    ],
)
def test_a_wrong_annotation_is_told_by_name_pod_and_value(name: str, value: str, told: str) -> None:
    with pytest.raises(CNIError) as caught:
        with_wishes(call(), facts({name: value}))
    assert caught.value.code == Code.INVALID_CONFIGURATION
    assert told in caught.value.details
    assert PREFIX + name in caught.value.details
    assert "shop/web" in caught.value.details


@pytest.mark.parametrize(
    ("ipam", "families"),
    [
        ({}, (4, 6)),
        ({"assign_ipv4": "true"}, (4, 6)),
        ({"assign_ipv6": "false"}, (4,)),
        ({"assign_ipv4": False, "assign_ipv6": "true"}, (6,)),
    ],
)
def test_the_configuration_turns_families_off(ipam: dict[str, Any], families: tuple[int, ...]) -> None:
    assert call(ipam=ipam).config.families == families


def test_a_switch_that_is_none_is_refused() -> None:
    with pytest.raises(CNIError, match="assign_ipv4"):
        call(ipam={"assign_ipv4": "no"})


def test_another_ipam_plugin_is_refused_but_by_a_del() -> None:
    assert call(ipam={"type": "calico-ipam"}).pools == ()
    with pytest.raises(CNIError, match=r"ipam.type: found 'host-local', expected 'calico-ipam'") as caught:
        call(ipam={"type": "host-local", "subnet": "usePodCidr"})
    assert caught.value.code == Code.INVALID_CONFIGURATION
    stdin = json.dumps({"cniVersion": "1.0.0", "name": "net", "ipam": {"type": "host-local"}}).encode()
    env = {"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0", "CNI_PATH": "/opt/cni/bin"}
    assert parse_call(Request(env, stdin)).container_id == "c1"
