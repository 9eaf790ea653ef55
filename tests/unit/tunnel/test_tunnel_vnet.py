"""What is told to the device about finished and unfinished packets."""

import os
import struct

import pytest

from calico_py.dataplane.tunnel.packets import checksum
from calico_py.dataplane.tunnel.vnet import PLAIN, SEGMENT, describe

ADDRESSES = bytes.fromhex("0af40102 0af40202")
NEEDS_CSUM, GSO_TCPV4, GSO_ECN = 1, 1, 0x80


def packet(protocol: int, segment: bytes, *, fragment: int = 0x4000, options: bytes = b"") -> bytes:
    length = 20 + len(options) + len(segment)
    first = 0x45 + len(options) // 4
    return struct.pack("!BBHHHBBH", first, 0, length, 0, fragment, 64, protocol, 0) + ADDRESSES + options + segment


def pseudo_header(protocol: int, length: int) -> bytes:
    return ADDRESSES + struct.pack("!HH", protocol, length)


def udp(payload: bytes, *, finished: bool) -> bytes:
    header = struct.pack("!HHHH", 5000, 53, 8 + len(payload), 0)
    pseudo = pseudo_header(17, 8 + len(payload))
    total = checksum(pseudo + header + payload) if finished else ~checksum(pseudo) & 0xFFFF
    return header[:6] + struct.pack("!H", total) + payload


def tcp(payload: bytes, *, finished: bool, flags: int = 0x18, options: bytes = b"") -> bytes:
    offset = (20 + len(options)) // 4 << 4
    header = struct.pack("!HHIIBBHHH", 5000, 80, 1, 1, offset, flags, 1000, 0, 0) + options
    pseudo = pseudo_header(6, len(header) + len(payload))
    total = checksum(pseudo + header + payload) if finished else ~checksum(pseudo) & 0xFFFF
    return header[:16] + struct.pack("!H", total) + header[18:] + payload


def described(data: bytes) -> tuple[int, tuple[int, ...]] | None:
    """With bytes of others around it."""
    found = describe(b"outer header" + data + b"trailer", 12, 12 + len(data))
    return None if found is None else (found[0], struct.unpack("=BBHHHH", found[1]))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(packet(17, udp(b"hello", finished=True)), id="UDP"),
        pytest.param(packet(6, tcp(b"hello", finished=True)), id="TCP"),
        pytest.param(packet(6, tcp(bytes(1400), finished=True)), id="full TCP segment"),
        pytest.param(packet(17, b"\0\1\0\2\0\x0d\0\0hello"), id="UDP without a checksum"),
        pytest.param(packet(1, b"\x08\0\0\0"), id="ICMP"),
        pytest.param(packet(17, udp(b"hello", finished=False), fragment=0x2000), id="first fragment"),
        pytest.param(packet(17, udp(b"hello", finished=False), fragment=100), id="last fragment"),
        pytest.param(packet(17, b"short"), id="UDP header cut off"),
        pytest.param(packet(6, b"short"), id="TCP header cut off"),
        pytest.param(packet(6, b""), id="no TCP header"),
    ],
)
def test_finished_packets_are_plain(data: bytes) -> None:
    assert describe(data, 0, len(data)) == (len(data), PLAIN)


def test_partial_udp_checksum() -> None:
    data = packet(17, udp(b"hello", finished=False))
    assert described(data) == (len(data), (NEEDS_CSUM, 0, 0, 0, 20, 6))


def test_partial_tcp_checksum_behind_ip_options() -> None:
    data = packet(6, tcp(b"hello", finished=False), options=bytes(8))
    assert described(data) == (len(data), (NEEDS_CSUM, 0, 0, 0, 28, 16))


def test_merged_tcp_segments() -> None:
    data = packet(6, tcp(os.urandom(30000), finished=False, options=bytes(12)))
    assert described(data) == (len(data), (NEEDS_CSUM, GSO_TCPV4, 52, SEGMENT, 20, 16))


def test_merged_tcp_segments_with_congestion_window_reduced() -> None:
    data = packet(6, tcp(bytes(30000), finished=False, flags=0x98))
    found = described(data)
    assert found is not None
    assert found[1][1] == GSO_TCPV4 | GSO_ECN


@pytest.mark.parametrize(("size", "cut"), [(SEGMENT, False), (SEGMENT + 1, True)])
def test_one_segment_is_not_cut(size: int, cut: bool) -> None:
    found = described(packet(6, tcp(bytes(size), finished=False)))
    assert found is not None
    assert found[1][1] == (GSO_TCPV4 if cut else 0)


@pytest.mark.parametrize("offset", [0x00, 0x40, 0xF0])
def test_absurd_tcp_header_length_is_never_cut(offset: int) -> None:
    segment = bytearray(tcp(bytes(540 if offset == 0xF0 else 5000), finished=False))
    segment[12] = offset
    found = described(packet(6, bytes(segment)))
    assert found is not None
    assert found[1][1] == 0


@pytest.mark.parametrize("size", range(20))
def test_half_a_header(size: int) -> None:
    assert describe(packet(17, b"")[:size], 0, size) is None


def test_trailing_bytes_do_not_count() -> None:
    data = packet(17, udp(b"hello", finished=True))
    assert describe(data + b"trailer", 0, len(data) + 7) == (len(data), PLAIN)
