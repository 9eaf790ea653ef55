"""The tunnel's parsers on any bytes, and what must hold for those that they accept."""

import contextlib
import struct

from hypothesis import given
from hypothesis import strategies as st

from calico_py.dataplane.nlmsg import TruncatedError
from calico_py.dataplane.tunnel import rtnl, vnet
from calico_py.dataplane.tunnel.packets import (
    Unreachable,
    checksum,
    decapsulated_ecn,
    icmp_unreachable,
    icmpv6_no_route,
    ipv4_length,
    set_tos,
)

octets = st.integers(0, 255)


@st.composite
def near_packets(draw: st.DrawFn) -> bytes:
    """Bytes that begin like an IPv4 header, with any field wrong."""
    payload = draw(st.binary(max_size=80))
    length = draw(st.one_of(st.just(20 + len(payload)), st.integers(0, 65535)))
    protocol = draw(st.sampled_from([1, 4, 6, 17, 132]))
    first = draw(st.one_of(st.just(0x45), octets))
    fragment = draw(st.sampled_from([0, 0x4000, 0x2000, 7]))
    header = struct.pack("!BBHHHBBH", first, draw(octets), length, 0, fragment, 64, protocol, 0)
    return header + draw(st.binary(min_size=8, max_size=8)) + payload


anything = st.one_of(st.binary(max_size=100), near_packets())


@given(st.binary(max_size=200))
def test_checksum_is_the_sum_of_the_rfc(data: bytes) -> None:
    padded = data + bytes(len(data) % 2)
    total = sum(padded[at] << 8 | padded[at + 1] for at in range(0, len(padded), 2))
    while total > 0xFFFF:
        total = (total >> 16) + (total & 0xFFFF)
    assert checksum(data) == total ^ 0xFFFF


@given(anything, st.binary(max_size=10), st.binary(max_size=10))
def test_descriptions_fit_their_packets(data: bytes, before: bytes, after: bytes) -> None:
    start, end = len(before), len(before) + len(data)
    found = vnet.describe(before + data + after, start, end)
    assert (found[0] if found else 0) == ipv4_length(data)
    if found is not None:
        flags, kind, header, segment, checksum_start, offset = struct.unpack("=BBHHHH", found[1])
        assert flags in (0, 1)
        assert not flags or checksum_start + offset + 2 <= found[0]
        assert not kind or (header < found[0] and segment == vnet.SEGMENT)


@given(anything, st.sampled_from(Unreachable), st.integers(0, 65535))
def test_icmp_errors_are_valid_and_small(data: bytes, code: Unreachable, mtu: int) -> None:
    message = icmp_unreachable(data, code, mtu)
    if message is not None:
        assert checksum(message) == 0
        assert len(message) <= 556
        assert data.startswith(message[8:])


@given(st.binary(max_size=1400))
def test_icmpv6_errors_quote_the_packet(data: bytes) -> None:
    message = icmpv6_no_route(data)
    assert message is None or data.startswith(message[8:])


@given(near_packets(), octets)
def test_set_tos_keeps_a_right_checksum_right(data: bytes, tos: int) -> None:
    packet = bytearray(data)
    packet[10:12] = bytes(2)
    packet[10:12] = struct.pack("!H", checksum(packet[:20]))
    set_tos(packet, tos)
    assert checksum(packet[:20]) == 0


@given(octets, octets)
def test_ecn_never_touches_the_traffic_class(outer: int, inner: int) -> None:
    tos = decapsulated_ecn(outer, inner)
    assert tos is None or tos >> 2 == inner >> 2


@given(st.binary(max_size=200))
def test_link_messages(data: bytes) -> None:
    with contextlib.suppress(TruncatedError):
        assert rtnl.parse_link(data).ifindex == struct.unpack_from("=i", data, 4)[0]
