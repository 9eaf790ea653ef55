"""A watch over HTTP: a stream of events, one JSON document a line, until the time is up or the client goes."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from calico_py.lab.api.errors import ApiError, Object
from calico_py.lab.api.resources import Resource
from calico_py.lab.api.selection import Selection
from calico_py.lab.api.verbs import Verbs

# Seconds between bookmarks, and before the end of the watch when one more is due.
_BOOKMARK_INTERVAL = 10.0
_BOOKMARK_BEFORE_END = 2.0


@dataclass(frozen=True, slots=True)
class WatchRequest:
    """What a client wants to see.

    Attributes:
        since: resourceVersion after which changes are told; None first tells what is there, as ADDED.
        initial_end: tell with a bookmark that what was there has been told (sendInitialEvents).
        timeout: seconds.
        shape: the form in which an object goes out.
    """

    resource: Resource
    selection: Selection
    since: int | None
    bookmarks: bool
    initial_end: bool
    timeout: float
    shape: Callable[[Object], Object]


class Watches:
    """Serves watches and can end them all."""

    def __init__(self, verbs: Verbs) -> None:
        self._verbs = verbs
        self._open: set[asyncio.Timeout] = set()

    def end(self) -> None:
        """Let all watches end now, as if their time were up."""
        for limit in self._open:
            limit.reschedule(asyncio.get_running_loop().time())

    async def stream(self, wanted: WatchRequest, request: web.Request) -> web.StreamResponse:
        """Serve a watch; the answer is 200 in any case, and what goes wrong is an ERROR event, as in Kubernetes."""
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        woken = asyncio.Event()
        unlisten = self._verbs.storage.listen(wanted.resource.key, woken.set)
        limit = asyncio.timeout(wanted.timeout)
        try:
            async with limit:
                self._open.add(limit)
                await _tell(self._verbs, wanted, response, woken)
        except TimeoutError:
            pass
        except ApiError as error:
            await response.write(_line("ERROR", error.status()))
        except ConnectionError:
            return response
        finally:
            self._open.discard(limit)
            unlisten()
        await response.write_eof()
        return response


async def _tell(verbs: Verbs, wanted: WatchRequest, response: web.StreamResponse, woken: asyncio.Event) -> None:
    seen = wanted.since
    if seen is None:
        seen = verbs.storage.version
        for obj in verbs.list(wanted.resource, wanted.selection):
            await response.write(_line("ADDED", wanted.shape(obj)))
        if wanted.initial_end:
            await response.write(_bookmark(wanted.resource, seen, initial_end=True))
    loop = asyncio.get_running_loop()
    last = loop.time() + wanted.timeout - _BOOKMARK_BEFORE_END
    due = min(last, loop.time() + _BOOKMARK_INTERVAL)
    while True:
        woken.clear()
        events, seen = verbs.changes(wanted.resource, wanted.selection, seen)
        if events:
            await response.write(b"".join(_line(event.type, wanted.shape(event.object)) for event in events))
        try:
            async with asyncio.timeout_at(due):
                await woken.wait()
        except TimeoutError:
            if wanted.bookmarks:
                await response.write(_bookmark(wanted.resource, seen))
            due = loop.time() + _BOOKMARK_INTERVAL
            due = min(last, due) if loop.time() < last else due


def _line(event: str, obj: Object) -> bytes:
    return json.dumps({"type": event, "object": obj}, separators=(",", ":")).encode() + b"\n"


def _bookmark(resource: Resource, version: int, *, initial_end: bool = False) -> bytes:
    meta: Object = {"resourceVersion": str(version), "creationTimestamp": None}
    if initial_end:
        meta["annotations"] = {"k8s.io/initial-events-end": "true"}
    return _line("BOOKMARK", {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": meta})
