"""Why a session is not up, said by a peer that can say anything, by our own kernel, and by a speaker that goes away."""

import contextlib
import os
import signal
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from calico_py.bgp.rib import AdjRibIn
from tests.bgp.peers import THEM, Agent, Bird, Node, Wire, eventually, neighbour, running
from tests.bgp.raw_peer import NOTIFICATION, UPDATE, RawPeer, message

pytestmark = pytest.mark.root

RAW = "10.99.0.5"
Lab = tuple[Wire, Node, Agent]

FAREWELLS = {
    (2, 2): f"{RAW} refuses our AS 64512",
    (2, 3): f"{RAW} refuses our router id 10.99.0.1",
    (2, 6): f"{RAW} ended the session: the OPEN was refused (2,6)",
    (3, 1): f"{RAW} ended the session: an UPDATE was malformed (3,1)",
    (4, 0): f"{RAW} heard nothing of this node for its hold time",
    (5, 1): f"{RAW} ended the session: a message came out of turn (5,1)",
    (6, 1): f"{RAW} ended the session: too many prefixes",
    (6, 3): f"{RAW} ended the session: this node is not configured there",
    (6, 4): f"{RAW} ended the session: reset by its administrator",
    (6, 5): f"{RAW} ended the session: connection refused",
    (6, 6): f"{RAW} ended the session: its configuration changed",
    (6, 8): f"{RAW} ended the session: out of resources",
    (6, 99): f"{RAW} ended the session: cease, subcode 99",
}


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    async with running(tmp_path) as (wire, node, agent):
        wire.address(wire.them, 5)
        yield wire, node, agent


async def raw_peer(wire: Wire, agent: Agent) -> RawPeer:
    """A session that is up."""
    peers: list[RawPeer] = []

    def connects() -> bool:
        try:
            peers.append(RawPeer(wire, RAW))
        except OSError:
            return False
        return True

    await eventually(connects)
    await eventually(lambda: agent.up(RAW))
    return peers[-1]


async def says(agent: Agent, words: str, peer: str = RAW) -> None:
    await eventually(lambda: words in agent.why(peer), within=20, say=lambda: agent.why(peer))
    assert not agent.up(peer)


async def test_what_a_peer_says_in_parting(lab: Lab) -> None:
    wire, _, agent = lab
    agent.want([neighbour(RAW)], [])
    for (code, subcode), sentence in FAREWELLS.items():
        peer = await raw_peer(wire, agent)
        try:
            peer.send(message(NOTIFICATION, bytes([code, subcode])))
            await says(agent, sentence)
        finally:
            peer.close()


async def test_a_peer_that_breaks_the_protocol(lab: Lab) -> None:
    """A hold time of 1 s is not allowed (RFC 4271 4.2)."""
    wire, _, agent = lab
    agent.want([neighbour(RAW)], [])

    def refused() -> bool:
        with contextlib.suppress(OSError):
            RawPeer(wire, RAW, hold_time=1).close()
        return "broke the protocol (the OPEN was refused)" in agent.why(RAW)

    await eventually(refused, within=20, say=lambda: agent.why(RAW))


async def test_a_message_without_its_marker(lab: Lab) -> None:
    """ExaBGP 5.0.15 should answer it by a NOTIFICATION, and meets an error of its own."""
    wire, _, agent = lab
    agent.want([neighbour(RAW)], [])
    peer = await raw_peer(wire, agent)
    try:
        peer.send(bytes(16) + struct.pack("!HB", 23, UPDATE) + bytes(4))
        await says(agent, f"this node's BGP speaker gave the session up because of a message of {RAW}")
    finally:
        peer.close()


async def test_a_peer_that_closes_without_a_word(lab: Lab) -> None:
    wire, _, agent = lab
    agent.want([neighbour(RAW)], [])
    peer = await raw_peer(wire, agent)
    peer.close()
    await says(agent, f"{RAW} closed the connection")


async def test_our_own_firewall(lab: Lab) -> None:
    wire, _, agent = lab
    wire.us.run("nft", "add table inet t; add chain inet t c { type filter hook output priority 0; }")
    wire.us.run("nft", f"add rule inet t c ip daddr {THEM} reject with icmpx admin-prohibited")
    agent.want([neighbour(passive=False)], [])
    await says(agent, f"this node's own firewall forbids packets to {THEM}", THEM)


async def test_more_prefixes_than_are_taken(lab: Lab) -> None:
    wire, _, agent = lab
    agent.rib = AdjRibIn(max_prefixes=2)
    routes = "".join(f"route 10.50.{number}.0/24 blackhole; " for number in range(5))
    bird = Bird(wire, routes=routes).start()
    try:
        agent.want([neighbour()], [])
        await eventually(lambda: "3 prefixes above the limit of 2" in agent.why(), say=agent.why)
        assert agent.up(), "the session stays"
        assert len(agent.routes()) == 2
    finally:
        bird.stop()


async def test_the_speaker_ends(lab: Lab) -> None:
    _, node, agent = lab
    agent.want([neighbour()], [])
    await eventually(lambda: "has not connected" in agent.why(), within=20, say=agent.why)
    assert node.process is not None
    os.kill(node.exabgp, signal.SIGKILL)
    await says(agent, "the BGP speaker ended or dropped the connection", THEM)
