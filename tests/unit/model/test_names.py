"""Names by which Calico finds our objects and we find Calico's: its own values, worked out apart from this code."""

from ipaddress import ip_network

import pytest

from calico_py.model.names import affinity_name, block_name, hostname_hash, workload_ifname

BLOCK = ip_network("10.64.0.0/26")


@pytest.mark.parametrize(
    ("cidr", "name"),
    [("10.64.0.0/26", "10-64-0-0-26"), ("fd00:10::40/122", "fd00-10--40-122"), ("fd00:10::/122", "fd00-10---122")],
)
def test_a_block_is_named_by_its_cidr(cidr: str, name: str) -> None:
    assert block_name(ip_network(cidr)) == name


def test_the_hash_of_a_node() -> None:
    """With another, Calico claims a second block."""
    assert hostname_hash("node1") == "7DS2CCNJGGLTHBDQLLFO6SX24SY2YDDEG3W2VN556FA2W4DLLV5A"


def test_the_device_of_a_pod() -> None:
    assert workload_ifname("default", "podA") == "cali7f94ce7c295"
    assert workload_ifname("default", "nginx") == "calic440f455693"


def test_an_affinity_is_named_by_node_and_block() -> None:
    assert affinity_name("node1", BLOCK) == "node1-10-64-0-0-26"
    assert affinity_name("n" * 239, BLOCK) == "n" * 239 + "-10-64-0-0-26", "252 characters"


def test_a_name_of_253_characters_and_more_is_cut_and_hashed() -> None:
    """sha256 of the node, a plus sign and the block's name begins so."""
    assert affinity_name("n" * 240, BLOCK) == "n" * 227 + "-10-64-0-0-26-403b30ebc55"
    assert len(affinity_name("n" * 253, ip_network("fd00:1:2:3:4:5:6:0/122"))) == 252
