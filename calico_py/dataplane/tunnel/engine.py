"""The loop: waits for packets, for changes of the device and its routes, and for signals.

One thread. Each turn serves whatever is ready, a bounded batch of each, so that neither direction nor the kernel's
news of changed routes waits for the other. Nothing here survives the process, and nothing needs to: device, alias
and routes are the kernel's.
"""

import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calico_py.dataplane.tunnel import rtnl, tun
from calico_py.dataplane.tunnel.alias import Endpoint, parse_alias
from calico_py.dataplane.tunnel.answers import Answers
from calico_py.dataplane.tunnel.errors import DeviceGoneError, TunnelError
from calico_py.dataplane.tunnel.forwarder import Forwarder
from calico_py.dataplane.tunnel.framing import open_framing, receive_drops
from calico_py.dataplane.tunnel.stats import Stats, write_report
from calico_py.model.kernel import Link, Route
from calico_py.model.net import InvalidError

_log = logging.getLogger(__name__)

_REPORT_EVERY = 5.0  # seconds
_RESYNC_EVERY = 60.0  # seconds: the kernel tells of nothing when an address goes that routes prefer as source


@dataclass(slots=True)
class _Attachment:
    """A device to which the engine is attached."""

    link: Link
    fd: int
    forwarder: Forwarder


