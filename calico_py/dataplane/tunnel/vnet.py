"""What must be said to the TUN device about a packet that came out of a raw socket. Pure.

A raw socket hands out packets as the kernel holds them, and within the kernel a packet may be unfinished:
- its TCP or UDP checksum field holds the sum of the pseudo-header only (CHECKSUM_PARTIAL), to be completed by a
  device that the packet never met: the sender is the kernel's ipip on the same machine or on the same hypervisor;
- it is several segments of a TCP stream in one, merged by the receiving device's GRO (which looks through IPIP) or
  not yet cut by a sender with GSO.
A field that equals its pseudo-header's sum tells both: GRO writes it as well (tcp_gro_complete). A finished packet
looks so once in 65,536 times, and completing its checksum again yields the same.

The device is told by the header of linux/virtio_net.h in front of the packet (IFF_VNET_HDR).
"""

import struct

from calico_py.dataplane.tunnel.packets import IPV4_HEADER

HEADER_SIZE = 10
PLAIN = bytes(HEADER_SIZE)

_NEEDS_CSUM = 1
_GSO_NONE = 0
_GSO_TCPV4 = 1
_GSO_ECN = 0x80
_VNET = struct.Struct("=BBHHHH")  # flags, gso_type, hdr_len, gso_size, csum_start, csum_offset

# The segments' real size is not told. 536 bytes (RFC 9293 3.7.1) pass everywhere, and cost nothing where the stream
# ends in a pod: a veth takes the packet whole.
SEGMENT = 536

_TCP, _UDP = 6, 17
_TCP_HEADER, _UDP_HEADER = 20, 8
_TCP_CHECKSUM, _UDP_CHECKSUM = 16, 6
_CWR = 0x80
_FRAGMENT = 0x3FFF  # more fragments, or an offset

# Version and length, total length, fragment field, protocol, addresses by halves.
_IPV4 = struct.Struct("!BxHxxHxBxxHHHH")


def describe(buffer: bytes | bytearray, start: int, end: int) -> tuple[int, bytes] | None:
    """Length of the IPv4 packet in buffer[start:end] and the virtio header for it; None if there is no whole packet.

    The IPv4 header's checksum is not looked at: the kernel does that when it receives the packet.
    """
    size = end - start
    if size < IPV4_HEADER:
        return None
    first, length, fragment, protocol, *halves = _IPV4.unpack_from(buffer, start)
    header = (first & 0x0F) * 4
    if first & 0xF0 != 0x40 or not IPV4_HEADER <= header <= length <= size:
        return None
    if fragment & _FRAGMENT:
        return length, PLAIN
    payload = length - header
    if protocol == _TCP and payload >= _TCP_HEADER:
        offset = _TCP_CHECKSUM
    elif protocol == _UDP and payload >= _UDP_HEADER:
        offset = _UDP_CHECKSUM
    else:
        return length, PLAIN
    at = start + header + offset
    found = buffer[at] << 8 | buffer[at + 1]
    # Sums of 16 bits with end-around carry are sums modulo 65535; a UDP checksum of 0 means none.
    if not found or (sum(halves) + protocol + payload - found) % 65535:
        return length, PLAIN
    if protocol == _TCP:
        segment = start + header
        tcp_header = (buffer[segment + 12] >> 4) * 4
        if _TCP_HEADER <= tcp_header < payload - SEGMENT:
            kind = _GSO_TCPV4 | (_GSO_ECN if buffer[segment + 13] & _CWR else 0)
            return length, _VNET.pack(_NEEDS_CSUM, kind, header + tcp_header, SEGMENT, header, offset)
    return length, _VNET.pack(_NEEDS_CSUM, _GSO_NONE, 0, 0, header, offset)
