"""Handles are written behind the answers: not while further answers are being prepared, but soon."""

import asyncio

import pytest

from calico_py.ipam import handles
from tests.fakes.ipam import IPAMCluster, pool, workload


async def test_a_handle_waits_for_the_answers_that_are_being_prepared() -> None:
    cluster = IPAMCluster([pool("10.0.0.0/24")])
    node, calm = cluster.node("node1"), asyncio.Event()
    node.give_way(calm)
    await node.assign(workload("c1"))
    await asyncio.sleep(0.05)
    assert not await cluster.handles()
    calm.set()
    await asyncio.wait_for(node.drain(), 5)
    assert set(await cluster.handles()) == {"k8s-pod-network.c1"}


async def test_it_does_not_wait_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handles, "_GIVE_WAY_SECONDS", 0.05)
    cluster = IPAMCluster([pool("10.0.0.0/24")])
    node = cluster.node("node1")
    node.give_way(asyncio.Event())
    await node.assign(workload("c1"))
    await asyncio.wait_for(node.drain(), 5)
    assert set(await cluster.handles()) == {"k8s-pod-network.c1"}


async def test_a_pod_that_is_gone_by_then_never_has_one() -> None:
    cluster = IPAMCluster([pool("10.0.0.0/24")])
    made: list[str] = []

    def note(when: str, verb: str, kind: str, name: str) -> None:
        made.append(f"{when} {verb} {kind} {name}")

    cluster.store.fault = note
    node, calm = cluster.node("node1"), asyncio.Event()
    node.give_way(calm)
    await node.assign(workload("c1"))
    await node.release_handle("k8s-pod-network.c1")
    calm.set()
    await node.drain()
    assert made
    assert not [call for call in made if "create IPAMHandle" in call]
