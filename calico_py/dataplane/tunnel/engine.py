"""The loop: packets from the device to the nodes, packets from the nodes to the device, changes of both.

One thread. Each turn serves whatever is ready, at most BATCH packets of a direction, so that neither direction
nor the kernel's news of changed routes waits for the other. Nothing here survives the process, and nothing needs
to: device, alias and routes are the kernel's.
"""

import errno
import logging
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from calico_py.dataplane.tunnel import packets, rtnl, tun
from calico_py.dataplane.tunnel.alias import Endpoint, parse_alias
from calico_py.dataplane.tunnel.answers import Answers
from calico_py.dataplane.tunnel.framing import Framing, Hop, open_framing, path_mtu, receive_drops
from calico_py.dataplane.tunnel.lookup import RouteTable
from calico_py.dataplane.tunnel.stats import Stats, write_report
from calico_py.dataplane.tunnel.tun import TunnelError
from calico_py.model.net import InvalidError

_log = logging.getLogger(__name__)

BATCH = 64  # packets
_MAX_PACKET = 65535 + packets.IPV4_HEADER
_MAX_HOPS = 65536  # inner destinations remembered; beyond that all are looked up anew
_REPORT_EVERY = 5.0  # seconds
_RESYNC_EVERY = 60.0  # seconds: the kernel tells of nothing when an address that routes prefer as source goes

# Of an inner header: version and length, TOS, fragment field, protocol, destination.
_FIELDS = struct.Struct("!BBxxxxHxBxx4x4s")


@dataclass(slots=True)
class _Attachment:
    """A device to which the engine is attached."""

    link: rtnl.Link
    fd: int
    framing: Framing


