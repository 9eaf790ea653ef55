"""Which addresses the leader may release, when, and never."""

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network

import pytest

from calico_py.ipam import blocks, collector
from calico_py.ipam.allocator import Allocator
from calico_py.ipam.collector import Collector
from calico_py.ipam.garbage import Judgement, Memory, PodName, PodView, View, judge
from calico_py.ipam.requests import AssignRequest, IPAMError, Tunnel
from calico_py.model.blocks import Attribute, IPAMBlock
from calico_py.model.kinds import IPAM_BLOCKS, NODES
from calico_py.model.meta import Meta
from calico_py.model.nodes import Node
from calico_py.model.pools import EncapMode
from tests.fakes.ipam import IPAMCluster, config, pool, problems, workload

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
GRACE = timedelta(minutes=15)
WEB = ("default", "web")
ADDRESS = ip_address("10.0.0.0")


def attribute(**changes: str) -> Attribute:
    return Attribute("k8s-pod-network.c", {"node": "node1", "pod": "web", "namespace": "default"} | changes)


def block_with(*owners: Attribute, node: str = "node1", cidr: str = "10.0.0.0/26") -> IPAMBlock:
    block = blocks.new_block(ip_network(cidr), node=node, now=NOW)
    for ordinal, owner in enumerate(owners):
        block = blocks.assign_at(block, ordinal, owner)
    return blocks.sealed(block)


def view_of(
    *found: IPAMBlock, pods: Mapping[PodName, PodView] | None = None, nodes: tuple[str, ...] = ("node1",)
) -> View:
    return View(found, nodes, pods or {})


def pod_at(*addresses: str, node: str = "node1", finished: bool = False) -> PodView:
    return PodView(node, frozenset(map(ip_address, addresses)), finished)


def judged(view: View, memory: Memory, minutes: float, grace: timedelta = GRACE) -> Judgement:
    return judge(view, memory, now=NOW + timedelta(minutes=minutes), grace=grace, cooldown=timedelta(seconds=30))


def released(*views: tuple[float, View], grace: timedelta = GRACE) -> list[str]:
    """What the last of several looks, at these minutes, lets go."""
    memory: Memory = {}
    judgement = Judgement({})
    for minutes, view in views:
        judgement = judged(view, memory, minutes, grace)
        memory = judgement.memory
    return [str(release.address) for release in judgement.releases]


LEAK = view_of(block_with(attribute()))


def test_a_leak_is_released_after_two_looks_a_grace_period_apart() -> None:
    assert released((0, LEAK)) == []
    assert released((0, LEAK), (14.9, LEAK)) == []
    assert released((0, LEAK), (15, LEAK)) == ["10.0.0.0"]
    assert released((0, LEAK), (7.5, LEAK), (15, LEAK)) == ["10.0.0.0"]


def test_an_address_that_was_valid_meanwhile_starts_anew() -> None:
    valid = view_of(block_with(attribute()), pods={WEB: pod_at("10.0.0.0")})
    assert released((0, LEAK), (14, valid), (16, LEAK)) == []
    assert released((0, LEAK), (14, valid), (16, LEAK), (31, LEAK)) == ["10.0.0.0"]


def test_an_address_that_was_allocated_anew_meanwhile_starts_anew() -> None:
    (block,) = LEAK.blocks
    again = blocks.release(block, [0], now=NOW, cooldown=timedelta(0))
    again = blocks.sealed(blocks.assign_at(again, 0, attribute()))
    assert released((0, LEAK), (15, view_of(again))) == []


def test_without_a_grace_period_only_deleted_nodes_lose_addresses() -> None:
    assert released((0, LEAK), (99, LEAK), grace=timedelta(0)) == []
    assert released((0, view_of(block_with(attribute()), nodes=("node2",))), grace=timedelta(0)) == ["10.0.0.0"]


