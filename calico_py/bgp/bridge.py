"""The bridge, the process that ExaBGP runs as its API helper: its pure part. Standard library only.

It stands between two that must not wait for each other. ExaBGP blocks, and drops its sessions for good, when its
helper does not read; the agent comes and goes. So the bridge always reads, never blocks, and keeps what either side
has to be told again: the received paths, the sessions, and the agent's announcements (in a file too, for an ExaBGP
that restarts while the agent is away).

Bridge takes lines, gives lines, and is told the time. bridge_loop is the selector loop around it, bridge_main the
script that ExaBGP starts with `python -I -S`: everything named bridge must do with the standard library.

To the agent, one JSON object a line: hello, announced..., session..., path..., eor..., replayed, and from then on
what happens: session, path, gone, eor, probe, configured, retired. From the agent: {"do": "watch" | "sessions" |
"announce" | "complete" | "retire", ...}. calico_py.bgp.exabgp_lines reads and writes the other end.
"""

import contextlib
import json
from collections.abc import Iterable

from calico_py.bgp.bridge_session import (
    Json,
    Outbox,
    Session,
    as_object,
    is_link_local,
    packed,
    read_open,
    read_prefixes,
)

Key = tuple[str, str, int]  # peer, prefix, path id

VERSION = 1
CHUNK = 100  # prefixes in one announcement line
SYNC_LIMIT = 120.0  # seconds that a peer without End-of-RIB gets before its stale paths go
PROBE_FIRST, PROBE_LONGEST = 0.05, 2.0  # seconds between the tries of a reload
ANSWER_LIMIT = 5.0  # seconds after which a question is asked again
RELOAD_LIMIT = 20.0  # seconds for ExaBGP to load its configuration
RETIRE_LIMIT = 3.0  # seconds for the withdrawals to a neighbour that is about to go
MAX_PATHS = 100_000  # of one neighbour, to bound the memory; the agent's own limit is far below
BACKLOG = 50_000  # lines above twice the table that may wait for an agent which does not read

ATTRIBUTES = (
    "origin",
    "as-path",
    "med",
    "local-preference",
    "community",
    "originator-id",
    "cluster-list",
)


