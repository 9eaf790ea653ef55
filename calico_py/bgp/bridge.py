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

import json
from collections.abc import Iterable

from calico_py.bgp.bridge_orders import Orders
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
SYNC_LIMIT = 120.0  # seconds that a peer without End-of-RIB gets before its stale paths go
MAX_PATHS = 100_000  # of one neighbour, to bound the memory; the agent's own limit is far below
PATIENT_LOOKS = 12  # between reloads where ExaBGP has not been able to listen for long
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
        orders: the lines for ExaBGP. outbox: those for the agent; None while there is none.
        save: what orders.state() gives is to be kept.
        unread: lines that could not be understood, and paths above the limit.
    """

    def __init__(self, digest: str, saved: str = "") -> None:
        self.sessions: dict[str, Session] = {}
        self.orders = Orders(digest, self.sessions, saved)
        self.watched: dict[str, tuple[str, int]] = {}  # neighbour: our address for it, and where we listen
        self.probes: dict[str, str] = {}  # neighbour: last record about it
        self.outbox: Outbox | None = None
        self.unread = 0
        self.save = False
        self._deaf_looks = 0  # in a row
        self._deaf: set[tuple[bytes, int]] = set()  # addresses and ports where ExaBGP should listen and does not

    # From ExaBGP

    def exabgp_line(self, line: str, now: float) -> None:
        """Take one line of ExaBGP's. What cannot be understood is counted and otherwise ignored."""
        if not line.startswith("{"):
            for record in self.orders.answered(line.strip(), now):
                self._tell(json.dumps(record))
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
        if peer not in self.sessions and (self.orders.peers is None or peer in self.orders.peers):
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
            self.orders.greet(session)

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
        orders = self.orders
        hello = {"kind": "hello", "version": VERSION, "digest": orders.digest, "complete": orders.complete}
        self._tell(json.dumps(hello))
        for scope, table in orders.announced.items():
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
        self.orders.retire_none()

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
                peers = [str(peer) for peer in message["peers"]]
                for peer in self.sessions.keys() - set(peers):
                    del self.sessions[peer]
                self.orders.reload(str(message["digest"]), peers, now)
            elif do == "announce":
                self.save = True
                self.orders.change(message["set"], message["unset"])
            elif do == "complete":
                self.save = True
                self.orders.finish()
            elif do == "retire":
                self.orders.retire([str(peer) for peer in message["peers"]], now)
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
        self._deaf_looks = self._deaf_looks + 1 if self._deaf else 0
        # At the first, second, fourth look and so on, then at every twelfth: a reload of 500 neighbours takes 2 s.
        looks = self._deaf_looks
        if looks and (looks & (looks - 1) == 0 or looks % PATIENT_LOOKS == 0):
            self.orders.reload_again()
