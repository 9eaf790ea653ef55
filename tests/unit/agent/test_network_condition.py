"""The condition NetworkUnavailable: True from the boot until the node is ready, False for good from then on."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from calico_py.agent import network_condition
from calico_py.agent.network_condition import NODE_CONDITIONS, NetworkCondition
from calico_py.model.kinds import NODES
from calico_py.model.store import ConflictError
from tests.fakes.store import MemoryStore

FOREIGN = {"type": "Ready", "status": "True", "reason": "KubeletReady"}


class OneNode:
    """A Node with a condition of the kubelet's, and what the agent waits for."""

    def __init__(self, marker: Path) -> None:
        self.store = MemoryStore()
        self.causes: list[str] = []
        self.marker = marker
        self.clock = 0

    async def register(self, *conditions: Mapping[str, Any]) -> None:
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node1"}}
        resource = self.store._resource(NODES)
        self.store.verbs.create(resource, "", node)
        await self.store.patch(NODES, "node1", {"status": {"conditions": [FOREIGN, *conditions]}}, subresource="status")

    def start(self) -> "asyncio.Task[None]":
        def now() -> str:
            self.clock += 1
            return f"2026-01-01T00:00:{self.clock:02d}Z"

        part = NetworkCondition(self.store, "node1", not_ready=lambda: self.causes, marker=self.marker, now=now)
        return asyncio.create_task(part.run())

    async def condition(self) -> Mapping[str, Any]:
        found = (await self.store.get(NODE_CONDITIONS, "node1")).conditions
        assert FOREIGN in found
        return next((each for each in found if each["type"] == "NetworkUnavailable"), {})


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OneNode:
    monkeypatch.setattr(network_condition, "_POLL", 0.01)
    return OneNode(tmp_path / "run" / "ready")


async def until_status(node: OneNode, status: str) -> Mapping[str, Any]:
    for _ in range(500):
        found = await node.condition()
        if found.get("status") == status:
            return found
        await asyncio.sleep(0.01)
    raise AssertionError(f"found {found}, expected status {status}")


async def test_after_a_boot_it_is_true_with_the_cause_until_the_node_is_ready(node: OneNode) -> None:
    await node.register()
    node.causes = ["no tunnel engine is attached to tunl0", "another"]
    task = node.start()
    found = await until_status(node, "True")
    assert (found["reason"], found["message"]) == ("CalicoPyIsStarting", "no tunnel engine is attached to tunl0")
    node.causes = []
    found = await until_status(node, "False")
    assert found["reason"] == "CalicoPyIsUp"
    assert found["lastTransitionTime"] == found["lastHeartbeatTime"] == "2026-01-01T00:00:02Z"
    await task


async def test_the_condition_names_the_cause_that_lasts(node: OneNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_condition, "_STEADY", 0.1)
    await node.register()
    node.causes = ["not in sync with the API server yet"]
    task = node.start()
    first = await until_status(node, "True")
    node.causes = ["no IPPool serves this node"]
    for _ in range(500):
        found = await node.condition()
        if found["message"] != first["message"]:
            break
        await asyncio.sleep(0.01)
    assert found["message"] == "no IPPool serves this node"
    assert found["lastTransitionTime"] == first["lastTransitionTime"], "it was True all the time"
    node.causes = []
    await task


async def test_a_restarted_agent_leaves_it_false_while_it_gets_ready(node: OneNode) -> None:
    up = {"status": "False", "reason": "CalicoPyIsUp", "message": "calico-py serves the pods of this node"}
    await node.register({"type": "NetworkUnavailable", **up})
    node.marker.parent.mkdir()
    node.marker.touch()
    node.causes = ["not in sync"]
    task = node.start()
    await asyncio.sleep(0.05)
    assert (await node.condition())["status"] == "False"
    node.causes = []
    await task
    assert node.clock == 0, "nothing was written"


async def test_what_a_cloud_has_set_is_taken_back(node: OneNode) -> None:
    await node.register({"type": "NetworkUnavailable", "status": "True", "reason": "NoRouteCreated"})
    await node.start()
    assert (await node.condition())["reason"] == "CalicoPyIsUp"


async def test_a_status_that_another_wrote_meanwhile_is_read_again(node: OneNode) -> None:
    await node.register()
    failures = iter([True])

    def conflict(when: str, verb: str, kind: str, name: str) -> None:
        del kind, name
        if (when, verb) == ("before", "patch") and next(failures, False):
            raise ConflictError("patch Node node1: another has written it")

    node.store.fault = conflict
    await node.start()
    assert (await node.condition())["status"] == "False"
