"""Where the objects are: a dictionary for reading, SQLite for keeping, a window of changes for watching.

Synchronous, for one thread. Knows names and versions; what a valid object is and what a write means are verbs'. An
object that has been stored is never changed again, so readers share it and copy before they alter.
"""

import json
import sqlite3
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from calico_py.lab.api.errors import Object, expired

WINDOW = 10_000

_TABLES = """
CREATE TABLE IF NOT EXISTS objects (
    resource TEXT, namespace TEXT, name TEXT, body TEXT NOT NULL, PRIMARY KEY (resource, namespace, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counter (one INTEGER PRIMARY KEY CHECK (one = 1), version INTEGER NOT NULL);
INSERT OR IGNORE INTO counter VALUES (1, 1);
"""


@dataclass(frozen=True, slots=True)
class Change:
    """One write.

    Attributes:
        version: the resourceVersion that it made.
        object: as it is after the write; for a removal as it last was, with the new version.
        previous: None where there was none.
    """

    version: int
    object: Object
    previous: Object | None
    removed: bool = False


class Storage:
    """All objects of one cluster.

    A resource is named as in RBAC: ``ippools.projectcalico.org``, ``nodes``.

    Args:
        path: SQLite file, or ``:memory:``.
        window: how many changes of each resource are kept at least for watches that start in the past. Those from
            before the process started are not.
    """

    def __init__(self, path: Path | str = ":memory:", *, window: int = WINDOW) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        # The file outlives a killed process without a sync; only a dead machine could lose the last writes of a lab.
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.executescript(_TABLES)
        self._version: int = self._db.execute("SELECT version FROM counter").fetchone()[0]
        self._objects: dict[str, dict[tuple[str, str], Object]] = defaultdict(dict)
        for resource, namespace, name, body in self._db.execute("SELECT resource, namespace, name, body FROM objects"):
            self._objects[resource][namespace, name] = json.loads(body)
        self._window = window
        self._history: dict[str, list[Change]] = defaultdict(list)
        self._oldest: dict[str, int] = {}
        self._start: int = self._version
        self._listeners: dict[str, list[Callable[[], None]]] = defaultdict(list)

    @property
    def version(self) -> int:
        """The resourceVersion of the last write."""
        return self._version

    def close(self) -> None:
        """Release the file."""
        self._db.close()

    def get(self, resource: str, namespace: str, name: str) -> Object | None:
        """One object, or None."""
        return self._objects[resource].get((namespace, name))

    def list(self, resource: str, namespace: str = "") -> Sequence[Object]:
        """All objects of a resource, or those of a namespace, in the order of their names."""
        found = sorted(self._objects[resource].items())
        return [obj for (own, _), obj in found if not namespace or own == namespace]

    def put(self, resource: str, obj: Object) -> Object:
        """Create or replace; the answer has the new resourceVersion."""
        namespace, name = _key(obj)
        stored = _with_version(obj, self._version + 1)
        self._write(
            "INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?)",
            (resource, namespace, name, json.dumps(stored, separators=(",", ":"))),
        )
        previous = self._objects[resource].get((namespace, name))
        self._objects[resource][namespace, name] = stored
        self._record(resource, Change(self._version, stored, previous))
        return stored

    def remove(self, resource: str, obj: Object) -> Object:
        """Remove an object that is there; the answer is its last state with the version of the removal."""
        namespace, name = _key(obj)
        previous = self._objects[resource][namespace, name]
        last = _with_version(obj, self._version + 1)
        self._write(
            "DELETE FROM objects WHERE resource = ? AND namespace = ? AND name = ?", (resource, namespace, name)
        )
        del self._objects[resource][namespace, name]
        self._record(resource, Change(self._version, last, previous, removed=True))
        return last

    def changes(self, resource: str, since: int) -> Sequence[Change]:
        """The writes after a version, oldest first.

        Raises:
            ApiError: 410 where the window no longer reaches back to it.
        """
        oldest = self._oldest.get(resource, self._start)
        if since < oldest:
            raise expired(since, oldest)
        history = self._history[resource]
        return history[bisect_right(history, since, key=lambda change: change.version) :]

    def listen(self, resource: str, wake: Callable[[], None]) -> Callable[[], None]:
        """Call ``wake`` after every write of the resource, until the function that is returned is called."""
        self._listeners[resource].append(wake)
        return lambda: self._listeners[resource].remove(wake)

    def _write(self, statement: str, values: tuple[str, ...]) -> None:
        self._db.execute("BEGIN")
        self._db.execute(statement, values)
        self._db.execute("UPDATE counter SET version = ?", (self._version + 1,))
        self._db.execute("COMMIT")
        self._version += 1

    def _record(self, resource: str, change: Change) -> None:
        history = self._history[resource]
        history.append(change)
        if len(history) >= 2 * self._window:
            drop = len(history) - self._window
            self._oldest[resource] = history[drop - 1].version
            del history[:drop]
        for wake in tuple(self._listeners[resource]):
            wake()


def _key(obj: Mapping[str, Object]) -> tuple[str, str]:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def _with_version(obj: Object, version: int) -> Object:
    return {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(version)}}
