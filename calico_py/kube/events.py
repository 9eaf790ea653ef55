"""Events (core/v1) about the cluster's objects: what ``kubectl describe`` shows below an object.

Posting only queues; a task writes. The same event again raises its count instead of making a new object, and a bucket
limits what one agent writes, so that a fault that repeats cannot flood the API server.
"""

import asyncio
import dataclasses
import datetime as dt
import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from calico_py.kube.backoff import Backoff
from calico_py.model.codec import decode_meta
from calico_py.model.meta import Meta
from calico_py.model.store import (
    ExistsError,
    Json,
    Kind,
    NotFoundError,
    ObjectRef,
    RefusedError,
    Store,
    StoreError,
)
from calico_py.trouble import Trouble

log = logging.getLogger(__name__)

COMPONENT = "calico-py"

# Events of objects without a namespace live here, as the API server demands.
_CLUSTER_NAMESPACE = "default"

# What one agent may write: a burst, and then one in so many seconds.
_BURST = 25
_SECONDS_PER_EVENT = 12.0

# Queued or remembered; the oldest goes first.
_MAX_QUEUED = 100
_MAX_REMEMBERED = 500

# Seconds after which the same event is written again with a raised count.
_REPEAT_AFTER = 60.0

# The API server refuses longer messages.
_MAX_MESSAGE = 1024

# What is left of the 253 characters of a name beside the key.
_MAX_OBJECT_NAME = 236

API_VERSIONS: Mapping[str, str] = {"Node": "v1", "Pod": "v1"}


class Severity(StrEnum):
    """Type of an Event."""

    NORMAL = "Normal"
    WARNING = "Warning"


@dataclass(frozen=True, slots=True)
class EventRecord:
    """An Event object.

    Attributes:
        first, last: RFC 3339 time, seconds.
    """

    meta: Meta
    about: ObjectRef
    reason: str
    message: str
    severity: Severity
    node: str
    count: int = 1
    first: str = ""
    last: str = ""


def _decode(obj: Json) -> EventRecord:
    about = obj.get("involvedObject") or {}
    return EventRecord(
        meta=decode_meta(obj),
        about=ObjectRef(
            kind=about.get("kind", ""),
            name=about.get("name", ""),
            namespace=about.get("namespace", ""),
            api_version=about.get("apiVersion", ""),
            uid=about.get("uid", ""),
        ),
        reason=obj.get("reason", ""),
        message=obj.get("message", ""),
        severity=Severity.WARNING if obj.get("type") == "Warning" else Severity.NORMAL,
        node=(obj.get("source") or {}).get("host", ""),
        count=obj.get("count") or 1,
        first=obj.get("firstTimestamp") or "",
        last=obj.get("lastTimestamp") or "",
    )


def _encode(record: EventRecord) -> dict[str, Any]:
    about = record.about
    fields = {
        "kind": about.kind,
        "name": about.name,
        "namespace": about.namespace,
        "apiVersion": about.api_version,
        "uid": about.uid,
    }
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": record.meta.name, "namespace": record.meta.namespace},
        "involvedObject": {key: value for key, value in fields.items() if value},
        "reason": record.reason,
        "message": record.message,
        "type": str(record.severity),
        "source": {"component": COMPONENT, "host": record.node},
        "reportingComponent": COMPONENT,
        "reportingInstance": record.node,
        "count": record.count,
        "firstTimestamp": record.first,
        "lastTimestamp": record.last,
    }


EVENTS: Kind[EventRecord] = Kind("Event", "", "v1", "events", _decode, _encode, namespaced=True)


@dataclass(slots=True)
class _Entry:
    """An event that this agent has told: how often, and when it was last written."""

    record: EventRecord
    pending: int = 0
    written: bool = False
    written_at: float = 0.0


