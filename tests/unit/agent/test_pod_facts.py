"""Pods' annotations: from the watch without a request; from the API where the watch lacks the very pod."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from calico_py.agent.pod_facts import PodLookup
from calico_py.lab.api.errors import Object
from calico_py.model.store import UnavailableError
from tests.fakes.store import MemoryStore
from tests.fakes.waiting import until


@dataclass
class World:
    """A lookup whose watches run."""

    store: MemoryStore = field(default_factory=MemoryStore)
    calls: list[str] = field(default_factory=list)
    away: bool = False

    def __post_init__(self) -> None:
        self.lookup = PodLookup(self.store.with_fault(self.note), "node1")

    def note(self, when: str, verb: str, kind: str, name: str) -> None:
        if when == "before" and verb == "get":
            self.calls.append(f"{kind} {name}")
            if self.away:
                raise UnavailableError("connection refused")

    def make(self, plural: str, namespace: str, metadata: dict[str, Any], spec: dict[str, Any] | None = None) -> Object:
        resource = self.store.verbs.registry.get("", "v1", plural)
        assert resource is not None
        body = {"apiVersion": "v1", "kind": resource.kind, "metadata": metadata, "spec": spec or {}}
        return self.store.verbs.create(resource, namespace, body)

    def pod(self, name: str, node: str = "node1", **annotations: str) -> str:
        metadata = {"name": name, "namespace": "shop", "annotations": annotations}
        spec = {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}
        return str(self.make("pods", "shop", metadata, spec)["metadata"]["uid"])

    def delete(self, name: str) -> None:
        resource = self.store.verbs.registry.get("", "v1", "pods")
        assert resource is not None
        self.store.verbs.delete(resource, "shop", name)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    made.make("namespaces", "", {"name": "shop", "labels": {"team": "a"}, "annotations": {"of": "namespace"}})
    running = [asyncio.create_task(each.run()) for each in (made.lookup.pods, made.lookup.namespaces)]
    for each in (made.lookup.pods, made.lookup.namespaces):
        await each.wait_in_sync()
    yield made
    for task in running:
        task.cancel()


async def test_a_pod_of_this_node_costs_no_request_even_with_the_api_away(world: World) -> None:
    uid = world.pod("web", wish="mine")
    await until(lambda: "shop/web" in world.lookup.pods.objects)
    world.away = True
    found = await world.lookup.find("shop", "web", uid)
    assert found.annotations == {"wish": "mine"}
    assert found.namespace_annotations == {"of": "namespace"}
    assert (found.namespace_labels or {})["team"] == "a"
    assert world.calls == []


async def test_pods_of_other_nodes_are_not_watched(world: World) -> None:
    world.pod("other", node="node2")
    world.pod("mine")
    await until(lambda: "shop/mine" in world.lookup.pods.objects)
    assert list(world.lookup.pods.objects) == ["shop/mine"]


async def test_a_pod_that_the_watch_lacks_is_read(world: World) -> None:
    world.pod("web", node="", wish="read")
    found = await world.lookup.find("shop", "web", "")
    assert found.annotations == {"wish": "read"}
    assert world.calls == ["Pod web"]
    world.away = True
    with pytest.raises(UnavailableError):
        await world.lookup.find("shop", "web", "")


async def test_an_earlier_pod_of_the_same_name_is_not_taken_for_it(world: World) -> None:
    old = world.pod("db-0", wish="old")
    await until(lambda: "shop/db-0" in world.lookup.pods.objects)
    stale = dict(world.lookup.pods.objects)
    world.delete("db-0")
    new = world.pod("db-0", wish="new")
    world.lookup.pods.objects = stale
    assert (await world.lookup.find("shop", "db-0", new)).annotations == {"wish": "new"}
    assert (await world.lookup.find("shop", "db-0", "gone")).annotations == {}
    assert old != new


async def test_a_pod_that_nobody_knows_asks_for_nothing(world: World) -> None:
    found = await world.lookup.find("nowhere", "static", "hash")
    assert (found.annotations, found.namespace_labels) == ({}, None)


async def test_a_static_pod_is_known_by_what_stands_for_it(world: World) -> None:
    world.pod("static-node1", **{"kubernetes.io/config.mirror": "hash", "wish": "static"})
    await until(lambda: "shop/static-node1" in world.lookup.pods.objects)
    assert (await world.lookup.find("shop", "static-node1", "hash")).annotations["wish"] == "static"
