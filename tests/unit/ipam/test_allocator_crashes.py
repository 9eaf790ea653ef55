"""The agent is killed before and after each call to the API that an operation makes; its next start finishes or undoes.

Nothing is counted as done but what was answered: an address that an ADD did not return belongs to nobody, one that it
returned stays its pod's, and a DEL that did not return is repeated by the runtime.
"""

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from ipaddress import ip_address

import pytest

from calico_py.ipam.allocator import Allocator
from calico_py.ipam.collector import Collector
from calico_py.ipam.garbage import PodName, PodView
from calico_py.ipam.reconcile import Living
from calico_py.ipam.requests import Assigned, AssignRequest, Tunnel
from calico_py.model.net import Address
from calico_py.model.pools import EncapMode
from tests.fakes.ipam import IPAMCluster, config, pool, problems, workload


class KilledError(Exception):
    """The process is gone: no call does anything any more."""


class Killer:
    """A fault hook that kills at its nth call; with none it only counts."""

    def __init__(self, at: int | None = None) -> None:
        self.calls: list[str] = []
        self._at = at

    def __call__(self, when: str, verb: str, kind: str, name: str) -> None:
        self.calls.append(f"{when} {verb} {kind} {name}")
        if self._at is not None and len(self.calls) > self._at:
            raise KilledError(self.calls[self._at])


@dataclass
class World:
    """One run of a scenario up to the point at which the agent of node1 is killed.

    Attributes:
        living: what the pods that live hold, by container.
        gone: containers whose DEL was begun, so that the runtime repeats it until it is answered.
        nodes: that exist.
    """

    cluster: IPAMCluster
    living: dict[str, set[Address]] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    nodes: set[str] = field(default_factory=lambda: {"node1", "node2"})

    async def add(self, allocator: Allocator, request: AssignRequest) -> tuple[Assigned, ...]:
        got = await allocator.assign(request)
        self.living[request.handle_id.removeprefix("k8s-pod-network.")] = {a.address for a in got}
        return got

    async def delete(self, allocator: Allocator, container: str) -> None:
        self.living.pop(container, None)
        self.gone.add(container)
        await allocator.release_handle(f"k8s-pod-network.{container}")

    async def pods(self) -> Mapping[PodName, PodView]:
        """All living pods, as the API server knows them; the containers of this test share one name, so all are it."""
        addresses = frozenset(address for held in self.living.values() for address in held)
        return {("default", "web"): PodView("node1", addresses)}


Scenario = Callable[[World, Allocator], Awaitable[None]]
Setup = Callable[[World], Awaitable[None]]


async def nothing_before(_world: World) -> None:
    pass


async def one_pod_before(world: World) -> None:
    before = world.cluster.node("node1")
    await world.add(before, workload("c1", 4, 6))
    await before.drain()


async def a_lender_before(world: World) -> None:
    world.cluster.pools = [pool("10.0.0.0/29", 29)]
    other = world.cluster.node("node2")
    await world.add(other, workload("other"))
    await other.drain()


async def a_borrower_before(world: World) -> None:
    await a_lender_before(world)
    before = world.cluster.node("node1")
    await world.add(before, workload("c1"))
    await before.drain()


async def an_empty_block_elsewhere_before(world: World) -> None:
    world.cluster.pools = [pool("10.0.0.0/29", 29)]
    other = world.cluster.node("node2")
    await other.assign(workload("other"))
    await other.release_handle("k8s-pod-network.other")
    await other.drain()
    world.cluster.advance(61)


async def an_unselected_block_before(world: World) -> None:
    await one_pod_before(world)
    before = world.cluster.node("node1")
    await world.delete(before, "c1")
    await before.drain()
    first, *others = world.cluster.pools
    world.cluster.pools = [replace(first, node_selector="has(absent)"), *others, pool("10.9.0.0/24")]


async def a_warm_address_before(world: World) -> None:
    before = world.cluster.node("node1")
    await before.assign(AssignRequest("calico-py-warm-node1", families=(4, 4)))
    await before.drain()


async def add_a_pod(world: World, allocator: Allocator) -> None:
    await world.add(allocator, workload("new"))


async def add_a_dual_stack_pod(world: World, allocator: Allocator) -> None:
    await world.add(allocator, workload("new", 4, 6))


async def add_an_explicit_address(world: World, allocator: Allocator) -> None:
    await world.add(allocator, workload("new", requested=(ip_address("10.0.0.7"), ip_address("fd00::7"))))


async def delete_the_pod(world: World, allocator: Allocator) -> None:
    await world.delete(allocator, "c1")


async def replace_the_pod(world: World, allocator: Allocator) -> None:
    await world.delete(allocator, "c1")
    await allocator.drain()
    await world.add(allocator, workload("new", 4, 6))


async def ensure_the_tunnel(_world: World, allocator: Allocator) -> None:
    await allocator.ensure_tunnel_address(Tunnel.IPIP)


