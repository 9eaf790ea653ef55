"""The process that ExaBGP runs as its API helper: stdlib only, started with `python -I -S bridge.py`.

It stands between two that must not wait for each other. ExaBGP blocks, and drops its sessions for good, when its
helper does not read; the agent comes and goes. So the bridge always reads, never blocks, and keeps what either side
has to be told again: the received paths, the sessions, and the agent's announcements (in a file too, for an ExaBGP
that restarts while the agent is away).

Bridge is the pure part: lines in, lines out, the time as a parameter. Loop is the selector loop around it. All in
one file, since `-I -S` finds no other.

To the agent, one JSON object a line: hello, announced..., session..., path..., eor..., replayed, and from then on
what happens: session, path, gone, eor, probe, configured, retired. From the agent: {"do": "watch" | "sessions" |
"announce" | "complete" | "retire", ...}. calico_py.bgp.exabgp_lines reads and writes the other end.
"""

import contextlib
import errno
import json
import os
import selectors
import socket
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

Json = dict[str, object]
Key = tuple[str, str, int]  # peer, prefix, path id

VERSION = 1
CHUNK = 100  # prefixes in one announcement line
SYNC_LIMIT = 120.0  # seconds that a peer without End-of-RIB gets before its stale paths go
PROBE_FIRST, PROBE_LONGEST = 0.05, 2.0  # seconds between the tries of a reload
PROBE_EVERY, PROBE_ROUNDS = 1.0, 4  # seconds between looks for an answer, and looks
PROBES = 50  # answers awaited at a time
BGP_PORT = 179
IP_RECVERR, IPV6_RECVERR = 11, 25  # linux/in.h, linux/in6.h
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


class Outbox:
    """Lines for the agent. A later line on the same subject takes the place of one that still waits.

    Only between two barriers (session, End-of-RIB): across them the order carries meaning.
    """

    def __init__(self) -> None:
        self._lines: OrderedDict[tuple[int, object], str] = OrderedDict()
        self._epoch = 0

    def __len__(self) -> int:
        return len(self._lines)

    def put(self, line: str, subject: object = None) -> None:
        """Add a line; without a subject it is a barrier."""
        if subject is None:
            self._epoch += 1
            self._lines[self._epoch, None] = line
            self._epoch += 1
        else:
            self._lines[self._epoch, subject] = line

    def take(self, size: int) -> bytes:
        """At least one line if any waits, and then up to about that many bytes."""
        taken: list[str] = []
        while self._lines and size > 0:
            line = self._lines.popitem(last=False)[1]
            size -= len(line)
            taken.append(line)
        return "".join(line + "\n" for line in taken).encode()


class Session:
    """What is known of one neighbour and what it announced."""

    def __init__(self, peer: str, now: float) -> None:
        self.peer = peer
        self.state = "down"
        self.since = now
        self.reason = ""
        self.asn: list[object] = [0, 0]
        self.opened: Json = {}  # the OPEN of the present or last connection
        self.granted: Json = {}  # the OPEN of the session that is or was last up
        self.refused: Json = {}  # the last NOTIFICATION received
        self.keep = 0  # seconds for which the paths of the lost session may be kept
        self.paths: dict[tuple[str, int], str] = {}
        self.stale: set[tuple[str, int]] = set()
        self.stale_until = 0.0
        self.eor: list[str] = []
        self.told: dict[str, str] = {}  # prefix: attributes, as ExaBGP was told for this neighbour

    @property
    def family(self) -> str:
        """The one family that a session carries: that of its own addresses."""
        return "ipv6 unicast" if ":" in self.peer else "ipv4 unicast"

    def line(self, now: float, *, up: bool) -> str:
        """The session as the agent is told of it: as it is, or, of one that is lost, as it was."""
        return json.dumps(
            {
                "kind": "session",
                "peer": self.peer,
                "state": "up" if up else "down",
                "age": round(max(0.0, now - self.since), 3),
                "reason": "" if up else self.reason,
                "asn": self.asn,
                "open": self.granted if up else self.opened,
                "notification": {} if up else self.refused,
                "keep": 0 if up else self.keep,
            }
        )

    def path_line(self, key: tuple[str, int]) -> str:
        """One path as the agent is told of it."""
        head = json.dumps({"kind": "path", "peer": self.peer, "nlri": key[0], "id": key[1]})
        return f"{head[:-1]}, {self.paths[key]}}}"

    def keep_after_loss(self) -> int:
        """By RFC 4724 a NOTIFICATION ends all grace, except that for a hold timer (code 4) it lasts (RFC 8538 4)."""
        granted = self.granted.get("restart_time", 0)
        sent = self.reason.startswith("notification sent") and not self.reason.startswith("notification sent (4,")
        if sent or self.refused.get("code", 4) != 4 or not isinstance(granted, int):
            return 0
        return granted

    def drop_stale(self) -> list[tuple[str, int]]:
        """Forget what is still stale."""
        gone = [key for key in self.stale if self.paths.pop(key, None) is not None]
        self.stale.clear()
        return gone


