"""Reflector: a kind's objects as the API server has them, kept current by list and watch.

The handler only marks dirty; what the objects mean is for others to compute from the whole of them.
"""

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar, cast

from calico_py.kube.backoff import Backoff
from calico_py.model.meta import Meta
from calico_py.model.net import InvalidError
from calico_py.model.store import (
    EventType,
    ForbiddenError,
    GoneError,
    Kind,
    Listing,
    NotFoundError,
    RefusedError,
    Store,
    StoreError,
    WatchEvent,
)
from calico_py.trouble import Trouble

log = logging.getLogger(__name__)

# After so many watches in a row that did not begin, the version itself may be what the server cannot serve.
_RELIST_AFTER = 5

# Seconds. A watch that ended sooner and told nothing counts as failed: a server that ends every watch at once must not
# be asked without a pause.
_SHORT_WATCH = 1.0


class Named(Protocol):
    """What a reflector needs of an object."""

    @property
    def meta(self) -> Meta:
        """Its metadata."""
        ...


N = TypeVar("N", bound=Named)


class Reflector(Generic[N]):
    """The objects of a kind, as of the last event.

    Args:
        on_change: called after objects changed in something else than their resourceVersion, and when ``in_sync``
            is first set; must not block.
        labels, fields: selectors in Kubernetes' syntax.
        optional: where the server refuses the list (400: it does not know the field), `run` raises RefusedError.
        trouble: shared by reflectors of one server, which fail together.

    Attributes:
        objects: by name, or by ``namespace/name`` where the kind is namespaced.
        invalid: objects that the server holds and the codec refuses; they count as absent.
        in_sync: one list has completed since the process began; never unset.
        last_error: why the objects may be out of date, as a sentence; empty while the watch runs.
    """

    def __init__(
        self,
        store: Store,
        kind: Kind[N],
        on_change: Callable[[], None],
        *,
        labels: str = "",
        fields: str = "",
        optional: bool = False,
        trouble: Trouble | None = None,
    ) -> None:
        self.kind = kind
        self.objects: dict[str, N] = {}
        self.invalid: dict[str, InvalidError] = {}
        self.in_sync = False
        self.last_error = ""
        self._store = store
        self._on_change = on_change
        self._selectors = {"labels": labels, "fields": fields}
        self._optional = optional
        self._trouble = trouble or Trouble(log)
        self._party = f"{kind.plural} {labels} {fields}"
        self._version = ""
        self._synced = asyncio.Event()

    async def wait_in_sync(self) -> None:
        """Return once in sync."""
        await self._synced.wait()

    async def run(self) -> None:
        """List, then watch, for ever."""
        backoff = Backoff()
        while True:
            await self._list(backoff)
            await self._watch(backoff)

    async def _list(self, backoff: Backoff) -> None:
        """One complete list, however many attempts it takes."""
        while True:
            try:
                listing = await self._complete(await self._store.list(self.kind, **self._selectors))
            except StoreError as error:
                refused = isinstance(error, RefusedError) and not isinstance(error, ForbiddenError)
                if refused and self._optional:
                    raise
                self._failed(error)
                await asyncio.sleep(backoff.wait())
            else:
                self._replace(listing)
                return

    async def _complete(self, listing: Listing[N]) -> Listing[N]:
        """A list with what belongs to it beside the selection: nothing, unless a subclass knows of something."""
        return listing

    async def _watch(self, backoff: Backoff) -> None:
        """Watch from the last version on, over any number of connections, until a new list is needed."""
        failures = 0
        while failures < _RELIST_AFTER:
            try:
                progress = await self._watch_once(backoff)
            except StoreError as error:
                self._failed(error)
                progress = False
                if isinstance(error, GoneError | NotFoundError):
                    failures = _RELIST_AFTER
            if progress:
                failures = 0
            else:
                failures += 1
                await asyncio.sleep(backoff.wait())

    async def _watch_once(self, backoff: Backoff) -> bool:
        """One connection; whether it told anything or at least lasted."""
        started = asyncio.get_running_loop().time()
        told = False
        events = self._store.watch(self.kind, resource_version=self._version, **self._selectors)
        async with contextlib.aclosing(cast("Any", events)) as stream:
            async for event in stream:
                self._succeeded()
                if event.type != EventType.BOOKMARK or event.resource_version != self._version:
                    told = True
                    backoff.reset()
                    self._version = event.resource_version or self._version
                    self._apply(event)
        return told or asyncio.get_running_loop().time() - started >= _SHORT_WATCH

    def _replace(self, listing: Listing[N]) -> None:
        objects = {self._key(obj.meta.name, obj.meta.namespace): obj for obj in listing.items}
        changed = objects.keys() != self.objects.keys() or any(
            not _same(obj, self.objects[key]) for key, obj in objects.items()
        )
        self.objects = objects
        self.invalid = {found.name: found.error for found in listing.invalid}
        self._version = listing.resource_version
        self._succeeded()
        for name, error in self.invalid.items():
            log.warning("%s %s is not used: %s", self.kind.kind, name, error)
        if not self.in_sync:
            self.in_sync = changed = True
            self._synced.set()
        if changed:
            self._on_change()

    def _apply(self, event: WatchEvent[N]) -> None:
        if event.type == EventType.BOOKMARK:
            return
        key = self._key(event.name, event.namespace)
        self.invalid.pop(key, None)
        before = self.objects.get(key)
        if event.type == EventType.DELETED or event.object is None:
            self.objects.pop(key, None)
            changed = before is not None
            if event.invalid is not None and event.type != EventType.DELETED:
                self.invalid[key] = event.invalid
                log.warning("%s %s is not used: %s", self.kind.kind, key, event.invalid)
                changed = True
        else:
            self.objects[key] = event.object
            changed = before is None or not _same(event.object, before)
        if changed:
            self._on_change()

    def _key(self, name: str, namespace: str) -> str:
        return f"{namespace}/{name}" if self.kind.namespaced else name

    def _failed(self, error: StoreError) -> None:
        if isinstance(error, NotFoundError) and self.kind.group and not self.in_sync:
            self.last_error = (
                f"the API server does not know {self.kind.plural}.{self.kind.group}: "
                "apply calico-py's CustomResourceDefinitions (kubectl apply -k deploy/crds)"
            )
            self._trouble.tell(self.last_error, party=self._party)
            return
        self.last_error = str(error)
        known = "may be out of date" if self.in_sync else "are not known yet"
        self._trouble.tell(f"{self.kind.plural} {known}", error, party=self._party)

    def _succeeded(self) -> None:
        self.last_error = ""
        self._trouble.over(party=self._party)


def _same(a: Named, b: Named) -> bool:
    """Equal in everything but the resourceVersion, which also moves for what the codec does not read."""
    if a == b:
        return True
    if a.meta.resource_version == b.meta.resource_version:
        return False
    meta = dataclasses.replace(a.meta, resource_version=b.meta.resource_version)
    return bool(dataclasses.replace(cast("Any", a), meta=meta) == b)
