"""Which calls are refused, with which code and words."""

import json
from ipaddress import ip_address
from typing import Any

import pytest

from calico_py.cni.config import Verb, parse_call, version_of
from calico_py.cni.errors import CNIError, Code
from calico_py.cni.wire import Request

ENV = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c1",
    "CNI_NETNS": "/run/netns/x",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/opt/cni/bin",
}


def request(env: dict[str, str] | None = None, **config: Any) -> Request:
    document = {"cniVersion": "1.1.0", "name": "net", **config}
    return Request({**ENV, **(env or {})}, json.dumps(document).encode())


def refusal(asked: Request) -> CNIError:
    with pytest.raises(CNIError) as caught:
        parse_call(asked)
    return caught.value


def test_a_call_of_kubernetes() -> None:
    args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_UID=u"
    call = parse_call(request({"CNI_ARGS": args}, mtu=1400, dns={"nameservers": ["10.96.0.10"]}))
    assert (call.verb, call.container_id, call.ifname, call.netns) == (Verb.ADD, "c1", "eth0", "/run/netns/x")
    assert (call.namespace, call.pod) == ("default", "web")
    assert (call.config.version, call.config.mtu) == ("1.1.0", 1400)
    assert call.config.dns == {"nameservers": ["10.96.0.10"]}