class Recorder:
    """Posts the events of one agent.

    Args:
        node: name of this node, shown as the source.

    Attributes:
        dropped: events that were never written because too many were told at once.
    """

    def __init__(self, store: Store, node: str) -> None:
        self.dropped = 0
        self._store = store
        self._node = node
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._queue: OrderedDict[str, None] = OrderedDict()
        self._wake = asyncio.Event()

    def post(self, about: ObjectRef, reason: str, message: str, severity: Severity = Severity.WARNING) -> None:
        """Tell an event; returns at once. The reason is a CamelCase word, the message a sentence."""
        message = message[:_MAX_MESSAGE]
        key = _key(self._node, about, reason, message)
        entry = self._entries.get(key)
        if entry is None:
            namespace = about.namespace or _CLUSTER_NAMESPACE
            about = dataclasses.replace(about, api_version=about.api_version or _api_version(about.kind))
            meta = Meta(f"{about.name[:_MAX_OBJECT_NAME].rstrip('-.')}.{key}", namespace=namespace)
            entry = _Entry(EventRecord(meta, about, reason, message, severity, self._node, count=0, first=_stamp()))
            self._entries[key] = entry
            if len(self._entries) > _MAX_REMEMBERED:
                self._entries.popitem(last=False)
        self._entries.move_to_end(key)
        entry.pending += 1
        if entry.written and asyncio.get_running_loop().time() - entry.written_at < _REPEAT_AFTER:
            return
        if key not in self._queue and len(self._queue) >= _MAX_QUEUED:
            self._queue.popitem(last=False)
            self.dropped += 1
        self._queue[key] = None
        self._wake.set()

    async def run(self) -> None:
        """Write what is posted, for ever."""
        clock = asyncio.get_running_loop().time
        tokens, refilled = float(_BURST), clock()
        backoff, trouble = Backoff(), Trouble(log)
        while True:
            await self._wake.wait()
            tokens, refilled = min(_BURST, tokens + (clock() - refilled) / _SECONDS_PER_EVENT), clock()
            if tokens < 1:
                await asyncio.sleep((1 - tokens) * _SECONDS_PER_EVENT)
                continue
            key = next(iter(self._queue))
            try:
                await self._write(self._entries.get(key))
            except RefusedError as error:
                trouble.tell("an Event is dropped", error)
            except StoreError as error:
                trouble.tell("an Event waits to be written", error)
                await asyncio.sleep(backoff.wait())
                continue
            else:
                trouble.over()
            backoff.reset()
            tokens -= 1
            self._queue.pop(key, None)
            if not self._queue:
                self._wake.clear()

    async def _write(self, entry: _Entry | None) -> None:
        """Create the Event, or raise the count of the one that an earlier run of this agent has made."""
        if entry is None or not entry.pending:
            return
        told, record = entry.pending, entry.record
        record = dataclasses.replace(record, count=record.count + told, last=_stamp())
        name, namespace = record.meta.name, record.meta.namespace
        try:
            if entry.written:
                await self._raise_count(record)
            else:
                await self._store.create(EVENTS, record)
        except ExistsError:
            found = await self._store.get(EVENTS, name, namespace=namespace)
            record = dataclasses.replace(record, count=found.count + told, first=found.first)
            await self._raise_count(record)
        except NotFoundError:  # events are forgotten after an hour
            await self._store.create(EVENTS, record)
        entry.record, entry.written, entry.written_at = record, True, asyncio.get_running_loop().time()
        entry.pending -= told

    async def _raise_count(self, record: EventRecord) -> None:
        patch = {"count": record.count, "lastTimestamp": record.last}
        await self._store.patch(EVENTS, record.meta.name, patch, namespace=record.meta.namespace)


def _api_version(kind: str) -> str:
    return API_VERSIONS.get(kind, "projectcalico.org/v3")


def _stamp() -> str:
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _key(node: str, about: ObjectRef, reason: str, message: str) -> str:
    """The same for the same event of the same node, so that a restarted agent finds its own."""
    parts = [node, about.kind, about.namespace, about.name, about.uid, reason, message]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
