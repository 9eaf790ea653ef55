"""All pods of the cluster, as far as the leader's garbage collection must know them."""

import contextlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, cast

from calico_py.ipam.garbage import PodName, PodView
from calico_py.model.codec import shared
from calico_py.model.kinds import PAGE_SIZE
from calico_py.model.net import Address
from calico_py.model.store import EventType, Json, Kind, Store

_FINISHED = frozenset({"Succeeded", "Failed"})


@dataclass(frozen=True, slots=True)
class _Pod:
    """A pod; view is None for one on the host's network. Of its metadata all else would be most of what is held."""

    name: PodName
    view: PodView | None


def _decode(obj: Json) -> _Pod:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    view = PodView(shared(spec.get("nodeName") or ""), _addresses(status), status.get("phase") in _FINISHED)
    meta = obj.get("metadata") or {}
    name = shared(meta.get("namespace", "")), shared(meta.get("name", ""))
    return _Pod(name, None if spec.get("hostNetwork") else view)


def _addresses(status: Json) -> frozenset[Address]:
    """Of podIPs and, from an older kubelet, podIP; what is no address belongs to nobody."""
    texts = [entry.get("ip") for entry in status.get("podIPs") or ()] or [status.get("podIP")]
    found = set()
    for text in texts:
        try:
            found.add(ip_address(text or ""))
        except ValueError:
            continue
    return frozenset(found)


_PODS: Kind[_Pod] = Kind("Pod", "", "v1", "pods", _decode, namespaced=True, page_size=PAGE_SIZE)


class Pods:
    """All pods that are not on the host's network: read when they are asked for, not kept."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._version = ""

    async def list(self) -> Mapping[PodName, PodView]:
        """Every one, as the API has it now.

        Raises:
            StoreError: the API failed.
        """
        listing = await self._store.list(_PODS)
        self._version = listing.resource_version
        return {pod.name: pod.view for pod in listing.items if pod.view is not None}

    async def wait_for_end(self, names: Collection[PodName]) -> None:
        """Return when one of these is deleted or has finished since the last list; also when the watch ends.

        Raises:
            StoreError: the API failed.
        """
        events = self._store.watch(_PODS, resource_version=self._version)
        async with contextlib.aclosing(cast("Any", events)) as stream:
            async for event in stream:
                if (event.namespace, event.name) not in names:
                    continue
                view = event.object.view if event.object is not None else None
                if event.type == EventType.DELETED or (view is not None and view.finished):
                    return