class Engine:
    """The engine of one device, in the network namespace of the calling thread, which must be the main one."""

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
        self._reported: tuple[object, ...] = ()
        self._stats = Stats()
        self._attached: _Attachment | None = None
        self._answers = Answers()
        self._rtnl = rtnl.Rtnl()
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._register(self._rtnl.fileno(), self._on_changes)
        self._stopping = False
        self._waiting_for = ""

    def run(self) -> None:
        """Carry packets until SIGTERM or SIGINT; the device stays. SIGUSR1 logs the counters and writes the file.

        Raises:
            TunnelError: it cannot go on.
        """
        wakeup, signals = self._catch_signals()
        try:
            self._look_at_device(self._rtnl.link(self._device))
            next_report = next_resync = 0.0
            while not self._stopping:
                self._serve()
                now = time.monotonic()
                if now >= next_report:
                    next_report = now + _REPORT_EVERY
                    self._write_report()
                if now >= next_resync:
                    next_resync = now + _RESYNC_EVERY
                    self._resync()
                if self._attached is not None and self._attached.forwarder.table.expire(now):
                    self._attached.forwarder.routes_changed()
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

    def _serve(self) -> None:
        """One turn: wait a second at most, then let each handler do its batch."""
        for fd, _ in self._epoll.poll(1.0):
            handler = self._handlers.get(fd)
            if handler is None:  # an earlier handler of this turn has closed it
                continue
            try:
                handler()
            except DeviceGoneError:
                self._detach()
                self._look_at_device(self._rtnl.link(self._device))

    def _register(self, fd: int, handler: Callable[[], None]) -> None:
        self._handlers[fd] = handler
        self._epoll.register(fd, select.EPOLLIN)

    def _unregister(self, fd: int) -> None:
        del self._handlers[fd]
        self._epoll.unregister(fd)

    # Signals

    def _catch_signals(self) -> tuple[socket.socket, socket.socket]:
        wakeup, signals = socket.socketpair()
        wakeup.setblocking(False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(wakeup.fileno())
        self._register(signals.fileno(), lambda: self._on_signals(signals.recv(64)))
        return wakeup, signals

    def _on_signals(self, numbers: bytes) -> None:
        if signal.SIGUSR1 in numbers:
            _log.info("%s", self._full_report())
            self._reported = ()
            self._write_report()
        self._stopping = self._stopping or signal.SIGTERM in numbers or signal.SIGINT in numbers

    # The device

    def _wait(self, reason: str) -> None:
        if reason != self._waiting_for:
            _log.info("waiting: %s", reason)
            self._waiting_for = reason

    def _look_at_device(self, link: Link | None) -> None:
        """Attach to the device, detach from one that went, follow a changed alias."""
        if self._attached is not None and (link is None or self._attached.link.ifindex != link.ifindex):
            self._detach()
        if link is None:
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
        if self._attached is None:
            self._attach(link, endpoint)
        else:
            self._follow(self._attached, link, endpoint)

    def _attach(self, link: Link, endpoint: Endpoint) -> None:
        framing = open_framing(endpoint)
        try:
            fd = tun.attach(self._device)
        except TunnelError:
            framing.sock.close()
            raise
        if fd is None:
            framing.sock.close()
            return
        tun.set_queue_length(self._device, tun.QUEUE_LENGTH)
        forwarder = Forwarder(
            fd=fd,
            ifindex=link.ifindex,
            framing=framing,
            rtnl=self._rtnl,
            answers=self._answers,
            stats=self._stats,
        )
        self._attached = _Attachment(link, fd, forwarder)
        self._resync()
        self._register(fd, forwarder.encapsulate)
        self._register(framing.sock.fileno(), forwarder.decapsulate)
        self._waiting_for = ""
        _log.info("%s: attached, %s, %d routes", self._device, endpoint.alias(), len(forwarder.table))

    def _follow(self, attached: _Attachment, link: Link, endpoint: Endpoint) -> None:
        """The same device has changed: its alias, or whether it is up."""
        before = attached.forwarder.framing
        if before.endpoint != endpoint:
            framing = open_framing(endpoint)
            attached.forwarder.framing = framing
            attached.forwarder.routes_changed()
            self._unregister(before.sock.fileno())
            before.sock.close()
            self._register(framing.sock.fileno(), attached.forwarder.decapsulate)
            _log.info("%s: now %s", self._device, endpoint.alias())
        was_up, attached.link = attached.link.up, link
        if link.up != was_up:  # a device that goes down loses its routes, and the kernel does not say which
            self._resync()

    def _detach(self) -> None:
        attached = self._attached
        if attached is None:
            return
        self._attached = None
        sock = attached.forwarder.framing.sock
        self._unregister(sock.fileno())
        sock.close()
        self._unregister(attached.fd)
        os.close(attached.fd)
        _log.info("%s: detached", self._device)

    # Changes of devices and routes

    def _on_changes(self) -> None:
        for event in self._rtnl.changes():
            if isinstance(event.object, Link):
                self._on_link(event.object)
            elif isinstance(event.object, Route):
                self._on_route(event.object, removed=event.removed)
            else:
                self._look_at_device(self._rtnl.link(self._device))
                self._resync()

    def _on_link(self, link: Link) -> None:
        """Look at the device as it is now, not as it was when the kernel told: it may have been made again since."""
        if link.name == self._device or (self._attached is not None and link.ifindex == self._attached.link.ifindex):
            self._look_at_device(self._rtnl.link(self._device))

    def _on_route(self, route: Route, *, removed: bool) -> None:
        attached = self._attached
        if attached is None or route.dst.version == 6:
            return
        table = attached.forwarder.table
        gateway = rtnl.gateway_by(route, attached.link.ifindex)
        if gateway is not None and not removed:
            table.put(route.key, gateway)
        elif gateway is None and removed:
            return  # another device's; a route of ours with the same key would stay
        elif not table.remove(route.key, time.monotonic()):  # deleted, or replaced by one of another device
            return
        attached.forwarder.routes_changed()

    def _resync(self) -> None:
        attached = self._attached
        if attached is not None:
            attached.forwarder.table.replace(self._rtnl.routes(attached.link.ifindex), time.monotonic())
            attached.forwarder.routes_changed()

    # Telling

    def _full_report(self) -> dict[str, Any]:
        report = {
            "device": self._device,
            "pid": os.getpid(),
            "attached": self._attached is not None,
            "waiting": self._waiting_for,
            **self._stats.report(),
        }
        if self._attached is not None:
            forwarder = self._attached.forwarder
            report["endpoint"] = forwarder.framing.endpoint.alias()
            report["routes"] = len(forwarder.table)
            report["kernel_drops"] = {
                "device": self._rtnl.tx_dropped(self._device),
                "socket": receive_drops(forwarder.framing.sock),
            }
        return report

    def _write_report(self) -> None:
        """Write the file when something has changed."""
        stats, attached = self._stats, self._attached
        routes = None if attached is None else len(attached.forwarder.table)
        state = (stats.sent, stats.received, stats.drops.total(), routes, self._waiting_for)
        if self._report is None or state == self._reported:
            return
        self._reported = state
        try:
            write_report(self._report, self._full_report())
        except OSError as error:
            _log.warning("%s: %s", self._report, error.strerror)
