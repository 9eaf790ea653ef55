"""KubeStore: the Store protocol on a Kubernetes API server.

Paths, verbs, selectors and the meaning of answers are those of the Kubernetes API concepts
(kubernetes.io/docs/reference/using-api/api-concepts). What a kind looks like is model.kinds'.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from typing import Any, TypeVar
from urllib.parse import quote

from calico_py.kube.transport import JSON, MERGE_PATCH, Request, Transport, to_error
from calico_py.model.net import InvalidError
from calico_py.model.store import EventType, GoneError, Invalid, Json, Kind, Listing, UnavailableError, WatchEvent

R = TypeVar("R")

USER_AGENT = "calico-py"

# Decoding this many objects takes about a millisecond; then other work has its turn.
_DECODE_BATCH = 100

# A list whose continuation has expired (410) begins anew this often.
_LIST_ATTEMPTS = 3

# Seconds for which a watch is asked to last, spread so that the watches of a cluster don't end together.
_WATCH_SECONDS = (300, 600)


class KubeStore:
    """A Store over HTTP.

    Lists ask for all objects at once and for no resourceVersion: from Kubernetes 1.31 on the server then answers
    consistently from its watch cache, where a page limit would send every list of every node to etcd. Whole lists of
    kinds with a page size of their own are the leader's, or rare.

    Args:
        page_size: objects a page of every list, 0 for all at once.
    """

    def __init__(self, transport: Transport, *, page_size: int = 0) -> None:
        self._transport = transport
        self._page_size = page_size

    @property
    def host(self) -> str:
        """Base address of the API server, for people."""
        return self._transport.host

    async def list(self, kind: Kind[R], *, labels: str = "", fields: str = "") -> Listing[R]:
        """All objects; a list that expires between two pages is begun anew."""
        for _ in range(_LIST_ATTEMPTS - 1):
            with contextlib.suppress(GoneError):
                return await self._list(kind, labels, fields)
        return await self._list(kind, labels, fields)

    async def _list(self, kind: Kind[R], labels: str, fields: str) -> Listing[R]:
        query = _selectors(labels, fields)
        if limit := self._page_size or (0 if query else kind.page_size):
            query["limit"] = str(limit)
        path = _path(kind, kind.namespace)
        items: list[R] = []
        invalid: list[Invalid] = []
        while True:
            page = await self._transport.request(
                Request("GET", path, f"list {kind.plural}", query=query, accept=_accept(kind, "List"))
            )
            await _decode_all(kind, page.get("items") or (), items, invalid)
            meta = page.get("metadata") or {}
            if not meta.get("continue"):
                return Listing(items, meta.get("resourceVersion", ""), invalid)
            query["continue"] = meta["continue"]

    async def watch(
        self, kind: Kind[R], *, resource_version: str, labels: str = "", fields: str = ""
    ) -> AsyncGenerator[WatchEvent[R]]:
        """Events after that version, until the server ends the watch or the connection breaks.

        The first is a bookmark of that version: the server has accepted the watch.
        """
        what = f"watch {kind.plural}"
        query = _selectors(labels, fields) | {
            "watch": "true",
            "resourceVersion": resource_version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(random.randint(*_WATCH_SECONDS)),  # noqa: S311 - spreads load, no secret
        }
        request = Request("GET", _path(kind, kind.namespace), what, query=query, accept=_accept(kind))
        async with self._transport.stream(request) as lines:
            yield WatchEvent(EventType.BOOKMARK, "", "", resource_version)
            async for line in lines:
                event = _event(kind, line, what)
                if event is not None:
                    yield event

    async def get(self, kind: Kind[R], name: str, *, namespace: str = "") -> R:
        """One object as the server has it now."""
        request = Request("GET", _path(kind, namespace, name), f"get {kind.kind} {name}", accept=_accept(kind))
        return _decode(kind, await self._transport.request(request))

    async def create(self, kind: Kind[R], obj: R) -> R:
        """Make a new object."""
        body = kind.encode(obj)
        meta = body["metadata"] = {k: v for k, v in body["metadata"].items() if k not in ("uid", "resourceVersion")}
        path, what = _path(kind, meta.get("namespace", "")), f"create {kind.kind} {meta['name']}"
        return _decode(
            kind, await self._transport.request(Request("POST", path, what, body=body, accept=_accept(kind)))
        )

    async def update(self, kind: Kind[R], obj: R) -> R:
        """Replace the object if it has not changed since it was read."""
        body = kind.encode(obj)
        meta = body["metadata"]
        assert meta.get("resourceVersion"), f"update of {kind.kind} {meta['name']} without a resourceVersion"
        path, what = _path(kind, meta.get("namespace", ""), meta["name"]), f"update {kind.kind} {meta['name']}"
        return _decode(kind, await self._transport.request(Request("PUT", path, what, body=body, accept=_accept(kind))))

    async def patch(self, kind: Kind[R], name: str, patch: Json, *, namespace: str = "", subresource: str = "") -> R:
        """Merge patch."""
        request = Request(
            "PATCH",
            _path(kind, namespace, name) + (f"/{subresource}" if subresource else ""),
            f"patch {kind.kind} {name}",
            body=patch,
            content_type=MERGE_PATCH,
            accept=_accept(kind),
        )
        return _decode(kind, await self._transport.request(request))

    async def delete(
        self, kind: Kind[R], name: str, *, namespace: str = "", uid: str = "", resource_version: str = ""
    ) -> None:
        """Delete, with the preconditions that are given."""
        preconditions = {k: v for k, v in (("uid", uid), ("resourceVersion", resource_version)) if v}
        body: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if preconditions:
            body["preconditions"] = preconditions
        await self._transport.request(
            Request("DELETE", _path(kind, namespace, name), f"delete {kind.kind} {name}", body=body)
        )


@contextlib.asynccontextmanager
async def connect(
    kubeconfig: str | None, *, user_agent: str = USER_AGENT, page_size: int = 0
) -> AsyncIterator[KubeStore]:
    """A store on the server of a kubeconfig; without one on the cluster in whose pod this process runs.

    Raises:
        CredentialsError: the configuration cannot be read. That the server is away shows at the first request.
    """
    transport = await Transport.open(kubeconfig, user_agent)
    try:
        yield KubeStore(transport, page_size=page_size)
    finally:
        await transport.close()


def _path(kind: Kind[Any], namespace: str = "", name: str = "") -> str:
    parts = [f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"]
    if kind.namespaced and namespace:
        parts.append(f"namespaces/{quote(namespace, safe='')}")
    parts.append(kind.plural)
    if name:
        parts.append(quote(name, safe=""))
    return "/".join(parts)


def _accept(kind: Kind[Any], suffix: str = "") -> str:
    """For metadata alone the server sends PartialObjectMetadata; one that cannot sends whole objects."""
    if not kind.metadata_only:
        return JSON
    return f"{JSON};as=PartialObjectMetadata{suffix};g=meta.k8s.io;v=v1,{JSON}"


def _selectors(labels: str, fields: str) -> dict[str, str]:
    return {k: v for k, v in (("labelSelector", labels), ("fieldSelector", fields)) if v}


def _decode(kind: Kind[R], obj: Json) -> R:
    """The object in the model's type.

    A codec names the field that is wrong; what it stumbles over without a name must not end the process either, or
    one object that the schema let through would end every agent.

    Raises:
        InvalidError: the codec refuses the object.
    """
    try:
        return kind.decode(obj)
    except InvalidError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise InvalidError("spec", str(error), f"a {kind.kind} as its schema describes it") from error


def _refused(error: InvalidError, obj: Json) -> InvalidError:
    """The same, with what tells the object from others of its name."""
    error.uid = str((obj.get("metadata") or {}).get("uid", ""))
    return error


async def _decode_all(kind: Kind[R], found: Iterable[Json], items: list[R], invalid: list[Invalid]) -> None:
    for index, obj in enumerate(found, 1):
        try:
            items.append(_decode(kind, obj))
        except InvalidError as error:
            invalid.append(Invalid(obj.get("metadata", {}).get("name", ""), _refused(error, obj)))
        if index % _DECODE_BATCH == 0:
            await asyncio.sleep(0)


def _event(kind: Kind[R], line: Json, what: str) -> WatchEvent[R] | None:
    """An event; None for a type of a newer server.

    Raises:
        StoreError: the line is an ERROR (410 where the version is too old).
    """
    obj = line.get("object") or {}
    if line.get("type") == "ERROR":
        raise to_error(obj.get("code") or 500, obj, what)
    try:
        type_ = EventType(line.get("type", ""))
    except ValueError:
        if "type" in line:
            return None
        raise UnavailableError(f"{what}: the API server sent no event: {str(dict(line))[:200]}") from None
    meta = obj.get("metadata") or {}
    name, namespace, version = meta.get("name", ""), meta.get("namespace", ""), meta.get("resourceVersion", "")
    if type_ == EventType.BOOKMARK:
        return WatchEvent(type_, name, namespace, version)
    try:
        return WatchEvent(type_, name, namespace, version, object=_decode(kind, obj))
    except InvalidError as error:
        return WatchEvent(type_, name, namespace, version, invalid=_refused(error, obj))
