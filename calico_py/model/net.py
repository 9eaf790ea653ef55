"""Addresses and networks of both families, and one way to parse each with an error that names the field.

Only thin words over the standard library's ipaddress: no I/O, no notion of a cluster.
"""

import ipaddress
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import Literal

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Interface = IPv4Interface | IPv6Interface
Family = Literal[4, 6]

FAMILIES: tuple[Family, Family] = (4, 6)


class InvalidError(ValueError):
    """A field of an object does not hold what it must.

    Attributes:
        field: path of the field, such as ``spec.cidr``.
        found: the value that was there.
        expected: what would have been right, as a phrase.
        uid: of the object, where a store has it; empty else.
    """

    def __init__(self, field: str, found: object, expected: str) -> None:
        super().__init__(f"{field}: found {found!r}, expected {expected}")
        self.field = field
        self.found = found
        self.expected = expected
        self.uid = ""


def family(of: Address | Network | Interface) -> Family:
    """4 or 6."""
    return 4 if of.version == 4 else 6


def parse_address(text: str, *, field: str) -> Address:
    """An address of either family.

    Raises:
        InvalidError: the text is no address.
    """
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise InvalidError(field, text, "an IPv4 or IPv6 address") from None


@lru_cache(maxsize=8192)  # each of a cluster's blocks is named by its affinity and by the handles of its addresses
def _network(text: str) -> Network:
    return ipaddress.ip_network(text, strict=True)


def parse_network(text: str, *, field: str) -> Network:
    """A network in CIDR form, with no host bits set.

    Raises:
        InvalidError: the text is no network, or host bits are set.
    """
    try:
        return _network(text)
    except (ValueError, TypeError):  # the second of what is no text
        pass
    try:
        masked = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise InvalidError(field, text, "a network such as 10.244.0.0/16 or fd00:10::/48") from None
    raise InvalidError(field, text, f"a network without host bits: {masked}")


def parse_interface(text: str, *, field: str) -> Interface:
    """An address with its prefix length; a bare address counts as a host prefix.

    Raises:
        InvalidError: the text is neither.
    """
    try:
        return ipaddress.ip_interface(text)
    except ValueError:
        raise InvalidError(field, text, "an address with its prefix, such as 192.168.1.11/24") from None


def contains(outer: Network, inner: Network | Address) -> bool:
    """Whether inner lies within outer; False across families."""
    if outer.version != inner.version:
        return False
    if isinstance(inner, IPv4Address | IPv6Address):
        return inner in outer
    return inner.subnet_of(outer)  # type: ignore[arg-type]  # the versions were compared


def host_network(address: Address) -> Network:
    """The /32 or /128 of an address."""
    return ipaddress.ip_network(address)


def network_at(address: Address, prefixlen: int) -> Network:
    """The network of that length in which the address lies."""
    return ipaddress.ip_network((address, prefixlen), strict=False)
