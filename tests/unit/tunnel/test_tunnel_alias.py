"""The ifalias by which the agent tells the engine what to do."""

from ipaddress import IPv4Address

import pytest

from calico_py.dataplane import ipip
from calico_py.dataplane.tunnel.alias import Encapsulation, Endpoint, parse_alias
from calico_py.model.net import InvalidError


@pytest.mark.parametrize(
    ("alias", "endpoint"),
    [
        ("calico-py ipip local 192.168.1.11", Endpoint(Encapsulation.IPIP, IPv4Address("192.168.1.11"))),
        ("calico-py udp local 10.0.0.1 port 8285", Endpoint(Encapsulation.UDP, IPv4Address("10.0.0.1"), 8285)),
    ],
)
def test_both_directions(alias: str, endpoint: Endpoint) -> None:
    assert parse_alias(alias) == endpoint
    assert endpoint.alias() == alias


def test_understands_what_the_reconciler_writes() -> None:
    assert parse_alias(ipip.alias(IPv4Address("192.168.1.11"))).local == IPv4Address("192.168.1.11")


@pytest.mark.parametrize(
    "alias",
    [
        "",
        "calico-py",
        "calico-py ipip local",
        "calico-py ipip local 192.168.1",
        "calico-py ipip local fd00::1",
        "calico-py ipip local 192.168.1.11 port 8285",
        "calico-py udp local 192.168.1.11",
        "calico-py udp local 192.168.1.11 port",
        "calico-py udp local 192.168.1.11 port x",
        "calico-py udp local 192.168.1.11 port 0",
        "calico-py udp local 192.168.1.11 port 65536",
        "calico-py gre local 192.168.1.11",
        "somebody's ipip local 192.168.1.11",
    ],
)
def test_anything_else_is_told(alias: str) -> None:
    with pytest.raises(InvalidError, match="calico-py ipip local ADDRESS") as raised:
        parse_alias(alias)
    assert raised.value.found == alias
