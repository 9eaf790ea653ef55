"""Devices, addresses and neighbours as the kernel's messages have them."""

import contextlib
import struct
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_py.dataplane import nlmsg, object_codec
from calico_py.dataplane.object_codec import ParsedNeigh, parse_addr, parse_link, parse_neigh
from calico_py.model.kernel import Addr, FdbEntry, Link, Neigh

_UP_AND_LOWER_UP = 0x10001


def link_body(*attributes: bytes, family: int = 0, flags: int = _UP_AND_LOWER_UP) -> bytes:
    return struct.pack("=BxHiII", family, 1, 7, flags, 0) + b"".join(attributes)


def addr_body(family: int, prefixlen: int, *attributes: bytes, scope: int = 0) -> bytes:
    return struct.pack("=BBBBI", family, prefixlen, 0, scope, 7) + b"".join(attributes)


def neigh_body(family: int, state: int, *attributes: bytes) -> bytes:
    return struct.pack("=BxxxiHBB", family, 7, state, 0, 0) + b"".join(attributes)


def test_a_device() -> None:
    parsed = parse_link(
        link_body(
            nlmsg.pack_string(3, "cali1"),
            nlmsg.pack_u32(4, 1450),
            nlmsg.pack_attr(1, bytes.fromhex("eeeeeeeeeeee")),
            nlmsg.pack_string(20, "calico-py pod c0ffee"),
            nlmsg.pack_u32(27, 99),
            nlmsg.pack_u32(10, 3),
            nlmsg.pack_nested(18, nlmsg.pack_string(1, "veth")),
        )
    )
    assert parsed is not None
    assert not parsed.fallback
    assert parsed.link == Link(
        "cali1", 7, "veth", 1450, True, True, "ee:ee:ee:ee:ee:ee", "calico-py pod c0ffee", group=99, master=3
    )


@pytest.mark.parametrize(("local", "fallback"), [("00000000", True), ("c0a8010b", False)])
def test_the_kernels_own_tunnel_goes_from_any_to_any(local: str, fallback: bool) -> None:
    parsed = parse_link(
        link_body(
            nlmsg.pack_string(3, "tunl0"),
            nlmsg.pack_attr(1, bytes.fromhex(local)),
            nlmsg.pack_attr(2, bytes(4)),
            nlmsg.pack_nested(18, nlmsg.pack_string(1, "ipip")),
            flags=0,
        )
    )
    assert parsed is not None
    assert parsed.fallback == fallback
    assert parsed.link == Link("tunl0", 7, "ipip"), "an IPv4 address is no MAC"


def test_a_bridges_port_is_no_device() -> None:
    assert parse_link(link_body(nlmsg.pack_string(3, "eth0"), family=7)) is None


def test_an_address_of_each_family() -> None:
    four = nlmsg.pack_attr(2, bytes((10, 244, 1, 0)))
    assert parse_addr(addr_body(2, 32, four, nlmsg.pack_string(3, "tunl0:calico-py"))) == Addr(
        7, IPv4Interface("10.244.1.0/32"), label="tunl0:calico-py"
    )
    assert parse_addr(addr_body(2, 32, four, nlmsg.pack_string(3, "tunl0"))) == Addr(7, IPv4Interface("10.244.1.0/32"))
    six = IPv6Interface("fe80::1/64")
    assert parse_addr(addr_body(10, 64, nlmsg.pack_attr(1, six.ip.packed), scope=253)) == Addr(7, six, link_scope=True)


def test_of_a_pair_the_local_address_counts() -> None:
    peer = nlmsg.pack_attr(1, bytes((10, 0, 0, 2)))
    local = nlmsg.pack_attr(2, bytes((10, 0, 0, 1)))
    assert parse_addr(addr_body(2, 32, peer, local)) == Addr(7, IPv4Interface("10.0.0.1/32"))


@pytest.mark.parametrize(("state", "permanent"), [(0x80, True), (0x02, False), (0x20, False)])
def test_neighbours(state: int, permanent: bool) -> None:
    mac = nlmsg.pack_attr(2, bytes.fromhex("020000000002"))
    four, six = nlmsg.pack_attr(1, bytes((10, 0, 0, 2))), nlmsg.pack_attr(1, IPv6Address("fd00::2").packed)
    assert parse_neigh(neigh_body(2, state, four, mac)) == ParsedNeigh(
        Neigh(7, IPv4Address("10.0.0.2"), "02:00:00:00:00:02"), permanent
    )
    assert parse_neigh(neigh_body(10, state, six, mac)) == ParsedNeigh(
        Neigh(7, IPv6Address("fd00::2"), "02:00:00:00:00:02"), permanent
    )
    assert parse_neigh(neigh_body(7, state, four, mac)) == ParsedNeigh(
        FdbEntry(7, "02:00:00:00:00:02", IPv4Address("10.0.0.2")), permanent
    )


def test_what_is_neither_neighbour_nor_remote_vtep() -> None:
    mac = nlmsg.pack_attr(2, bytes.fromhex("020000000002"))
    assert parse_neigh(neigh_body(7, 0x80, mac)) is None, "a bridge's own forwarding entry"
    noarp = parse_neigh(neigh_body(2, 0x80, nlmsg.pack_attr(1, bytes(4))))
    assert noarp is not None
    assert not noarp.permanent, "what the kernel enters for devices without ARP nobody set"


@given(st.sampled_from([parse_link, parse_addr, parse_neigh]), st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(parse: Callable[[bytes], object], body: bytes) -> None:
    with contextlib.suppress(nlmsg.TruncatedError, ValueError):  # a prefix length that no address has
        parse(body)


def test_dumps_ask_for_everything() -> None:
    for pack, kind, size in (
        (object_codec.pack_link_dump, object_codec.RTM_GETLINK, 24),  # with a filter
        (object_codec.pack_addr_dump, object_codec.RTM_GETADDR, 8),
        (object_codec.pack_neigh_dump, object_codec.RTM_GETNEIGH, 12),
        (object_codec.pack_fdb_dump, object_codec.RTM_GETNEIGH, 12),
    ):
        (message,) = nlmsg.iter_messages(pack(5))
        assert (message.type, message.seq, len(message.body)) == (kind, 5, size)
        assert message.flags == nlmsg.NLM_F_REQUEST | nlmsg.NLM_F_DUMP
