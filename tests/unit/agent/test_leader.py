"""The leader's work on one store: conditions, events, the borrowed label, and when garbage is collected."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from datetime import timedelta
from ipaddress import IPv4Network, ip_address, ip_network
from typing import Any

import pytest

from calico_py.agent.cluster import leader
from calico_py.agent.cluster.announcer import Announcer
from calico_py.agent.cluster.conditions import POOL_CONDITIONS, PoolConditions, Verdict, judge_pools, plan_conditions
from calico_py.agent.cluster.leader import Leader
from calico_py.agent.cluster.pods import Pods
from calico_py.agent.view import ClusterView
from calico_py.ipam.collector import Collected
from calico_py.ipam.garbage import PodView
from calico_py.kube.events import EVENTS, EventRecord, Recorder
from calico_py.model.blocks import Attribute, IPAMBlock, IPAMConfiguration
from calico_py.model.controllers import KUBE_CONTROLLERS_CONFIGURATIONS, KubeControllersConfiguration
from calico_py.model.intent import Problem
from calico_py.model.kinds import IP_POOLS, IPAM_BLOCKS, IPAM_CONFIGURATIONS, NODES
from calico_py.model.meta import Meta
from calico_py.model.names import LABEL_BORROWED, POOL_FINALIZER
from calico_py.model.net import InvalidError
from calico_py.model.nodes import Node
from calico_py.model.pools import IPPool
from calico_py.model.store import ExistsError, Kind, UnavailableError
from tests.fakes.store import MemoryStore
from tests.fakes.waiting import until

OLDER = IPPool(Meta("older", creation_timestamp="2026-01-01T00:00:00Z"), ip_network("10.0.0.0/8"))
YOUNGER = IPPool(Meta("younger", creation_timestamp="2026-01-02T00:00:00Z"), ip_network("10.1.0.0/16"))


class Agent:
    """What of an agent the leader needs."""

    def __init__(self, store: MemoryStore, node: str = "node1") -> None:
        self.node = node
        self.people = MemoryStore(store.storage)  # who makes and deletes the Node
        self.collected = 0
        self.lasts = 0.0
        self.left = Collected()
        self.grace: timedelta | None = None
        self.problems: tuple[Problem, ...] = ()
        self.recorder = Recorder(store, node)
        self.view = ClusterView(store, node, self._mark)
        self.pods = Pods(store)

        async def collect(grace: timedelta) -> Collected:
            self.collected += 1
            self.grace = grace
            await asyncio.sleep(self.lasts)
            return self.left

        self.leader = Leader(
            store,
            node,
            self.view,
            announcer=Announcer(self.recorder, self._uid),
            collect=collect,
            pod_ends=self.pods.wait_for_end,
            other_problems=lambda: self.problems,
        )

    def _mark(self) -> None:
        self.leader.mark()

    def _uid(self, problem: Problem) -> str:
        pool = self.view.pools.objects.get(problem.name)
        return pool.meta.uid if pool is not None else ""


@contextlib.asynccontextmanager
async def running(agent: Agent) -> AsyncIterator[Agent]:
    with contextlib.suppress(ExistsError):
        await agent.people.create(NODES, Node(Meta(agent.node)))
    parts = (agent.view.run(), agent.leader.run(), agent.recorder.run())
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        yield agent
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ended), ended


async def allocatable(store: MemoryStore, name: str) -> dict[str, Any]:
    found = (await store.get(POOL_CONDITIONS, name)).conditions
    return dict(next((entry for entry in found if entry["type"] == "Allocatable"), {}))


async def says(store: MemoryStore, name: str, status: str, reason: str) -> None:
    async def right() -> bool:
        found = await allocatable(store, name)
        return (found.get("status"), found.get("reason")) == (status, reason)

    await until(right)


def block(*holders: str, labels: dict[str, str] | None = None) -> IPAMBlock:
    cidr = IPv4Network("10.0.0.0/26")
    allocations = (*range(len(holders)), *(None for _ in range(64 - len(holders))))
    free = tuple(range(len(holders), 64))
    attributes = tuple(Attribute(f"h{n}", {"node": holder}) for n, holder in enumerate(holders))
    return IPAMBlock(Meta("10-0-0-0-26", labels=labels or {}), cidr, "host:node1", allocations, free, attributes)


async def test_an_overlapping_pool_gets_its_condition_and_an_event_and_recovers() -> None:
    store = MemoryStore()
    await store.create(IP_POOLS, OLDER)
    async with running(Agent(store)):
        await says(store, "older", "True", "OK")
        made = await store.create(IP_POOLS, dataclasses.replace(YOUNGER, meta=Meta("younger")))
        await says(store, "younger", "False", "CIDROverlap")

        async def posted() -> list[EventRecord]:
            return [event for event in (await store.list(EVENTS)).items if event.reason == "CIDROverlap"]

        async def one() -> bool:
            return len(await posted()) == 1

        await until(one)
        (event,) = await posted()
        assert (event.about.kind, event.about.name, event.about.uid) == ("IPPool", "younger", made.meta.uid)
        assert "10.0.0.0/8" in event.message
        await store.delete(IP_POOLS, "older")
        await says(store, "younger", "True", "OK")
        await store.patch(IP_POOLS, "younger", {"spec": {"disabled": True}})
        await says(store, "younger", "False", "PoolDisabled")


async def test_a_pool_that_is_deleted_stays_until_the_last_pod_has_given_its_address_back() -> None:
    """Not for what is the nodes' own: a tunnel's address goes with the pool. An overlapping pool holds nothing."""
    store = MemoryStore()
    mine = {"node": "node1"}
    tunnel = Attribute("ipip-tunnel-addr-node1", {**mine, "type": "ipipTunnelAddress"})
    held = (tunnel, Attribute("calico-py-warm-node1", mine), Attribute("k8s-pod-network.c1", {**mine, "pod": "web"}))

    async def finalizers(name: str) -> tuple[str, ...]:
        return (await store.get(POOL_CONDITIONS, name)).finalizers

    async def gone() -> bool:
        return not (await store.list(IP_POOLS)).items

    await store.create(IP_POOLS, OLDER)
    used = await store.create(IPAM_BLOCKS, dataclasses.replace(block("a", "b", "c"), attributes=held))
    async with running(Agent(store)):
        await says(store, "older", "True", "OK")
        await store.create(IP_POOLS, dataclasses.replace(YOUNGER, meta=Meta("younger")))
        await says(store, "younger", "False", "CIDROverlap")

        await until_finalized(store, "older")
        assert await finalizers("younger") == ()
        await store.delete(IP_POOLS, "younger")
        await store.patch(IP_POOLS, "older", {"metadata": {"finalizers": ["example.org/other", POOL_FINALIZER]}})
        await store.delete(IP_POOLS, "older")
        await says(store, "older", "False", "Terminating")

        async def told() -> bool:
            return "block 10.0.0.0/26" in (await allocatable(store, "older"))["message"]

        await until(told)
        await asyncio.sleep(0.5)
        assert POOL_FINALIZER in await finalizers("older")
        allocations = (0, 1, *(None for _ in range(62)))
        free = (*range(3, 64), 2)
        await store.update(
            IPAM_BLOCKS, dataclasses.replace(used, allocations=allocations, unallocated=free, attributes=held[:2])
        )

        async def let_go() -> bool:
            return await finalizers("older") == ("example.org/other",)

        await until(let_go, within=5)
        await store.patch(IP_POOLS, "older", {"metadata": {"finalizers": []}})
        await until(gone)


async def test_a_pool_that_is_deleted_stays_while_a_block_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leader, "_FAREWELL", 0.0)
    monkeypatch.setattr(leader, "_LOOK_AGAIN", 0.05)
    store = MemoryStore()
    await store.create(IP_POOLS, OLDER)
    await store.create(IPAM_BLOCKS, block())
    with contextlib.suppress(InvalidError):
        await store.patch(IPAM_BLOCKS, "10-0-0-0-26", {"spec": {"allocations": [None]}})
    async with running(Agent(store)):
        await says(store, "older", "True", "OK")
        await until_finalized(store, "older")
        await store.delete(IP_POOLS, "older")
        await says(store, "older", "False", "Terminating")
        await asyncio.sleep(0.3)
        assert (await store.get(POOL_CONDITIONS, "older")).finalizers == (POOL_FINALIZER,)
        await store.delete(IPAM_BLOCKS, "10-0-0-0-26")

        async def gone() -> bool:
            return not (await store.list(IP_POOLS)).items

        await until(gone)


async def until_finalized(store: MemoryStore, name: str) -> None:
    async def held() -> bool:
        return POOL_FINALIZER in (await store.get(POOL_CONDITIONS, name)).finalizers

    await until(held)


async def test_conditions_are_not_written_again_and_again() -> None:
    store = MemoryStore()
    await store.create(IP_POOLS, OLDER)
    async with running(Agent(store)) as agent:
        await says(store, "older", "True", "OK")
        before = await store.get(IP_POOLS, "older")
        for number in range(5):
            await store.create(NODES, Node(Meta(f"n{number}")))
            await asyncio.sleep(0.05)
        assert await store.get(IP_POOLS, "older") == before
        assert agent.leader.leadership.leading


async def test_who_does_not_lead_writes_nothing() -> None:
    store = MemoryStore()
    async with running(Agent(store, "node1")) as first:
        await until(lambda: first.leader.leadership.leading)
        writes: list[str] = []

        def note(when: str, verb: str, kind: str, _name: str) -> None:
            if when == "before" and verb in ("create", "update", "patch", "delete"):
                writes.append(f"{verb} {kind}")

        async with running(Agent(store.with_fault(note), "node2")) as second:
            await store.create(IP_POOLS, OLDER)
            await says(store, "older", "True", "OK")
            await until(lambda: second.leader.leadership.holder == "node1")
        assert (writes, second.collected) == ([], 0)


async def test_the_next_leader_goes_on() -> None:
    store = MemoryStore()
    async with running(Agent(store, "node2")) as second:
        await until(lambda: second.leader.leadership.leading)
    async with running(Agent(store, "node1")) as first:
        await until(lambda: first.leader.leadership.leading, within=5)
        await store.create(IP_POOLS, OLDER)
        await says(store, "older", "True", "OK")


async def test_an_agent_whose_node_is_deleted_gives_the_lead_away_until_the_node_returns() -> None:
    store = MemoryStore()
    async with running(Agent(store, "node2")) as gone:
        await until(lambda: gone.leader.leadership.leading)
        async with running(Agent(store, "node1")) as other:
            await store.delete(NODES, "node2")
            await until(lambda: other.leader.leadership.leading, within=5)
            assert not gone.leader.leadership.leading
        await store.create(NODES, Node(Meta("node2")))
        await until(lambda: gone.leader.leadership.leading, within=5)


async def test_what_is_left_of_a_deleted_node_is_looked_at_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leader, "_SOON", 0.01)
    monkeypatch.setattr(leader, "_GATHER", 0.01)
    store = MemoryStore()
    agent = Agent(store)
    agent.left = Collected(unsettled=1)
    async with running(agent):
        await until(lambda: agent.collected >= 5)
        agent.left = Collected()
        await asyncio.sleep(0.1)
        settled = agent.collected
        await asyncio.sleep(0.1)
        assert agent.collected == settled


async def test_the_label_is_restored_within_a_second_and_taken_away_where_nothing_is_borrowed() -> None:
    store = MemoryStore()
    await store.create(IPAM_BLOCKS, block("node1", "node2", labels={LABEL_BORROWED: "true", "mine": "kept"}))
    async with running(Agent(store)) as agent:
        await until(lambda: agent.leader.leadership.leading)
        await store.patch(IPAM_BLOCKS, "10-0-0-0-26", {"metadata": {"labels": {LABEL_BORROWED: None}}})

        async def labelled() -> bool:
            return (await store.get(IPAM_BLOCKS, "10-0-0-0-26")).meta.labels.get(LABEL_BORROWED) == "true"

        await until(labelled, within=1)
        found = await store.get(IPAM_BLOCKS, "10-0-0-0-26")
        assert found.meta.labels["mine"] == "kept"
        await store.update(IPAM_BLOCKS, dataclasses.replace(block("node1", "node1"), meta=found.meta))

        async def bare() -> bool:
            return LABEL_BORROWED not in (await store.get(IPAM_BLOCKS, "10-0-0-0-26")).meta.labels

        await until(bare, within=1)


async def test_the_label_is_tried_again_after_the_server_was_away() -> None:
    store = MemoryStore()
    away = [True]

    def fault(when: str, verb: str, kind: str, _name: str) -> None:
        if when == "before" and away[0] and (verb, kind) == ("patch", "IPAMBlock"):
            raise UnavailableError("away")

    await store.create(IPAM_BLOCKS, block("node2"))
    async with running(Agent(store.with_fault(fault))) as agent:
        await until(lambda: agent.leader.leadership.leading)
        await asyncio.sleep(0.2)
        away[0] = False

        async def labelled() -> bool:
            return LABEL_BORROWED in (await store.get(IPAM_BLOCKS, "10-0-0-0-26")).meta.labels

        await until(labelled)


async def test_garbage_is_collected_when_it_leads_and_when_a_node_goes() -> None:
    store = MemoryStore()
    await store.create(NODES, Node(Meta("node1")))
    await store.create(NODES, Node(Meta("node2")))
    async with running(Agent(store)) as agent:
        await until(lambda: agent.collected == 1)
        await store.create(NODES, Node(Meta("node3")))
        await asyncio.sleep(0.1)
        assert agent.collected == 1
        await store.delete(NODES, "node2")
        await until(lambda: agent.collected == 2)


async def test_the_end_of_a_pod_that_kept_a_deleted_nodes_address_is_the_next_pass() -> None:
    store = MemoryStore()
    pods: Kind[dict[str, Any]] = Kind("Pod", "", "v1", "pods", dict, dict, namespaced=True)
    for name in ("web", "other"):
        meta = {"name": name, "namespace": "default"}
        await store.create(pods, {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"nodeName": "gone"}})
    agent = Agent(store)
    await agent.pods.list()
    agent.left = Collected(unsettled=1, kept_by=frozenset({("default", "web")}))
    async with running(agent):
        await until(lambda: agent.collected == 1)
        await store.delete(pods, "other", namespace="default")
        await asyncio.sleep(0.3)
        assert agent.collected == 1
        agent.left = Collected()
        await store.delete(pods, "web", namespace="default")
        await until(lambda: agent.collected == 2)


async def test_a_pass_that_lasted_long_delays_only_one_that_would_follow_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(leader, "_GATHER", 0.05)
    store = MemoryStore()
    pods: Kind[dict[str, Any]] = Kind("Pod", "", "v1", "pods", dict, dict, namespaced=True)
    agent, lasts = Agent(store), 1.0
    for name in ("web", "next"):
        meta = {"name": name, "namespace": "default"}
        await store.create(pods, {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"nodeName": "gone"}})
    await agent.pods.list()
    agent.lasts, agent.left = lasts, Collected(unsettled=1, kept_by=frozenset({("default", "web")}))
    async with running(agent):
        await until(lambda: agent.collected == 1)
        await asyncio.sleep(2 * lasts + 0.1)
        agent.left = Collected(unsettled=1, kept_by=frozenset({("default", "next")}))
        await store.delete(pods, "web", namespace="default")
        await asyncio.sleep(lasts / 2)
        assert agent.collected == 2, "the last was long ago"
        await asyncio.sleep(lasts / 2 + 0.1)
        await store.delete(pods, "next", namespace="default")
        await asyncio.sleep(lasts / 2)
        assert agent.collected == 2, "the last has just ended"
        await until(lambda: agent.collected == 3)


async def test_the_next_pass_comes_when_the_last_address_has_cooled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leader, "_GATHER", 0.01)
    agent = Agent(MemoryStore())
    agent.left = Collected(unsettled=1, cools_in=0.3)
    async with running(agent):
        await until(lambda: agent.collected == 1)
        await asyncio.sleep(0.2)
        assert agent.collected == 1
        await until(lambda: agent.collected == 2, within=2)


async def test_the_grace_period_is_kube_controllers_configurations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leader, "_GATHER", 0.01)
    store = MemoryStore()
    async with running(Agent(store)) as agent:
        await until(lambda: agent.grace == timedelta(minutes=15))
        made = KubeControllersConfiguration(Meta("default"), timedelta(seconds=1))
        await store.create(KUBE_CONTROLLERS_CONFIGURATIONS, made)
        await until(lambda: agent.grace == timedelta(seconds=1))
        before = agent.collected
        await until(lambda: agent.collected >= before + 2, within=3)
        patch = {"spec": {"controllers": {"node": {"leakGracePeriod": "0s"}}}}
        await store.patch(KUBE_CONTROLLERS_CONFIGURATIONS, "default", patch)
        await until(lambda: agent.grace == timedelta(0))


async def test_a_grace_period_that_cannot_be_read_is_told_and_counts_as_absent() -> None:
    store = MemoryStore()
    async with running(Agent(store)) as agent:
        await store.create(KUBE_CONTROLLERS_CONFIGURATIONS, KubeControllersConfiguration(Meta("default")))
        patch = {"spec": {"controllers": {"node": {"leakGracePeriod": "soon"}}}}
        with contextlib.suppress(InvalidError):  # it cannot be read by this client either
            await store.patch(KUBE_CONTROLLERS_CONFIGURATIONS, "default", patch)

        async def told() -> bool:
            return any("spec.controllers.node.leakGracePeriod" in e.message for e in (await store.list(EVENTS)).items)

        await until(told)
        assert agent.grace == timedelta(minutes=15)


async def test_rules_of_addresses_that_contradict_each_other_are_told() -> None:
    store = MemoryStore()
    async with running(Agent(store)):
        await store.create(IPAM_CONFIGURATIONS, IPAMConfiguration(Meta("default"), auto_allocate_blocks=False))

        async def told() -> bool:
            found = [(event.about.kind, event.about.name, event.reason) for event in (await store.list(EVENTS)).items]
            return found == [("IPAMConfiguration", "default", "Contradiction")]

        await until(told)


async def test_other_problems_are_told_once_while_they_last() -> None:
    store = MemoryStore()
    differs = Problem("IPPool", "older", "DiffersFromEnvironment", "it differs")
    async with running(Agent(store)) as agent:
        await until(lambda: agent.leader.leadership.leading)
        agent.problems = (differs,)
        for _ in range(3):
            agent.leader.mark()
            await asyncio.sleep(0.15)

        async def told() -> bool:
            return [event.message for event in (await store.list(EVENTS)).items] == ["it differs"]

        await until(told)
        assert (await store.list(EVENTS)).items[0].count == 1


def test_verdicts() -> None:
    leaving = IPPool(Meta("leaving", deleting=True), ip_network("192.168.0.0/16"))
    off = IPPool(Meta("off", creation_timestamp="2"), ip_network("172.16.0.0/16"), disabled=True)
    nowhere = IPPool(Meta("nowhere", creation_timestamp="3"), ip_network("100.64.0.0/16"), node_selector="zone ==")
    spaces = IPPool(Meta("spaces", creation_timestamp="4"), ip_network("100.65.0.0/16"), namespace_selector="global()")
    wrong = InvalidError("spec.cidr", "x", "a network")
    found = judge_pools([YOUNGER, OLDER, leaving, off, nowhere, spaces], {"broken": wrong})
    assert {name: (verdict.allocatable, verdict.reason) for name, verdict in found.items()} == {
        "older": (True, "OK"),
        "younger": (False, "CIDROverlap"),
        "leaving": (False, "Terminating"),
        "off": (False, "PoolDisabled"),
        "broken": (False, "Invalid"),
        "nowhere": (False, "Invalid"),
        "spaces": (False, "Invalid"),
    }
    assert "spec.nodeSelector: found 'zone =='" in found["nowhere"].message
    assert "spec.namespaceSelector: found 'global()'" in found["spaces"].message
    assert found["nowhere"].holds  # its blocks go on to be routed
    assert "spec.cidr" in found["broken"].message


def test_conditions_keep_foreign_ones_and_the_time_of_the_last_change() -> None:
    foreign = {"type": "Other", "status": "True"}
    before = {
        "type": "Allocatable",
        "status": "False",
        "reason": "PoolDisabled",
        "message": "",
        "lastTransitionTime": "t0",
    }
    found = PoolConditions(Meta("a", resource_version="7", generation=3), (foreign, before))
    (patch,) = plan_conditions([found], {"a": Verdict(False, "CIDROverlap", "m")}, now="t1").values()
    assert patch["metadata"] == {"resourceVersion": "7"}
    other, ours = patch["status"]["conditions"]
    assert other == foreign
    assert (ours["lastTransitionTime"], ours["observedGeneration"]) == ("t0", 3)
    (patch,) = plan_conditions([found], {"a": Verdict(True, "OK")}, now="t1").values()
    assert patch["status"]["conditions"][1]["lastTransitionTime"] == "t1"
    assert plan_conditions([found], {"a": Verdict(False, "PoolDisabled")}, now="t1") == {}
    assert plan_conditions([found], {}, now="t1") == {}


async def test_pods_as_the_collection_must_know_them() -> None:
    store = MemoryStore()
    pods: Kind[dict[str, Any]] = Kind("Pod", "", "v1", "pods", dict, dict, namespaced=True)

    async def make(name: str, spec: dict[str, Any], status: dict[str, Any]) -> None:
        meta = {"name": name, "namespace": "default"}
        await store.create(pods, {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})
        await store.patch(pods, name, {"status": status}, namespace="default", subresource="status")

    address = ip_address("10.0.0.5")
    await make("runs", {"nodeName": "node1"}, {"phase": "Running", "podIPs": [{"ip": "10.0.0.5"}]})
    await make("old", {"nodeName": "node1"}, {"phase": "Running", "podIP": "10.0.0.5"})
    await make("done", {"nodeName": "node1"}, {"phase": "Succeeded", "podIPs": [{"ip": "10.0.0.5"}]})
    await make("starts", {"nodeName": "node2"}, {"phase": "Pending"})
    await make("host", {"nodeName": "node2", "hostNetwork": True}, {"podIPs": [{"ip": "192.168.1.12"}]})
    assert await Pods(store).list() == {
        ("default", "runs"): PodView("node1", frozenset({address})),
        ("default", "old"): PodView("node1", frozenset({address})),
        ("default", "done"): PodView("node1", frozenset({address}), finished=True),
        ("default", "starts"): PodView("node2"),
    }