@pytest.mark.parametrize(
    ("verb", "missing"),
    [
        ("ADD", ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"]),
        ("CHECK", ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"]),
        ("DEL", ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"]),
        ("GC", ["CNI_PATH"]),
        ("STATUS", ["CNI_PATH"]),
    ],
)
def test_all_missing_variables_are_named(verb: str, missing: list[str]) -> None:
    error = refusal(Request({"CNI_COMMAND": verb}, b"{}"))
    assert error.code == Code.INVALID_ENVIRONMENT
    assert error.message == f"required env variables [{','.join(missing)}] missing"


@pytest.mark.parametrize("verb", ["", "add", "NONSENSE"])
def test_an_unknown_verb(verb: str) -> None:
    error = refusal(request({"CNI_COMMAND": verb}))
    assert error.code == Code.INVALID_ENVIRONMENT
    assert "ADD, DEL, CHECK, GC, STATUS, VERSION" in error.details


@pytest.mark.parametrize("version", ["1", "0.9.0", "1.2.0", "2.0.0", 1])
def test_an_unknown_version(version: object) -> None:
    error = refusal(request(cniVersion=version))
    assert error.code == Code.INCOMPATIBLE_VERSION
    assert error.message == "incompatible CNI versions"
    assert "0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0" in error.details


@pytest.mark.parametrize(("verb", "version"), [("CHECK", "0.3.1"), ("GC", "1.0.0"), ("STATUS", "1.0.0")])
def test_a_verb_that_the_version_has_not(verb: str, version: str) -> None:
    error = refusal(request({"CNI_COMMAND": verb}, cniVersion=version, prevResult={}))
    assert error.code == Code.INCOMPATIBLE_VERSION
    assert error.message == f"config version does not allow {verb}"


def test_no_version_counts_as_the_first() -> None:
    assert parse_call(Request(ENV, b'{"name":"net"}')).config.version == "0.1.0"
    for absent in (b'""', b"null"):  # libcni injects an empty one where its list has none
        assert parse_call(Request(ENV, b'{"name":"net","cniVersion":%b}' % absent)).config.version == "0.1.0"


@pytest.mark.parametrize("stdin", [b"", b"{", b"[]", b"null", b'"x"', b"\xff", b"[" * 100000])
def test_what_is_no_configuration(stdin: bytes) -> None:
    assert refusal(Request(ENV, stdin)).code == Code.DECODE_FAILURE
    assert version_of(stdin) == "1.1.0"


@pytest.mark.parametrize(
    "config",
    [
        {"name": ""},
        {"name": "a b"},
        {"name": None},
        {"mtu": 67},
        {"mtu": "1500"},
        {"mtu": True},
        {"ipam": []},
        {"ipam": {"ipv4_pools": "pool"}},
        {"ipam": {"ipv6_pools": [1]}},
        {"dns": "x"},
        {"runtimeConfig": {"ips": ["10.0.0.1", "x"]}},
        {"runtimeConfig": {"ips": [{}]}},
        {"runtimeConfig": {"ips": "10.0.0.1"}},
        {"runtimeConfig": {"mac": "x"}},
        {"runtimeConfig": []},
        {"args": {"cni": []}},
    ],
)
def test_a_field_that_does_not_hold_what_it_must_is_named(config: dict[str, Any]) -> None:
    error = refusal(request(**config))
    assert error.code == Code.INVALID_CONFIGURATION
    key = next(iter(config))
    inner = config[key] if isinstance(config[key], dict) else {}
    assert any(name in error.details for name in (key, *inner)), error.details
    assert "found" in error.details
    assert "expected" in error.details


@pytest.mark.parametrize("name", ["-a", ".a", "a/b", "a b", "a" * 181])
def test_a_container_id_that_is_none(name: str) -> None:
    error = refusal(request({"CNI_CONTAINERID": name}))
    assert (error.code, error.message) == (Code.INVALID_ENVIRONMENT, "invalid CNI_CONTAINERID")


@pytest.mark.parametrize("name", [".", "..", "a/b", "a:b", "a b", "a" * 16, "\u00e4" * 8])
def test_an_interface_name_that_is_none(name: str) -> None:
    error = refusal(request({"CNI_IFNAME": name}))
    assert (error.code, error.message) == (Code.INVALID_ENVIRONMENT, "invalid CNI_IFNAME")


def test_arguments_that_are_none_stop_add_and_not_del() -> None:
    env = {"CNI_ARGS": "rubbish;K8S_POD_NAME=web"}
    assert refusal(request(env)).code == Code.INVALID_ENVIRONMENT
    assert parse_call(request({**env, "CNI_COMMAND": "DEL"})).pod == "web"


@pytest.mark.parametrize(
    ("key", "found"), [("interfaces", 5), ("interfaces", ["eth0"]), ("ips", {"a": 1}), ("routes", "x"), ("dns", ["x"])]
)
def test_a_previous_result_that_add_cannot_add_to_is_refused_before_anything_is_made(key: str, found: object) -> None:
    with pytest.raises(CNIError) as caught:
        parse_call(request(prevResult={key: found}))
    assert caught.value.code == Code.DECODE_FAILURE
    assert caught.value.details.startswith(f"prevResult.{key}: found {found!r}, expected ")
    assert parse_call(request({"CNI_COMMAND": "DEL"}, prevResult={key: found})).verb == Verb.DEL
    assert parse_call(request(prevResult={key: None})).verb == Verb.ADD


def test_check_needs_a_previous_result_and_del_does_not() -> None:
    assert refusal(request({"CNI_COMMAND": "CHECK"})).code == Code.INVALID_CONFIGURATION
    assert refusal(request({"CNI_COMMAND": "CHECK"}, prevResult="x")).code == Code.DECODE_FAILURE
    assert parse_call(request({"CNI_COMMAND": "DEL"}, prevResult="x")).config.previous is None


@pytest.mark.parametrize(
    ("env", "config"),
    [
        ({"CNI_ARGS": "IP=10.0.0.1,fd00::1"}, {}),
        ({}, {"runtimeConfig": {"ips": ["10.0.0.1/24", "fd00::1"]}}),
        ({}, {"args": {"cni": {"ips": ["10.0.0.1", "fd00::1/64"]}}}),
        ({"CNI_ARGS": "IP=10.9.9.9"}, {"runtimeConfig": {"ips": ["10.0.0.1", "fd00::1"]}}),
    ],
)
def test_addresses_that_are_asked_for(env: dict[str, str], config: dict[str, Any]) -> None:
    assert parse_call(request(env, **config)).addresses == (ip_address("10.0.0.1"), ip_address("fd00::1"))


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_more_addresses_than_an_old_result_can_tell(version: str) -> None:
    config: dict[str, Any] = {"cniVersion": version, "runtimeConfig": {"ips": ["10.0.0.1", "10.0.0.2"]}}
    error = refusal(request(**config))
    assert error.code == Code.INVALID_CONFIGURATION
    assert f"expected one address of each family: a result of cniVersion {version} holds no more" in error.details
    config["runtimeConfig"] = {"ips": ["10.0.0.1", "fd00::1"]}
    assert len(parse_call(request(**config)).addresses) == 2
    assert len(parse_call(request(runtimeConfig={"ips": ["10.0.0.1", "10.0.0.2"]})).addresses) == 2


def test_attachments_that_gc_leaves() -> None:
    gc = {"CNI_COMMAND": "GC"}
    listed = [{"containerID": "a", "ifname": "eth0"}, {"containerID": "b", "ifname": "eth0"}]
    assert parse_call(request(gc)).config.valid_attachments is None
    nothing: tuple[list[str] | None, ...] = ([], None)
    for empty in nothing:
        call = parse_call(request(gc, **{"cni.dev/valid-attachments": empty}))
        assert call.config.valid_attachments == frozenset()
    assert parse_call(request(gc, **{"cni.dev/valid-attachments": listed})).config.valid_attachments == frozenset(
        {("a", "eth0"), ("b", "eth0")}
    )
    for incomplete in ({}, {"containerID": "a"}, {"ifname": "eth0"}):
        assert refusal(request(gc, **{"cni.dev/valid-attachments": [incomplete]})).code == Code.INVALID_CONFIGURATION
