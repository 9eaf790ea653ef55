"""A BGP speaker of a few lines that can say anything: messages are packed by hand (RFC 4271 4)."""

import socket
import struct
from ipaddress import IPv4Address, IPv4Network

from tests.bgp.peers import US, Wire

MARKER = b"\xff" * 16
OPEN, UPDATE, NOTIFICATION, KEEPALIVE, ROUTE_REFRESH = 1, 2, 3, 4, 5
WELL_KNOWN, OPTIONAL, TRANSITIVE = 0x40, 0x80, 0xC0


def message(kind: int, body: bytes = b"") -> bytes:
    """With its header."""
    return MARKER + struct.pack("!HB", 19 + len(body), kind) + body


def attribute(flags: int, code: int, value: bytes) -> bytes:
    """A path attribute; a long one gets the extended length flag."""
    if len(value) > 255:
        return struct.pack("!BBH", flags | 0x10, code, len(value)) + value
    return struct.pack("!BBB", flags, code, len(value)) + value


def prefix(text: str) -> bytes:
    """NLRI encoding."""
    network = IPv4Network(text)
    return bytes([network.prefixlen]) + network.network_address.packed[: (network.prefixlen + 7) // 8]


def as_path(*segments: tuple[int, list[int]]) -> bytes:
    """Segments of a type (1 set, 2 sequence) with numbers of four octets (RFC 6793)."""
    return b"".join(bytes([kind, len(n)]) + b"".join(struct.pack("!I", a) for a in n) for kind, n in segments)


def update(nlri: list[str], attributes: bytes, *, withdrawn: list[str] | None = None) -> bytes:
    """An UPDATE."""
    gone = b"".join(map(prefix, withdrawn or []))
    body = struct.pack("!H", len(gone)) + gone + struct.pack("!H", len(attributes)) + attributes
    return message(UPDATE, body + b"".join(map(prefix, nlri)))


def usual(next_hop: str, *, path: bytes = b"") -> bytes:
    """ORIGIN, AS_PATH, NEXT_HOP and LOCAL_PREF."""
    return (
        attribute(WELL_KNOWN, 1, b"\x00")
        + attribute(WELL_KNOWN, 2, path)
        + attribute(WELL_KNOWN, 3, IPv4Address(next_hop).packed)
        + attribute(WELL_KNOWN, 5, struct.pack("!I", 100))
    )


def opening(router_id: str, asn: int, hold_time: int) -> bytes:
    """An OPEN with IPv4 unicast, AS numbers of four octets, and graceful restart with the forwarding state kept."""
    capabilities = (
        b"\x01\x04" + struct.pack("!HBB", 1, 0, 1)
        + b"\x41\x04" + struct.pack("!I", asn)
        + b"\x40\x06" + struct.pack("!HHBB", 120, 1, 1, 0x80)
    )  # fmt: skip
    parameter = bytes([2, len(capabilities)]) + capabilities
    body = struct.pack("!BHH", 4, asn if asn < 65536 else 23456, hold_time) + IPv4Address(router_id).packed
    return message(OPEN, body + bytes([len(parameter)]) + parameter)


class RawPeer:
    """Connects to us and brings a session up.

    Args:
        answer: what it says to our OPEN; a KEEPALIVE is right.
    """

    def __init__(self, wire: Wire, address: str, *, asn: int = 64512, hold_time: int = 90, answer: bytes = b"") -> None:
        self.address = address
        with wire.them.entered():
            self.socket = socket.create_connection((US, 179), 5, (address, 0))
        self.socket.settimeout(5)
        try:
            self._handshake(asn, hold_time, answer or message(KEEPALIVE))
        except BaseException:
            self.close()
            raise

    def _handshake(self, asn: int, hold_time: int, answer: bytes) -> None:
        self.send(opening(self.address, asn, hold_time))
        if self.receive() != OPEN:
            raise ConnectionError("no OPEN")
        self.send(answer)
        if self.receive() != KEEPALIVE:
            raise ConnectionError("no KEEPALIVE")

    def send(self, data: bytes) -> None:
        """Any bytes."""
        self.socket.sendall(data)

    def receive(self) -> int:
        """Type of the next message."""
        header = self._exactly(19)
        length, kind = struct.unpack("!HB", header[16:])
        self._exactly(length - 19)
        return int(kind)

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.socket.recv(size - len(data))
            if not more:
                raise ConnectionError("closed")
            data += more
        return data

    def close(self) -> None:
        """End the connection."""
        self.socket.close()
