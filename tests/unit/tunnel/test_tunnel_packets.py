"""ICMP errors, ECN and checksums, against the RFCs' own words."""

import socket
import struct

import pytest

from calico_py.dataplane.tunnel.packets import (
    Unreachable,
    checksum,
    decapsulated_ecn,
    icmp_unreachable,
    icmpv6_no_route,
    ipv4_length,
    set_tos,
)


def ipv4(  # noqa: PLR0917 - a header has as many fields
    payload: bytes = b"payload",
    protocol: int = 17,
    source: str = "10.244.1.2",
    destination: str = "10.244.2.2",
    fragment: int = 0,
    tos: int = 0,
) -> bytearray:
    header = struct.pack("!BBHHHBBH", 0x45, tos, 20 + len(payload), 1, fragment, 64, protocol, 0)
    header += socket.inet_aton(source) + socket.inet_aton(destination)
    return bytearray(header[:10] + struct.pack("!H", checksum(header)) + header[12:] + payload)


def ipv6(payload: bytes = b"", next_header: int = 17, source: str = "fd00::1", destination: str = "fd01::1") -> bytes:
    addresses = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, destination)
    return struct.pack("!IHBB", 6 << 28, len(payload), next_header, 64) + addresses + payload


def test_checksum_of_the_rfcs_example() -> None:
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == ~0xDDF2 & 0xFFFF  # RFC 1071 section 3


def test_checksum_of_odd_length_pads_with_zero() -> None:
    assert checksum(b"\x01\x02\x03") == checksum(b"\x01\x02\x03\x00")


def test_header_with_its_checksum_sums_to_zero() -> None:
    assert checksum(ipv4()[:20]) == 0


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(b"", id="empty"),
        pytest.param(bytes(ipv4()[:19]), id="half a header"),
        pytest.param(bytes(ipv4()[:-1]), id="cut off"),
        pytest.param(b"\x65" + bytes(ipv4()[1:]), id="another version"),
        pytest.param(b"\x44" + bytes(ipv4()[1:]), id="header too short"),
        pytest.param(b"\x4f" + bytes(ipv4(b"")[1:]), id="header longer than packet"),
    ],
)
def test_what_is_no_whole_packet(packet: bytes) -> None:
    assert ipv4_length(packet) == 0
    assert icmp_unreachable(packet, Unreachable.NET) is None


def test_length_without_trailing_bytes() -> None:
    assert ipv4_length(bytes(ipv4()) + b"trailer") == 27


def test_fragmentation_needed_carries_the_mtu() -> None:
    packet = bytes(ipv4(bytes(1400), fragment=0x4000))
    message = icmp_unreachable(packet, Unreachable.FRAGMENTATION_NEEDED, 1280)
    assert message is not None
    assert message[:2] == b"\x03\x04"
    assert struct.unpack("!HH", message[4:8]) == (0, 1280)  # RFC 1191 section 4
    assert checksum(message) == 0
    assert message[8:] == packet[: 576 - 28]  # RFC 1812 4.3.2.3


def test_mtu_is_never_below_what_every_link_has() -> None:
    message = icmp_unreachable(bytes(ipv4()), Unreachable.FRAGMENTATION_NEEDED, 20)
    assert message is not None
    assert struct.unpack("!HH", message[4:8]) == (0, 68)