class Bridge:
    """Lines in, lines out. ``to_exabgp`` and ``outbox`` are drained by the loop; ``saved`` asks for a write."""

    def __init__(self, digest: str, saved: str = "") -> None:
        self.digest = digest
        self.sessions: dict[str, Session] = {}
        self.announced: dict[str, dict[str, str]] = {}  # scope ("" for all, or a peer): prefix: attributes
        self.complete = False
        self.retired: dict[str, float] = {}
        self.watched: dict[str, str] = {}  # neighbour: our address for it
        self.probes: dict[str, str] = {}  # neighbour: last record about it
        self.outbox: Outbox | None = None
        self.to_exabgp = bytearray()
        self.unread = 0  # lines that could not be understood
        self.save = False
        self._peers: set[str] | None = None  # as configured; None: those of the file that ExaBGP started with
        self._wanted: tuple[str, int] | None = None
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
                session.opened = _opened(neighbor["open"], session.family)
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
            session.granted, session.eor = session.opened, []
            if not session.granted.get("forwarding"):
                session.drop_stale()  # the agent does the same by itself
            session.stale_until = now + SYNC_LIMIT
        elif was_up:
            session.eor = []
            session.drop_stale()
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
            eor = _dict(message["eor"])
            family = f"{eor['afi']} {eor['safi']}"
            if family == session.family:
                self._tell_gone(session, session.drop_stale())
            session.eor = sorted({*session.eor, family})
            self._tell(json.dumps({"kind": "eor", "peer": session.peer, "family": family}))
            return
        update = _dict(message["update"])
        for prefixes in _dict(update.get("withdraw", {})).values():
            gone = [key for key in _keys(prefixes) if session.paths.pop(key, None) is not None]
            session.stale.difference_update(gone)
            self._tell_gone(session, gone)
        if "announce" not in update:
            return
        attributes = _dict(update.get("attribute", {}))
        kept = json.dumps({name: attributes[name] for name in ATTRIBUTES if name in attributes})
        for hops in _dict(update["announce"]).values():
            for hop, prefixes in _dict(hops).items():
                value = (
                    f'"hop": {json.dumps(hop)}, "asn": {json.dumps(session.asn)}, '
                    f'"router_id": {json.dumps(session.opened.get("router_id", ""))}, "attributes": {kept}'
                )
                for key in _keys(prefixes):
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
        for peer, line in self.probes.items():
            self._tell(line, peer)
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

    def agent_lost(self) -> None:
        """Nobody listens any more."""
        self.outbox = None

    def agent_line(self, line: str, now: float) -> None:
        """Obey one line of the agent's. Raises ValueError if it makes no sense: the connection is closed then."""
        try:
            message = json.loads(line)
            do = message["do"]
            if do == "watch":
                self.watched = {str(peer): str(local) for peer, local in message["peers"]}
                for address in (*self.watched, *self.watched.values()):
                    _packed(address)
                self.probes = {peer: line for peer, line in self.probes.items() if peer in self.watched}
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
        for peer, local in self.watched.items():
            session = self.sessions.get(peer)
            if session is None or (session.state != "up" and not session.opened and not session.refused):
                quiet[peer] = local
            else:
                self.probes.pop(peer, None)
        return quiet

    def probed(self, peer: str, error: str, *, waiting: bool) -> None:
        """What the kernel says of it: an errno's name or nothing, and whether a SYN waits for its answer."""
        tried = peer in self.sessions
        record = {"kind": "probe", "peer": peer, "error": error, "waiting": waiting, "tried": tried}
        line = json.dumps(record)
        if self.probes.get(peer) != line:
            self.probes[peer] = line
            self._tell(line, peer)

    # Sessions

    def _reload(self, digest: str, peers: list[str], now: float) -> None:
        self._peers = set(peers)
        for peer in self.sessions.keys() - self._peers:
            del self.sessions[peer]
        for peer in peers:
            self.retired.pop(peer, None)
        self._wanted = (digest, len(peers))
        self._give_up_at = now + RELOAD_LIMIT
        self._delay = PROBE_FIRST
        self._write("reload")
        self._probe_at = now + self._delay

    def _retire(self, peers: list[str], now: float) -> None:
        for peer in peers:
            self.retired[peer] = now + RETIRE_LIMIT
        self._sent = {}
        self._announce([self.sessions[peer] for peer in peers if peer in self.sessions])
        self._probe_at = now + PROBE_FIRST

    @property
    def deadline(self) -> float | None:
        """When tick must be called."""
        return self._probe_at

    def hopeless(self, now: float) -> bool:
        """ExaBGP still has not loaded the file: only a new one will.

        It drops every reload while an UPDATE for any peer waits, and waits for ever for one that reads nothing.
        """
        return self._wanted is not None and now > self._give_up_at

    def tick(self, now: float) -> None:
        """Ask ExaBGP whether it did what it was told."""
        if self._probe_at is None or now < self._probe_at:
            return
        self._digests = []
        self._write("show neighbor configuration")
        self._write("show neighbor json")
        self._delay = min(self._delay * 2, PROBE_LONGEST)
        self._probe_at = now + self._delay

    def _text_line(self, line: str, now: float) -> None:
        if line.startswith("description "):
            self._digests.append(line.removeprefix("description ").strip('";'))
        elif line.startswith("["):
            self._answered(line, now)

    def _answered(self, line: str, now: float) -> None:
        """Both answers have come: the neighbours' digests, and their counters."""
        if self._wanted is not None:
            digest, number = self._wanted
            if self._digests == [digest] * number:
                self.digest, self._wanted = digest, None
                self._tell(json.dumps({"kind": "configured", "digest": digest}))
            else:
                self._write("reload")  # ExaBGP drops a reload while an UPDATE waits to be sent
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
        if self._wanted is None and not self.retired:
            self._probe_at = None

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