async def use_a_warm_address(world: World, allocator: Allocator) -> None:
    warm = await allocator.lookup("calico-py-warm-node1")
    got = await allocator.hand_over(warm[0], "k8s-pod-network.new", {"namespace": "default", "pod": "web"})
    world.living["new"] = {got.address}


async def reconcile_after_a_crash(world: World, allocator: Allocator) -> None:
    world.living.pop("c1", None)
    await allocator.reconcile(Living(world.living))


async def two_pods_of_a_deleted_node_before(world: World) -> None:
    await one_pod_before(world)
    other = world.cluster.node("node2")
    await other.assign(workload("lost", 4, 6))
    await other.assign(workload("lost-too"))
    await other.drain()
    world.nodes = {"node1"}


async def collect(world: World, allocator: Allocator) -> None:
    """Three passes of the leader: addresses, then blocks, then what only goes when seen twice."""
    collector = Collector(
        world.cluster.store, allocator, nodes=lambda: world.nodes, pods=world.pods, now=lambda: world.cluster.now
    )
    for _ in range(3):
        await collector.collect(grace=timedelta(minutes=15))
        await allocator.drain()
        world.cluster.advance(900)


SCENARIOS: dict[str, tuple[Setup, Scenario]] = {
    "first pod of a node": (nothing_before, add_a_pod),
    "another pod": (one_pod_before, add_a_pod),
    "dual stack": (nothing_before, add_a_dual_stack_pod),
    "explicit addresses": (nothing_before, add_an_explicit_address),
    "delete": (one_pod_before, delete_the_pod),
    "delete and add": (one_pod_before, replace_the_pod),
    "borrow": (a_lender_before, add_a_pod),
    "release a borrowed address": (a_borrower_before, delete_the_pod),
    "reclaim": (an_empty_block_elsewhere_before, add_a_pod),
    "leave a pool": (an_unselected_block_before, add_a_pod),
    "tunnel": (nothing_before, ensure_the_tunnel),
    "warm": (a_warm_address_before, use_a_warm_address),
    "collect": (two_pods_of_a_deleted_node_before, collect),
    "reconcile": (one_pod_before, reconcile_after_a_crash),
}


def new_world() -> World:
    first = pool("10.0.0.0/26", name="first", ipip_mode=EncapMode.ALWAYS)
    return World(IPAMCluster([first, pool("fd00::/122")], config()))


async def run(name: str, killer: Killer) -> World:
    """The scenario until it ends or is killed."""
    world = new_world()
    setup, scenario = SCENARIOS[name]
    await setup(world)
    allocator = world.cluster.node("node1", world.cluster.store.with_fault(killer))
    with contextlib.suppress(KilledError):
        await scenario(world, allocator)
    await allocator.drain()
    return world


async def recover(world: World) -> None:
    """What happens after the start: the agent reconciles, the runtime repeats its DELs, the leader collects."""
    world.cluster.advance(1)
    allocator = world.cluster.node("node1")
    await allocator.reconcile(Living(world.living))
    for container in sorted(world.gone):
        await allocator.release_handle(f"k8s-pod-network.{container}")
    await allocator.drain()
    await collect(world, allocator)
    if "node2" in world.nodes:
        await world.cluster.node("node2").reconcile(Living(world.living))


@pytest.mark.parametrize("name", SCENARIOS)
async def test_a_kill_at_any_call_leaves_nothing_that_the_next_start_does_not_mend(name: str) -> None:
    count = Killer()
    await run(name, count)
    assert count.calls, "the scenario talks to the API"
    for at, call in enumerate(count.calls):
        world = await run(name, Killer(at))
        await recover(world)
        where = f"killed {call}"
        assert await problems(world.cluster) == [], where
        held: dict[str, set[Address]] = {}
        for address, allocation in (await world.cluster.held()).items():
            held.setdefault(allocation.handle.removeprefix("k8s-pod-network."), set()).add(address)
        for infrastructure in ("ipip-tunnel-addr-node1", "calico-py-warm-node1"):
            held.pop(infrastructure, None)
        assert held == world.living, where


async def test_the_enumeration_would_notice_a_leak() -> None:
    """Negative control: without a reconciliation some kill leaves an address behind."""
    count = Killer()
    await run("another pod", count)
    leaks = 0
    for at in range(len(count.calls)):
        world = await run("another pod", Killer(at))
        leaks += {a.handle for a in (await world.cluster.held()).values()} != {
            f"k8s-pod-network.{container}" for container in world.living
        }
    assert leaks


async def test_a_tunnel_that_was_killed_half_way_has_one_address_in_the_end() -> None:
    count = Killer()
    await run("tunnel", count)
    for at, call in enumerate(count.calls):
        world = await run("tunnel", Killer(at))
        allocator = world.cluster.node("node1")
        await allocator.reconcile(Living(()))
        address = await allocator.ensure_tunnel_address(Tunnel.IPIP)
        assert list(await world.cluster.held()) == [address], call
