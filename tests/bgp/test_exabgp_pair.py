"""Two nodes of ours against each other, and what a stalled or restarting peer does to the rest."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from calico_py.model.bgp import Peer
from tests.bgp.peers import THEM, THEM6, US, US6, Agent, Bird, Node, Wire, eventually, neighbour, running, stop

pytestmark = pytest.mark.root

Pair = tuple[Node, Agent, Node, Agent]
HERE = {"10.62.0.0/26": [THEM], "fd62::/122": [THEM6]}
THERE = {"10.61.0.0/26": [US], "fd61::/122": [US6]}


def far_neighbours(**more: object) -> list[Peer]:
    """The same sessions seen from the other node, which connects."""
    base: dict[str, object] = {"router_id": THEM, "passive": False}
    four = neighbour(US, local_address=ip_address(THEM), **(base | more))
    six = neighbour(US6, local_address=ip_address(THEM6), **(base | more))
    return [four, six]


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    """Both families, on ports of their own choice, with a password."""
    async with running(tmp_path) as (wire, node, agent):
        far = Node(wire, far=True)
        far.start()
        far_agent = Agent(far).start()
        try:
            ports: dict[str, object] = {"password": 'pass"word;', "hold_time": 9}
            agent.want(
                [neighbour(a, port=1792, listen_port=1791, **ports) for a in (THEM, THEM6)],
                ["10.61.0.0/26", "fd61::/122"],
            )
            far_agent.want(
                far_neighbours(port=1791, listen_port=1792, **ports),
                ["10.62.0.0/26", "fd62::/122"],
            )
            await eventually(
                lambda: agent.routes() == HERE, say=lambda: (agent.routes(), agent.why(), agent.why(THEM6))
            )
            await eventually(lambda: far_agent.routes() == THERE, say=far_agent.routes)
            yield node, agent, far, far_agent
        finally:
            await far_agent.stop()
            far.stop()


async def test_exabgp_killed_on_one_node_loses_no_route_on_either(pair: Pair) -> None:
    node, agent, _, far_agent = pair
    lost: list[str] = []

    async def watch() -> None:
        while True:
            for who, expected in ((agent, HERE), (far_agent, THERE)):
                if who.routes() != expected:
                    lost.append(f"{who.routes()}")
            await asyncio.sleep(0.005)

    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(watch())
        os.kill(node.exabgp, signal.SIGKILL)
        assert node.process is not None
        await asyncio.to_thread(node.process.wait, 5)
        await eventually(lambda: len(far_agent.stale()) == 2 and len(agent.stale()) == 2)
        node.start()
        await eventually(lambda: not far_agent.stale() and not agent.stale(), within=30)
        await asyncio.sleep(0.5)
        watching.cancel()
    assert lost == []


async def test_speakers_that_start_at_once_and_both_connect_agree_on_one_session(tmp_path: Path) -> None:
    """As all nodes of a mesh do. Two connections then meet, and one of them must go (RFC 4271 6.8)."""
    async with running(tmp_path) as (wire, node, agent):
        far = Node(wire, far=True)
        far.start()
        far_agent = Agent(far).start()

        def up() -> bool:
            return all([*map(agent.up, (THEM, THEM6)), *map(far_agent.up, (US, US6))])

        try:
            agent.want([neighbour(a, passive=False) for a in (THEM, THEM6)], [])
            far_agent.want(far_neighbours(), [])
            await eventually(up)
            for _ in range(5):
                for each in (node, far):
                    os.kill(each.exabgp, signal.SIGKILL)
                for each in (node, far):
                    assert each.process is not None
                    await asyncio.to_thread(each.process.wait, 5)
                    each.start()
                await eventually(up, within=10, say=lambda: (agent.why(), far_agent.why(US)))
                await asyncio.sleep(0.5)
                assert up(), "it stays"
        finally:
            await far_agent.stop()
            far.stop()


async def test_a_block_released_while_the_peer_was_away_is_gone_when_it_is_back(pair: Pair) -> None:
    node, agent, far, far_agent = pair
    os.kill(far.exabgp, signal.SIGKILL)
    assert far.process is not None
    await asyncio.to_thread(far.process.wait, 5)
    await eventually(lambda: len(agent.stale()) == 2)
    agent.want(
        [neighbour(a, port=1792, listen_port=1791, password='pass"word;', hold_time=9) for a in (THEM, THEM6)], []
    )
    await eventually(lambda: not agent.up())
    far.start()
    await eventually(lambda: far_agent.routes() == {}, within=20, say=far_agent.routes)
    await eventually(lambda: agent.routes() == HERE and not agent.stale(), within=20)
    assert node.bridge


async def test_a_bird_that_restarts_gracefully_keeps_its_routes_here(tmp_path: Path) -> None:
    async with running(tmp_path) as (wire, _, agent):
        bird = Bird(wire, routes="route 10.50.0.0/26 blackhole;").start()
        try:
            agent.want([neighbour()], [])
            await eventually(lambda: agent.routes() == {"10.50.0.0/26": [THEM]} and agent.learned().in_sync)
            bird.kill()
            await eventually(agent.stale)
            bird.start(recover=True)
            while not agent.up():
                assert agent.routes() == {"10.50.0.0/26": [THEM]}
                await asyncio.sleep(0.005)
            while agent.stale():
                assert agent.routes() == {"10.50.0.0/26": [THEM]}
                await asyncio.sleep(0.005)
            assert agent.routes() == {"10.50.0.0/26": [THEM]}
        finally:
            bird.stop()


async def test_a_peer_that_stalls_does_not_keep_others_out(tmp_path: Path) -> None:
    """ExaBGP drops a reload while an UPDATE waits, here for ever; the speaker restarts it, which costs no route."""
    async with running(tmp_path) as (wire, node, agent):
        for namespace in (wire.us, wire.them):  # so that what is not read backs up at once
            namespace.run("sysctl", "-qw", "net.ipv4.tcp_wmem=4096 8192 8192", "net.ipv4.tcp_rmem=4096 8192 8192")
        wire.address(wire.them, 3)
        wire.address(wire.them, 4)
        stalled, other = Bird(wire).start(), Bird(wire, 4, routes="route 10.54.0.0/26 blackhole;").start()
        third = Bird(wire, 3, routes="route 10.53.0.0/26 blackhole;").start()
        many = [f"10.{100 + n // 1024}.{n // 4 % 256}.{n % 4 * 64}/26" for n in range(3000)]
        two = [neighbour(), neighbour("10.99.0.4")]
        try:
            agent.want(two, [])
            await eventually(lambda: agent.up() and agent.routes() == {"10.54.0.0/26": ["10.99.0.4"]})
            stalled.freeze()
            agent.want(two, many)
            await eventually(lambda: other.number() == 3000)
            agent.want([*two, neighbour("10.99.0.3")], [*many, "10.61.0.0/26"])
            assert node.process is not None
            while node.process.poll() is None:
                assert "10.54.0.0/26" in agent.routes()
                assert other.number() >= 3000
                await asyncio.sleep(0.1)
            node.start()
            while not agent.up("10.99.0.3"):
                assert "10.54.0.0/26" in agent.routes()
                assert other.number() >= 3000
                await asyncio.sleep(0.1)
            await eventually(lambda: third.number() == 3001 and other.number() == 3001)
            await eventually(lambda: set(agent.routes()) == {"10.53.0.0/26", "10.54.0.0/26"})
        finally:
            stalled.stop()
            other.stop()
            third.stop()


async def test_five_hundred_neighbours_make_nothing_slow(tmp_path: Path) -> None:
    """ExaBGP takes 10 ms to show one of them: the proof of a reload asks for one only."""
    async with running(tmp_path) as (wire, node, agent):
        await eventually(node.files.socket.exists)
        bird = Bird(wire, routes="route 10.50.0.0/26 blackhole;").start()
        many = [neighbour(f"10.98.{n // 250}.{n % 250 + 1}") for n in range(500)]
        try:
            began = time.monotonic()
            agent.want([neighbour(), *many], ["10.61.0.0/26"])
            await eventually(lambda: bird.learned() == {"10.61.0.0/26"}, within=20)
            loaded = time.monotonic()
            agent.want([neighbour(), *many[1:]], ["10.61.0.0/26", "10.61.1.0/26"])
            await eventually(lambda: bird.learned() == {"10.61.0.0/26", "10.61.1.0/26"})
            changed = time.monotonic()
            agent.want([neighbour(), *many[1:]], ["10.61.1.0/26"])
            await eventually(lambda: bird.learned() == {"10.61.1.0/26"})
            assert loaded - began < 15
            assert changed - loaded < 6
            assert time.monotonic() - changed < 3
            assert agent.up()
        finally:
            bird.stop()


async def test_a_peer_may_ask_for_all_again(tmp_path: Path) -> None:
    """Route refresh (RFC 2918): ExaBGP answers it from its Adj-RIB-Out."""
    async with running(tmp_path) as (wire, _, agent):
        bird = Bird(wire).start()
        try:
            agent.want([neighbour()], ["10.61.0.0/26"])
            await eventually(lambda: bird.learned() == {"10.61.0.0/26"})
            since = bird.established()
            bird.ctl("reload", "in", "exa")
            await asyncio.sleep(1.0)
            assert bird.learned() == {"10.61.0.0/26"}
            assert abs(bird.established() - since) < 0.5
        finally:
            bird.stop()


async def test_a_configuration_that_exabgp_refuses_is_set_aside(tmp_path: Path) -> None:
    wire = Wire(tmp_path)
    node = Node(wire)
    node.files.directory.mkdir()
    node.files.config.write_text("neighbor nonsense {\n}\n")
    agent = Agent(node).start()
    try:
        node.start()
        assert node.process is not None
        assert await asyncio.to_thread(node.process.wait, 10) == 1
        assert "ExaBGP ended with status 1" in node.log.read_text()
        node.start()
        bird = Bird(wire).start()
        try:
            agent.want([neighbour()], ["10.61.0.0/26"])
            await eventually(lambda: bird.learned() == {"10.61.0.0/26"})
        finally:
            bird.stop()
    finally:
        await agent.stop()
        node.stop()
        wire.close()


async def test_a_speaker_waits_for_the_end_of_the_one_before(tmp_path: Path) -> None:
    """As on a node whose kubelet comes back: the port is another's for a moment, and nothing is wrong."""
    async with running(tmp_path) as (wire, first, agent):
        bird, second = Bird(wire).start(), Node(wire)
        try:
            agent.want([neighbour()], ["10.61.0.0/26"])
            await eventually(lambda: bird.learned() == {"10.61.0.0/26"})
            second.start()
            assert second.process is not None
            await eventually(lambda: "waiting for its end" in second.log.read_text())
            assert agent.up()
            assert first.process is not None
            await asyncio.to_thread(stop, first.process)
            await eventually(lambda: second.exabgp and agent.up())
            await eventually(lambda: bird.learned() == {"10.61.0.0/26"})
            assert second.process.poll() is None
        finally:
            bird.stop()
            second.stop()