@pytest.mark.parametrize(
    ("pods", "valid"),
    [
        ({}, False),
        ({WEB: pod_at("10.0.0.0")}, True),
        ({WEB: pod_at()}, True),
        ({WEB: pod_at(node="node2")}, False),
        ({WEB: pod_at("10.0.0.9")}, False),
        ({WEB: pod_at("10.0.0.0", finished=True)}, False),
        ({("other", "pod"): pod_at("10.0.0.0", node="node7")}, True),
    ],
    ids=["no pod", "its pod", "starts", "starts elsewhere", "has another", "finished", "a pod of another name has it"],
)
def test_who_has_a_right_to_an_address(pods: Mapping[PodName, PodView], *, valid: bool) -> None:
    view = view_of(block_with(attribute()), pods=pods)
    assert released((0, view), (15, view)) == ([] if valid else ["10.0.0.0"])


@pytest.mark.parametrize(
    "owner",
    [
        Attribute("somebodys-own-handle", {"node": "node1"}),
        Attribute("k8s-pod-network.c", {"node": "node1", "pod": "web"}),
        Attribute(None, {}),
        Attribute("windows-reserved-ipam-handle", {"note": "reserved"}),
        Attribute("ipip-tunnel-addr-node1", {"node": "node1", "type": "ipipTunnelAddress"}),
        Attribute("calico-py-warm-node1", {"node": "node1"}),
    ],
)
def test_an_owner_that_is_not_a_pod_keeps_its_address(owner: Attribute) -> None:
    view = view_of(block_with(owner))
    assert released((0, view), (99, view)) == []


@pytest.mark.parametrize(
    "owner",
    [
        attribute(),
        Attribute("vxlan-v6-tunnel-addr-node1", {"node": "node1", "type": "vxlanV6TunnelAddress"}),
        Attribute("calico-py-warm-node1", {"node": "node1"}),
    ],
)
def test_a_deleted_node_loses_its_addresses_at_once(owner: Attribute) -> None:
    assert released((0, view_of(block_with(owner), nodes=("node2",)))) == ["10.0.0.0"]


def test_even_a_deleted_nodes_address_stays_while_a_pod_reports_it() -> None:
    view = view_of(block_with(attribute()), nodes=("node2",), pods={WEB: pod_at("10.0.0.0", node="node2")})
    assert released((0, view), (99, view)) == []


def test_a_handle_goes_as_a_whole_or_not_at_all() -> None:
    four, six = block_with(attribute()), block_with(attribute(), cidr="fd00::/122")
    half = view_of(four, six, pods={WEB: pod_at("fd00::")})
    assert released((0, half), (15, half)) == []
    gone = view_of(four, six)
    assert released((0, half), (15, gone)) == [], "the other half has only been seen once"
    assert released((0, gone), (15, gone)) == ["10.0.0.0", "fd00::"]


def test_a_virtual_machine_has_five_minutes_at_least() -> None:
    view = view_of(block_with(attribute(**{"vmi-name": "vm"})))
    one = timedelta(minutes=1)
    assert released((0, view), (4.9, view), grace=one) == []
    assert released((0, view), (5, view), grace=one) == ["10.0.0.0"]


def test_the_last_block_of_a_node_stays_and_others_go_when_empty_for_a_grace_period() -> None:
    a, b = block_with(), block_with(cidr="10.0.1.0/26")
    first = judged(view_of(a, b), {}, 0)
    assert first.blocks == ()
    assert [x.meta.name for x in judged(view_of(a, b), first.memory, 15).blocks] == ["10-0-0-0-26"]
    used = blocks.sealed(a)
    assert [x.meta.name for x in judged(view_of(used, b), first.memory, 15).blocks] == ["10-0-1-0-26"], "a was written"


def test_a_block_that_no_pool_contains_is_not_kept_as_a_nodes_last() -> None:
    homeless, last, other = block_with(), block_with(cidr="10.1.0.0/26"), block_with(node="node2", cidr="10.0.1.0/26")
    view = replace(view_of(homeless, last, other, nodes=("node1", "node2")), pools=[ip_network("10.1.0.0/16")])
    first = judged(view, {}, 0)
    assert first.blocks == ()
    assert judged(view, first.memory, 15).blocks == (homeless, other)
    assert judged(view, first.memory, 15, grace=timedelta(0)).blocks == ()


