"""Leader election on one store, with short durations."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import pytest

from calico_py.kube.lease import LEASE_NAME, Leadership, lease_kind
from calico_py.model.store import UnavailableError
from tests.fakes.store import MemoryStore
from tests.fakes.waiting import until

KIND = lease_kind()
DURATION, RENEW = 1.0, 0.2


class Candidate:
    """A part in the election with what it was told."""

    def __init__(self, store: MemoryStore, name: str) -> None:
        self.told: list[bool] = []
        self.leadership = Leadership(
            store, name, lambda: self.told.append(self.leadership.leading), duration=DURATION, renew_interval=RENEW
        )
        self.task = asyncio.create_task(self.leadership.run())

    @property
    def leading(self) -> bool:
        return self.leadership.leading

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@contextlib.asynccontextmanager
async def candidates(store: MemoryStore, *names: str) -> AsyncIterator[list[Candidate]]:
    found = [Candidate(store, name) for name in names]
    try:
        yield found
    finally:
        for candidate in found:
            await candidate.stop()


async def test_one_of_many_leads_and_goes_on_leading() -> None:
    store = MemoryStore()
    async with candidates(store, "a", "b", "c", "d") as all_of_them:
        await until(lambda: any(found.leading for found in all_of_them))
        leader = next(found for found in all_of_them if found.leading)
        for _ in range(40):
            assert [found for found in all_of_them if found.leading] == [leader]
            await asyncio.sleep(0.05)
        assert leader.told == [True]
        assert {found.leadership.holder for found in all_of_them} == {leader.leadership.identity}
        lease = await store.get(KIND, LEASE_NAME, namespace="kube-system")
        assert (lease.holder, lease.transitions) == (leader.leadership.identity, 0)


async def test_a_leader_that_ends_is_followed_at_once() -> None:
    store = MemoryStore()
    async with candidates(store, "a") as (first,):
        await until(lambda: first.leading)
        async with candidates(store, "b") as (second,):
            await asyncio.sleep(0.05)
            await first.stop()
            await until(lambda: second.leading, within=DURATION / 2)
            assert not first.leading
            assert (await store.get(KIND, LEASE_NAME, namespace="kube-system")).transitions == 1


async def test_a_leader_cut_off_stops_leading_before_another_begins() -> None:
    store = MemoryStore()
    cut = False

    def fault(when: str, _verb: str, _kind: str, _name: str) -> None:
        if cut and when == "before":
            raise UnavailableError("cut off")

    first = Candidate(store.with_fault(fault), "a")
    try:
        await until(lambda: first.leading)
        async with candidates(store, "b") as (second,):
            cut = True
            async with asyncio.timeout(10):
                while not second.leading:
                    await asyncio.sleep(0.005)
                    assert not (first.leading and second.leading)
            assert not first.leading
            await until(lambda: first.told == [True, False])
            cut = False
            await asyncio.sleep(0.5)
            assert second.leading
            assert not first.leading
    finally:
        await first.stop()


async def test_trouble_is_over_when_another_leads(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever could not take the Lease in time need not write it any more."""
    caplog.set_level(logging.INFO)
    store = MemoryStore()
    cut = False
    tried: list[str] = []

    def fault(when: str, verb: str, _kind: str, _name: str) -> None:
        if cut and when == "before":
            tried.append(verb)
            raise UnavailableError("cut off")

    async with candidates(store, "a") as (first,):
        await until(lambda: first.leading)
        second = Candidate(store.with_fault(fault), "b")
        try:
            await until(lambda: second.leadership.holder == "a")
            cut = True
            await until(lambda: "update" in tried, within=DURATION + 3)
            cut = False
            await until(lambda: "over after" in caplog.text)
            assert first.leading
        finally:
            await second.stop()


async def test_a_killed_leader_s_successor_waits_for_the_duration() -> None:
    store = MemoryStore()
    dead = lease_kind()
    async with candidates(store, "a") as (first,):
        await until(lambda: first.leading)
        last = await store.get(dead, LEASE_NAME, namespace="kube-system")
    await store.patch(dead, LEASE_NAME, {"spec": {"holderIdentity": "a"}}, namespace="kube-system")
    assert last.holder == "a"
    async with candidates(store, "b") as (second,):
        await asyncio.sleep(0.5)
        assert not second.leading
        await until(lambda: second.leading)


async def test_an_agent_that_restarts_takes_its_own_lease_up_again() -> None:
    store = MemoryStore()
    async with candidates(store, "a") as (first,):
        await until(lambda: first.leading)
    await store.patch(KIND, LEASE_NAME, {"spec": {"holderIdentity": "a"}}, namespace="kube-system")
    async with candidates(store, "a") as (again,):
        await until(lambda: again.leading, within=0.5)


async def test_a_lease_that_somebody_deletes_is_made_again() -> None:
    store = MemoryStore()
    async with candidates(store, "a") as (only,):
        await until(lambda: only.leading)
        await store.delete(KIND, LEASE_NAME, namespace="kube-system")
        await asyncio.sleep(DURATION)
        await until(lambda: only.leading, within=5)
        assert (await store.get(KIND, LEASE_NAME, namespace="kube-system")).holder == "a"


async def test_those_who_wait_ask_nothing() -> None:
    store = MemoryStore()
    calls: list[str] = []

    def count(when: str, verb: str, _kind: str, _name: str) -> None:
        if when == "before" and verb != "watch":
            calls.append(verb)

    async with candidates(store, "a") as (leader,):
        await until(lambda: leader.leading)
        waiting = Candidate(store.with_fault(count), "b")
        await asyncio.sleep(1.5)
        await waiting.stop()
    assert calls == ["list"]
