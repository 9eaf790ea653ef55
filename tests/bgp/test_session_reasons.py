"""Why a session is not up: every cause is made by a real peer or kernel, and status must name it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from calico_py.model.speaker import SessionChanged
from tests.bgp.peers import THEM, US, Agent, Bird, Node, Wire, eventually, neighbour, running, start, stop

pytestmark = pytest.mark.root

Lab = tuple[Wire, Node, Agent]


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    async with running(tmp_path) as parts:
        yield parts


async def says(agent: Agent, *words: str, peer: str = THEM, within: float = 25.0) -> None:
    await eventually(lambda: all(word in agent.why(peer) for word in words), within=within, say=lambda: agent.why(peer))
    assert not agent.up(peer)


async def test_nobody_listens(lab: Lab) -> None:
    _, _, agent = lab
    agent.want([neighbour(passive=False)], [])
    await says(agent, "10.99.0.2 port 179 refuses the connection")
    first = next(event.reason for event in agent.seen if isinstance(event, SessionChanged))
    assert first.startswith("no TCP connection to 10.99.0.2 port 179"), "until the kernel was asked"


async def test_a_firewall_drops(lab: Lab) -> None:
    wire, _, agent = lab
    wire.them.run("nft", "add table inet t; add chain inet t c { type filter hook input priority 0; policy drop; }")
    wire.them.run("nft", "add rule inet t c ip protocol != tcp accept")
    agent.want([neighbour(passive=False)], [])
    await says(agent, "no answer from 10.99.0.2 port 179", "firewall")


async def test_the_host_is_down(lab: Lab) -> None:
    _, _, agent = lab
    agent.want([neighbour("10.99.0.77", passive=False), neighbour("10.99.0.78")], [])
    await says(agent, "10.99.0.77 does not answer on its link", peer="10.99.0.77")
    await says(agent, "10.99.0.78 does not answer on its link", peer="10.99.0.78")


async def test_there_is_no_route(lab: Lab) -> None:
    _, _, agent = lab
    agent.want([neighbour("192.0.2.7", passive=False)], [])
    await says(agent, "there is no route to 192.0.2.7", peer="192.0.2.7")


async def test_the_peer_does_not_connect(lab: Lab) -> None:
    _, _, agent = lab
    agent.want([neighbour()], [])
    await says(agent, "10.99.0.2 has not connected to 10.99.0.1 port 179")


async def test_another_program_has_our_port_until_it_is_stopped(lab: Lab) -> None:
    wire, _, agent = lab
    program = "import socket, time; s = socket.socket(); s.bind(('', 179)); s.listen(); time.sleep(60)"
    squatter = start(wire.us, "python3", "-c", program, log=wire.folder / "squatter.log")
    bird = Bird(wire)
    try:
        await eventually(lambda: ":179" in wire.us.run("ss", "-ltnH").stdout)
        agent.want([neighbour()], [])
        await says(agent, "this node cannot listen on 10.99.0.1 port 179", "another program has the port")
        stop(squatter)
        bird.start()
        await eventually(agent.up, within=25, say=agent.why)
    finally:
        stop(squatter)
        bird.stop()


async def test_an_address_that_is_not_usable_yet_is_listened_on_once_it_is(lab: Lab) -> None:
    """As an IPv6 address is during duplicate address detection."""
    wire, _, agent = lab
    wire.us.run("ip", "address", "del", f"{US}/24", "dev", "eth0")
    agent.want([neighbour()], [])
    await says(agent, "this node no longer has the address 10.99.0.1")
    wire.us.run("ip", "address", "add", f"{US}/24", "dev", "eth0")
    bird = Bird(wire).start()
    try:
        await eventually(agent.up, within=25, say=agent.why)
    finally:
        bird.stop()


async def test_an_agent_that_restarts_knows_the_reasons_again(lab: Lab) -> None:
    _, node, agent = lab
    agent.want([neighbour("192.0.2.7")], [])
    await says(agent, "there is no route to 192.0.2.7", peer="192.0.2.7")
    await agent.stop()
    second = Agent(node).start()
    try:
        await asyncio.sleep(0.5)
        second.want([neighbour("192.0.2.7")], [])
        await says(second, "there is no route to 192.0.2.7", peer="192.0.2.7", within=3)
    finally:
        await second.stop()


async def test_the_as_numbers_differ(lab: Lab) -> None:
    wire, _, agent = lab
    bird = Bird(wire).start()
    try:
        agent.want([neighbour(peer_as=64999)], [])
        await says(agent, "10.99.0.2 says that its AS is 64512, but 64999 is configured")
    finally:
        bird.stop()


async def test_the_peer_expects_another_as(lab: Lab) -> None:
    wire, _, agent = lab
    bird = Bird(wire).start()
    try:
        agent.want([neighbour(local_as=64999)], [])
        await says(agent, "10.99.0.2 refuses our AS 64999")
    finally:
        bird.stop()


async def test_the_router_ids_are_the_same(lab: Lab) -> None:
    wire, _, agent = lab
    bird = Bird(wire).start()
    try:
        agent.want([neighbour(router_id="10.99.0.2")], [])
        await says(agent, "router id", "10.99.0.2")
    finally:
        bird.stop()


async def test_the_passwords_differ(lab: Lab) -> None:
    wire, _, agent = lab
    bird = Bird(wire, options='password "one"; passive on;').start()
    try:
        agent.want([neighbour(password="two", passive=False)], [])
        await says(agent, "no answer from 10.99.0.2", "passwords differ")
        agent.want([neighbour(password="one", passive=False)], [])
        await eventually(agent.up, within=25, say=agent.why)
        assert agent.why() == ""
    finally:
        bird.stop()


async def test_the_hold_timer_expires_and_the_paths_stay_for_the_restart_time(lab: Lab) -> None:
    wire, _, agent = lab
    bird = Bird(wire, routes="route 10.50.0.0/26 blackhole;").start()
    try:
        agent.want([neighbour(hold_time=3)], [])
        await eventually(lambda: agent.routes() == {"10.50.0.0/26": [THEM]})
        bird.freeze()
        await says(agent, "nothing was heard of 10.99.0.2 for the whole hold time")
        assert agent.routes() == {"10.50.0.0/26": [THEM]}
        assert agent.stale()
    finally:
        bird.stop()


async def test_the_peers_administrator_shuts_the_session_down_and_its_paths_go(lab: Lab) -> None:
    wire, _, agent = lab
    bird = Bird(wire, routes="route 10.50.0.0/26 blackhole;").start()
    try:
        agent.want([neighbour()], [])
        await eventually(lambda: agent.routes() == {"10.50.0.0/26": [THEM]})
        bird.ctl("disable", "exa")
        await says(agent, "10.99.0.2 ended the session: shut down by its administrator")
        assert agent.routes() == {}
    finally:
        bird.stop()


async def test_the_speaker_is_away(tmp_path: Path) -> None:
    wire = Wire(tmp_path)
    agent = Agent(Node(wire)).start()
    try:
        agent.want([neighbour()], [])
        await says(agent, "the BGP speaker does not run", "calico-py speaker")
    finally:
        await agent.stop()
        wire.close()