class Engine:
    """The engine of one device, in the network namespace of the calling thread."""

    def __init__(self, device: str, *, report: Path | None = None) -> None:
        """Open what does not depend on the device.

        Args:
            device: its name; it need not exist yet.
            report: file that gets the counters every few seconds.

        Raises:
            TunnelError: no permission.
        """
        self._device = device
        self._report = report
        self._reported: tuple[int, ...] = ()
        self.stats = Stats()
        self._attached: _Attachment | None = None
        self._table = RouteTable()
        self._hops: dict[bytes, Hop | None] = {}
        self._answers = Answers()
        self._rtnl = rtnl.Rtnl()
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._register(self._rtnl.fileno(), self._on_changes)
        self._stopping = False
        self._buffer = bytearray(_MAX_PACKET)
        self._view = memoryview(self._buffer)
        self._waiting_for = ""

    def run(self) -> None:
        """Carry packets until SIGTERM or SIGINT; the device stays. SIGUSR1 logs the counters.

        Raises:
            TunnelError: it cannot go on.
        """
        wakeup, signals = self._catch_signals()
        try:
            self._look_at_device(self._rtnl.link(self._device))
            next_report = next_resync = 0.0
            while not self._stopping:
                for fd, _ in self._epoll.poll(1.0):
                    handler = self._handlers.get(fd)
                    if handler is not None:  # an earlier handler of this turn may have closed it
                        handler()
                now = time.monotonic()
                if now >= next_report:
                    next_report = now + _REPORT_EVERY
                    self._write_report()
                if now >= next_resync:
                    next_resync = now + _RESYNC_EVERY
                    self._resync()
                if self._table.expire(now):
                    self._hops.clear()
        finally:
            signal.set_wakeup_fd(-1)
            wakeup.close()
            signals.close()
            self.close()

    def close(self) -> None:
        """Detach and close everything; the device stays."""
        self._write_report()
        self._detach()
        self._rtnl.close()
        self._answers.close()
        self._epoll.close()

    # Signals

    def _catch_signals(self) -> tuple[socket.socket, socket.socket]:
        wakeup, signals = socket.socketpair()
        wakeup.setblocking(False)
        signals.setblocking(False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(wakeup.fileno())
        self._register(signals.fileno(), lambda: self._on_signals(signals.recv(64)))
        return wakeup, signals

    def _on_signals(self, numbers: bytes) -> None:
        if signal.SIGUSR1 in numbers:
            _log.info("%s", self._full_report())
        self._stopping = self._stopping or signal.SIGTERM in numbers or signal.SIGINT in numbers

    # The device

    def _register(self, fd: int, handler: Callable[[], None]) -> None:
        self._handlers[fd] = handler
        self._epoll.register(fd, select.EPOLLIN)

    def _unregister(self, fd: int) -> None:
        del self._handlers[fd]
        self._epoll.unregister(fd)

    def _wait(self, reason: str) -> None:
        if reason != self._waiting_for:
            _log.info("waiting: %s", reason)
            self._waiting_for = reason

    def _look_at_device(self, link: rtnl.Link | None) -> None:
        """Attach to the device, detach from one that went, follow a changed alias."""
        if link is None:
            self._detach()
            self._wait(f"there is no device {self._device} yet; the agent makes it")
            return
        if link.kind != "tun":
            raise TunnelError(
                f"{self._device}: found a device of kind {link.kind or 'unknown'!r}, expected 'tun'; where the kernel "
                "has ipip it needs no engine: remove this node's label calico-py.io/tunnel-engine"
            )
        try:
            endpoint = parse_alias(link.alias)
        except InvalidError as error:
            self._wait(f"{self._device}: {error}; the agent writes it")
            return
        if self._attached is not None and self._attached.link.ifindex != link.ifindex:
            self._detach()
        if self._attached is None:
            self._attach(link, endpoint)
        elif self._attached.framing.endpoint != endpoint:
            self._follow_alias(self._attached, endpoint)
        if self._attached is not None:
            resync = link.up != self._attached.link.up
            self._attached.link = link
            if resync:  # a device that goes down loses its routes, and the kernel does not say which
                self._resync()

    def _attach(self, link: rtnl.Link, endpoint: Endpoint) -> None:
        framing = open_framing(endpoint)
        fd = tun.attach(self._device)
        if fd is None:
            framing.sock.close()
            return
        tun.set_queue_length(self._device, tun.QUEUE_LENGTH)
        self._attached = _Attachment(link, fd, framing)
        self._resync()
        self._register(fd, self._encapsulate)
        self._register(framing.sock.fileno(), self._decapsulate)
        self._waiting_for = ""
        _log.info("%s: attached, %s, %d routes", self._device, endpoint.alias(), len(self._table))

    def _follow_alias(self, attached: _Attachment, endpoint: Endpoint) -> None:
        """Another outer address: the new socket is there before the old one goes."""
        framing, before = open_framing(endpoint), attached.framing
        attached.framing = framing
        self._hops.clear()
        self._unregister(before.sock.fileno())
        self._register(framing.sock.fileno(), self._decapsulate)
        before.sock.close()
        _log.info("%s: now %s", self._device, endpoint.alias())

    def _detach(self) -> None:
        attached = self._attached
        if attached is None:
            return
        self._attached = None
        self._unregister(attached.framing.sock.fileno())
        attached.framing.sock.close()
        del self._handlers[attached.fd]
        os.close(attached.fd)  # which takes it out of the epoll set
        self._table.replace({}, time.monotonic())
        self._hops.clear()
        _log.info("%s: detached", self._device)

    # Changes of devices and routes

    def _on_changes(self) -> None:
        for event in self._rtnl.changes():
            if isinstance(event, rtnl.Overflow):
                self._look_at_device(self._rtnl.link(self._device))
                self._resync()
            elif isinstance(event, rtnl.LinkEvent):
                self._on_link(event)
            elif self._attached is not None:
                self._on_route(event, self._attached.link.ifindex)

    def _on_link(self, event: rtnl.LinkEvent) -> None:
        ours = self._attached is not None and event.link.ifindex == self._attached.link.ifindex
        if event.link.name == self._device and not event.removed:
            self._look_at_device(event.link)
        elif ours:  # removed, renamed or moved to another namespace
            self._look_at_device(self._rtnl.link(self._device))

    def _on_route(self, event: rtnl.RouteEvent, ifindex: int) -> None:
        gateway = event.gateway(ifindex)
        now = time.monotonic()
        if gateway is not None and not event.removed:
            self._table.put(event.prefix, event.route, gateway)
        elif event.removed and gateway is None:
            return  # a route of another device
        elif not self._table.remove(event.prefix, event.route, now):
            return
        self._hops.clear()

    def _resync(self) -> None:
        if self._attached is not None:
            self._table.replace(self._rtnl.routes(self._attached.link.ifindex), time.monotonic())
            self._hops.clear()

    # From the device to the nodes

    def _encapsulate(self) -> None:
        attached = self._attached
        if attached is None:
            return
        framing, fd, view, buffer = attached.framing, attached.fd, self._view, self._buffer
        prefix, sendto, hops, unpack, readv = (
            framing.prefix,
            framing.sock.sendto,
            self._hops,
            _FIELDS.unpack_from,
            os.readv,
        )
        room = [view[prefix:]]
        count = size = 0
        for _ in range(BATCH):
            try:
                length = readv(fd, room)
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
                if not self._send_failed(error, view[prefix : prefix + length], hop, framing):
                    continue
            count += 1
            size += length
        self.stats.sent += count
        self.stats.sent_bytes += size

    def _find_hop(self, packet: memoryview) -> Hop | None:
        """The node for a packet that is not the ordinary case; None when it was dropped, and counted."""
        attached = self._attached
        assert attached is not None
        endpoint = attached.framing.endpoint
        if len(packet) and packet[0] >> 4 == 6:
            self._refuse_ipv6(packet)
            return None
        if packets.ipv4_length(packet) != len(packet):
            self.stats.drops["malformed packet from the device"] += 1
            return None
        if packet[9] == packets.PROTO_IPIP and packet[12:16] == endpoint.local.packed:
            # The route to a node leads into the tunnel itself: each turn would make the packet larger.
            self.stats.drops["loop: the route to a node leads into the tunnel"] += 1
            return None
        destination = bytes(packet[16:20])
        if destination not in self._hops:
            if len(self._hops) >= _MAX_HOPS:
                self._hops.clear()
            self._hops[destination] = self._look_up(destination, attached)
        hop = self._hops[destination]
        if hop is None:
            self.stats.drops["no route"] += 1
            self._answer(packet, packets.Unreachable.HOST)
        return hop

    def _look_up(self, destination: bytes, attached: _Attachment) -> Hop | None:
        number = int.from_bytes(destination, "big")
        gateway = self._table.find(number, time.monotonic())
        if gateway is None:
            gateway = self._rtnl.gateway(destination, attached.link.ifindex)
        return None if gateway is None else Hop(gateway, attached.framing.endpoint.port)

    def _send_failed(self, error: OSError, packet: memoryview, hop: Hop, framing: Framing) -> bool:
        """What to do about a packet that the kernel did not take; whether it went out after all."""
        if error.errno == errno.EMSGSIZE:
            if not packet[6] & packets.DONT_FRAGMENT >> 8:
                try:
                    framing.send_in_fragments(packet, hop)
                except OSError as second:
                    error = second
                else:
                    return True
            else:
                self.stats.drops["too large for the path"] += 1
                mtu = path_mtu(hop.gateway) - framing.overhead
                self._answer(packet, packets.Unreachable.FRAGMENTATION_NEEDED, mtu)
                return False
        if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
            self._answer(packet, packets.Unreachable.HOST)
        self.stats.drops[f"send: {error.strerror}"] += 1
        return False

    def _refuse_ipv6(self, packet: memoryview) -> None:
        message = packets.icmpv6_no_route(packet)
        if message is not None:
            self.stats.drops["IPv6"] += 1
            if self._answers.send(message, bytes(packet[8:24]), time.monotonic()):
                self.stats.icmp["IPv6 no route"] += 1

    def _answer(self, packet: memoryview, code: packets.Unreachable, mtu: int = 0) -> None:
        message = packets.icmp_unreachable(packet, code, mtu)
        if message is not None and self._answers.send(message, bytes(packet[12:16]), time.monotonic()):
            self.stats.icmp[code.name.lower().replace("_", " ")] += 1

    def _device_failed(self, error: OSError) -> None:
        if error.errno == errno.EBADFD:  # deleted; netlink tells as well
            self._look_at_device(self._rtnl.link(self._device))
        else:
            self.stats.drops[f"device: {error.strerror}"] += 1

    # From the nodes to the device

    def _decapsulate(self) -> None:
        attached = self._attached
        if attached is None:
            return
        framing, fd, view, buffer = attached.framing, attached.fd, self._view, self._buffer
        receive, write, outer_header = framing.sock.recv_into, os.write, framing.outer_header
        local = framing.endpoint.local.packed
        count = size = start = 0
        for _ in range(BATCH):
            try:
                end = receive(buffer)
            except BlockingIOError:
                break
            except OSError as error:  # an ICMP error about something sent before
                self.stats.drops[f"receive: {error.strerror}"] += 1
                continue
            if outer_header:
                start = (buffer[0] & 0x0F) * 4
                ordinary = buffer[16:20] == local != buffer[12:16]
                if not ordinary and not self._accept_outer(view[:start], local):
                    continue
            length = packets.ipv4_length(view[start:end])
            if not length:
                self.stats.drops["malformed packet from a node"] += 1
                continue
            if outer_header and buffer[1] & 1 and not self._carry_ecn(view[start:end], buffer[1]):
                continue
            try:
                write(fd, view[start : start + length])
            except OSError as error:
                self._device_failed(error)
                if self._attached is None:
                    break
                continue
            count += 1
            size += length
        self.stats.received += count
        self.stats.received_bytes += size

    def _accept_outer(self, header: memoryview, local: bytes) -> bool:
        """Whether a packet may come in whose outer addresses are not the ordinary ones."""
        if header[12:16] == local:
            self.stats.drops["outer source is this node"] += 1
            return False
        if header[16] >= 224:
            self.stats.drops["outer destination is no host"] += 1
            return False
        return True  # another address of this node

    def _carry_ecn(self, packet: memoryview, outer_tos: int) -> bool:
        tos = packets.decapsulated_ecn(outer_tos, packet[1])
        if tos is None:
            self.stats.drops["congestion marked, but not ECN capable"] += 1
            return False
        if tos != packet[1]:
            packets.set_tos(packet, tos)
        return True

    # Telling

    def _full_report(self) -> dict[str, object]:
        report: dict[str, object] = {"device": self._device, "pid": os.getpid(), **self.stats.report()}
        attached = self._attached
        report["attached"] = attached is not None
        report["waiting"] = self._waiting_for
        if attached is not None:
            link = self._rtnl.link(self._device)
            report["endpoint"] = attached.framing.endpoint.alias()
            report["routes"] = len(self._table)
            report["kernel_drops"] = {
                "device": link.tx_dropped if link is not None else 0,
                "socket": receive_drops(attached.framing.sock),
            }
        return report

    def _write_report(self) -> None:
        """Write the file when something has changed."""
        state = (self.stats.sent, self.stats.received, self.stats.drops.total(), len(self._table), id(self._attached))
        if self._report is None or state == self._reported:
            return
        self._reported = state
        try:
            write_report(self._report, self._full_report())
        except OSError as error:
            _log.warning("%s: %s", self._report, error.strerror)
