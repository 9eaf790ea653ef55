"""The reflector against a store whose server forgets, breaks off and goes away."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_network

from calico_py.kube.reflector import Reflector
from calico_py.model.kinds import BLOCK_AFFINITIES, IP_POOLS, NODES
from calico_py.model.meta import Meta
from calico_py.model.net import InvalidError
from calico_py.model.nodes import Node
from calico_py.model.pools import IPPool
from calico_py.model.store import GoneError, Json, NotFoundError, StoreError, UnavailableError
from tests.fakes.store import MemoryStore
from tests.fakes.waiting import until


def pool(name: str, cidr: str = "10.244.0.0/16") -> IPPool:
    return IPPool(Meta(name), ip_network(cidr))


class Faults:
    """Raises the errors that are laid out for a verb, one for each call."""

    def __init__(self) -> None:
        self.planned: dict[str, list[StoreError]] = {}
        self.calls: list[str] = []

    def __call__(self, when: str, verb: str, _kind: str, _name: str) -> None:
        if when == "before":
            self.calls.append(verb)
            if self.planned.get(verb):
                raise self.planned[verb].pop(0)


@asynccontextmanager
async def running(reflector: Reflector[IPPool] | Reflector[Node]) -> AsyncIterator[None]:
    task = asyncio.create_task(reflector.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_follows_creation_change_and_removal() -> None:
    store, changes = MemoryStore(), [0]

    def changed() -> None:
        changes[0] += 1

    await store.create(IP_POOLS, pool("a"))
    reflector = Reflector(store, IP_POOLS, changed)
    assert not reflector.in_sync
    async with running(reflector):
        await reflector.wait_in_sync()
        assert set(reflector.objects) == {"a"}
        made = await store.create(IP_POOLS, pool("b", "10.1.0.0/16"))
        await until(lambda: "b" in reflector.objects)
        await store.update(IP_POOLS, dataclasses.replace(made, nat_outgoing=True))
        await until(lambda: reflector.objects["b"].nat_outgoing)
        await store.delete(IP_POOLS, "b")
        await until(lambda: set(reflector.objects) == {"a"})
    assert changes == [4]


async def test_a_new_resource_version_alone_marks_nothing_dirty() -> None:
    store, changes = MemoryStore(), [0]

    def changed() -> None:
        changes[0] += 1

    await store.create(NODES, Node(Meta("node1")))
    reflector = Reflector(store, NODES, changed)
    async with running(reflector):
        await reflector.wait_in_sync()
        before = reflector.objects["node1"]
        await store.patch(NODES, "node1", {"status": {"phase": "x"}}, subresource="status")
        await until(lambda: reflector.objects["node1"] != before)
        assert changes == [1]
        await store.patch(NODES, "node1", {"metadata": {"labels": {"a": "b"}}})
        await until(lambda: changes == [2])


async def test_lists_again_when_the_version_is_gone() -> None:
    faults = Faults()
    store = MemoryStore()
    await store.create(IP_POOLS, pool("a"))
    faults.planned["watch"] = [GoneError("too old")]
    changes = [0]

    def changed() -> None:
        changes[0] += 1

    reflector = Reflector(store.with_fault(faults), IP_POOLS, changed)
    async with running(reflector):
        await until(lambda: faults.calls.count("list") == 2)
        await until(lambda: reflector.last_error == "")
        assert changes == [1], "the second list brought nothing new"
        await store.delete(IP_POOLS, "a")
        await until(lambda: not reflector.objects)


async def test_an_object_deleted_while_away_is_gone_after_the_list() -> None:
    faults = Faults()
    store = MemoryStore()
    await store.create(IP_POOLS, pool("a"))
    reflector = Reflector(store.with_fault(faults), IP_POOLS, lambda: None)
    async with running(reflector):
        await reflector.wait_in_sync()
        faults.planned["watch"] = [GoneError("too old")]
        await store.delete(IP_POOLS, "a")
        await until(lambda: not reflector.objects)
        assert reflector.in_sync


async def test_waits_for_a_server_that_is_away_at_the_start() -> None:
    faults = Faults()
    faults.planned["list"] = [UnavailableError("list ippools: connection refused")] * 3
    reflector = Reflector(MemoryStore().with_fault(faults), IP_POOLS, lambda: None)
    async with running(reflector):
        await until(lambda: "refused" in reflector.last_error)
        assert not reflector.in_sync
        await reflector.wait_in_sync()
        assert reflector.last_error == ""


async def test_a_missing_definition_is_named_with_what_to_do() -> None:
    faults = Faults()
    faults.planned["list"] = [NotFoundError("the server could not find the requested resource")]
    reflector = Reflector(MemoryStore().with_fault(faults), BLOCK_AFFINITIES, lambda: None)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(reflector.run())
        await until(lambda: reflector.last_error != "")
        assert "blockaffinities.projectcalico.org" in reflector.last_error
        assert "apply" in reflector.last_error
        assert not reflector.in_sync
        await reflector.wait_in_sync()
        task.cancel()


async def test_keeps_its_objects_and_resumes_after_broken_watches() -> None:
    faults = Faults()
    store = MemoryStore()
    await store.create(IP_POOLS, pool("a"))
    reflector = Reflector(store.with_fault(faults), IP_POOLS, lambda: None)
    faults.planned["watch"] = [UnavailableError("connection reset")] * 2
    async with running(reflector):
        await reflector.wait_in_sync()
        await until(lambda: reflector.last_error == "connection reset")
        assert set(reflector.objects) == {"a"}
        await store.create(IP_POOLS, pool("b", "10.1.0.0/16"))
        await until(lambda: set(reflector.objects) == {"a", "b"})
        assert faults.calls.count("list") == 1


async def test_watches_that_never_begin_lead_to_a_new_list() -> None:
    faults = Faults()
    faults.planned["watch"] = [UnavailableError("too large resource version")] * 5
    reflector = Reflector(MemoryStore().with_fault(faults), IP_POOLS, lambda: None)
    async with running(reflector):
        await until(lambda: faults.calls.count("list") == 2)


async def test_an_object_that_cannot_be_right_counts_as_absent_and_is_named() -> None:
    """One that the schema let pass: here the codec alone says so."""

    def decode(obj: Json) -> IPPool:
        if obj["metadata"].get("labels"):
            raise InvalidError("metadata.labels", obj["metadata"]["labels"], "none")
        return IP_POOLS.decode(obj)

    store = MemoryStore()
    await store.create(IP_POOLS, pool("a"))
    reflector = Reflector(store, dataclasses.replace(IP_POOLS, decode=decode), lambda: None)
    async with running(reflector):
        await reflector.wait_in_sync()
        await store.patch(IP_POOLS, "a", {"metadata": {"labels": {"wrong": "yes"}}})
        await until(lambda: "a" in reflector.invalid)
        assert not reflector.objects
        assert "metadata.labels" in str(reflector.invalid["a"])
        await store.patch(IP_POOLS, "a", {"metadata": {"labels": None}})
        await until(lambda: "a" in reflector.objects)
        assert not reflector.invalid


async def test_selectors_confine_it() -> None:
    store = MemoryStore()
    await store.create(IP_POOLS, pool("a"))
    await store.create(IP_POOLS, pool("b", "10.1.0.0/16"))
    reflector = Reflector(store, IP_POOLS, lambda: None, fields="metadata.name=a")
    async with running(reflector):
        await reflector.wait_in_sync()
        assert set(reflector.objects) == {"a"}
