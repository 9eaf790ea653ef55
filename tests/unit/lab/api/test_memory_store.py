"""MemoryStore: faults where a test wants them, and the watch of a Store."""

import asyncio
from dataclasses import replace
from ipaddress import ip_network

import pytest

from calico_py.lab.api.storage import Storage
from calico_py.model.kinds import IP_POOLS
from calico_py.model.meta import Meta
from calico_py.model.pools import EncapMode, IPPool
from calico_py.model.store import (
    ConflictError,
    EventType,
    ExistsError,
    GoneError,
    NotFoundError,
    RefusedError,
    UnavailableError,
    WatchEvent,
)
from tests.fakes.store import MemoryStore

POOL = IPPool(Meta("p1"), ip_network("10.0.0.0/16"))


class CrashError(Exception):
    """The client died here."""


async def test_what_a_store_does() -> None:
    store = MemoryStore()
    made = await store.create(IP_POOLS, POOL)
    with pytest.raises(ExistsError):
        await store.create(IP_POOLS, POOL)
    changed = await store.update(IP_POOLS, replace(made, ipip_mode=EncapMode.ALWAYS))
    assert changed.meta.generation == 2
    with pytest.raises(ConflictError):
        await store.update(IP_POOLS, made)
    with pytest.raises(RefusedError, match="vxlanMode"):
        await store.patch(IP_POOLS, "p1", {"spec": {"vxlanMode": "Always"}})
    with pytest.raises(ConflictError):
        await store.delete(IP_POOLS, "p1", resource_version=made.meta.resource_version)
    await store.delete(IP_POOLS, "p1", uid=made.meta.uid, resource_version=changed.meta.resource_version)
    with pytest.raises(NotFoundError):
        await store.get(IP_POOLS, "p1")


async def test_a_fault_before_the_call_keeps_the_write_from_happening() -> None:
    def fault(when: str, verb: str, kind: str, name: str) -> None:
        if (when, verb, kind, name) == ("before", "create", "IPPool", "p1"):
            raise UnavailableError("away")

    store = MemoryStore(fault=fault)
    with pytest.raises(UnavailableError):
        await store.create(IP_POOLS, POOL)
    assert (await store.list(IP_POOLS)).items == ()


async def test_a_fault_after_the_call_leaves_the_write() -> None:
    def fault(when: str, verb: str, _kind: str, _name: str) -> None:
        if (when, verb) == ("after", "create"):
            raise CrashError

    storage = Storage()
    with pytest.raises(CrashError):
        await MemoryStore(storage, fault=fault).create(IP_POOLS, POOL)
    assert (await MemoryStore(storage).get(IP_POOLS, "p1")).cidr == POOL.cidr


async def test_two_clients_of_one_storage_have_faults_of_their_own() -> None:
    def fault(_when: str, _verb: str, _kind: str, _name: str) -> None:
        raise UnavailableError("away")

    store = MemoryStore()
    await store.create(IP_POOLS, POOL)
    with pytest.raises(UnavailableError):
        await store.with_fault(fault).get(IP_POOLS, "p1")
    assert await store.get(IP_POOLS, "p1")


async def test_a_watch_wakes_up_for_a_write() -> None:
    store = MemoryStore()
    listing = await store.list(IP_POOLS)
    seen: asyncio.Queue[WatchEvent[IPPool]] = asyncio.Queue()

    async def follow() -> None:
        async for event in store.watch(IP_POOLS, resource_version=listing.resource_version):
            seen.put_nowait(event)

    task = asyncio.create_task(follow())
    await asyncio.sleep(0)
    made = await store.create(IP_POOLS, POOL)
    await store.delete(IP_POOLS, "p1")
    events = [await seen.get(), await seen.get()]
    assert [event.type for event in events] == [EventType.ADDED, EventType.DELETED]
    assert events[0].object == made
    task.cancel()


async def test_a_watch_that_is_too_old_is_gone() -> None:
    store = MemoryStore(Storage(window=2))
    made = await store.create(IP_POOLS, POOL)
    for number in range(10):
        await store.patch(IP_POOLS, "p1", {"metadata": {"labels": {"n": str(number)}}})
    with pytest.raises(GoneError):
        await anext(aiter(store.watch(IP_POOLS, resource_version=made.meta.resource_version)))