def test_empty_blocks_of_a_deleted_node_go_at_once() -> None:
    view = view_of(block_with(), block_with(cidr="fd00::/122"), nodes=("node2",))
    assert len(judged(view, {}, 0).blocks) == 2


def test_an_idle_block_is_written_a_minute_after_its_cooldowns_are_over() -> None:
    cold = blocks.release(block_with(attribute()), [0], now=NOW, cooldown=timedelta(seconds=30))
    view = view_of(cold)
    assert judged(view, {}, 89 / 60).tidy == ()
    assert judged(view, {}, 91 / 60).tidy == (cold.cidr,)


@pytest.mark.parametrize("lent", [False, True])
def test_a_label_that_is_wrong_is_to_be_written(*, lent: bool) -> None:
    right = block_with(attribute(node="node2") if lent else attribute())
    assert judged(view_of(right), {}, 0).tidy == ()
    labels = {} if lent else {"projectcalico.org/borrowed": "true"}
    wrong = replace(right, meta=replace(right.meta, labels=labels))
    assert judged(view_of(wrong), {}, 0).tidy == (right.cidr,)


@dataclass
class Leader:
    """A cluster with a collector on node1 and pods that the test sets."""

    cluster: IPAMCluster
    nodes: set[str] = field(default_factory=lambda: {"node1", "node2"})
    pods: dict[PodName, PodView] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.allocator: Allocator = self.cluster.node("node1")
        self.collector = Collector(
            self.cluster.store,
            self.allocator,
            nodes=lambda: self.nodes,
            pods=self.list_pods,
            now=lambda: self.cluster.now,
        )

    async def list_pods(self) -> Mapping[PodName, PodView]:
        return dict(self.pods)


async def test_the_leader_clears_up_after_a_deleted_node() -> None:
    cluster = IPAMCluster([pool("10.0.0.0/16", ipip_mode=EncapMode.ALWAYS), pool("fd00::/64")])
    leader = Leader(cluster)
    leaver = cluster.node("node2")
    await leaver.assign(workload("c1", 4, 6))
    await leaver.ensure_tunnel_address(Tunnel.IPIP)
    await leaver.assign(AssignRequest("calico-py-warm-node2", families=(4,) * 8))
    await leaver.drain()
    leader.nodes = {"node1"}
    found = await leader.collector.collect()
    assert len(found.released.released) == 11
    assert len(found.blocks) == 2
    assert not found.unsettled
    await leader.allocator.drain()
    assert not await cluster.blocks()
    assert not await cluster.affinities()
    assert not await cluster.handles()


async def test_what_is_leaked_is_judged_beside_what_else_the_agent_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pods of the leader's node get addresses meanwhile."""
    leader, assigned = Leader(IPAMCluster([pool("10.0.0.0/16")])), threading.Event()
    await leader.allocator.assign(workload("c1"))

    def judge_long(*args: object, **kwargs: object) -> Judgement:
        assert assigned.wait(10), "an ADD waited for the collection"
        return judge(*args, **kwargs)  # type: ignore[arg-type]  # as they came

    monkeypatch.setattr(collector, "judge", judge_long)
    collecting = asyncio.create_task(leader.collector.collect())
    await leader.allocator.assign(workload("c2"))
    assigned.set()
    assert (await collecting).candidates


async def test_a_node_that_the_watch_does_not_show_yet_keeps_what_it_has() -> None:
    """Its tunnel's address would be a pod's while tunl0 still has it."""
    cluster = IPAMCluster([pool("10.0.0.0/16", ipip_mode=EncapMode.ALWAYS)])
    leader, joiner = Leader(cluster), cluster.node("node2")
    await joiner.ensure_tunnel_address(Tunnel.IPIP)
    await joiner.assign(AssignRequest("calico-py-warm-node2", families=(4,) * 8))
    await cluster.store.create(NODES, Node(Meta("node2")))
    leader.nodes = {"node1"}
    found = await leader.collector.collect()
    assert (found.released.released, found.blocks, found.unsettled) == ((), (), 0)
    await cluster.store.delete(NODES, "node2")
    assert len((await leader.collector.collect()).released.released) == 9


