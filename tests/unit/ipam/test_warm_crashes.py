"""The agent is killed before and after every call to the API and every step of the journal; the next start mends it.

A pod counts as living once its ADD was answered. Some pods' devices exist though the ADD was not answered (the agent
was killed in between): the runtime sends a DEL for those. A machine that loses its power loses all pods with it, and
what the disk had not been told to keep.
"""

import asyncio
import contextlib
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from calico_py.ipam import commits, handles, releases
from calico_py.ipam.journal import Journal, JournalFile
from calico_py.ipam.requests import Release
from calico_py.ipam.warm import WarmAddresses
from calico_py.model.names import warm_handle
from calico_py.model.net import Address
from tests.fakes.ipam import IPAMCluster, pool, problems, workload
from tests.fakes.warm import SteppedFile, WarmNode

PREFIX = "k8s-pod-network."


class KilledError(Exception):
    """The process is gone: no call does anything any more."""


@dataclass
class Killer:
    """Kills at its nth point; with none it only counts."""

    at: int | None = None
    points: list[str] = field(default_factory=list)

    def store(self, when: str, verb: str, kind: str, name: str) -> None:
        self.reach(f"{when} {verb} {kind} {name}")

    def reach(self, point: str) -> None:
        self.points.append(point)
        if self.at is not None and len(self.points) > self.at:
            raise KilledError(self.points[self.at])


@dataclass
class World:
    """One run up to the kill.

    Attributes:
        answered: what pods got in an ADD that was answered; deleting: containers whose DEL has begun.
        wired: what has a device.
    """

    node: WarmNode
    answered: dict[str, set[Address]] = field(default_factory=dict)
    wired: dict[str, set[Address]] = field(default_factory=dict)
    deleting: set[str] = field(default_factory=set)

    async def add(self, warm: WarmAddresses, container: str) -> None:
        got = await warm.assign(workload(container, *self.node.families))
        addresses = {a.address for a in got}
        used = [a for other in self.wired.values() for a in other]
        assert not addresses & set(used), "given twice"
        self.wired[container] = addresses
        self.answered[container] = addresses

    async def delete(self, warm: WarmAddresses, container: str) -> None:
        self.deleting.add(container)
        self.answered.pop(container, None)
        self.wired.pop(container, None)
        await warm.release_handle(PREFIX + container)
        self.deleting.discard(container)


Scenario = Callable[[World, WarmAddresses], Awaitable[None]]


async def add_and_tell(world: World, warm: WarmAddresses) -> None:
    await world.add(warm, "c1")
    await warm.catch_up()


async def add_many_and_tell(world: World, warm: WarmAddresses) -> None:
    for number in range(10):
        await world.add(warm, f"c{number}")
    await warm.catch_up()


async def add_and_delete_before_the_api_hears(world: World, warm: WarmAddresses) -> None:
    await world.add(warm, "c1")
    await world.delete(warm, "c1")
    await world.add(warm, "c2")
    await warm.catch_up()


async def delete_and_tell(world: World, warm: WarmAddresses) -> None:
    await world.delete(warm, "before")
    await warm.catch_up()
    await world.add(warm, "c1")
    await warm.catch_up()


async def add_again_under_the_same_name(world: World, warm: WarmAddresses) -> None:
    await world.delete(warm, "before")
    await world.add(warm, "before")
    await warm.catch_up()


async def an_add_that_fails(world: World, warm: WarmAddresses) -> None:
    (got,) = await warm.assign(workload("c1"))
    world.deleting.add("c1")
    await warm.catch_up()
    await warm.release([Release(got.address, got.handle_id, got.sequence)])
    await world.add(warm, "c2")


