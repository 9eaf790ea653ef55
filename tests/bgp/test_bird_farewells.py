"""What a real BIRD says when it ends a session, and how status tells it: the cause and the cure."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.bgp.peers import THEM, US, Agent, Bird, Node, Wire, eventually, neighbour, running
from tests.bgp.raw_peer import opening

pytestmark = pytest.mark.root

Lab = tuple[Wire, Node, Agent]


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    async with running(tmp_path) as parts:
        yield parts


async def heard(agent: Agent, words: str) -> None:
    """It was said at some time: BIRD comes back soon."""

    def said() -> list[str]:
        return [str(getattr(event, "reason", "")) for event in agent.seen]

    await eventually(lambda: any(words in reason for reason in said()), within=25, say=said)


async def up(agent: Agent, bird: Bird) -> None:
    await eventually(lambda: agent.up() and bird.established(), within=25, say=agent.why)


async def test_its_administrator_resets_the_session(lab: Lab) -> None:
    wire, _, agent = lab
    agent.want([neighbour()], [])
    bird = Bird(wire).start()
    try:
        await up(agent, bird)
        bird.ctl("restart", "exa")
        await heard(agent, f"{THEM} ended the session: reset by its administrator; the session comes back by itself")
        await up(agent, bird)
    finally:
        bird.stop()


async def test_its_configuration_changes(lab: Lab) -> None:
    wire, _, agent = lab
    agent.want([neighbour()], [])
    bird = Bird(wire).start()
    try:
        await up(agent, bird)
        bird.options = "hold time 60;"
        bird.write()
        bird.ctl("configure")
        await heard(agent, f"{THEM} ended the session: its configuration changed; the session comes back by itself")
        await up(agent, bird)
    finally:
        bird.stop()


async def test_this_node_is_taken_out_of_its_configuration(lab: Lab) -> None:
    wire, _, agent = lab
    agent.want([neighbour()], [])
    bird = Bird(wire).start()
    try:
        await up(agent, bird)
        text = bird.config.read_text()
        bird.config.write_text(text[: text.index("protocol bgp")])
        bird.ctl("configure")
        await heard(agent, f"{THEM} ended the session: this node is not configured there; add this node there")
    finally:
        bird.stop()


async def test_it_takes_no_more_prefixes(lab: Lab) -> None:
    wire, _, agent = lab
    agent.want([neighbour()], [f"10.244.{number}.0/26" for number in range(5)])
    # Again and again: ExaBGP may still write when the farewell comes, and then hears of a closed connection only.
    again = "error wait time 1, 1; connect delay time 1;"
    bird = Bird(wire, options=again, imports="import all; import limit 2 action restart;").start()
    try:
        await heard(agent, f"{THEM} ended the session: too many prefixes; raise its limit")
    finally:
        bird.stop()


async def test_its_hold_timer_expires(lab: Lab) -> None:
    """ExaBGP is stopped for longer than the hold time, and reads the farewell when it goes on."""
    wire, node, agent = lab
    agent.want([neighbour(hold_time=3)], [])
    bird = Bird(wire, options="hold time 3;").start()
    exabgp = 0
    try:
        await up(agent, bird)
        exabgp = node.exabgp
        os.kill(exabgp, signal.SIGSTOP)
        await eventually(lambda: not bird.established(), within=10)
        os.kill(exabgp, signal.SIGCONT)
        await heard(agent, f"{THEM} heard nothing of this node for its hold time")
    finally:
        if exabgp:
            os.kill(exabgp, signal.SIGCONT)
        bird.stop()


async def test_what_this_node_changes_is_not_the_peers_doing(lab: Lab) -> None:
    wire, _, agent = lab
    agent.want([neighbour()], [])
    bird = Bird(wire).start()
    try:
        await up(agent, bird)
        agent.want([neighbour(hold_time=30)], [])
        await heard(agent, f"this node's BGP speaker ended the session with {THEM} (its configuration changed): the")
        await up(agent, bird)
        assert not any("closed the connection" in getattr(event, "reason", "") for event in agent.seen)
    finally:
        bird.stop()


async def test_a_second_connection_is_open(lab: Lab) -> None:
    """Another program of this node answers BIRD's own connection, which wins by BIRD's router id (RFC 4271 6.8)."""
    wire, _, agent = lab
    with answering(wire):
        bird = Bird(wire).start()
        try:
            await eventually(lambda: "OpenConfirm" in bird.session(), say=bird.session)
            agent.want([neighbour(passive=False)], [])
            await heard(agent, f"{THEM} ended the session: a second connection was open; the session comes back")
        finally:
            bird.stop()


@contextlib.contextmanager
def answering(wire: Wire) -> Iterator[None]:
    """A program on our port 179 that sends an OPEN, and then nothing more."""
    with wire.us.entered():
        server = socket.create_server((US, 179))
    connections: list[socket.socket] = []

    def answer() -> None:
        with contextlib.suppress(OSError):
            while True:
                connections.append(server.accept()[0])
                connections[-1].sendall(opening(US, 64512, 90))

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield
    finally:
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for each in (server, *connections):
            each.close()