@pytest.mark.parametrize("code", [Unreachable.NET, Unreachable.HOST])
def test_unreachable_quotes_the_whole_small_packet(code: Unreachable) -> None:
    packet = bytes(ipv4())
    message = icmp_unreachable(packet, code, 1280)
    assert message is not None
    assert message[:2] == bytes((3, code))
    assert message[4:8] == bytes(4)
    assert message[8:] == packet


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(ipv4(fragment=1), id="fragment other than the first"),
        pytest.param(ipv4(destination="224.0.0.5"), id="to multicast"),
        pytest.param(ipv4(destination="255.255.255.255"), id="to broadcast"),
        pytest.param(ipv4(source="0.0.0.0"), id="from nobody"),
        pytest.param(ipv4(source="127.0.0.1"), id="from loopback"),
        pytest.param(ipv4(source="239.1.1.1"), id="from multicast"),
        pytest.param(ipv4(source="255.255.255.255"), id="from broadcast"),
        pytest.param(ipv4(b"", 1), id="ICMP without a type"),
        *(pytest.param(ipv4(bytes((kind, 0)), 1), id=f"ICMP error {kind}") for kind in (3, 4, 5, 11, 12)),
    ],
)
def test_no_error_about(packet: bytearray) -> None:
    assert icmp_unreachable(packet, Unreachable.NET) is None


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(ipv4(fragment=0x2000), id="first fragment"),
        *(pytest.param(ipv4(bytes((kind, 0)), 1), id=f"ICMP query {kind}") for kind in (0, 8, 13)),
    ],
)
def test_error_about(packet: bytearray) -> None:
    assert icmp_unreachable(packet, Unreachable.NET) is not None


def test_icmpv6_no_route() -> None:
    packet = ipv6(bytes(2000))
    message = icmpv6_no_route(packet)
    assert message is not None
    assert message[:8] == b"\x01\x00" + bytes(6)
    assert message[8:] == packet[: 1280 - 48]


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(b"", id="empty"),
        pytest.param(ipv6()[:39], id="half a header"),
        pytest.param(bytes(ipv4(bytes(40))), id="IPv4"),
        pytest.param(ipv6(source="::"), id="from nobody"),
        pytest.param(ipv6(source="ff02::1"), id="from multicast"),
        pytest.param(ipv6(source="fe80::1"), id="from the link"),
        pytest.param(ipv6(destination="ff02::16"), id="to multicast"),
        pytest.param(ipv6(b"\x01\x00", 58), id="an error"),
        pytest.param(ipv6(b"", 58), id="ICMPv6 without a type"),
    ],
)
def test_no_icmpv6_error_about(packet: bytes) -> None:
    assert icmpv6_no_route(packet) is None


def test_icmpv6_error_about_an_echo_request() -> None:
    assert icmpv6_no_route(ipv6(b"\x80\x00", 58)) is not None


NOT_ECT, ECT1, ECT0, CE = 0, 1, 2, 3


@pytest.mark.parametrize(
    ("inner", "outer", "leaves"),
    [  # RFC 6040 figure 4, row by row
        (NOT_ECT, NOT_ECT, NOT_ECT),
        (NOT_ECT, ECT0, NOT_ECT),
        (NOT_ECT, ECT1, NOT_ECT),
        (NOT_ECT, CE, None),
        (ECT0, NOT_ECT, ECT0),
        (ECT0, ECT0, ECT0),
        (ECT0, ECT1, ECT1),
        (ECT0, CE, CE),
        (ECT1, NOT_ECT, ECT1),
        (ECT1, ECT0, ECT1),
        (ECT1, ECT1, ECT1),
        (ECT1, CE, CE),
        (CE, NOT_ECT, CE),
        (CE, ECT0, CE),
        (CE, ECT1, CE),
        (CE, CE, CE),
    ],
)
def test_ecn_of_what_leaves_the_tunnel(inner: int, outer: int, leaves: int | None) -> None:
    assert decapsulated_ecn(0xB8 | outer, inner) == leaves
    assert decapsulated_ecn(outer, 0xB8 | inner) == (None if leaves is None else 0xB8 | leaves)


@pytest.mark.parametrize("tos", [0, 1, 3, 0xB8, 0xFF])
def test_set_tos_keeps_the_checksum_right(tos: int) -> None:
    packet = ipv4(tos=2)
    set_tos(packet, tos)
    assert packet[1] == tos
    assert checksum(packet[:20]) == 0