SCENARIOS: dict[str, Scenario] = {
    "add": add_and_tell,
    "add many": add_many_and_tell,
    "add and delete": add_and_delete_before_the_api_hears,
    "delete": delete_and_tell,
    "add again": add_again_under_the_same_name,
    "failed add": an_add_that_fails,
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_pause(_attempt: int, *, most: float = 0) -> None:
        del most
        await asyncio.sleep(0)

    for module in (releases, commits, handles):
        monkeypatch.setattr(module, "pause", no_pause)


async def run(name: str, killer: Killer, folder: Path, *, wait_for_disk: bool = False) -> World:
    """A node with one pod on which the scenario runs, from the start of its agent until it ends or is killed."""
    cluster = IPAMCluster([pool("10.0.0.0/26")])
    world = World(WarmNode(cluster, Path(tempfile.mkdtemp(dir=folder)), wait_for_disk=wait_for_disk))
    first, allocator = await world.node.begin()
    await world.add(first, "before")
    await first.catch_up()
    await allocator.drain()
    world.node.living = world.wired
    warm, allocator = world.node.make(cluster.store.with_fault(killer.store), killer.reach)
    with contextlib.suppress(KilledError):
        await warm.start(world.node.now_living())
        await warm.catch_up()
        await SCENARIOS[name](world, warm)
    await allocator.drain()
    return world


async def recover(world: World) -> WarmAddresses:
    """The next start, the runtime's repeated DELs, and what follows behind."""
    world.node.cluster.advance(1)
    warm, allocator = await world.node.begin()
    for container in sorted(world.deleting):
        await warm.release_handle(PREFIX + container)
    for _ in range(4):
        await warm.catch_up()
        await allocator.drain()
    await allocator.reconcile(world.node.now_living())
    await allocator.drain()
    return warm


async def check(world: World, where: str) -> None:
    cluster = world.node.cluster
    held: dict[str, set[Address]] = {}
    for address, allocation in (await cluster.held()).items():
        held.setdefault(allocation.handle, set()).add(address)
    stock = held.pop(warm_handle("node1"), set())
    assert {handle.removeprefix(PREFIX): addresses for handle, addresses in held.items()} == world.wired, where
    assert not stock & {a for addresses in world.wired.values() for a in addresses}, where
    assert 4 < len(stock) <= 16, where
    assert await problems(cluster) == [], where


@pytest.mark.parametrize(
    ("name", "wait_for_disk"), [*((name, False) for name in SCENARIOS), ("add", True), ("add again", True)]
)
async def test_a_kill_at_any_point_gives_no_address_twice_and_leaks_none(
    name: str, tmp_path: Path, *, wait_for_disk: bool
) -> None:
    count = Killer()
    await run(name, count, tmp_path, wait_for_disk=wait_for_disk)
    assert any("append" in point for point in count.points)
    assert any("update IPAMBlock" in point for point in count.points)
    for at, point in enumerate(count.points):
        world = await run(name, Killer(at), tmp_path, wait_for_disk=wait_for_disk)
        warm = await recover(world)
        await check(world, f"killed {point}")
        for number in range(20):
            await world.add(warm, f"after{number}")


async def test_an_add_that_waited_for_the_disk_is_on_it(tmp_path: Path) -> None:
    node = WarmNode(IPAMCluster([pool("10.0.0.0/26")]), tmp_path, wait_for_disk=True)
    steps: list[str] = []
    warm, _ = await node.begin(step=steps.append)
    steps.clear()
    await warm.assign(workload("c1"))
    assert steps.index("after append") < steps.index("after sync")


async def test_without_the_journal_the_enumeration_finds_an_address_given_twice(tmp_path: Path) -> None:
    """Negative control: a journal that forgets, and a node that does not look at its devices."""
    found = 0
    for at in range(200):
        killer = Killer(at)
        world = await run("add many", killer, tmp_path)
        (world.node.folder / "journal-node1").unlink()
        routed, world.node.living = world.node.living, {container: set() for container in world.node.living}
        warm, _ = await world.node.begin()
        world.node.living = routed
        try:
            for number in range(20):
                await world.add(warm, f"after{number}")
        except AssertionError:
            found += 1
        if killer.at is not None and len(killer.points) <= killer.at:
            break
    assert found


async def test_a_power_failure_keeps_nobody_from_being_released(tmp_path: Path) -> None:
    """The journal is as the disk last had it, which may be long ago; no container lives."""
    cluster = IPAMCluster([pool("10.0.0.0/26")])
    node = WarmNode(cluster, tmp_path)
    world = World(node)
    warm, allocator = await node.begin()
    old = (tmp_path / "journal-node1").read_bytes()
    await world.add(warm, "c1")
    await warm.catch_up()
    await world.add(warm, "c2")
    newer = (tmp_path / "journal-node1").read_bytes()
    await allocator.drain()
    for content in (old, newer[: len(newer) // 2], newer[:-5], newer):
        (tmp_path / "journal-node1").write_bytes(content)
        world.wired = {}
        await recover(world)
        await check(world, f"{content!r}")


async def test_lines_behind_a_torn_one_are_read(tmp_path: Path) -> None:
    """A disk that is full refuses half a line; one that fails altogether does not even let it be taken away again."""
    step, broken = Killer(), False

    def fail(name: str) -> None:
        step.reach(name)
        if broken and name == "torn append":
            raise OSError(28, "No space left on device")

    path = tmp_path / "journal"
    file = SteppedFile(path, fail)
    journal = Journal(file)
    journal.load()
    await journal.release("first")
    broken = True
    with pytest.raises(OSError, match="No space"):
        await journal.release("refused")
    broken = False
    with path.open("ab") as other:
        other.write(b"0badc0de {torn")
    await journal.release("second")
    await journal.close()
    assert list(Journal(JournalFile(path)).load().releases) == ["first", "second"]