async def test_what_is_left_of_a_deleted_pool_goes_with_its_last_address() -> None:
    cluster = IPAMCluster([pool("10.0.0.0/16")])
    leader, user = Leader(cluster), cluster.node("node2")
    await user.assign(workload("c1"))
    cluster.pools = []
    await user.release_handle("k8s-pod-network.c1")
    for _ in range(3):
        await leader.collector.collect()
        cluster.advance(600)
    assert not await cluster.blocks()
    assert not await cluster.affinities()


async def test_what_was_a_deleted_nodes_cools_down_from_its_deletion_on() -> None:
    """No node has had a route to it since; a pod that the API has for longer makes it no younger."""
    cluster = IPAMCluster([pool("10.0.0.0/16")], config(ip_cooldown_seconds=30))
    leader, leaver = Leader(cluster), cluster.node("node2")
    (drained,) = await leaver.assign(AssignRequest("k8s-pod-network.c0", {"namespace": "default", "pod": "gone"}))
    (kept,) = await leaver.assign(workload("c1"))
    leader.nodes, leader.pods = {"node1"}, {WEB: PodView("node2", frozenset({kept.address}))}
    found = await leader.collector.collect()
    assert found.released.released == (drained.address,)
    assert (found.unsettled, found.kept_by) == (1, frozenset({WEB}))
    assert found.cools_in == pytest.approx(30, abs=1)
    cluster.advance(60)
    assert (await leader.collector.collect()).kept_by == {WEB}
    leader.pods = {}
    found = await leader.collector.collect()
    assert found.released.released == (kept.address,)
    assert len(found.blocks) == 1
    assert (found.unsettled, found.cools_in) == (0, None)


@pytest.mark.parametrize(("seconds", "rests"), [(50, 0), (20, 10)])
async def test_what_the_agent_of_a_deleted_node_frees_itself_cools_down_from_then_on_as_well(
    seconds: int, rests: int
) -> None:
    """Its machine still runs: kubelet ends the pods that Kubernetes has removed, and the agent serves their DEL."""
    cluster = IPAMCluster([pool("10.0.0.0/16")], config(ip_cooldown_seconds=30))
    leader, leaver = Leader(cluster), cluster.node("node2")
    (kept,) = await leaver.assign(workload("c1"))
    leader.nodes, leader.pods = {"node1"}, {WEB: PodView("node2", frozenset({kept.address}))}
    cluster.gone_since["node2"] = cluster.now
    await leader.collector.collect()
    cluster.advance(seconds)
    assert await leaver.release_handle("k8s-pod-network.c1") == 1
    leader.pods = {}
    found = await leader.collector.collect()
    assert found.cools_in == (pytest.approx(rests, abs=1) if rests else None)
    assert len(found.blocks) == (0 if rests else 1)
    cluster.advance(rests + 1)
    await leader.collector.collect()
    assert not await cluster.blocks()


@pytest.mark.parametrize("step", [86_400, -86_400])
async def test_a_clock_that_somebody_sets_shortens_no_grace_period_and_lengthens_none(step: int) -> None:
    cluster = IPAMCluster([pool("10.0.0.0/16")])
    leader, passed = Leader(cluster), 0
    leader.collector._clock = lambda: passed
    (got,) = await leader.allocator.assign(AssignRequest("k8s-pod-network.c0", {"namespace": "default", "pod": "gone"}))
    leader.collector._looked = cluster.now, 0
    assert (await leader.collector.collect()).released.released == ()
    cluster.advance(step)
    assert (await leader.collector.collect()).released.released == ()
    for seconds in (450, 449):
        passed += seconds
        cluster.advance(seconds)
        assert (await leader.collector.collect()).released.released == ()
    passed += 1
    cluster.advance(1)
    assert (await leader.collector.collect()).released.released == (got.address,)


