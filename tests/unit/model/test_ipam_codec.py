"""What people write in the objects of IPAM, as Calico reads it."""

from ipaddress import ip_network

import pytest

from calico_py.model.kinds import IP_RESERVATIONS
from calico_py.model.net import InvalidError


def reserved(*cidrs: str) -> tuple[object, ...]:
    return IP_RESERVATIONS.decode({"metadata": {"name": "r"}, "spec": {"reservedCIDRs": list(cidrs)}}).reserved_cidrs


def test_a_reservation_with_host_bits_reserves_its_network() -> None:
    """Taken for none, it would let go all that the object reserves."""
    assert reserved("10.0.0.7/28", "fd00::7/64") == (ip_network("10.0.0.0/28"), ip_network("fd00::/64"))
    assert reserved("10.0.0.7/32", "10.0.0.9") == (ip_network("10.0.0.7/32"), ip_network("10.0.0.9/32"))


def test_a_reservation_that_is_none_is_named() -> None:
    with pytest.raises(InvalidError, match=r"spec.reservedCIDRs: found '10.0.0.0/33'"):
        reserved("10.0.0.0/24", "10.0.0.0/33")
