"""The selector loop around a Bridge. Standard library only."""

import contextlib
import os
import selectors
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from calico_py.bgp.bridge import Bridge
from calico_py.bgp.bridge_orders import RELOAD_LIMIT
from calico_py.bgp.bridge_probe import Prober, listening

PROBE_EVERY = 1.0  # seconds between looks for an answer
LISTEN_EVERY = 5  # looks, between those whether ExaBGP listens where it should


class Loop:
    """The selector loop around a Bridge: stdin and stdout are ExaBGP, a unix socket is for the agent."""

    def __init__(self, bridge: Bridge, socket_path: str, state_path: Path) -> None:
        self._bridge = bridge
        self._state_path = state_path
        self._selector = selectors.DefaultSelector()
        self._from_exabgp = b""
        self._from_agent = b""
        self._pending = b""  # taken from the outbox and not yet written
        self._agent: socket.socket | None = None
        self._listener = _listen(socket_path)
        self._writes_exabgp = False
        self._prober = Prober()
        self._probe_at = 0.0
        self._rounds = 1
        for descriptor in (0, 1):
            os.set_blocking(descriptor, False)
        self._selector.register(0, selectors.EVENT_READ, self._read_exabgp)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def run(self) -> None:
        """Until ExaBGP closes our stdin."""
        while self._step():
            pass

    def _step(self) -> bool:
        bridge = self._bridge
        now = time.monotonic()
        if bridge.watched and now >= self._probe_at:
            if self._rounds % LISTEN_EVERY == 0:
                bridge.listens(listening(os.getppid()))
            self._prober.round(bridge)
            self._rounds += 1
            self._probe_at = now + PROBE_EVERY
        times = [bridge.orders.deadline, self._probe_at if bridge.watched else None]
        due = min((at for at in times if at is not None), default=None)
        timeout = None if due is None else max(0.0, due - now)
        for key, events in self._selector.select(timeout):
            handle: Callable[[int], bool] = key.data
            if not handle(events):
                return False
        bridge.orders.tick(time.monotonic())
        if bridge.orders.hopeless(time.monotonic()):
            _say(f"ExaBGP has not loaded its configuration within {RELOAD_LIMIT:.0f} s; it is to start again with it")
            return False
        if bridge.overrun:
            self._drop_agent()
        if bridge.save:
            self._save()
        self._want_writes()
        return True

    def _want_writes(self) -> None:
        if bool(self._bridge.orders.to_exabgp) != self._writes_exabgp:
            self._writes_exabgp = not self._writes_exabgp
            if self._writes_exabgp:
                self._selector.register(1, selectors.EVENT_WRITE, self._write_exabgp)
            else:
                self._selector.unregister(1)
        if self._agent is not None:
            events = selectors.EVENT_READ
            if self._pending or self._bridge.outbox:
                events |= selectors.EVENT_WRITE
            self._selector.modify(self._agent, events, self._serve_agent)

    def _read_exabgp(self, _events: int) -> bool:
        data = os.read(0, 1 << 20)
        if not data:
            return False
        *lines, self._from_exabgp = (self._from_exabgp + data).split(b"\n")
        now = time.monotonic()
        for line in lines:
            self._bridge.exabgp_line(line.decode("utf-8", "replace"), now)
        return True

    def _write_exabgp(self, _events: int) -> bool:
        try:
            written = os.write(1, self._bridge.orders.to_exabgp[: 1 << 16])
        except BlockingIOError:
            return True
        except BrokenPipeError:
            return False
        del self._bridge.orders.to_exabgp[:written]
        return True

    def _accept(self, _events: int) -> bool:
        """The agent that came last is the one: an old connection may be of an agent that was killed."""
        try:
            connection, _ = self._listener.accept()
        except OSError as error:
            _say(f"an agent could not be let in: {error}")
            return True
        self._drop_agent()
        connection.setblocking(False)
        self._agent = connection
        self._selector.register(connection, selectors.EVENT_READ, self._serve_agent)
        self._bridge.agent_connected(time.monotonic())
        return True

    def _drop_agent(self) -> None:
        if self._agent is not None:
            self._selector.unregister(self._agent)
            self._agent.close()
        self._agent, self._from_agent, self._pending = None, b"", b""
        self._bridge.agent_lost()

    def _serve_agent(self, events: int) -> bool:
        agent = self._agent
        if agent is None:  # replaced or dropped within this round
            return True
        try:
            if events & selectors.EVENT_WRITE:
                if not self._pending and self._bridge.outbox:
                    self._pending = self._bridge.outbox.take(1 << 16)
                self._pending = self._pending[agent.send(self._pending) :]
            if events & selectors.EVENT_READ:
                data = agent.recv(1 << 20)
                if not data:
                    self._drop_agent()
                    return True
                *lines, self._from_agent = (self._from_agent + data).split(b"\n")
                now = time.monotonic()
                for line in lines:
                    self._bridge.agent_line(line.decode("utf-8", "replace"), now)
        except BlockingIOError:
            return True
        except (OSError, ValueError) as error:
            _say(f"the agent's connection is closed: {error}")
            self._drop_agent()
        return True

    def _save(self) -> None:
        """A file that cannot be written costs the announcements of a restart without agent, not the sessions."""
        self._bridge.save = False
        try:
            temporary = self._state_path.with_name(f"{self._state_path.name}.new")
            temporary.write_text(self._bridge.orders.state(), encoding="utf-8")
            temporary.replace(self._state_path)
        except OSError as error:
            _say(f"{self._state_path} cannot be written: {error}")


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        print(f"bridge: {text}", file=sys.stderr, flush=True)


def _listen(path: str) -> socket.socket:
    Path(path).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(old)
    listener.listen(4)
    listener.setblocking(False)
    return listener


def main(socket_path: str, state_path: str, digest: str) -> None:
    """Run until ExaBGP ends."""
    state = Path(state_path)
    try:
        saved = state.read_text(encoding="utf-8")
    except OSError:
        saved = ""
    Loop(Bridge(digest, saved), socket_path, state).run()
