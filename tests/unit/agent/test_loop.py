"""The convergence of one node over what happens to it: restarts, things broken by hand, an API that says less."""

import asyncio
import errno
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from calico_py.agent.receiver import Phase
from calico_py.dataplane.ipip import Engine
from calico_py.model.kernel import Delete, Link, NftTable, Put
from calico_py.model.kinds import NODES
from calico_py.model.names import NODE_IPV4_IPIP_TUNNEL, NODE_SENDING, NODE_TUNNEL_ENGINE_LABEL
from calico_py.model.pools import EncapMode
from tests.fakes.waiting import until
from tests.unit.agent.one_node import ME, OneNode, block


@pytest.fixture
def node(tmp_path: Path) -> OneNode:
    return OneNode(tmp_path)


async def test_a_node_tunnels_to_another_once_that_one_receives(node: OneNode) -> None:
    await node.prepare(EncapMode.ALWAYS)
    async with node.agent():
        await node.quiet()
        assert node.route(block(2)) is None
        await node.annotate("node2", NODE_IPV4_IPIP_TUNNEL, "10.244.2.1")
        await until(lambda: node.device(block(2)) == "tunl0")
        notes = await node.annotations()
        assert NODE_IPV4_IPIP_TUNNEL in notes
        await node.quiet()
        assert '"mode": "IPIP"' in (await node.annotations())[NODE_SENDING]


async def test_a_restart_does_not_withdraw_the_receiver(node: OneNode) -> None:
    await node.prepare(EncapMode.ALWAYS)
    async with node.agent():
        await until(lambda: NODE_IPV4_IPIP_TUNNEL in node.view.nodes.objects[ME].meta.annotations)
        await node.quiet()
        before = (await node.annotations())[NODE_IPV4_IPIP_TUNNEL]
    async with node.agent(tunnel_address=False):
        await node.quiet()
        assert (await node.annotations()).get(NODE_IPV4_IPIP_TUNNEL) == before


