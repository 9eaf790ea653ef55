"""A node's annotations are kept as they should be, whoever removes them and however often the API fails."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from calico_py.agent.publish import NodePublisher
from calico_py.kube.reflector import Reflector
from calico_py.model.kinds import NODES
from calico_py.model.meta import Meta
from calico_py.model.names import NODE_IPV4_ADDRESS, NODE_SENDING
from calico_py.model.nodes import Node
from calico_py.model.store import UnavailableError
from tests.fakes.store import MemoryStore


class Flaky:
    """Lets patches fail while told to."""

    failing = False

    def __call__(self, when: str, verb: str, kind: str, name: str) -> None:
        del kind, name
        if self.failing and (when, verb) == ("before", "patch"):
            raise UnavailableError("the API server is away")


@contextlib.asynccontextmanager
async def publisher(store: MemoryStore) -> AsyncIterator[NodePublisher]:
    await store.create(NODES, Node(Meta("node1", annotations={"keep": "me"})))
    nodes: Reflector[Node] = Reflector(store, NODES, lambda: out.refresh())  # noqa: PLW0108 - out comes later
    out = NodePublisher(store, "node1", lambda: nodes.objects.get("node1"))
    tasks = [asyncio.create_task(nodes.run()), asyncio.create_task(out.run())]
    await nodes.wait_in_sync()
    try:
        yield out
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def annotations(store: MemoryStore) -> dict[str, str]:
    return dict((await store.get(NODES, "node1")).meta.annotations)


async def eventually(store: MemoryStore, expected: dict[str, str]) -> None:
    found: dict[str, str] = {}
    for _ in range(200):
        found = await annotations(store)
        if found == expected:
            return
        await asyncio.sleep(0.02)
    assert found == expected


async def test_sets_and_removes_only_its_own_keys() -> None:
    store = MemoryStore()
    async with publisher(store) as out:
        out.set(annotations={NODE_IPV4_ADDRESS: "192.168.1.11/24", NODE_SENDING: "{}"})
        await eventually(store, {"keep": "me", NODE_IPV4_ADDRESS: "192.168.1.11/24", NODE_SENDING: "{}"})
        out.set(annotations={NODE_SENDING: None})
        await eventually(store, {"keep": "me", NODE_IPV4_ADDRESS: "192.168.1.11/24"})


async def test_what_someone_removed_comes_back() -> None:
    store = MemoryStore()
    async with publisher(store) as out:
        out.set(annotations={NODE_IPV4_ADDRESS: "192.168.1.11/24"})
        await eventually(store, {"keep": "me", NODE_IPV4_ADDRESS: "192.168.1.11/24"})
        await store.patch(NODES, "node1", {"metadata": {"annotations": {NODE_IPV4_ADDRESS: None}}})
        await eventually(store, {"keep": "me", NODE_IPV4_ADDRESS: "192.168.1.11/24"})


async def test_who_always_takes_it_away_is_answered_ever_later_and_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """Two programs that each put right what the other wrote would ask the API server as fast as it answers."""
    writes = 0

    def count(when: str, verb: str, _kind: str, _name: str) -> None:
        nonlocal writes
        writes += (when, verb) == ("before", "patch")

    store = MemoryStore(fault=count)
    key = NODE_IPV4_ADDRESS

    async def undo() -> None:
        while True:
            await asyncio.sleep(0.005)
            if key in await annotations(store):
                await store.patch(NODES, "node1", {"metadata": {"annotations": {key: None}}})

    async with publisher(store) as out:
        other = asyncio.create_task(undo())
        out.set(annotations={key: "192.168.1.11/24"})
        await asyncio.sleep(2)
        other.cancel()
        assert writes / 2 <= 10
        assert "somebody else keeps changing" in caplog.text
        assert key in caplog.text
        await eventually(store, {"keep": "me", key: "192.168.1.11/24"})


async def test_a_watch_that_lags_is_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    """What was written and is not observed yet was not taken away."""
    store = MemoryStore()
    observed = Node(Meta("node1"))
    await store.create(NODES, observed)
    publisher = NodePublisher(store, "node1", lambda: observed)
    task = asyncio.create_task(publisher.run())
    for _ in range(50):
        publisher.set(annotations={NODE_IPV4_ADDRESS: "192.168.1.11/24"})
        publisher.refresh()
        await asyncio.sleep(0.01)
    publisher.set(annotations={NODE_SENDING: "{}"})
    await asyncio.sleep(0.05)
    assert await annotations(store) == {NODE_IPV4_ADDRESS: "192.168.1.11/24", NODE_SENDING: "{}"}
    assert "somebody else" not in caplog.text
    task.cancel()


@pytest.mark.parametrize("key", [NODE_IPV4_ADDRESS])
async def test_an_api_that_fails_is_asked_again_and_named(key: str) -> None:
    fault = Flaky()
    store = MemoryStore(fault=fault)
    async with publisher(store) as out:
        fault.failing = True
        out.set(annotations={key: "192.168.1.11/24"})
        for _ in range(100):
            if out.last_error:
                break
            await asyncio.sleep(0.02)
        assert "Node node1" in out.last_error
        assert "the API server is away" in out.last_error
        fault.failing = False
        await eventually(store, {"keep": "me", key: "192.168.1.11/24"})
        assert not out.last_error


@pytest.mark.parametrize("key", [NODE_IPV4_ADDRESS, NODE_SENDING])
async def test_a_broken_value_of_its_own_is_mended(key: str) -> None:
    store = MemoryStore()
    value = {NODE_IPV4_ADDRESS: "10.0.0.1/24", NODE_SENDING: "{}"}[key]
    async with publisher(store) as out:
        out.set(annotations={key: value})
        await eventually(store, {"keep": "me", key: value})
        await store.patch(NODES, "node1", {"metadata": {"annotations": {key: "nonsense"}}})
        await eventually(store, {"keep": "me", key: value})
