"""ExaBGP behind the speaker against a real BIRD: sessions, routes, restarts, and who notices what."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from ipaddress import ip_network
from pathlib import Path

import pytest

from calico_py.model.speaker import EndOfRib, ReplayComplete
from tests.bgp.peers import (
    THEM,
    THEM6,
    US6,
    Agent,
    Bird,
    Node,
    Wire,
    children,
    eventually,
    monitored,
    neighbour,
    running,
)

pytestmark = pytest.mark.root

OURS = ["10.61.0.0/26", "10.61.0.64/26"]
INJECTED = "route 10.50.0.0/26 blackhole; route 10.50.0.64/26 blackhole;"
LEARNED = {"10.50.0.0/26": [THEM], "10.50.0.64/26": [THEM]}

Lab = tuple[Wire, Node, Agent, Bird]


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    """A session that is up, with routes both ways."""
    async with running(tmp_path) as (wire, node, agent):
        bird = Bird(wire, routes=INJECTED).start()
        try:
            agent.want([neighbour()], OURS)
            await eventually(lambda: bird.learned() == set(OURS), say=lambda: (bird.session(), agent.why()))
            await eventually(lambda: agent.routes() == LEARNED, say=agent.routes)
            yield wire, node, agent, bird
        finally:
            bird.stop()


async def test_routes_both_ways_and_a_prefix_that_no_object_names(lab: Lab) -> None:
    _, _, agent, bird = lab
    assert agent.up()
    await eventually(lambda: agent.learned().in_sync)
    bird.inject(INJECTED + " route 10.77.0.0/16 blackhole;")
    await eventually(lambda: agent.routes().get("10.77.0.0/16") == [THEM], within=5)
    bird.inject(INJECTED)
    await eventually(lambda: agent.routes() == LEARNED, within=5)
    agent.want([neighbour()], OURS[:1])
    await eventually(lambda: bird.learned() == set(OURS[:1]))


async def test_ipv6_over_ipv6(tmp_path: Path) -> None:
    async with running(tmp_path) as (wire, _, agent):
        bird = Bird(wire, routes="route fd50::/122 blackhole;", ours=US6).start()
        try:
            agent.want([neighbour(THEM6)], ["fd61::/122", "10.61.0.0/26"])
            await eventually(lambda: bird.learned() == {"fd61::/122"}, say=lambda: (bird.session(), agent.why(THEM6)))
            await eventually(lambda: agent.routes() == {"fd50::/122": [THEM6]}, say=lambda: agent.seen[-5:])
        finally:
            bird.stop()


async def test_exabgp_killed_keeps_the_routes_on_both_sides(lab: Lab) -> None:
    _, node, agent, bird = lab
    with monitored(bird) as changes:
        os.kill(node.exabgp, signal.SIGKILL)
        assert node.process is not None
        assert await asyncio.to_thread(node.process.wait, 5) == 1
        await eventually(lambda: agent.stale() == {ip_network(nlri) for nlri in LEARNED})
        assert agent.routes() == LEARNED
        await asyncio.sleep(1.0)
        assert bird.learned() == set(OURS), "BIRD must keep ours as stale"
        node.start()
        await eventually(lambda: agent.up() and not agent.stale(), say=lambda: (agent.why(), bird.session()))
        await eventually(lambda: bird.learned() == set(OURS) and "s" not in _flags(bird))
        assert agent.routes() == LEARNED
        assert not [line for line in changes() if line.startswith("Deleted")], changes()


def _flags(bird: Bird) -> str:
    """BIRD marks a stale route with an s after the time."""
    return "".join("s" for line in bird.ctl("show", "route", "all").splitlines() if "stale" in line.lower())


async def test_an_orderly_stop_keeps_the_routes_too_and_leaves_nothing_behind(lab: Lab) -> None:
    _, node, agent, bird = lab
    exabgp, bridge = node.exabgp, node.bridge
    with monitored(bird) as changes:
        await asyncio.to_thread(node.stop)
        assert node.process is not None
        assert node.process.returncode == 0
        await eventually(
            lambda: not Path(f"/proc/{exabgp}").exists() and not Path(f"/proc/{bridge}").exists(), within=3
        )
        await asyncio.sleep(0.5)
        assert bird.learned() == set(OURS)
        node.start()
        await eventually(lambda: agent.up() and not agent.stale())
        await eventually(lambda: bird.learned() == set(OURS))
        assert not [line for line in changes() if line.startswith("Deleted")], changes()


async def test_negative_control_the_monitor_does_see_a_route_that_goes(lab: Lab) -> None:
    _, _, agent, bird = lab
    with monitored(bird) as changes:
        agent.want([neighbour()], OURS[:1])
        await eventually(lambda: [line for line in changes() if line.startswith("Deleted")], within=5)


async def test_exabgp_restarts_while_the_agent_is_away(lab: Lab) -> None:
    """The bridge announces from its file, with End-of-RIB, so that BIRD need not wait for the agent."""
    _, node, agent, bird = lab
    await agent.stop()
    with monitored(bird) as changes:
        os.kill(node.exabgp, signal.SIGKILL)
        assert node.process is not None
        await asyncio.to_thread(node.process.wait, 5)
        node.start()
        await eventually(lambda: "Established" in bird.session())
        await asyncio.sleep(2.0)
        assert bird.learned() == set(OURS)
        assert not [line for line in changes() if line.startswith("Deleted")], changes()


async def test_the_speaker_killed_leaves_no_process(lab: Lab) -> None:
    _, node, _, _ = lab
    exabgp, bridge = node.exabgp, node.bridge
    assert exabgp
    assert bridge
    assert node.process is not None
    node.process.kill()
    await eventually(lambda: not Path(f"/proc/{exabgp}").exists() and not Path(f"/proc/{bridge}").exists(), within=3)


async def test_an_agent_that_restarts_is_told_the_same_table(lab: Lab) -> None:
    _, node, agent, bird = lab
    await eventually(lambda: bool(agent.learned().in_sync))  # BIRD may be late with its End-of-RIB
    before, since = agent.learned(), bird.established()
    await agent.stop()
    bird.inject(INJECTED + " route 10.50.1.0/26 blackhole;")
    await asyncio.sleep(0.5)
    bird.inject(INJECTED)
    await asyncio.sleep(0.5)
    second = Agent(node).start()
    try:
        await eventually(lambda: any(isinstance(event, ReplayComplete) for event in second.seen), within=5)
        assert second.learned().routes == before.routes
        assert second.learned().in_sync == before.in_sync
        written = node.files.config.stat().st_mtime_ns
        second.want([neighbour()], OURS)
        await asyncio.sleep(1.0)
        assert node.files.config.stat().st_mtime_ns == written, "an unchanged set writes nothing"
        assert abs(bird.established() - since) < 0.5
        assert bird.learned() == set(OURS)
    finally:
        await second.stop()


async def test_a_neighbour_that_comes_or_goes_resets_no_other(lab: Lab) -> None:
    wire, _, agent, bird = lab
    since = bird.established()
    wire.address(wire.them, 3)
    third = Bird(wire, 3, routes="route 10.53.0.0/26 blackhole;").start()
    try:
        agent.want([neighbour(), neighbour("10.99.0.3")], OURS)
        await eventually(lambda: third.learned() == set(OURS), say=lambda: (third.session(), agent.why("10.99.0.3")))
        await eventually(lambda: agent.routes() == LEARNED | {"10.53.0.0/26": ["10.99.0.3"]})
        assert abs(bird.established() - since) < 0.5
        with monitored(third) as changes:
            agent.want([neighbour()], OURS)
            await eventually(lambda: "Established" not in third.session())
            assert third.learned() == set(), "withdrawn before the session was closed"
            del changes
        assert agent.routes() == LEARNED
        assert abs(bird.established() - since) < 0.5
    finally:
        third.stop()


@pytest.mark.parametrize("pause", [0.0, 0.1, 0.3, 1.0])
async def test_a_neighbour_removed_and_added_again_has_everything(lab: Lab, pause: float) -> None:
    """However far its removal has come."""
    _, _, agent, bird = lab
    agent.want([], OURS)
    assert agent.routes() == {}
    await asyncio.sleep(pause)
    agent.want([neighbour()], OURS)
    await eventually(lambda: agent.routes() == LEARNED and not agent.stale(), say=lambda: (agent.routes(), agent.why()))
    await eventually(lambda: bird.learned() == set(OURS), say=bird.learned)
    await asyncio.sleep(1.0)
    assert bird.learned() == set(OURS)
    assert agent.routes() == LEARNED


async def test_the_bridge_killed_under_a_flood_heals(lab: Lab) -> None:
    _, node, agent, bird = lab
    many = "".join(f"route 10.{100 + n // 256}.{n % 256}.0/24 blackhole;" for n in range(5000))
    bird.inject(INJECTED + many)
    await eventually(lambda: len(agent.routes()) > 500, within=20)
    os.kill(node.bridge, signal.SIGKILL)
    assert node.process is not None
    assert await asyncio.to_thread(node.process.wait, 5) == 1
    node.start()
    await eventually(
        lambda: len(agent.routes()) == 5002 and not agent.stale(), within=40, say=lambda: len(agent.routes())
    )
    await eventually(lambda: bird.learned() == set(OURS))


async def test_end_of_rib_is_sent_once_all_is_announced(tmp_path: Path) -> None:
    """Not before the agent said what is to be announced: BIRD would sweep what it keeps for us."""
    async with running(tmp_path) as (wire, node, agent):
        bird = Bird(wire, routes=INJECTED).start()
        try:
            agent.want([neighbour()], OURS)
            await eventually(lambda: bird.learned() == set(OURS))
            await agent.stop()
            node.files.announced.unlink()
            os.kill(node.exabgp, signal.SIGKILL)
            assert node.process is not None
            await asyncio.to_thread(node.process.wait, 5)
            node.start()
            await eventually(lambda: "Established" in bird.session())
            await asyncio.sleep(2.0)
            assert bird.learned() == set(OURS), "no End-of-RIB yet, so all of it is still kept"
            second = Agent(node).start()
            second.want([neighbour()], OURS[:1])
            await eventually(lambda: bird.learned() == set(OURS[:1]), within=5)
            await second.stop()
        finally:
            bird.stop()


async def test_ten_thousand_announcements_within_seconds(lab: Lab) -> None:
    """Also past the 12,600 at which unread acknowledgements would freeze ExaBGP."""
    _, node, agent, bird = lab
    many = [f"10.{100 + n // 1024}.{n // 4 % 256}.{n % 4 * 64}/26" for n in range(14000)]
    loop = asyncio.get_running_loop()
    began = loop.time()
    agent.want([neighbour()], many[:10000])
    await eventually(lambda: bird.number() == 10000, within=30, say=bird.number)
    took = loop.time() - began
    assert took < 15, took
    agent.want([neighbour()], many)
    await eventually(lambda: bird.number() == 14000, within=30, say=bird.number)
    agent.want([neighbour()], OURS)
    await eventually(lambda: bird.learned() == set(OURS), within=30)
    assert node.bridge
    assert agent.up()


async def test_a_peer_that_sends_garbage_harms_nothing(lab: Lab) -> None:
    wire, node, agent, bird = lab
    since = bird.established()
    wire.address(wire.them, 4)
    agent.want([neighbour(), neighbour("10.99.0.4")], OURS)
    await asyncio.sleep(1.0)
    program = (
        "import os, socket, time\n"
        "marker = b'\\xff' * 16\n"
        "for junk in (os.urandom(4096), marker + b'\\x00\\x13\\x04', marker + b'\\xff\\xff\\x02' + os.urandom(100)):\n"
        f"    for source in ('10.99.0.4', '{THEM}'):\n"
        "        s = socket.create_connection(('10.99.0.1', 179), 3, (source, 0))\n"
        "        s.sendall(junk)\n"
        "        time.sleep(0.3)\n"
        "        s.close()\n"
    )
    await asyncio.to_thread(wire.them.run, "python3", "-c", program)
    assert abs(bird.established() - since) < 0.5
    assert agent.routes() == LEARNED
    assert node.process is not None
    assert node.process.poll() is None
    assert len(children(node.exabgp)) == 1
    assert not [event for event in agent.seen if isinstance(event, EndOfRib) and str(event.peer) == "10.99.0.4"]
