"""An API server that is away or refuses everything: what the agent asks of it then, and what its log says."""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from calico_py.ipam.requests import Release
from calico_py.model.kinds import IP_POOLS, NODES
from calico_py.model.meta import Meta
from calico_py.model.names import NODE_IPV4_ADDRESS, NODE_IPV4_IPIP_TUNNEL, warm_handle
from calico_py.model.net import Address
from calico_py.model.nodes import Node
from calico_py.model.pools import EncapMode
from calico_py.model.store import (
    ForbiddenError,
    NotFoundError,
    StoreError,
    UnauthenticatedError,
    UnavailableError,
)
from tests.fakes.ipam import IPAMCluster, pool, workload
from tests.fakes.waiting import until
from tests.fakes.warm import WarmNode
from tests.unit.agent.one_node import ME, OneNode

ANSWERS = [UnavailableError, UnauthenticatedError, ForbiddenError, NotFoundError]
OUTAGE = 2.0  # seconds
MOST_ATTEMPTS = 6  # by the waits of 0.1 to 0.2, 0.2 to 0.4, 0.4 to 0.8 and 0.8 to 1.6 s


class Answer:
    """What the API server says to everything, and how often it was asked."""

    def __init__(self) -> None:
        self.error: type[StoreError] | None = None
        self.asked: Counter[str] = Counter()

    def __call__(self, when: str, verb: str, kind: str, name: str) -> None:
        if when == "before" and self.error is not None:
            self.asked[f"{verb} {kind}"] += 1
            raise self.error(f"{verb} {kind} {name}: no")


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("error", ANSWERS)
async def test_an_agent_asks_ever_less_and_says_it_once(
    error: type[StoreError], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    node, answer = OneNode(tmp_path), Answer()
    caplog.set_level(logging.INFO)
    await node.prepare(EncapMode.ALWAYS)
    people, node.store = node.store, node.store.with_fault(answer)
    async with node.agent() as loop:
        await node.quiet()
        caplog.clear()
        answer.error, node.refuse_patches = error, True
        # Each watch breaks at its next event; and this agent's annotation is to be written again.
        await people.patch(NODES, ME, {"metadata": {"annotations": {NODE_IPV4_ADDRESS: None}}})
        await people.patch(IP_POOLS, "default", {"spec": {"natOutgoing": True}})
        await asyncio.sleep(OUTAGE)
        assert answer.asked
        assert max(answer.asked.values()) <= MOST_ATTEMPTS + 5, answer.asked  # five watches before a list
        said = warnings(caplog)
        assert len(said) == len(set(said)) <= 4, said
        assert any("no; " in line or error is NotFoundError for line in said), said
        assert loop.last is not None
        answer.error, node.refuse_patches = None, False
        await until(lambda: not any(watched.error for watched in node.view.watched()))
        await until(lambda: any(record.getMessage().startswith("over after") for record in caplog.records))


@contextlib.asynccontextmanager
async def warm_node(cluster: IPAMCluster, node: WarmNode, answer: Answer) -> AsyncIterator[list[Address]]:
    """A node whose pods are going while the API server answers as it does; gives the pods' addresses."""
    warm, allocator = await node.begin(cluster.store.with_fault(answer))
    running = asyncio.create_task(warm.run())
    try:
        got = [(await warm.assign(workload(f"c{number}")))[0].address for number in range(20)]
        await until(lambda: not any(pod.unheard for pod in warm._promises.pods.values()))
        await allocator.drain()
        yield got
        for number in range(20):
            await warm.release_handle(f"k8s-pod-network.c{number}")
        await asyncio.sleep(OUTAGE)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        answer.error = None
        await allocator.drain()


@pytest.mark.parametrize("error", ANSWERS)
async def test_releases_that_are_refused_are_tried_ever_less_and_said_once(
    error: type[StoreError], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cluster, answer = IPAMCluster([pool("10.0.0.0/24")]), Answer()
    async with warm_node(cluster, WarmNode(cluster, tmp_path), answer):
        caplog.clear()
        answer.error = error
    said = warnings(caplog)
    assert len(said) <= 2, said
    assert sum(answer.asked.values()) < 300, answer.asked


async def test_a_deleted_node_claims_nothing_again(tmp_path: Path) -> None:
    """Else its agent and the leader would undo each other's work for ever."""
    cluster, there = IPAMCluster([pool("10.0.0.0/24")]), [True]
    node = WarmNode(cluster, tmp_path, has_node=lambda: there[0])
    warm, allocator = await node.begin()
    (pods,) = await warm.assign(workload("c1"))
    await warm.catch_up()
    assert len(await cluster.held()) > 1
    there[0] = False
    await cluster.node("leader").release([Release(pods.address, pods.handle_id)])
    (block,) = await cluster.blocks()
    allocator.observe(block)
    for _ in range(3):
        warm.mark()
        await warm.catch_up()
    assert await cluster.held() == {}, f"neither pod's nor {warm_handle(node.name)}'s"
    there[0] = True
    await warm.catch_up()
    held = await cluster.held()
    assert held[pods.address].handle == pods.handle_id, "a Node that is back has its pods again"
    await allocator.drain()


async def test_what_runs_on_a_deleted_node_goes_on(tmp_path: Path) -> None:
    node = OneNode(tmp_path)
    await node.prepare(EncapMode.ALWAYS)
    await node.annotate("node2", NODE_IPV4_IPIP_TUNNEL, "10.244.2.1")
    async with node.agent():
        await node.quiet()
        await node.store.delete(NODES, ME)
        await until(lambda: "does not exist" in node.loop.problem or "deleted" in node.loop.problem)
        assert node.device("10.244.2.0/26") == "tunl0", "what runs goes on"
        await node.store.create(NODES, Node(Meta(ME)))
        await until(lambda: not node.loop.problem)
