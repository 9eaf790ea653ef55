"""A store behind a network: each call takes its turns of the event loop, so that clients get in each other's way."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from calico_py.model.store import Json, Kind, Listing, Store, WatchEvent

R = TypeVar("R")


class SlowStore:
    """Another store, with a delay before the request arrives and one before the answer does.

    Args:
        turns: how many turns of the event loop the next delay takes.

    Attributes:
        calls: how many of each (verb, kind) have arrived.
    """

    def __init__(self, store: Store, turns: Callable[[], int] = lambda: 1) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()
        self._store = store
        self._turns = turns

    async def _delay(self) -> None:
        for _ in range(self._turns()):
            await asyncio.sleep(0)

    async def _call(self, verb: str, kind: Kind[Any], work: Callable[[], Any]) -> Any:
        await self._delay()
        self.calls[verb, kind.kind] += 1
        try:
            return await work()
        finally:
            await self._delay()

    async def list(self, kind: Kind[R], *, labels: str = "", fields: str = "") -> Listing[R]:
        """See Store."""
        found: Listing[R] = await self._call("list", kind, lambda: self._store.list(kind, labels=labels, fields=fields))
        return found

    def watch(
        self, kind: Kind[R], *, resource_version: str, labels: str = "", fields: str = ""
    ) -> AsyncIterator[WatchEvent[R]]:
        """See Store."""
        return self._store.watch(kind, resource_version=resource_version, labels=labels, fields=fields)

    async def get(self, kind: Kind[R], name: str, *, namespace: str = "") -> R:
        """See Store."""
        found: R = await self._call("get", kind, lambda: self._store.get(kind, name, namespace=namespace))
        return found

    async def create(self, kind: Kind[R], obj: R) -> R:
        """See Store."""
        made: R = await self._call("create", kind, lambda: self._store.create(kind, obj))
        return made

    async def update(self, kind: Kind[R], obj: R) -> R:
        """See Store."""
        made: R = await self._call("update", kind, lambda: self._store.update(kind, obj))
        return made

    async def patch(self, kind: Kind[R], name: str, patch: Json, *, namespace: str = "", subresource: str = "") -> R:
        """See Store."""
        made: R = await self._call(
            "patch", kind, lambda: self._store.patch(kind, name, patch, namespace=namespace, subresource=subresource)
        )
        return made

    async def delete(
        self, kind: Kind[R], name: str, *, namespace: str = "", uid: str = "", resource_version: str = ""
    ) -> None:
        """See Store."""
        await self._call(
            "delete",
            kind,
            lambda: self._store.delete(kind, name, namespace=namespace, uid=uid, resource_version=resource_version),
        )
