"""Adj-RIB-In: the paths of each peer as they were announced, with graceful restart (RFC 4724) on the receiving side.

Pure: fed with the events of model.speaker, told the time, asked for its next deadline. What is chosen among the
paths is decide's. Three things make paths stale without dropping them:

- the peer's session was lost in a way that graceful restart bridges: kept for the time that the event says;
- the speaker is away (SpeakerLost): kept until it is back;
- the speaker tells its table again (ReplayStarted): what it does not repeat was not announced any more.

While a table is told nothing is due, whatever the time: of a session that was up for long the limits have passed
before the first of its paths is told again.

A peer's End-of-RIB drops what is still stale of it. A peer that never sends one is given SYNC_LIMIT.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from calico_py.model.bgp import Path, Session, SessionState
from calico_py.model.net import Address, Family, Network, family
from calico_py.model.speaker import (
    EndOfRib,
    PathAnnounced,
    PathWithdrawn,
    ReplayComplete,
    ReplayStarted,
    SessionChanged,
    SpeakerEvent,
    SpeakerLost,
)

SYNC_LIMIT = 120.0  # seconds after which a peer without End-of-RIB counts as in sync
MAX_PREFIXES = 20_000  # paths that one peer may announce; ExaBGP has no limit of its own

PathKey = tuple[Network, int]


@dataclass(slots=True)
class _PeerTable:
    """What one peer announced, and where its session stands.

    Attributes:
        stale: keys of the paths that are kept until sweep_at (None: until further notice).
        lost: the session went down while the speaker was there, so it was the peer that restarted.
        restarted: the stale paths are from before such a loss.
    """

    paths: dict[PathKey, Path] = field(default_factory=dict)
    stale: set[PathKey] = field(default_factory=set)
    state: SessionState = SessionState.IDLE
    since: float = 0.0
    reason: str = ""
    hold_time: int = 0
    restart_time: int = 0
    lost: bool = False
    restarted: bool = False
    in_sync: bool = False
    sync_at: float | None = None
    sweep_at: float | None = None
    refused: set[PathKey] = field(default_factory=set)

    def mark_all_stale(self) -> None:
        self.stale = set(self.paths)
        self.paths = {key: replace(path, stale=True) for key, path in self.paths.items()}

    def drop(self, keys: Iterable[PathKey]) -> set[Network]:
        gone = list(keys)
        for key in gone:
            self.paths.pop(key, None)
            self.stale.discard(key)
        return {nlri for nlri, _ in gone}

    def sweep(self) -> set[Network]:
        self.sweep_at = None
        self.restarted = False
        return self.drop(self.stale.copy())


class AdjRibIn:
    """All peers' paths. Times are seconds of one clock that the caller chooses and never mixes with another."""

    def __init__(self, *, max_prefixes: int = MAX_PREFIXES) -> None:
        self._max_prefixes = max_prefixes
        self._peers: dict[Address, _PeerTable] = {}
        self._configured: frozenset[Address] | None = None
        self._by_nlri: dict[Network, set[tuple[Address, int]]] = {}
        self._dirty: set[Network] = set()
        self._speaker_up = False
        self._replaying = False
        self._told = False  # a whole table, once
        self._speaker_reason = "the speaker has not been reached yet"

    # What others read

    @property
    def in_sync(self) -> frozenset[Address]:
        """Peers whose view has been complete at least once; stale paths bridge the time after a restart."""
        if not self._told:
            return frozenset()
        return frozenset(address for address, table in self._peers.items() if table.in_sync)

    @property
    def speaker_problem(self) -> str:
        """Why there is no speaker; empty while it is there."""
        return "" if self._speaker_up else self._speaker_reason

    def candidates(self, nlri: Network) -> tuple[Path, ...]:
        """The paths to a prefix, in no particular order."""
        return tuple(self._peers[peer].paths[nlri, path_id] for peer, path_id in self._by_nlri.get(nlri, ()))

    def prefixes(self) -> Iterable[Network]:
        """All prefixes to which there is a path."""
        return self._by_nlri.keys()

    def take_changed(self) -> frozenset[Network]:
        """The prefixes whose paths changed since the last call."""
        changed, self._dirty = self._dirty, set()
        return frozenset(changed)

    def sessions(self) -> Mapping[Address, Session]:
        """Each peer's session, for status; ``since`` is on the caller's clock."""
        return {address: self._session(address, table) for address, table in self._peers.items()}

    def _session(self, address: Address, table: _PeerTable) -> Session:
        error = table.reason
        if table.refused:
            error = (
                f"{len(table.refused)} prefixes above the limit of {self._max_prefixes} are ignored: "
                f"let the peer announce fewer, or aggregates"
            )
        if not self._speaker_up:
            error = self._speaker_reason
        return Session(
            peer=address,
            state=table.state,
            since=table.since,
            last_error=error,
            received=len(table.paths),
            hold_time=table.hold_time,
            restart_time=table.restart_time,
        )

    def deadline(self) -> float | None:
        """When expire must be called next; None if nothing waits, or a table is being told."""
        if self._replaying:
            return None
        times = [t for table in self._peers.values() for t in (table.sync_at, table.sweep_at) if t is not None]
        return min(times, default=None)

    # What changes it

    def configure(self, peers: frozenset[Address], now: float) -> None:
        """The peers as configured: paths of a peer that is none any more are dropped at once (no grace).

        From then on what the speaker still says of others is ignored.
        """
        self._configured = peers
        for address in self._peers.keys() - peers:
            self._forget(address, self._peers[address].drop(list(self._peers[address].paths)))
            del self._peers[address]
        for address in peers - self._peers.keys():
            # A peer that never connects has, after the limit, nothing to say: its view is complete then.
            self._peers[address] = _PeerTable(since=now, sync_at=now + SYNC_LIMIT if self._speaker_up else None)

    def handle(self, event: SpeakerEvent, now: float) -> None:
        """Take an event. take_changed and in_sync tell what came of it."""
        peer_of = _peer_of(event)
        if peer_of is not None and self._configured is not None and peer_of not in self._configured:
            return
        match event:
            case PathAnnounced(path):
                self._announce(path)
            case PathWithdrawn(peer, nlri, path_id):
                table = self._table(peer, now)
                table.refused.discard((nlri, path_id))
                self._forget(peer, table.drop([(nlri, path_id)]))
            case EndOfRib(peer, of):
                self._end_of_rib(peer, of, now)
            case SessionChanged():
                self._session_changed(event, now)
            case ReplayStarted():
                self._speaker_up = self._replaying = True
                self._suspend("")
            case ReplayComplete():
                self._replayed(now)
            case SpeakerLost(reason):
                self._speaker_up = self._replaying = False
                self._speaker_reason = reason
                self._suspend(reason)

    def expire(self, now: float) -> None:
        """Do what is due: sweep stale paths, count a silent peer as in sync."""
        if self._replaying:
            return
        for address, table in self._peers.items():
            if table.sync_at is not None and table.sync_at <= now:
                table.sync_at = None
                table.in_sync = True
            if table.sweep_at is not None and table.sweep_at <= now:
                self._forget(address, table.sweep())

    def _table(self, peer: Address, now: float) -> _PeerTable:
        if peer not in self._peers:
            self._peers[peer] = _PeerTable(since=now)
        return self._peers[peer]

    def _forget(self, peer: Address, nlris: set[Network]) -> None:
        """Bring the index up to date after paths of these prefixes left the peer's table."""
        paths = self._peers[peer].paths
        for nlri in nlris:
            sources = self._by_nlri.get(nlri)
            if sources is None:
                continue
            gone = {source for source in sources if source[0] == peer and (nlri, source[1]) not in paths}
            sources -= gone
            if gone:
                self._dirty.add(nlri)
            if not sources:
                del self._by_nlri[nlri]

    def _announce(self, path: Path) -> None:
        table = self._table(path.peer, 0.0)
        key = (path.nlri, path.path_id)
        if key not in table.paths and len(table.paths) >= self._max_prefixes:
            table.refused.add(key)
            return
        table.refused.discard(key)
        table.stale.discard(key)
        if table.paths.get(key) == path:
            return
        table.paths[key] = path
        self._by_nlri.setdefault(path.nlri, set()).add((path.peer, path.path_id))
        self._dirty.add(path.nlri)

    def _end_of_rib(self, peer: Address, of: Family, now: float) -> None:
        table = self._table(peer, now)
        self._forget(peer, table.drop([key for key in table.stale if family(key[0]) == of]))
        if not table.stale:
            table.sweep_at = None
            table.restarted = False
        if of == family(peer):
            table.in_sync = True
            table.sync_at = None

    def _session_changed(self, event: SessionChanged, now: float) -> None:
        table = self._table(event.peer, now)
        was = table.state
        at = now - event.age
        if event.state != was:
            table.since = at
        table.state = event.state
        table.reason = event.reason
        if event.state == SessionState.ESTABLISHED:
            table.hold_time = event.hold_time
            table.restart_time = event.restart_time
            if table.lost and not event.forwarding:
                # RFC 4724 4.2: the peer restarted and did not keep its forwarding state.
                self._forget(event.peer, table.sweep())
            table.lost = False
            if table.stale:
                table.sweep_at = at + SYNC_LIMIT
            if not table.in_sync:
                table.sync_at = at + SYNC_LIMIT
        elif was == SessionState.ESTABLISHED:
            self._session_lost(event.peer, table, at, event.restart_time)

    def _session_lost(self, peer: Address, table: _PeerTable, at: float, keep: int) -> None:
        table.refused.clear()
        if keep:
            if table.restarted:
                # RFC 4724 4.2: a path that was stale already when the peer restarted once more is deleted.
                self._forget(peer, table.drop(table.stale.copy()))
            table.mark_all_stale()
            table.lost = table.restarted = True
            table.sweep_at = at + keep
            self._dirty.update(nlri for nlri, _ in table.paths)
        else:
            self._forget(peer, table.drop(list(table.paths)))
            table.sweep_at = None

    def _suspend(self, reason: str) -> None:
        """The speaker is away or begins to tell its table anew: nothing is certain, nothing is dropped."""
        for table in self._peers.values():
            table.mark_all_stale()
            table.state = SessionState.IDLE
            table.reason = reason
            table.lost = table.restarted = False
            table.sweep_at = table.sync_at = None
            table.refused.clear()
            self._dirty.update(nlri for nlri, _ in table.paths)

    def _replayed(self, now: float) -> None:
        self._replaying, self._told = False, True
        for table in self._peers.values():
            if table.stale and table.sweep_at is None:
                table.sweep_at = now + SYNC_LIMIT
            if not table.in_sync and table.sync_at is None:
                table.sync_at = now + SYNC_LIMIT


def _peer_of(event: SpeakerEvent) -> Address | None:
    """None for an event of the speaker itself."""
    match event:
        case PathAnnounced(path):
            return path.peer
        case SessionChanged() | PathWithdrawn() | EndOfRib():
            return event.peer
        case _:
            return None
