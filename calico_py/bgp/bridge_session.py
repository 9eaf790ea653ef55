"""What the bridge knows of one neighbour, and the lines that wait for the agent. Standard library only, pure."""

import json
import socket
from collections import OrderedDict
from collections.abc import Iterator

Json = dict[str, object]


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
        prefix, path_id = key
        return (
            f'{{"kind": "path", "peer": {json.dumps(self.peer)}, "nlri": {json.dumps(prefix)}, "id": {path_id}, '
            f"{self.paths[key]}}}"
        )

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


def as_object(value: object) -> Json:
    """The value, if it is a JSON object; TypeError if not."""
    if not isinstance(value, dict):
        raise TypeError(f"{value!r} is no object")
    return value


def read_prefixes(prefixes: object) -> Iterator[tuple[str, int]]:
    """Prefix and path id of each entry; ExaBGP writes the id like an address."""
    if not isinstance(prefixes, list):
        raise TypeError(f"{prefixes!r} is no list")
    for entry in prefixes:
        path_id = 0
        for octet in entry.get("path-information", "0").split("."):
            path_id = path_id << 8 | int(octet)
        yield str(entry["nlri"]), path_id


def read_open(message: Json, family: str) -> Json:
    """The parts of an OPEN that matter.

    ExaBGP 5.0.15 swaps the names of the two restart flags, so only whether one is set is looked at: among the
    address-family-flags it is F (RFC 4724 3), the one that is wanted.
    """
    capabilities = as_object(message["capabilities"])
    restart = as_object(capabilities.get("64", {}))
    flags = as_object(restart.get("address-family-flags", {})).get(family.replace(" ", "/"))
    asn = as_object(capabilities.get("65", {})).get("asn4", message["asn"])
    return {
        "asn": asn,
        "hold_time": message["hold_time"],
        "router_id": message["router_id"],
        "restart_time": restart.get("time", 0) if flags is not None else 0,
        "forwarding": bool(flags),
    }


def packed(address: str) -> bytes:
    """The address in network order; OSError if it is none."""
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def is_link_local(address: str) -> bool:
    """Whether it lies in fe80::/10 (RFC 4291 2.5.6)."""
    return address.lower().startswith(("fe8", "fe9", "fea", "feb"))
