"""What ExaBGP is told (configuration, announcements, End-of-RIB) and whether it did so. Standard library only, pure.

ExaBGP acknowledges nothing (api.ack is off), so that what matters is asked for: a neighbour's description, which is a
digest of the configuration file, and the counters of UPDATEs sent.
"""

import contextlib
import json
from collections.abc import Iterable, Mapping

from calico_py.bgp.bridge_session import Session

CHUNK = 100  # prefixes in one announcement line
ASK_FIRST, ASK_LATER = 0.05, 2.0  # seconds until the first question, and at most between an answer and the next one
ANSWER_LIMIT = 5.0  # seconds after which a question is asked again
RELOAD_LIMIT = 20.0  # seconds for ExaBGP to load its configuration
RETIRE_LIMIT = 3.0  # seconds for the withdrawals to a neighbour that is about to go


class Orders:
    """Lines for ExaBGP, in ``to_exabgp``.

    Attributes:
        digest: of the configuration that ExaBGP has loaded.
        peers: neighbours as configured; None: those of the file that ExaBGP started with.
        announced: by scope (empty for all, or a neighbour) and prefix the attributes, in ExaBGP's words.
        complete: the agent has said that these are all.
        retired: neighbours to which nothing is announced any more, and until when that may take.
    """

    def __init__(self, digest: str, sessions: Mapping[str, Session], saved: str = "") -> None:
        self.digest = digest
        self.peers: set[str] | None = None
        self.announced: dict[str, dict[str, str]] = {}
        self.complete = False
        self.retired: dict[str, float] = {}
        self.to_exabgp = bytearray()
        self._sessions = sessions
        self._wanted: str | None = None  # digest of the configuration that is to be loaded
        self._sample = ""  # the neighbour by which that is seen; empty for all
        self._give_up_at = 0.0
        self._ask_at: float | None = None
        self._delay = ASK_FIRST
        self._digests: list[str] = []
        self._sent: dict[str, int] = {}
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            data = json.loads(saved)
            self.announced = {str(s): {str(n): str(a) for n, a in t.items()} for s, t in data["announced"].items()}
            self.complete = bool(data["complete"])

    def state(self) -> str:
        """What is to be kept in a file, for an ExaBGP that restarts while the agent is away."""
        return json.dumps({"announced": self.announced, "complete": self.complete})

    def write(self, line: str) -> None:
        """Add a line."""
        self.to_exabgp += line.encode() + b"\n"

    # Announcements

    def change(self, to_set: list[list[str]], to_unset: list[list[str]]) -> None:
        """Announcements that come or change, and those that go."""
        for scope, prefix in to_unset:
            self.announced.get(scope, {}).pop(prefix, None)
        for scope, prefix, attributes in to_set:
            self.announced.setdefault(scope, {})[prefix] = attributes
        self.announce(self._sessions.values())

    def finish(self) -> None:
        """These are all: End-of-RIB may be sent."""
        self.complete = True
        for session in self._sessions.values():
            self._end_of_rib(session)

    def greet(self, session: Session) -> None:
        """A session has come up. What ExaBGP still knows of an earlier one is not relied on: all of it is told again.

        One that is down is told nothing: the UPDATE would wait, and ExaBGP drops every reload while one does.
        """
        session.told = dict.fromkeys(session.told, "")
        self.announce([session])
        self._end_of_rib(session)

    def announce(self, sessions: Iterable[Session]) -> None:
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
                self.write(f"{scope} {verb} nlri {' '.join(prefixes[start : start + CHUNK])}")

    def _effective(self, session: Session) -> dict[str, str]:
        if session.peer in self.retired:
            return {}
        colon = ":" in session.peer
        both = {**self.announced.get("", {}), **self.announced.get(session.peer, {})}
        return {prefix: attributes for prefix, attributes in both.items() if (":" in prefix) == colon}

    def _end_of_rib(self, session: Session) -> None:
        if self.complete and session.state == "up":
            self.write(f"neighbor {session.peer} announce eor {session.family}")

    # Configuration

    def reload(self, digest: str, peers: list[str], now: float) -> None:
        """Load the file, which has that digest and these neighbours."""
        # One neighbour's digest stands for the file, which is loaded as a whole: to show a neighbour costs 10 ms. Where
        # none is left, one of those that were must be shown no more.
        self._sample = min(peers, default=min(self.peers or (), default=""))
        self.peers = set(peers)
        for peer in peers:
            self.retired.pop(peer, None)
        self.announce(self._sessions.values())  # one that was to go and now stays was told to forget all
        self._wanted = digest
        self._give_up_at = now + RELOAD_LIMIT
        self.write("reload")
        self._ask_soon(now)

    def reload_again(self) -> None:
        """Have ExaBGP try once more to listen; no matter if it is dropped."""
        if self._wanted is None:
            self.write("reload")

    def retire(self, peers: list[str], now: float) -> None:
        """Withdraw everything from these neighbours; ``answered`` tells when that is sent."""
        for peer in peers:
            self.retired[peer] = now + RETIRE_LIMIT
        self._sent = {}
        self.announce([self._sessions[peer] for peer in peers if peer in self._sessions])
        self._ask_soon(now)

    def retire_none(self) -> None:
        """Who was to go stays."""
        self.retired.clear()
        self.announce(self._sessions.values())

    def _ask_soon(self, now: float) -> None:
        self._delay = ASK_FIRST
        self._ask_at = now + self._delay

    @property
    def deadline(self) -> float | None:
        """When tick must be called."""
        return self._ask_at

    def hopeless(self, now: float) -> bool:
        """ExaBGP does not answer, or still has not loaded the file: only a new one will.

        It drops every reload while an UPDATE for any peer waits, and waits for ever for one that reads nothing.
        """
        late = any(now > limit + RELOAD_LIMIT for limit in self.retired.values())
        return late or (self._wanted is not None and now > self._give_up_at)

    def tick(self, now: float) -> None:
        """Ask ExaBGP whether it did what it was told."""
        if self._ask_at is None or now < self._ask_at:
            return
        self._digests = []
        if self._wanted is not None:
            self.write(f"show neighbor configuration {self._sample}".rstrip())
        self.write("show neighbor json")
        # The next question waits for the answer; ExaBGP may take a second to load 500 neighbours.
        self._delay = min(self._delay * 2, ASK_LATER)
        self._ask_at = now + ANSWER_LIMIT

    def answered(self, line: str, now: float) -> list[dict[str, str]]:
        """A line of an answer; with the last one come the records that tell the agent what is done."""
        if line.startswith("description "):
            self._digests.append(line.removeprefix("description ").strip('";'))
        if not line.startswith("["):
            return []
        records = []
        if self._wanted is not None:
            # All neighbours whose name holds the sample's are shown: 10.0.0.10 with 10.0.0.1.
            if set(self._digests) == ({self._wanted} if self.peers else set()):
                self.digest, self._wanted = self._wanted, None
                records.append({"kind": "configured", "digest": self.digest})
            else:
                self.write("reload")
        self._digests = []
        records += [{"kind": "retired", "peer": peer} for peer in self._flushed(line, now)]
        self._ask_at = now + self._delay if self._wanted is not None or self.retired else None
        return records

    def _flushed(self, line: str, now: float) -> list[str]:
        """Retired neighbours whose counter of UPDATEs stands still."""
        try:
            sent = {n["peer"]["address"]: n["messages"]["sent"]["update"] for n in json.loads(line)}
        except (ValueError, KeyError, TypeError):
            sent = {}
        flushed = [
            peer
            for peer, limit in self.retired.items()
            if now > limit or peer not in sent or sent[peer] == self._sent.get(peer)
        ]
        for peer in flushed:
            del self.retired[peer]
        self._sent = sent
        return flushed
