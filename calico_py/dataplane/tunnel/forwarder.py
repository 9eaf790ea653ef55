"""The packets' way between an attached device and the nodes. No waiting here: the engine calls when there is work.

The two loops are written for speed, since every packet of the node's tunnel passes them: one buffer, no copies,
what differs from the ordinary packet is looked at in methods of its own.
"""

import contextlib
import errno
import os
import struct
import time
from ipaddress import IPv4Address

from calico_py.dataplane.tunnel import packets, vnet
from calico_py.dataplane.tunnel.answers import Answers
from calico_py.dataplane.tunnel.errors import DeviceGoneError
from calico_py.dataplane.tunnel.framing import Framing, Hop, path_mtu
from calico_py.dataplane.tunnel.lookup import RouteTable
from calico_py.dataplane.tunnel.rtnl import Rtnl
from calico_py.dataplane.tunnel.stats import Stats

BATCH = 64  # packets of one direction before the other gets its turn
_MAX_PACKET = 65535 + packets.IPV4_HEADER
_MAX_HOPS = 65536  # inner destinations remembered; beyond that all are looked up anew

# Of an inner header: version and length, TOS, fragment field, protocol, destination.
_FIELDS = struct.Struct("!BBxxxxHxBxx4x4s")


class Forwarder:
    """Carries packets while the engine is attached to one device.

    Attributes:
        framing: the outer side; may be replaced.
        table: routes of the device; ``routes_changed`` must be called after each change.
    """

    def __init__(self, *, fd: int, ifindex: int, framing: Framing, rtnl: Rtnl, answers: Answers, stats: Stats) -> None:
        """Nothing happens yet.

        Args:
            fd: of the attached TUN device; the caller closes it.
            ifindex: of the device.
            framing: the outer side.
            rtnl: asked about a destination that the table does not know.
            answers: sends ICMP errors.
            stats: counts.
        """
        self.framing = framing
        self.table = RouteTable()
        self._fd = fd
        self._ifindex = ifindex
        self._rtnl = rtnl
        self._answers = answers
        self._stats = stats
        self._hops: dict[bytes, Hop | None] = {}  # by inner destination
        self._nodes: dict[IPv4Address, Hop] = {}
        self._buffer = bytearray(_MAX_PACKET)
        self._view = memoryview(self._buffer)

    def routes_changed(self) -> None:
        """Forget what was concluded from the routes, or from the framing, that were."""
        self._hops.clear()
        self._nodes.clear()

    def encapsulate(self) -> None:
        """From the device to the nodes, a batch.

        Raises:
            DeviceGoneError: it was deleted.
        """
        framing, fd, view, buffer, hops = self.framing, self._fd, self._view, self._buffer, self._hops
        prefix, sendto, unpack, readv = framing.prefix, framing.sock.sendto, _FIELDS.unpack_from, os.readv
        room: tuple[bytearray, memoryview] = (bytearray(vnet.HEADER_SIZE), view[prefix:])
        count = size = 0
        for _ in range(BATCH):
            try:
                length = readv(fd, room) - vnet.HEADER_SIZE
            except BlockingIOError:
                break
            except OSError as error:
                self._device_failed(error)
                break
            first, tos, fragment, protocol, destination = unpack(buffer, prefix)
            hop = hops.get(destination)
            if hop is None or first & 0xF0 != 0x40 or protocol == packets.PROTO_IPIP or length < packets.IPV4_HEADER:
                hop = self._find_hop(view[prefix : prefix + length])
                if hop is None:
                    continue
            key = tos << 16 | fragment & packets.DONT_FRAGMENT
            buffer[:prefix] = hop.headers.get(key) or framing.header(hop, key)
            try:
                sendto(view[: prefix + length], hop.address)
            except OSError as error:
                if not self._send_otherwise(error, view[prefix : prefix + length], hop):
                    continue
            count += 1
            size += length
        self._stats.sent += count
        self._stats.sent_bytes += size

    def decapsulate(self) -> None:
        """From the nodes to the device, a batch.

        Raises:
            DeviceGoneError: it was deleted.
        """
        framing, fd, view, buffer = self.framing, self._fd, self._view, self._buffer
        receive, writev, describe, outer_header = framing.sock.recv_into, os.writev, vnet.describe, framing.outer_header
        local = framing.endpoint.local.packed
        count = size = start = 0
        for _ in range(BATCH):
            try:
                end = receive(buffer)
            except BlockingIOError:
                break
            except OSError as error:  # an ICMP error about something that was sent
                self._stats.drops[f"receive: {error.strerror}"] += 1
                continue
            if outer_header:
                start = (buffer[0] & 0x0F) * 4
                ordinary = buffer[16:20] == local != buffer[12:16]
                if not ordinary and not self._accept_outer(view[:start], local):
                    continue
            described = describe(buffer, start, end)
            if described is None:
                self._stats.drops["malformed packet from a node"] += 1
                continue
            length, header = described
            if outer_header and buffer[1] & 1 and not self._carry_ecn(view[start:end], buffer[1]):
                continue
            try:
                writev(fd, (header, view[start : start + length]))
            except OSError as error:
                self._device_failed(error)
                continue
            count += 1
            size += length
        self._stats.received += count
        self._stats.received_bytes += size

    # What is not ordinary about a packet from the device

    def _find_hop(self, packet: memoryview) -> Hop | None:
        """The node for a packet that is not the ordinary case; None when it was dropped, and counted."""
        if len(packet) and packet[0] >> 4 == 6:
            self._refuse_ipv6(packet)
            return None
        if packets.ipv4_length(packet) != len(packet):
            self._stats.drops["malformed packet from the device"] += 1
            return None
        if packet[9] == packets.PROTO_IPIP and packet[12:16] == self.framing.endpoint.local.packed:
            # Each turn would make the packet larger.
            self._stats.drops["loop: the route to a node leads into the tunnel"] += 1
            return None
        destination = bytes(packet[16:20])
        if destination not in self._hops:
            if len(self._hops) >= _MAX_HOPS:
                self._hops.clear()
            self._hops[destination] = self._look_up(destination)
        hop = self._hops[destination]
        if hop is None:
            self._stats.drops["no route"] += 1
            self._answer(packet, packets.Unreachable.NET)
        return hop

    def _look_up(self, destination: bytes) -> Hop | None:
        gateway = self.table.find(int.from_bytes(destination, "big"), time.monotonic())
        if gateway is None:
            gateway = self._rtnl.gateway(destination, self._ifindex)
        if gateway is None:
            return None
        if gateway not in self._nodes:
            self._nodes[gateway] = Hop(gateway, self.framing.endpoint.port)
        return self._nodes[gateway]

    def _send_otherwise(self, error: OSError, packet: memoryview, hop: Hop) -> bool:
        """Send a packet that the kernel did not take, or tell its sender; whether it went out after all."""
        if error.errno == errno.EMSGSIZE:
            if packet[6] & packets.DONT_FRAGMENT >> 8:
                self._stats.drops["too large for the path"] += 1
                with contextlib.suppress(OSError):  # its route went meanwhile
                    mtu = path_mtu(hop.gateway) - self.framing.overhead
                    self._answer(packet, packets.Unreachable.FRAGMENTATION_NEEDED, mtu)
                return False
            try:
                self.framing.send_in_fragments(packet, hop)
            except OSError as second:
                error = second
            else:
                return True
        if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
            self._answer(packet, packets.Unreachable.HOST)
        self._stats.drops[f"send: {error.strerror}"] += 1
        return False

    def _refuse_ipv6(self, packet: memoryview) -> None:
        message = packets.icmpv6_no_route(packet)
        if message is None:  # the kernel's own solicitations
            return
        self._stats.drops["IPv6"] += 1
        if self._answers.send(message, bytes(packet[8:24]), time.monotonic()):
            self._stats.icmp["IPv6 no route"] += 1

    def _answer(self, packet: memoryview, code: packets.Unreachable, mtu: int = 0) -> None:
        message = packets.icmp_unreachable(packet, code, mtu)
        if message is not None and self._answers.send(message, bytes(packet[12:16]), time.monotonic()):
            self._stats.icmp[code.name.lower().replace("_", " ")] += 1

    # What is not ordinary about a packet from a node

    def _accept_outer(self, header: memoryview, local: bytes) -> bool:
        """Whether a packet may come in whose outer addresses are not the ordinary ones."""
        if header[12:16] == local:
            self._stats.drops["outer source is this node"] += 1
            return False
        if header[16] >= 224:
            self._stats.drops["outer destination is no host"] += 1
            return False
        return True  # another address of this node

    def _carry_ecn(self, packet: memoryview, outer_tos: int) -> bool:
        tos = packets.decapsulated_ecn(outer_tos, packet[1])
        if tos is None:
            self._stats.drops["congestion marked, but not ECN capable"] += 1
            return False
        if tos != packet[1]:
            packets.set_tos(packet, tos)
        return True

    def _device_failed(self, error: OSError) -> None:
        if error.errno == errno.EBADFD:
            raise DeviceGoneError from None
        self._stats.drops[f"device: {error.strerror}"] += 1  # it is down, as a rule