async def test_a_node_that_is_back_before_the_release_keeps_its_pods_addresses() -> None:
    cluster = IPAMCluster([pool("10.0.0.0/16")])
    leader = Leader(cluster)
    (got,) = await cluster.node("node2").assign(workload("c1"))

    async def pods() -> Mapping[PodName, PodView]:
        leader.nodes = {"node1", "node2"}
        return {}

    leader.nodes, leader.collector._pods = {"node1"}, pods
    assert (await leader.collector.collect()).released.released == ()
    assert got.address in await cluster.held()


async def test_a_pod_that_comes_to_life_right_before_the_release_keeps_its_address() -> None:
    cluster = IPAMCluster([pool("10.0.0.0/16")])
    leader = Leader(cluster)
    (got,) = await cluster.node("node2").assign(workload("c1"))
    looks = 0

    async def pods() -> Mapping[PodName, PodView]:
        nonlocal looks
        looks += 1
        return {WEB: PodView("node2", frozenset({got.address}))} if looks == 3 else {}

    leader.collector._pods = pods
    await leader.collector.collect()
    cluster.advance(900)
    assert (await leader.collector.collect()).released.released == ()
    assert looks == 3
    assert got.address in await cluster.held()


async def test_a_list_of_nodes_without_the_leaders_own_is_not_believed() -> None:
    cluster = IPAMCluster([pool("10.0.0.0/16")])
    leader = Leader(cluster, nodes=set())
    await cluster.node("node2").assign(workload("c1"))
    with pytest.raises(IPAMError, match="the list of nodes lacks node1"):
        await leader.collector.collect()
    assert len(await cluster.held()) == 1


async def test_a_foreign_writer_that_dropped_the_label_is_mended() -> None:
    cluster = IPAMCluster([pool("10.0.0.0/26")])
    leader = Leader(cluster)
    await leader.allocator.assign(workload("c1"))
    borrower = cluster.node("node2")
    await borrower.assign(workload("c2"))
    await borrower.drain()
    await leader.allocator.drain()
    (block,) = await cluster.blocks()
    await cluster.store.update(IPAM_BLOCKS, replace(block, meta=replace(block.meta, labels={})))
    assert await problems(cluster) != []
    await leader.collector.collect()
    assert await problems(cluster) == []


async def test_an_idle_block_gets_its_cooled_addresses_back() -> None:
    cluster = IPAMCluster([pool("10.0.0.0/26")], config(ip_cooldown_seconds=30))
    leader = Leader(cluster)
    await leader.allocator.assign(workload("c1"))
    await leader.allocator.release_handle("k8s-pod-network.c1")
    cluster.advance(120)
    await leader.collector.collect()
    (block,) = await cluster.blocks()
    assert block.attributes == ()
    assert blocks.is_empty(block)


async def test_a_handle_of_nothing_goes_unless_it_changes() -> None:
    cluster = IPAMCluster([pool("10.0.0.0/26")])
    leader = Leader(cluster)

    def fault(_when: str, verb: str, kind: str, _name: str) -> None:
        if (verb, kind) == ("delete", "IPAMHandle"):
            raise RuntimeError("killed")

    dying = cluster.node("node2", cluster.store.with_fault(fault))
    await dying.assign(workload("c1"))
    await dying.drain()
    await dying.release_handle("k8s-pod-network.c1")
    await dying.drain()
    assert (await leader.collector.collect()).handles == ()
    cluster.advance(900)
    assert (await leader.collector.collect()).handles == ("k8s-pod-network.c1",)
    assert not await cluster.handles()


async def test_handles_and_claims_of_a_block_that_cannot_be_read_stay() -> None:
    cluster = IPAMCluster([pool("10.0.0.0/24")])
    await cluster.node("node1").assign(workload("c1"))
    await cluster.node("node1").drain()
    (block,) = await cluster.blocks()
    view = View([], ["node1"], {}, list((await cluster.handles()).values()), await cluster.affinities())
    for complete, gone in ((True, 1), (False, 0)):
        memory = judged(replace(view, complete=complete), {}, 0).memory
        found = judged(replace(view, complete=complete), memory, 15)
        assert (len(found.handles), len(found.affinities)) == (gone, gone), block.meta.name
