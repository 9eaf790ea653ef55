"""The outer side: a socket for each encapsulation, and what it puts around a pod's packet.

IPIP (RFC 2003): a raw socket of protocol 4 whose outer headers are written here (IP_HDRINCL), so that TOS and DF
follow each inner packet as the kernel's tunl0 has it (nopmtudisc: DF is copied). The kernel fills in length,
identification and checksum.
UDP (flannel's udp backend): the packet is the payload; the kernel writes the headers. ECN is not carried across
it (RFC 6040 4.1, compatibility mode).
"""

import contextlib
import errno
import socket
import struct
from ipaddress import IPv4Address
from typing import Protocol

from calico_py.dataplane.tunnel.alias import Encapsulation, Endpoint
from calico_py.dataplane.tunnel.errors import TunnelError
from calico_py.dataplane.tunnel.packets import DONT_FRAGMENT, IPV4_HEADER, PROTO_IPIP

# linux/in.h, asm-generic/socket.h: missing from Python's socket module
_IP_MTU_DISCOVER = 10
_IP_MTU = 14
_IP_PMTUDISC_DONT = 0
_IP_PMTUDISC_DO = 2
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33
_SO_MEMINFO = 55
_MEMINFO_DROPS = 8  # place in the array, linux/sock_diag.h

_TTL = 64  # RFC 1700's default; RFC 2003 3.1: whatever delivers to the tunnel's exit
_BUFFER = 8 << 20  # bytes, of a socket each way: seconds of small packets
_HEADER = struct.Struct("!BBHHHBBH4s4s")


class Hop:
    """A node behind the tunnel.

    Attributes:
        address: what sendto takes.
        headers: outer headers by (inner TOS << 16 | DF bit), filled as they are needed.
    """

    __slots__ = ("address", "gateway", "headers")

    def __init__(self, gateway: IPv4Address, port: int) -> None:
        self.gateway = gateway
        self.address = (str(gateway), port)
        self.headers: dict[int, bytes] = {}


class Framing(Protocol):
    """An encapsulation.

    Attributes:
        sock: not blocking; carries both directions.
        prefix: bytes that go in front of a packet in what is sent.
        overhead: bytes between the outer packet's length and the inner one's.
        outer_header: whether what is received begins with the outer IPv4 header.
    """

    sock: socket.socket
    endpoint: Endpoint
    prefix: int
    overhead: int
    outer_header: bool

    def header(self, hop: Hop, key: int) -> bytes:
        """``prefix`` bytes for packets with that key, see Hop.headers."""
        ...

    def send_in_fragments(self, packet: memoryview, hop: Hop) -> None:
        """Send a packet that is larger than the path, without DF; raises OSError."""
        ...


class Ipip:
    """Protocol 4."""

    prefix = IPV4_HEADER
    overhead = IPV4_HEADER
    outer_header = True

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        try:
            self.sock = socket.socket(
                socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, PROTO_IPIP
            )
        except PermissionError:
            raise TunnelError("raw socket of protocol 4: no permission; the process needs NET_RAW") from None
        self.sock.setsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL, 1)
        self.sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, _TTL)
        _enlarge_buffers(self.sock)

    def header(self, hop: Hop, key: int) -> bytes:
        """The outer header, ready but for what the kernel fills in."""
        tos, fragment = key >> 16, key & DONT_FRAGMENT
        header = _HEADER.pack(
            0x45, tos, 0, 0, fragment, _TTL, PROTO_IPIP, 0, self.endpoint.local.packed, hop.gateway.packed
        )
        hop.headers[key] = header
        return header

    def send_in_fragments(self, packet: memoryview, hop: Hop) -> None:
        """Let the kernel write the header, since it does not fragment what comes with one."""
        self.sock.setsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL, 0)
        self.sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DONT)
        self.sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, packet[1])
        try:
            self.sock.sendto(packet, hop.address)
        finally:
            self.sock.setsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL, 1)


class Udp:
    """flannel's udp backend: payload is the packet, both ports are the cluster's one."""

    prefix = 0
    overhead = 28
    outer_header = False

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            self.sock.bind((str(endpoint.local), endpoint.port))
        except OSError as error:
            self.sock.close()
            raise TunnelError(
                f"UDP {endpoint.local}:{endpoint.port}: {error.strerror}; the address must be this node's and the "
                "port free"
            ) from None
        self.sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, _TTL)
        self.sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DO)
        _enlarge_buffers(self.sock)

    def header(self, hop: Hop, key: int) -> bytes:
        """Nothing."""
        hop.headers[key] = b""
        return b""

    def send_in_fragments(self, packet: memoryview, hop: Hop) -> None:
        """Without DF for once."""
        self.sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DONT)
        try:
            self.sock.sendto(packet, hop.address)
        finally:
            self.sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DO)


def open_framing(endpoint: Endpoint) -> Framing:
    """The socket for what the alias asks for.

    Raises:
        TunnelError: it cannot be had.
    """
    return Ipip(endpoint) if endpoint.encapsulation == Encapsulation.IPIP else Udp(endpoint)


def path_mtu(gateway: IPv4Address) -> int:
    """Bytes that an outer packet to that node may have, as the kernel knows the path (RFC 1191).

    Raises:
        OSError: there is no path any more.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        probe.connect((str(gateway), 9))  # discard; nothing is sent
        return probe.getsockopt(socket.IPPROTO_IP, _IP_MTU)


def receive_drops(sock: socket.socket) -> int:
    """Packets that the kernel dropped since the socket's receive buffer was full; 0 where it does not say."""
    try:
        info = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 36)
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            raise
        return 0
    return int(struct.unpack_from("=I", info, 4 * _MEMINFO_DROPS)[0])


def _enlarge_buffers(sock: socket.socket) -> None:
    for forced, limited in ((_SO_RCVBUFFORCE, socket.SO_RCVBUF), (_SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        sock.setsockopt(socket.SOL_SOCKET, limited, _BUFFER)
        with contextlib.suppress(PermissionError):  # without NET_ADMIN net.core's maximum is what there is
            sock.setsockopt(socket.SOL_SOCKET, forced, _BUFFER)