async def test_without_its_own_node_an_agent_waits_and_does_not_spin(
    node: OneNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A receiver's time is up, and there is no Node object by which to take the step."""
    monkeypatch.setattr("calico_py.agent.receiver.LINGER", 0.3)
    await node.prepare(EncapMode.ALWAYS)
    async with node.agent() as loop:
        await until(lambda: NODE_IPV4_IPIP_TUNNEL in node.view.nodes.objects[ME].meta.annotations)
        await node.set_mode(EncapMode.NEVER)
        await until(lambda: loop.last is not None and loop.last.receiver.deadline is not None)
        await node.store.delete(NODES, ME)
        await until(lambda: bool(loop.problem))
        looks = 0

        def state() -> None:
            nonlocal looks
            looks += 1

        monkeypatch.setattr(loop, "_state", state)
        await asyncio.sleep(0.6)
        assert looks <= 3


async def test_a_way_that_is_kept_is_repaired_like_any_other(node: OneNode) -> None:
    """A Never pool without a learned path keeps its tunnel route, also when someone takes it away meanwhile."""
    await node.prepare(EncapMode.ALWAYS)
    await node.annotate("node2", NODE_IPV4_IPIP_TUNNEL, "10.244.2.1")
    async with node.agent():
        await until(lambda: node.device(block(2)) == "tunl0")
        await node.set_mode(EncapMode.NEVER)
        await until(lambda: node.waits(block(2)) == "waiting for BGP")
        route = node.route(block(2))
        assert route is not None
        await node.kernel.send([Delete(route)])
        await until(lambda: node.device(block(2)) == "tunl0")
        tunl0 = node.link("tunl0")
        assert tunl0 is not None
        await node.kernel.send([Put(replace(tunl0, up=False))])
        assert node.route(block(2)) is None
        await until(lambda: node.device(block(2)) == "tunl0")


async def test_a_way_that_was_left_is_not_taken_again(node: OneNode) -> None:
    await node.prepare(EncapMode.ALWAYS)
    await node.annotate("node2", NODE_IPV4_IPIP_TUNNEL, "10.244.2.1")
    async with node.agent():
        await until(lambda: node.device(block(2)) == "tunl0")
        node.speaker.session(ip_address("192.168.1.12"), ip_network(block(2)))
        await node.set_mode(EncapMode.NEVER)
        await until(lambda: node.device(block(2)) == "eth0")
        node.speaker.withdraw(ip_address("192.168.1.12"), ip_network(block(2)))
        await until(lambda: node.route(block(2)) is None)
        await node.quiet()
        assert node.route(block(2)) is None


async def test_a_device_that_cannot_be_mended_is_still_said_to_be_sent_through(node: OneNode) -> None:
    """Others' receivers go by what is said here: it must be true whatever else is wrong."""
    await node.prepare(EncapMode.ALWAYS)
    await node.annotate("node2", NODE_IPV4_IPIP_TUNNEL, "10.244.2.1")
    async with node.agent() as loop:
        await until(lambda: node.device(block(2)) == "tunl0")
        await node.quiet()
        before = await node.annotations()
        tunl0 = node.link("tunl0")
        assert tunl0 is not None
        await node.kernel.send([Put(replace(tunl0, mtu=1300))])
        node.kernel.fail_next(errno.EBUSY, 1000, Link)
        await until(lambda: loop.last is not None and bool(loop.last.applied.problems))
        await node.quiet()
        assert await node.annotations() == before


async def test_a_foreign_device_that_took_the_name_is_said_to_be_sent_through_while_routes_lead_there(
    node: OneNode,
) -> None:
    await node.prepare(EncapMode.ALWAYS)
    await node.annotate("node2", NODE_IPV4_IPIP_TUNNEL, "10.244.2.1")
    async with node.agent() as loop:
        await until(lambda: node.device(block(2)) == "tunl0")
        await node.quiet()
        before = (await node.annotations())[NODE_SENDING]
        tunl0 = node.link("tunl0")
        assert tunl0 is not None
        node.kernel.set_link(replace(tunl0, kind="gre"))
        await until(lambda: loop.last is not None and bool(loop.last.applied.problems))
        await node.quiet()
        assert node.device(block(2)) == "tunl0"
        assert (await node.annotations())[NODE_SENDING] == before


async def test_a_node_that_sends_keeps_its_device_and_engine(node: OneNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it sends leaves by the same device and engine by which it receives, whether or not anybody sends to it."""
    monkeypatch.setattr("calico_py.agent.receiver.LINGER", 0.1)
    await node.prepare(EncapMode.ALWAYS)
    await node.annotate("node2", NODE_IPV4_IPIP_TUNNEL, "10.244.2.1")
    await node.annotate("node2", NODE_SENDING, "{}")
    async with node.agent() as loop:
        await until(lambda: node.device(block(2)) == "tunl0")
        await node.quiet()
        await node.set_mode(EncapMode.NEVER)
        await until(lambda: node.waits(block(2)) == "waiting for BGP")
        await asyncio.sleep(0.5)
        assert loop.last is not None
        assert loop.last.receiver.open
        node.speaker.session(ip_address("192.168.1.12"), ip_network(block(2)))
        await until(lambda: loop.last is not None and not loop.last.receiver.open)


async def test_the_receiver_is_announced_only_behind_its_filter(node: OneNode) -> None:
    """The filter that is there may drop what others would begin to send."""
    await node.prepare(EncapMode.ALWAYS)
    node.kernel.fail_next(errno.EINVAL, 1000, NftTable)
    async with node.agent() as loop:
        await until(lambda: loop.last is not None and loop.last.applied.ipip.ready)
        await node.quiet()
        assert NODE_IPV4_IPIP_TUNNEL not in await node.annotations()
        node.kernel.fail_no_more()
        await until(lambda: NODE_IPV4_IPIP_TUNNEL in node.view.nodes.objects[ME].meta.annotations)


async def test_passes_take_half_of_the_time_at_most(node: OneNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 1,000 nodes a pass takes long, and a mode change is thousands of events: pods are wired meanwhile."""
    await node.prepare(EncapMode.NEVER)
    async with node.agent() as loop:
        passes = 0

        async def once() -> None:
            nonlocal passes
            passes += 1
            await asyncio.sleep(0.1)

        monkeypatch.setattr(loop, "_once", once)
        for _ in range(100):
            loop.mark()
            await asyncio.sleep(0.01)
        assert passes <= 6


async def test_what_cannot_be_done_is_tried_ever_less(node: OneNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """One foreign route on a key of ours may stay for ever; at 10,000 routes a pass takes a second."""
    monkeypatch.setattr("calico_py.agent.loop.RETRY", 0.05)
    monkeypatch.setattr("calico_py.agent.loop.LONGEST_RETRY", 0.4)
    await node.prepare(EncapMode.NEVER)
    node.kernel.fail_next(errno.EINVAL, 1000, NftTable)
    async with node.agent() as loop:
        await until(lambda: loop.last is not None and bool(loop.last.applied.problems))
        before = node.passes
        await asyncio.sleep(1.5)
        assert 2 <= node.passes - before <= 10
        node.kernel.fail_no_more()
        node.kernel.fail_next(errno.EBUSY, 1000, NftTable)
        await until(lambda: loop.last is not None and "busy" in loop.last.applied.problems[0])
        before = node.passes
        await asyncio.sleep(0.3)
        assert node.passes - before >= 2, "another failure is tried again as soon as the first was"


async def test_a_receiver_whose_withdrawal_was_not_heard_stays_open(
    node: OneNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the API server takes no patch the annotation stands, and others may begin to send by it at any time."""
    monkeypatch.setattr("calico_py.agent.receiver.LINGER", 0.1)
    await node.prepare(EncapMode.ALWAYS)
    await node.annotate("node2", NODE_SENDING, "{}")
    async with node.agent() as loop:
        await until(lambda: NODE_IPV4_IPIP_TUNNEL in node.view.nodes.objects[ME].meta.annotations)
        await node.quiet()
        node.refuse_patches = True
        await node.set_mode(EncapMode.NEVER)
        await until(lambda: loop.last is not None and loop.last.receiver.phase == Phase.WITHDRAWN)
        await asyncio.sleep(0.5)
        assert loop.last is not None
        assert loop.last.receiver.open
        node.refuse_patches = False
        await until(lambda: loop.last is not None and not loop.last.receiver.open)
        assert NODE_IPV4_IPIP_TUNNEL not in await node.annotations()


async def test_a_pass_that_does_not_end_is_told(node: OneNode, monkeypatch: pytest.MonkeyPatch) -> None:
    await node.prepare(EncapMode.NEVER)
    async with node.agent() as loop:
        await node.quiet()
        assert not loop.stuck
        monkeypatch.setattr("calico_py.agent.loop.LONGEST_PASS", 0.2)
        monkeypatch.setattr(loop, "_once", asyncio.Event().wait)
        loop.mark()
        await asyncio.sleep(0.1)
        assert not loop.stuck
        await until(lambda: "has not ended" in loop.stuck)


async def test_what_is_published_settles_whoever_writes_it(node: OneNode) -> None:
    """What is said must not follow what is seen: the two would chase each other for ever, an API write each time."""
    await node.prepare(EncapMode.ALWAYS)
    await node.annotate("node2", NODE_IPV4_IPIP_TUNNEL, "10.244.2.1")
    async with node.agent():
        await until(lambda: node.device(block(2)) == "tunl0")
        await node.quiet()
        said = (await node.annotations())[NODE_SENDING]
        node.late = 0.05
        await node.annotate(ME, NODE_SENDING, said.replace("20", "19", 1))
        await asyncio.sleep(0.5)
        before = (await node.store.get(NODES, ME)).meta.resource_version
        await asyncio.sleep(0.5)
        assert (await node.store.get(NODES, ME)).meta.resource_version == before
        assert (await node.annotations())[NODE_SENDING] == said


async def test_an_announcement_removed_while_the_engine_is_away_is_put_back(tmp_path: Path) -> None:
    node = OneNode(tmp_path, kernel_ipip=False)
    await node.prepare(EncapMode.ALWAYS)
    async with node.agent():
        await until(lambda: node.link("tunl0") is not None)
        node.kernel.set_carrier("tunl0", running=True)
        await until(lambda: NODE_IPV4_IPIP_TUNNEL in node.view.nodes.objects[ME].meta.annotations)
        await node.quiet()
        before = (await node.annotations())[NODE_IPV4_IPIP_TUNNEL]
        node.kernel.set_carrier("tunl0", running=False)
        await node.quiet()
        node.late = 0.05
        await node.annotate(ME, NODE_IPV4_IPIP_TUNNEL, None)
        await asyncio.sleep(0.3)
        assert (await node.annotations()).get(NODE_IPV4_IPIP_TUNNEL) == before


async def test_a_device_that_cannot_be_made_for_a_moment_keeps_its_engine(tmp_path: Path) -> None:
    """In Kubernetes the engine ends with the label, and takes seconds to come back."""
    node = OneNode(tmp_path, kernel_ipip=False)
    await node.prepare(EncapMode.ALWAYS)
    async with node.agent() as loop:
        await until(lambda: NODE_TUNNEL_ENGINE_LABEL in node.view.labels())
        await node.quiet()
        tunl0 = node.link("tunl0")
        assert tunl0 is not None
        await node.kernel.send([Delete(tunl0)])
        node.kernel.fail_next(errno.EBUSY, 4, Link)
        await until(lambda: loop.last is not None and loop.last.applied.ipip.engine == Engine.NONE)
        await node.quiet()
        assert NODE_TUNNEL_ENGINE_LABEL in node.view.labels()
        node.kernel.fail_no_more()
        await until(lambda: loop.last is not None and loop.last.applied.ipip.engine == Engine.USERSPACE)
        assert NODE_TUNNEL_ENGINE_LABEL in node.view.labels()


async def test_a_restart_after_the_withdrawal_leaves_the_receiver_open(
    node: OneNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("calico_py.agent.receiver.LINGER", 0.5)
    await node.prepare(EncapMode.ALWAYS)
    await node.annotate("node2", NODE_SENDING, "{}")
    async with node.agent() as loop:
        await until(lambda: NODE_IPV4_IPIP_TUNNEL in node.view.nodes.objects[ME].meta.annotations)
        await node.set_mode(EncapMode.NEVER)
        await until(lambda: loop.last is not None and loop.last.receiver.phase == Phase.WITHDRAWN)
        await until(lambda: NODE_IPV4_IPIP_TUNNEL not in node.view.nodes.objects[ME].meta.annotations)
    async with node.agent() as loop:
        assert loop.last is not None
        assert loop.last.receiver.open
        await until(lambda: loop.last is not None and not loop.last.receiver.open)


async def test_an_end_that_comes_together_with_a_change_is_obeyed(node: OneNode) -> None:
    """While a receiver lingers the loop waits for a change or for its time, whichever is first."""
    await node.prepare(EncapMode.ALWAYS)
    async with asyncio.timeout(30):
        async with node.agent() as loop:
            await until(lambda: NODE_IPV4_IPIP_TUNNEL in node.view.nodes.objects[ME].meta.annotations)
            await node.set_mode(EncapMode.NEVER)
            await until(lambda: loop.last is not None and loop.last.receiver.deadline is not None)
            await node.quiet()
            loop.mark()
            await asyncio.sleep(0)
