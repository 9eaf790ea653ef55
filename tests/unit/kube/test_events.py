"""Events: counted, limited, found again."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from calico_py.kube import events
from calico_py.kube.events import EVENTS, EventRecord, Recorder, Severity
from calico_py.model.store import ObjectRef, RefusedError, UnavailableError
from tests.fakes.store import MemoryStore
from tests.fakes.waiting import until

POOL = ObjectRef("IPPool", "default-ipv4-ippool", uid="11111111-1111-4111-8111-111111111111")


@contextlib.asynccontextmanager
async def recording(store: MemoryStore) -> AsyncIterator[Recorder]:
    recorder = Recorder(store, "node1")
    task = asyncio.create_task(recorder.run())
    try:
        yield recorder
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def stored(store: MemoryStore) -> list[EventRecord]:
    return list((await store.list(EVENTS)).items)


async def written(store: MemoryStore, number: int) -> list[EventRecord]:
    async def enough() -> bool:
        return len(await stored(store)) >= number

    await until(enough)
    return await stored(store)


async def counted(store: MemoryStore, *counts: int) -> None:
    async def right() -> bool:
        return sorted(event.count for event in await stored(store)) == list(counts)

    await until(right)


async def test_an_event_is_about_its_object() -> None:
    store = MemoryStore()
    async with recording(store) as recorder:
        recorder.post(POOL, "CIDROverlap", "it overlaps")
        (found,) = await written(store, 1)
    assert (found.about.kind, found.about.name, found.about.uid) == ("IPPool", POOL.name, POOL.uid)
    assert found.about.api_version == "projectcalico.org/v3"
    assert (found.reason, found.message, found.severity) == ("CIDROverlap", "it overlaps", Severity.WARNING)
    assert (found.meta.namespace, found.node, found.count) == ("default", "node1", 1)
    assert found.first
    assert found.last


async def test_events_of_core_kinds_and_namespaces() -> None:
    store = MemoryStore()
    async with recording(store) as recorder:
        recorder.post(ObjectRef("Node", "node1"), "DuplicateAddress", "two of them")
        recorder.post(ObjectRef("Pod", "p", namespace="kube-system"), "NoAddress", "none left", Severity.NORMAL)
        found = {event.about.kind: event for event in await written(store, 2)}
    assert found["Node"].about.api_version == "v1"
    assert found["Pod"].meta.namespace == "kube-system"
    assert found["Pod"].severity == Severity.NORMAL


async def test_the_same_event_raises_its_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_REPEAT_AFTER", 0.0)
    store = MemoryStore()
    async with recording(store) as recorder:
        recorder.post(POOL, "R", "m")
        await written(store, 1)
        for _ in range(3):
            recorder.post(POOL, "R", "m")
        recorder.post(POOL, "R", "another")
        await counted(store, 1, 4)


async def test_a_repetition_within_a_minute_writes_nothing() -> None:
    store = MemoryStore()
    async with recording(store) as recorder:
        recorder.post(POOL, "R", "m")
        await written(store, 1)
        for _ in range(50):
            recorder.post(POOL, "R", "m")
        await asyncio.sleep(0.1)
        assert [event.count for event in await stored(store)] == [1]


async def test_a_restarted_agent_finds_its_own() -> None:
    store = MemoryStore()
    for count in (1, 2, 3):
        async with recording(store) as recorder:
            recorder.post(POOL, "R", "m")
            await counted(store, count)


async def test_an_event_that_the_server_forgot_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_REPEAT_AFTER", 0.0)
    store = MemoryStore()
    async with recording(store) as recorder:
        recorder.post(POOL, "R", "m")
        (found,) = await written(store, 1)
        await store.delete(EVENTS, found.meta.name, namespace="default")
        recorder.post(POOL, "R", "m")
        (again,) = await written(store, 1)
    assert again.count == 2


async def test_one_agent_cannot_flood_the_server() -> None:
    store = MemoryStore()
    async with recording(store) as recorder:
        for number in range(400):
            recorder.post(POOL, "R", f"message {number}")
        await written(store, 25)
        await asyncio.sleep(0.2)
        assert len(await stored(store)) == 25
        assert recorder.dropped == 300


async def test_waits_while_the_server_is_away_and_passes_over_what_it_refuses() -> None:
    store = MemoryStore()
    planned: list[Any] = [UnavailableError("away"), UnavailableError("away"), RefusedError("no")]

    def fault(when: str, verb: str, _kind: str, _name: str) -> None:
        if (when, verb) == ("before", "create") and planned:
            raise planned.pop(0)

    async with recording(store.with_fault(fault)) as recorder:
        recorder.post(POOL, "R", "refused")
        recorder.post(POOL, "R", "written")
        (found,) = await written(store, 1)
    assert found.message == "written"


async def test_long_texts_are_cut() -> None:
    store = MemoryStore()
    async with recording(store) as recorder:
        recorder.post(ObjectRef("IPPool", "n" * 250), "R", "x" * 5000)
        (found,) = await written(store, 1)
    assert len(found.message) == 1024
    assert len(found.meta.name) <= 253
