"""MemoryStore: the Store of the unit tests, the embedded API server's own verbs without HTTP.

Faults are forced by a hook that is called before and after every call and may raise. Raising after a write is a client
that never heard the answer: the write stands.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

from calico_py.lab.api.builtin import builtin
from calico_py.lab.api.definitions import shipped
from calico_py.lab.api.errors import ApiError
from calico_py.lab.api.patches import merged
from calico_py.lab.api.resources import Registry, Resource, from_crd, untyped
from calico_py.lab.api.selection import Event, Selection
from calico_py.lab.api.storage import Storage
from calico_py.lab.api.verbs import Options, Verbs
from calico_py.model.net import InvalidError
from calico_py.model.store import (
    ConflictError,
    EventType,
    ExistsError,
    GoneError,
    Invalid,
    Json,
    Kind,
    Listing,
    NotFoundError,
    RefusedError,
    StoreError,
    UnavailableError,
    WatchEvent,
)

R = TypeVar("R")

Fault = Callable[[str, str, str, str], None]
"""Called with ("before" or "after", verb, kind, name); verbs are list, watch, get, create, update, patch, delete."""


def _no_fault(_when: str, _verb: str, _kind: str, _name: str) -> None:
    """No fault at all."""


@cache
def _resources() -> tuple[Resource, ...]:
    """Parsed once for all the stores of a run."""
    return (*builtin(), *(resource for crd in shipped() for resource in from_crd(crd)))


class MemoryStore:
    """A Store over a Storage in this process.

    Args:
        storage: shared by several stores, one for each client of a test; its own if none is given.
        fault: see Fault.
    """

    def __init__(self, storage: Storage | None = None, *, fault: Fault = _no_fault) -> None:
        self.storage = storage or Storage()
        self.fault = fault
        self.verbs = Verbs(self.storage, Registry(_resources()))

    def with_fault(self, fault: Fault) -> "MemoryStore":
        """Another client of the same objects with its own faults."""
        return MemoryStore(self.storage, fault=fault)

    async def list(self, kind: Kind[R], *, labels: str = "", fields: str = "") -> Listing[R]:
        """See Store."""
        with self._call("list", kind):
            found = self.verbs.list(self._resource(kind), Selection(kind.namespace, labels, fields))
        items: list[R] = []
        invalid: list[Invalid] = []
        for obj in found:
            try:
                items.append(kind.decode(obj))
            except InvalidError as error:
                error.uid = obj["metadata"]["uid"]
                invalid.append(Invalid(obj["metadata"]["name"], error))
        return Listing(tuple(items), str(self.storage.version), tuple(invalid))

    async def watch(
        self, kind: Kind[R], *, resource_version: str, labels: str = "", fields: str = ""
    ) -> AsyncIterator[WatchEvent[R]]:
        """See Store; never ends by itself."""
        resource, selection = self._resource(kind), Selection(kind.namespace, labels, fields)
        woken = asyncio.Event()
        stop = self.storage.listen(resource.key, woken.set)
        try:
            with self._call("watch", kind):
                since = int(resource_version)
                events, since = self.verbs.changes(resource, selection, since)
            while True:
                woken.clear()
                for event in events:
                    yield _decoded(kind, event)
                if not events:
                    await woken.wait()
                with self._call("watch", kind):
                    events, since = self.verbs.changes(resource, selection, since)
        finally:
            stop()

    async def get(self, kind: Kind[R], name: str, *, namespace: str = "") -> R:
        """See Store."""
        with self._call("get", kind, name):
            found = self.verbs.get(self._resource(kind), namespace, name)
        return kind.decode(found)

    async def create(self, kind: Kind[R], obj: R) -> R:
        """See Store."""
        body = kind.encode(obj)
        with self._call("create", kind, body["metadata"]["name"]):
            made = self.verbs.create(self._resource(kind), body["metadata"].get("namespace", ""), body)
        return kind.decode(made)

    async def update(self, kind: Kind[R], obj: R) -> R:
        """See Store."""
        body = kind.encode(obj)
        meta = body["metadata"]
        with self._call("update", kind, meta["name"]):
            made = self.verbs.update(self._resource(kind), meta.get("namespace", ""), meta["name"], body)
        return kind.decode(made)

    async def patch(self, kind: Kind[R], name: str, patch: Json, *, namespace: str = "", subresource: str = "") -> R:
        """See Store."""
        with self._call("patch", kind, name):
            made = self.verbs.patch(
                self._resource(kind),
                namespace,
                name,
                lambda obj: merged(obj, patch),
                Options(subresource=subresource),
            )
        return kind.decode(made)

    async def delete(
        self, kind: Kind[R], name: str, *, namespace: str = "", uid: str = "", resource_version: str = ""
    ) -> None:
        """See Store."""
        with self._call("delete", kind, name):
            self.verbs.delete(self._resource(kind), namespace, name, uid=uid, resource_version=resource_version)

    def _resource(self, kind: Kind[Any]) -> Resource:
        found = self.verbs.registry.get(kind.group, kind.version, kind.plural)
        return found or untyped(kind.group, kind.version, kind.kind, kind.plural, namespaced=kind.namespaced)

    @contextmanager
    def _call(self, verb: str, kind: Kind[Any], name: str = "") -> Iterator[None]:
        self.fault("before", verb, kind.kind, name)
        try:
            yield
        except ApiError as error:
            raise _translated(error) from None
        self.fault("after", verb, kind.kind, name)


def _decoded(kind: Kind[R], event: Event) -> WatchEvent[R]:
    meta = event.object["metadata"]
    obj: R | None = None
    invalid: InvalidError | None = None
    try:
        obj = kind.decode(event.object)
    except InvalidError as error:
        invalid = error
        invalid.uid = meta["uid"]
    return WatchEvent(
        EventType(event.type), meta["name"], meta.get("namespace", ""), str(event.version), object=obj, invalid=invalid
    )


_ERRORS: dict[str, type[StoreError]] = {
    "Conflict": ConflictError,
    "NotFound": NotFoundError,
    "AlreadyExists": ExistsError,
    "Expired": GoneError,
}


def _translated(error: ApiError) -> StoreError:
    if error.code >= 500:
        return UnavailableError(str(error))
    return _ERRORS.get(error.reason, RefusedError)(str(error))
