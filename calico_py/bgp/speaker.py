"""The Speaker that is ExaBGP: connects to the bridge, keeps sessions and announcements as they should be.

What must be is compared with what the bridge says is; an unchanged set writes nothing. In this order: withdraw from
neighbours that are to go and wait until that is sent (ExaBGP closes without a NOTIFICATION, so that a peer with
graceful restart would keep our routes), load the configuration, announce, End-of-RIB.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator

from calico_py.bgp import exabgp_config, exabgp_lines
from calico_py.bgp.exabgp_config import ConfigError, SpeakerFiles
from calico_py.bgp.exabgp_lines import Announced, AnnouncementKey, BadLine, Configured, Hello, Retired, Unreached
from calico_py.model.bgp import Advertisement, Peer, SessionState
from calico_py.model.net import Address
from calico_py.model.speaker import ReplayComplete, ReplayStarted, SessionChanged, SpeakerEvent, SpeakerLost

BACKOFF_FIRST, BACKOFF_LONGEST = 0.1, 2.0  # seconds between attempts to reach the bridge
LOAD_PATIENCE = 2.0  # seconds that announcements wait for the configuration to be loaded
LINE_LIMIT = 1 << 20  # bytes

_log = logging.getLogger(__name__)


class ExaBGPSpeaker:
    """Implements model.speaker.Speaker. set() may be called at any time, also before events() is begun."""

    def __init__(self, files: SpeakerFiles | None = None) -> None:
        self._files = files or SpeakerFiles()
        self._given: tuple[frozenset[Peer], frozenset[Advertisement]] | None = None
        self._peers: dict[Address, Peer] = {}
        self._wanted: dict[AnnouncementKey, str] | None = None  # None: nobody has said yet
        self._config, self._digest = "", ""
        self._left_out: list[str] = []
        self._unwritten = ""
        self._try_again: asyncio.TimerHandle | None = None
        self._link: _Link | None = None

    @property
    def problem(self) -> str:
        """What ExaBGP could not be told."""
        return "; ".join(filter(None, (self._unwritten, *self._left_out)))

    def set(self, *, peers: frozenset[Peer], advertisements: frozenset[Advertisement]) -> None:
        """All sessions and announcements as they should be. What ExaBGP could not be told is left out."""
        if self._given == (peers, advertisements):
            return
        first, self._given = self._given is None, (peers, advertisements)
        left_out: list[str] = []
        usable: dict[Address, Peer] = {}
        for peer in sorted(peers, key=lambda peer: str(peer.address)):
            try:
                exabgp_config.check(peer)
                usable[peer.address] = peer
            except ConfigError as error:
                left_out.append(f"BGP leaves out {error}")
        if self._link is not None and not first and (usable.keys() - self._peers.keys()) & self._link.established:
            # It was removed and is back before its session was closed: its paths have to be told again.
            self._link.close()
        self._peers = usable
        self._config, self._digest = exabgp_config.render(usable.values(), files=self._files)
        announceable: list[Advertisement] = []
        for advertisement in advertisements:
            try:
                exabgp_lines.announcements([advertisement])
                announceable.append(advertisement)
            except ValueError as error:
                left_out.append(f"BGP does not announce {advertisement.nlri}: {error}")
        self._wanted = exabgp_lines.announcements(announceable)
        for sentence in left_out:
            if sentence not in self._left_out:
                _log.warning("%s", sentence)
        self._left_out = left_out
        self._advance()

    async def events(self) -> AsyncIterator[SpeakerEvent]:
        """What happens, for ever; reconnects by itself."""
        backoff = BACKOFF_FIRST
        told = ""
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(str(self._files.socket), limit=LINE_LIMIT)
            except OSError as error:
                reason = (
                    f"the BGP speaker does not run ({self._files.socket}: {error.strerror}): "
                    f"start `calico-py speaker`, in Kubernetes the DaemonSet calico-py-speaker"
                )
                if reason != told:
                    told = reason
                    yield SpeakerLost(reason)
                await _pause(backoff)
                backoff = min(backoff * 2, BACKOFF_LONGEST)
                continue
            backoff, told = BACKOFF_FIRST, ""
            try:
                async for event in self._converse(reader, writer):
                    yield event
            finally:
                self._link = None
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
            yield SpeakerLost("the BGP speaker ended or dropped the connection; waiting for it to come back")
            await _pause(BACKOFF_FIRST)  # another agent may have taken the place: no race for it

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> AsyncIterator[SpeakerEvent]:
        link = self._link = _Link(writer)
        yield ReplayStarted()
        with contextlib.suppress(OSError, ValueError):  # ValueError: a line above LINE_LIMIT
            while line := await reader.readline():
                record = exabgp_lines.parse(line.decode("utf-8", "replace"), self._peers)
                if isinstance(record, Hello | Announced | Configured | Retired):
                    link.note(record)
                    self._advance()
                elif isinstance(record, Unreached):
                    if link.sessions.get(record.peer) != SessionState.ESTABLISHED:
                        yield SessionChanged(record.peer, SessionState.CONNECT, reason=record.reason)
                elif isinstance(record, BadLine):
                    _log.warning("line of the bridge's ignored (%s): %s", record.reason, record.line)
                else:
                    if isinstance(record, SessionChanged):
                        link.sessions[record.peer] = record.state
                    yield record
                    if isinstance(record, ReplayComplete):
                        link.ready = True
                        self._advance()

    def _advance(self) -> None:
        """Send whatever may be sent now. Called whenever something changed."""
        link, wanted = self._link, self._wanted
        if link is None or not link.ready or wanted is None:
            return
        watch = exabgp_lines.command_watch(self._peers.values())
        if watch != link.watch:
            link.write(watch)
            link.watch = watch
        if self._load(link):
            return
        command = exabgp_lines.command_announce(link.held, wanted)
        if command:
            link.write(command)
            link.held = dict(wanted)
        if not link.complete:
            link.write(exabgp_lines.command_complete())
            link.complete = True

    def _load(self, link: "_Link") -> bool:
        """Bring the sessions on their way; True while announcements had better wait for them."""
        loop = asyncio.get_running_loop()
        if self._digest == link.digest and not link.retiring:
            link.asked = ""
            return False
        if link.asked != self._digest:
            going = {peer for peer in link.established if peer not in self._peers} - link.retired
            if going - link.retiring:
                link.write(exabgp_lines.command_retire(going - link.retiring))
                link.retiring |= going
            if going:
                return False
            if not self._write_config():
                self._try_again = self._try_again or loop.call_later(LOAD_PATIENCE, self._again)
                return False
            link.write(exabgp_lines.command_sessions(self._digest, self._peers))
            link.asked, link.asked_at = self._digest, loop.time()
            link.retiring, link.retired = set(), set()
            link.sessions = {peer: state for peer, state in link.sessions.items() if peer in self._peers}
            loop.call_later(LOAD_PATIENCE, self._advance)
        return loop.time() - link.asked_at < LOAD_PATIENCE

    def _again(self) -> None:
        self._try_again = None
        self._advance()

    def _write_config(self) -> bool:
        """Whether the file is there; what keeps it from being written is told once."""
        try:
            exabgp_config.write(self._files.config, self._config)
        except OSError as error:
            why = f"{self._files.config} cannot be written ({error.strerror}): BGP sessions stay as they are"
            sentence = f"{why}; free or mend its disk"
            if sentence != self._unwritten:
                _log.warning("%s", sentence)
            self._unwritten = sentence
            return False
        self._unwritten = ""
        return True


async def _pause(longest: float) -> None:
    await asyncio.sleep(longest * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, no secret


class _Link:
    """One connection to the bridge, and what is known to be in force there.

    Attributes:
        asked: digest of the configuration that it was told to load and has not confirmed; empty if none.
        retiring: neighbours from which it was told to withdraw; retired: those where that is done.
    """

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.ready = False
        self.watch = ""
        self.digest = ""
        self.complete = False
        self.held: dict[AnnouncementKey, str] = {}
        self.sessions: dict[Address, SessionState] = {}
        self.asked = ""
        self.asked_at = 0.0
        self.retiring: set[Address] = set()
        self.retired: set[Address] = set()

    @property
    def established(self) -> set[Address]:
        """Peers to which something may have been announced."""
        return {peer for peer, state in self.sessions.items() if state == SessionState.ESTABLISHED}

    def note(self, record: Hello | Announced | Configured | Retired) -> None:
        """Take what the bridge says of itself."""
        match record:
            case Hello(digest, complete):
                self.digest, self.complete = digest, complete
            case Announced(scope, nlri, attributes):
                self.held[scope, nlri] = attributes
            case Configured(digest):
                self.digest = digest
            case Retired(peer):
                self.retired.add(peer)

    def write(self, command: str) -> None:
        """Queue a command; the bridge always reads."""
        self._writer.write(command.encode())

    def close(self) -> None:
        """Let go of it; events() connects anew and is told everything."""
        self.ready = False
        self._writer.close()