def _dict(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise TypeError(f"{value!r} is no object")
    return value


def _keys(prefixes: object) -> Iterator[tuple[str, int]]:
    """Prefix and path id of each entry; ExaBGP writes the id like an address."""
    if not isinstance(prefixes, list):
        raise TypeError(f"{prefixes!r} is no list")
    for entry in prefixes:
        path_id = 0
        for octet in entry.get("path-information", "0").split("."):
            path_id = path_id << 8 | int(octet)
        yield str(entry["nlri"]), path_id


def _opened(message: Json, family: str) -> Json:
    """The parts of an OPEN that matter.

    ExaBGP 5.0.15 swaps the names of the two restart flags, so only whether one is set is looked at: among the
    address-family-flags it is F (RFC 4724 3), the one that is wanted.
    """
    capabilities = _dict(message["capabilities"])
    restart = _dict(capabilities.get("64", {}))
    flags = _dict(restart.get("address-family-flags", {})).get(family.replace(" ", "/"))
    asn = _dict(capabilities.get("65", {})).get("asn4", message["asn"])
    return {
        "asn": asn,
        "hold_time": message["hold_time"],
        "router_id": message["router_id"],
        "restart_time": restart.get("time", 0) if flags is not None else 0,
        "forwarding": bool(flags),
    }


class Prober:
    """Finds out why a neighbour cannot be reached; ExaBGP does not say what the kernel told it.

    A datagram to its BGP port brings an ICMP error back, or none; a TCP connection of our own would be taken for
    the neighbour's session at the other end.
    """

    def __init__(self) -> None:
        self._probes: dict[str, Probe] = {}

    def round(self, bridge: Bridge) -> None:
        """Report what is known by now, and send where an answer has come or none will."""
        quiet = bridge.unreached()
        for peer in self._probes.keys() - quiet.keys():
            self._probes.pop(peer).close()
        waiting = _syn_sent() if self._probes else set()
        for peer, probe in self._probes.items():
            bridge.probed(peer, probe.look(), waiting=_packed(peer) in waiting)
        busy = sum(1 for probe in self._probes.values() if probe.pending)
        # A thousand may be down: those that were probed least come first.
        for peer in sorted(quiet, key=lambda peer: self._probes[peer].sent if peer in self._probes else 0):
            if busy < PROBES:
                busy += self._probes.setdefault(peer, Probe()).send(peer, quiet[peer])


class Probe:
    """A datagram on its way, and what came of the ones before."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._rounds = 0
        self._error = ""
        self.sent = 0

    @property
    def pending(self) -> bool:
        """There may still come an answer."""
        return self._socket is not None

    def send(self, peer: str, local: str) -> bool:
        """Send unless an answer is still awaited; True if one is awaited now that was not before."""
        if self._socket is not None:
            return False
        self._rounds = 0
        self.sent += 1
        six = ":" in peer
        try:
            self._socket = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
            # Without it ip(7) does not report that a host is unreachable.
            option = (socket.IPPROTO_IPV6, IPV6_RECVERR) if six else (socket.IPPROTO_IP, IP_RECVERR)
            self._socket.setsockopt(*option, 1)
            self._socket.setblocking(False)
            self._socket.bind((local, 0))
            self._socket.connect((peer, BGP_PORT))
            self._socket.send(b"")
        except OSError as error:
            self._error = errno.errorcode.get(error.errno or 0, "")
            self.close()
        return self._socket is not None

    def look(self) -> str:
        """Name of the errno that the last datagram met, empty for none. The kernel takes 3 s for a silent link."""
        if self._socket is not None:
            self._rounds += 1
            code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code or self._rounds >= PROBE_ROUNDS:
                self._error = errno.errorcode.get(code, "") if code else ""
                self.close()
        return self._error

    def close(self) -> None:
        """Await nothing any more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def _syn_sent() -> set[bytes]:
    """Addresses to which a SYN is on its way without an answer (state 02; proc(5), /proc/net/tcp)."""
    found = set()
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            for line in Path(f"/proc/net/{name}").read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == "02":
                    # Words of 32 bits in the machine's order, each shown as a number.
                    text = fields[2].partition(":")[0]
                    words = [int(text[i : i + 8], 16) for i in range(0, len(text), 8)]
                    found.add(b"".join(word.to_bytes(4, sys.byteorder) for word in words))
    return found


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
            self._prober.round(bridge)
            self._probe_at = now + PROBE_EVERY
        times = [time for time in (bridge.deadline, self._probe_at if bridge.watched else None) if time is not None]
        timeout = max(0.0, min(times) - now) if times else None
        for key, events in self._selector.select(timeout):
            handle: Callable[[int], bool] = key.data
            if not handle(events):
                return False
        bridge.tick(time.monotonic())
        if bridge.hopeless(time.monotonic()):
            _say(f"ExaBGP has not loaded its configuration within {RELOAD_LIMIT:.0f} s; it is to start again with it")
            return False
        if bridge.overrun:
            self._drop_agent()
        if bridge.save:
            self._save()
        self._want_writes()
        return True

    def _want_writes(self) -> None:
        if bool(self._bridge.to_exabgp) != self._writes_exabgp:
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
            written = os.write(1, self._bridge.to_exabgp[: 1 << 16])
        except BlockingIOError:
            return True
        except BrokenPipeError:
            return False
        del self._bridge.to_exabgp[:written]
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
            temporary.write_text(self._bridge.state(), encoding="utf-8")
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


if __name__ == "__main__":
    main(*sys.argv[1:4])
