"""Bytes of IP and ICMP: checks of a header, error messages, the ECN field. Pure.

What belongs in an outer header or a socket is framing's.
"""

import struct
from enum import IntEnum

IPV4_HEADER = 20
IPV6_HEADER = 40

PROTO_ICMP = 1
PROTO_IPIP = 4  # RFC 2003; IANA "IPv4 encapsulation"
PROTO_ICMPV6 = 58

DONT_FRAGMENT = 0x4000
_MORE_FRAGMENTS = 0x2000
_FRAGMENT_OFFSET = 0x1FFF

# RFC 1812 4.3.2.3: quote as much as fits in a datagram of 576 bytes; RFC 4443 2.4(c): of 1,280.
_ICMP_QUOTE = 576 - IPV4_HEADER - 8
_ICMPV6_QUOTE = 1280 - IPV6_HEADER - 8
# RFC 1122 3.2.2 lists the ICMP messages that are errors themselves.
_ICMP_ERRORS = frozenset({3, 4, 5, 11, 12})
_ICMPV6_FIRST_QUERY = 128  # RFC 4443 2.1: types below are errors
_MIN_MTU = 68  # RFC 791: every module must be able to forward that

_ECN = 0x03
_ECN_ECT1 = 1
_ECN_ECT0 = 2
_ECN_CE = 3


class Unreachable(IntEnum):
    """Code of an ICMP destination unreachable (RFC 792, RFC 1812 5.2.7.1)."""

    NET = 0
    HOST = 1
    FRAGMENTATION_NEEDED = 4


def checksum(data: bytes | bytearray | memoryview) -> int:
    """The Internet checksum (RFC 1071): 0 over data that carries its own right checksum."""
    if len(data) % 2:
        data = bytes(data) + b"\0"
    total = int(sum(struct.unpack(f"!{len(data) // 2}H", data)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4_length(packet: bytes | bytearray | memoryview) -> int:
    """Total length in bytes of the IPv4 packet at the start of ``packet``, 0 if there is none that is whole.

    The header's checksum is not looked at: the kernel does that when it receives the packet.
    """
    size = len(packet)
    if size < IPV4_HEADER or packet[0] >> 4 != 4:
        return 0
    length = packet[2] << 8 | packet[3]
    header = (packet[0] & 0x0F) * 4
    return length if IPV4_HEADER <= header <= length <= size else 0


def may_answer(packet: bytes | bytearray | memoryview) -> bool:
    """Whether an ICMP error may be sent about a whole IPv4 packet (RFC 1122 3.2.2, RFC 1812 4.3.2.7)."""
    if (packet[6] << 8 | packet[7]) & _FRAGMENT_OFFSET:
        return False
    # Source and destination must each be one host: no multicast (224/4), reserved (240/4), broadcast, 0/8, 127/8.
    if packet[12] in (0, 127) or packet[12] >= 224 or packet[16] >= 224:
        return False
    header = (packet[0] & 0x0F) * 4
    # An ICMP message too short to tell its type might be an error.
    return packet[9] != PROTO_ICMP or (len(packet) > header and packet[header] not in _ICMP_ERRORS)


def icmp_unreachable(packet: bytes | bytearray | memoryview, code: Unreachable, mtu: int = 0) -> bytes | None:
    """ICMP destination unreachable about an IPv4 packet: type 3, to be sent to the packet's source.

    The quote is not an RFC 4884 one: no extension follows it, so its length field stays 0.

    Args:
        packet: the whole packet from its IPv4 header on.
        code: why.
        mtu: for code 4, bytes that the next hop takes (RFC 1191); not below 68.

    Returns:
        The message without an IP header, or None where RFC 1122 forbids an answer.
    """
    if not ipv4_length(packet) or not may_answer(packet):
        return None
    rest = max(mtu, _MIN_MTU) if code == Unreachable.FRAGMENTATION_NEEDED else 0
    quote = bytes(packet[:_ICMP_QUOTE])
    message = struct.pack("!BBHI", 3, code, 0, rest) + quote
    return struct.pack("!BBHI", 3, code, checksum(message), rest) + quote


def icmpv6_no_route(packet: bytes | bytearray | memoryview) -> bytes | None:
    """ICMPv6 destination unreachable, no route (RFC 4443 3.1), about an IPv6 packet.

    Returns:
        The message without an IPv6 header and with checksum 0 (the kernel fills it in: RFC 3542 3.1), or None
        where RFC 4443 2.4(e) forbids an answer.
    """
    if len(packet) < IPV6_HEADER or packet[0] >> 4 != 6:
        return None
    source, first_of_destination = bytes(packet[8:24]), packet[24]
    # Link-local chatter (router solicitations, MLD) is no traffic of anybody's; multicast gets no answer.
    if source == bytes(16) or source[0] == 0xFF or first_of_destination == 0xFF or source[:2] == b"\xfe\x80":
        return None
    next_header = packet[6]
    if next_header == PROTO_ICMPV6 and (len(packet) <= IPV6_HEADER or packet[IPV6_HEADER] < _ICMPV6_FIRST_QUERY):
        return None
    return struct.pack("!BBHI", 1, 0, 0, 0) + bytes(packet[:_ICMPV6_QUOTE])


def decapsulated_ecn(outer: int, inner: int) -> int | None:
    """The ECN field of a packet that leaves the tunnel (RFC 6040 figure 4), None if it must be dropped.

    Args:
        outer: TOS octet of the outer header.
        inner: TOS octet of the inner header.

    Returns:
        The inner TOS octet with its new ECN field.
    """
    outer, field = outer & _ECN, inner & _ECN
    if outer == _ECN_CE:
        return None if field == 0 else inner | _ECN_CE
    if outer == _ECN_ECT1 and field == _ECN_ECT0:
        return inner & ~_ECN | _ECN_ECT1
    return inner


def set_tos(packet: bytearray | memoryview, tos: int) -> None:
    """Write the TOS octet of an IPv4 packet and mend its header checksum (RFC 1624 equation 3)."""
    before, after = packet[0] << 8 | packet[1], packet[0] << 8 | tos
    total = (~(packet[10] << 8 | packet[11]) & 0xFFFF) + (~before & 0xFFFF) + after
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    packet[1] = tos
    packet[10:12] = struct.pack("!H", ~total & 0xFFFF)
