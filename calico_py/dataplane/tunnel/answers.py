"""ICMP errors of the tunnel to the senders of packets that it cannot carry.

They are sent by the host's own stack and not written into the TUN device: their source is then an address of this
node, as RFC 1812 4.3.2.4 wants, which a packet that comes in by a device must not have (the kernel drops it as
martian).
"""

import contextlib
import socket
import struct
from ipaddress import IPv4Address, IPv6Address

from calico_py.dataplane.tunnel.errors import TunnelError
from calico_py.dataplane.tunnel.packets import PROTO_ICMP, PROTO_ICMPV6

_SOL_RAW = 255
_ICMP_FILTER = 1
_ICMPV6_FILTER = 1
_INTERNETWORK_CONTROL = 0xC0  # precedence of ICMP errors, RFC 1812 4.3.2.5

_RATE = 1000.0  # messages a second, and at once: the kernel's icmp_msgs_per_sec and icmp_msgs_burst
_BURST = 50.0


class Answers:
    """Two raw sockets that only send, and a token bucket."""

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        try:
            self._icmp = socket.socket(socket.AF_INET, kind, PROTO_ICMP)
        except PermissionError:
            raise TunnelError("raw socket of ICMP: no permission; the process needs NET_RAW") from None
        self._icmp.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", 0xFFFFFFFF))
        self._icmp.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, _INTERNETWORK_CONTROL)
        self._icmpv6: socket.socket | None = None
        with contextlib.suppress(OSError):  # a kernel without IPv6
            self._icmpv6 = socket.socket(socket.AF_INET6, kind, PROTO_ICMPV6)
            self._icmpv6.setsockopt(PROTO_ICMPV6, _ICMPV6_FILTER, b"\xff" * 32)
        self._tokens = _BURST
        self._at = 0.0

    def close(self) -> None:
        """Close the sockets."""
        self._icmp.close()
        if self._icmpv6 is not None:
            self._icmpv6.close()

    def send(self, message: bytes, destination: bytes, now: float) -> bool:
        """Send an ICMP (4 bytes of destination) or ICMPv6 (16) message; whether it went out.

        Args:
            message: without an IP header.
            destination: packed address.
            now: monotonic time, seconds.
        """
        self._tokens = min(_BURST, self._tokens + (now - self._at) * _RATE)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        try:
            if len(destination) == 4:
                self._icmp.sendto(message, (str(IPv4Address(destination)), 0))
            elif self._icmpv6 is not None:
                self._icmpv6.sendto(message, (str(IPv6Address(destination)), 0))
        except OSError:  # no route back, or a filter: an error message is never worth more than a try
            return False
        return True