class Bridge:
    """Lines in, lines out.

    Attributes:
        to_exabgp, outbox: what the loop is to write; there is no outbox while there is no agent.
        save: what state() gives is to be kept.
        unread: lines that could not be understood, and paths above the limit.
    """

    def __init__(self, digest: str, saved: str = "") -> None:
        self.digest = digest
        self.sessions: dict[str, Session] = {}
        self.announced: dict[str, dict[str, str]] = {}  # scope ("" for all, or a peer): prefix: attributes
        self.complete = False
        self.retired: dict[str, float] = {}
        self.watched: dict[str, tuple[str, int]] = {}  # neighbour: our address for it, and where we listen
        self._deaf: set[tuple[bytes, int]] = set()  # addresses and ports where ExaBGP should listen and does not
        self.probes: dict[str, str] = {}  # neighbour: last record about it
        self.outbox: Outbox | None = None
        self.to_exabgp = bytearray()
        self.unread = 0  # lines that could not be understood
        self.save = False
        self._peers: set[str] | None = None  # as configured; None: those of the file that ExaBGP started with
        self._wanted: str | None = None  # digest of the configuration that is to be loaded
        self._sample = ""  # the neighbour by which that is seen; empty for all
        self._give_up_at = 0.0
        self._probe_at: float | None = None
        self._delay = PROBE_FIRST
        self._digests: list[str] = []
        self._sent: dict[str, int] = {}
        self._load(saved)

    def _load(self, saved: str) -> None:
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            data = json.loads(saved)
            self.announced = {str(s): {str(n): str(a) for n, a in t.items()} for s, t in data["announced"].items()}
            self.complete = bool(data["complete"])

    def state(self) -> str:
        """What the file is to hold."""
        return json.dumps({"announced": self.announced, "complete": self.complete})

    # From ExaBGP

    def exabgp_line(self, line: str, now: float) -> None:
        """Take one line of ExaBGP's. What cannot be understood is counted and otherwise ignored."""
        if not line.startswith("{"):
            self._text_line(line.strip(), now)
            return
        try:
            message = json.loads(line)
            kind = message["type"]
            if "neighbor" not in message:
                return
            neighbor = message["neighbor"]
            session = self._session(str(neighbor["address"]["peer"]), now)
            if session is None:
                return
            if kind == "state":
                session.asn = [neighbor["asn"]["local"], neighbor["asn"]["peer"]]
                self._state(session, str(neighbor["state"]), str(neighbor.get("reason", "")), now)
            elif kind == "open" and neighbor["direction"] == "receive":
                session.opened = read_open(neighbor["open"], session.family)
            elif kind == "notification" and neighbor["direction"] == "receive":
                session.refused = {k: neighbor["notification"][k] for k in ("code", "subcode", "message")}
            elif kind == "update" and session.state == "up":
                self._update(session, neighbor["message"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            self.unread += 1

    def _session(self, peer: str, now: float) -> Session | None:
        """None for what is still said of a neighbour that has just been removed."""
        if peer not in self.sessions and (self._peers is None or peer in self._peers):
            self.sessions[peer] = Session(peer, now)
        return self.sessions.get(peer)

    def _state(self, session: Session, state: str, reason: str, now: float) -> None:
        if state == "connected":
            session.opened, session.refused, session.reason = {}, {}, ""
            # ExaBGP says so as well when the connection failed: not told until an OPEN has come.
            return
        was_up = session.state == "up"
        if state != session.state:
            session.since = now
        session.state, session.reason = state, reason
        if state == "up":
            self.probes.pop(session.peer, None)
            session.granted, session.eor = session.opened, []
            if not session.granted.get("forwarding"):
                self._tell_gone(session, session.drop_stale())
            session.stale_until = now + SYNC_LIMIT
        elif was_up:
            session.eor = []
            self._tell_gone(session, session.drop_stale())
            session.stale = set(session.paths)
            session.keep = session.keep_after_loss()
            session.stale_until = now + session.keep
            if not session.keep:
                session.drop_stale()
        if was_up or session.opened or session.refused or session.peer not in self.probes:
            # One more attempt that met no BGP speaker says less than the probe has said.
            self._tell(session.line(now, up=state == "up"))
        if state == "up":
            session.told = dict.fromkeys(session.told, "")  # ExaBGP forgot or not: tell it all again
            self._announce([session])
            self._end_of_rib(session)

    def _update(self, session: Session, message: Json) -> None:
        if "eor" in message:
            eor = as_object(message["eor"])
            family = f"{eor['afi']} {eor['safi']}"
            if family == session.family:
                self._tell_gone(session, session.drop_stale())
            session.eor = sorted({*session.eor, family})
            self._tell(json.dumps({"kind": "eor", "peer": session.peer, "family": family}))
            return
        update = as_object(message["update"])
        for prefixes in as_object(update.get("withdraw", {})).values():
            gone = [key for key in read_prefixes(prefixes) if session.paths.pop(key, None) is not None]
            session.stale.difference_update(gone)
            self._tell_gone(session, gone)
        if "announce" not in update:
            return
        attributes = as_object(update.get("attribute", {}))
        kept = json.dumps({name: attributes[name] for name in ATTRIBUTES if name in attributes})
        for hops in as_object(update["announce"]).values():
            # Of a next hop with a link-local address beside the global one (RFC 2545 3) ExaBGP makes two: the global
            # one comes last and stands.
            for hop, prefixes in sorted(as_object(hops).items(), key=lambda entry: not is_link_local(entry[0])):
                value = (
                    f'"hop": {json.dumps(hop)}, "asn": {json.dumps(session.asn)}, '
                    f'"router_id": {json.dumps(session.opened.get("router_id", ""))}, "attributes": {kept}'
                )
                for key in read_prefixes(prefixes):
                    if len(session.paths) >= MAX_PATHS and key not in session.paths:
                        self.unread += 1
                        continue
                    session.paths[key] = value
                    session.stale.discard(key)
                    self._tell(session.path_line(key), (session.peer, *key))

    def _tell_gone(self, session: Session, keys: Iterable[tuple[str, int]]) -> None:
        for key in keys:
            line = json.dumps({"kind": "gone", "peer": session.peer, "nlri": key[0], "id": key[1]})
            self._tell(line, (session.peer, *key))

    def _tell(self, line: str, subject: Key | str | None = None) -> None:
        if self.outbox is not None:
            self.outbox.put(line, subject)

    @property
    def overrun(self) -> bool:
        """The agent reads so slowly that it had better connect again and be told the table."""
        held = sum(len(session.paths) for session in self.sessions.values())
        return self.outbox is not None and len(self.outbox) > BACKLOG + 2 * held

    # The agent comes, goes and speaks

    def agent_connected(self, now: float) -> None:
        """Greet it with everything."""
        self.outbox = Outbox()
        self._tell(json.dumps({"kind": "hello", "version": VERSION, "digest": self.digest, "complete": self.complete}))
        for scope, table in self.announced.items():
            for prefix, attributes in table.items():
                record = {"kind": "announced", "scope": scope, "nlri": prefix, "attributes": attributes}
                self._tell(json.dumps(record))
        for session in self.sessions.values():
            self._replay(session, now)
        self._tell(json.dumps({"kind": "replayed", "unread": self.unread}))

    def _replay(self, session: Session, now: float) -> None:
        """As history: what a session that is lost had announced comes between its up and its down."""
        if session.stale and now > session.stale_until:
            session.drop_stale()
        lost = session.state != "up" and bool(session.granted)
        self._tell(session.line(now, up=lost or session.state == "up"))
        for key in session.paths:
            self._tell(session.path_line(key), (session.peer, *key))
        for family in session.eor:
            self._tell(json.dumps({"kind": "eor", "peer": session.peer, "family": family}))
        if lost:
            self._tell(session.line(now, up=False))

    def _tell_reasons(self, now: float) -> None:
        """Why sessions are not up, to an agent that knows by now what they should be."""
        for session in self.sessions.values():
            if session.state != "up":
                self._tell(session.line(now, up=False))
        for peer, line in self.probes.items():
            self._tell(line, peer)

    def agent_lost(self) -> None:
        """Nobody listens any more. Neighbours that were to go stay until another agent says so."""
        self.outbox = None
        self.retired.clear()
        self._announce(self.sessions.values())

    def agent_line(self, line: str, now: float) -> None:
        """Obey one line of the agent's. Raises ValueError if it makes no sense: the connection is closed then."""
        try:
            message = json.loads(line)
            do = message["do"]
            if do == "watch":
                self.watched = {str(peer): (str(local), int(port)) for peer, local, port in message["peers"]}
                for address in (*self.watched, *(local for local, _ in self.watched.values())):
                    packed(address)
                self.probes = {peer: line for peer, line in self.probes.items() if peer in self.watched}
                self._tell_reasons(now)
            elif do == "sessions":
                self._reload(str(message["digest"]), [str(peer) for peer in message["peers"]], now)
            elif do == "announce":
                self._change(message["set"], message["unset"])
            elif do == "complete":
                self.complete = self.save = True
                for session in self.sessions.values():
                    self._end_of_rib(session)
            elif do == "retire":
                self._retire([str(peer) for peer in message["peers"]], now)
            else:
                raise ValueError(f"do is {do!r}")
        except (KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
            raise ValueError(f"{type(error).__name__}: {error} in {line[:200]!r}") from error

    # Neighbours that cannot be reached

    def unreached(self) -> dict[str, str]:
        """Neighbours with which no BGP message was exchanged of late, with our address for each."""
        quiet = {}
        for peer, (local, _) in self.watched.items():
            if self._is_quiet(peer):
                quiet[peer] = local
            else:
                self.probes.pop(peer, None)
        return quiet

    def _is_quiet(self, peer: str) -> bool:
        session = self.sessions.get(peer)
        return session is None or (session.state != "up" and not session.opened and not session.refused)

    def probed(self, peer: str, error: str, *, waiting: bool) -> None:
        """What the kernel says of it: an errno's name or nothing, and whether a SYN waits for its answer."""
        if not self._is_quiet(peer):
            return
        local, port = self.watched[peer]
        record = {
            "kind": "probe",
            "peer": peer,
            "error": error,
            "waiting": waiting,
            "tried": peer in self.sessions,
            "deaf": (packed(local), port) in self._deaf,
        }
        line = json.dumps(record)
        if self.probes.get(peer) != line:
            self.probes[peer] = line
            self._tell(line, peer)

    def listens(self, found: set[tuple[bytes, int]]) -> None:
        """Where ExaBGP listens. It tries to once a reload, and says nothing if the address is not usable yet."""
        self._deaf = {(packed(local), port) for local, port in self.watched.values()} - found
        if self._deaf and self._wanted is None:
            self._write("reload")

    # Sessions

    def _reload(self, digest: str, peers: list[str], now: float) -> None:
        # One neighbour's digest stands for the file, which is loaded as a whole: to show a neighbour costs 10 ms. Where
        # none is left, one of those that were must be shown no more.
        self._sample = min(peers, default=min(self._peers or (), default=""))
        self._peers = set(peers)
        for peer in self.sessions.keys() - self._peers:
            del self.sessions[peer]
        for peer in peers:
            self.retired.pop(peer, None)
        self._announce(self.sessions.values())  # one that was to go and now stays was told to forget all
        self._wanted = digest
        self._give_up_at = now + RELOAD_LIMIT
        self._delay = PROBE_FIRST
        self._write("reload")
        self._probe_at = now + self._delay

    def _retire(self, peers: list[str], now: float) -> None:
        for peer in peers:
            self.retired[peer] = now + RETIRE_LIMIT
        self._sent = {}
        self._announce([self.sessions[peer] for peer in peers if peer in self.sessions])
        self._delay = PROBE_FIRST
        self._probe_at = now + self._delay

    @property
    def deadline(self) -> float | None:
        """When tick must be called."""
        return self._probe_at

    def hopeless(self, now: float) -> bool:
        """ExaBGP does not answer, or still has not loaded the file: only a new one will.

        It drops every reload while an UPDATE for any peer waits, and waits for ever for one that reads nothing.
        """
        late = any(now > limit + RELOAD_LIMIT for limit in self.retired.values())
        return late or (self._wanted is not None and now > self._give_up_at)

    def tick(self, now: float) -> None:
        """Ask ExaBGP whether it did what it was told."""
        if self._probe_at is None or now < self._probe_at:
            return
        self._digests = []
        if self._wanted is not None:
            self._write(f"show neighbor configuration {self._sample}".rstrip())
        self._write("show neighbor json")
        # The next question waits for the answer; ExaBGP may take a second to load 500 neighbours.
        self._delay = min(self._delay * 2, PROBE_LONGEST)
        self._probe_at = now + ANSWER_LIMIT

    def _text_line(self, line: str, now: float) -> None:
        if line.startswith("description "):
            self._digests.append(line.removeprefix("description ").strip('";'))
        elif line.startswith("["):
            self._answered(line, now)

    def _answered(self, line: str, now: float) -> None:
        """Both answers have come: the digests of neighbours whose name holds the sample's, and everyone's counters."""
        if self._wanted is not None:
            if set(self._digests) == ({self._wanted} if self._peers else set()):
                self.digest, self._wanted = self._wanted, None
                self._tell(json.dumps({"kind": "configured", "digest": self.digest}))
            else:
                self._write("reload")  # ExaBGP drops a reload while an UPDATE waits to be sent
        self._digests = []
        try:
            sent = {n["peer"]["address"]: n["messages"]["sent"]["update"] for n in json.loads(line)}
        except (ValueError, KeyError, TypeError):
            sent = {}
        flushed = [
            peer
            for peer, limit in self.retired.items()
            if now > limit or peer not in sent or sent[peer] == self._sent.get(peer)
        ]
        self._sent = sent
        for peer in flushed:
            del self.retired[peer]
            self._tell(json.dumps({"kind": "retired", "peer": peer}))
        self._probe_at = now + self._delay if self._wanted is not None or self.retired else None

    # Announcements

    def _change(self, to_set: list[list[str]], to_unset: list[list[str]]) -> None:
        for scope, prefix in to_unset:
            self.announced.get(scope, {}).pop(prefix, None)
        for scope, prefix, attributes in to_set:
            self.announced.setdefault(scope, {})[prefix] = attributes
        self.save = True
        self._announce(self.sessions.values())

    def _effective(self, session: Session) -> dict[str, str]:
        if session.peer in self.retired:
            return {}
        colon = ":" in session.peer
        both = {**self.announced.get("", {}), **self.announced.get(session.peer, {})}
        return {prefix: attributes for prefix, attributes in both.items() if (":" in prefix) == colon}

    def _announce(self, sessions: Iterable[Session]) -> None:
        """Tell ExaBGP, for each session that is up, what differs from what it was told."""
        commands: dict[tuple[str, tuple[str, ...]], list[str]] = {}
        for session in sessions:
            if session.state != "up":
                continue
            effective = self._effective(session)
            by_attributes: dict[str, list[str]] = {}
            for prefix in session.told:
                if prefix not in effective:
                    by_attributes.setdefault("", []).append(prefix)
            for prefix, attributes in effective.items():
                if session.told.get(prefix) != attributes:
                    by_attributes.setdefault(attributes, []).append(prefix)
            session.told = effective
            for attributes, changed in by_attributes.items():
                commands.setdefault((attributes, tuple(changed)), []).append(session.peer)
        for (attributes, prefixes), peers in commands.items():
            scope = ", ".join(f"neighbor {peer}" for peer in peers)
            verb = f"announce attributes {attributes}" if attributes else "withdraw attributes next-hop self"
            for start in range(0, len(prefixes), CHUNK):
                self._write(f"{scope} {verb} nlri {' '.join(prefixes[start : start + CHUNK])}")

    def _end_of_rib(self, session: Session) -> None:
        if self.complete and session.state == "up":
            self._write(f"neighbor {session.peer} announce eor {session.family}")

    def _write(self, line: str) -> None:
        self.to_exabgp += line.encode() + b"\n"
