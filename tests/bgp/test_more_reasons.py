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
from tests.bgp.raw_peer import KEEPALIVE, NOTIFICATION, ROUTE_REFRESH, UPDATE, RawPeer, message

pytestmark = pytest.mark.root

RAW = "10.99.0.5"
Lab = tuple[Wire, Node, Agent]

FAREWELLS = {
    (1, 2): f"{RAW} ended the session: a message header was damaged (1,2); see its log",
    (2, 1): f"{RAW} refuses our OPEN: the BGP version (2,1)",
    (2, 2): f"{RAW} refuses our AS 64512, it expects another: correct the AS number",
    (2, 3): f"{RAW} refuses our router id 10.99.0.1, as if it were its own: give one of the two another",
    (2, 4): f"{RAW} refuses our OPEN: an optional parameter (2,4)",
    (2, 6): f"{RAW} refuses our OPEN: the hold time (2,6)",
    (2, 7): f"{RAW} refuses our OPEN: a capability that it wants or does not want (2,7)",
    (2, 11): f"{RAW} refuses our OPEN: the BGP role (2,11)",
    (2, 0): f"{RAW} refuses our OPEN: something in it (2,0); see its configuration for this node",
    (3, 1): f"{RAW} ended the session: an UPDATE was malformed (3,1)",
    (4, 0): f"{RAW} heard nothing of this node for its hold time: check that packets reach it",
    (5, 1): f"{RAW} ended the session: a message came out of turn (5,1)",
    (6, 1): f"{RAW} ended the session: too many prefixes; raise its limit",
    (6, 2): f"{RAW} ended the session: shut down by its administrator; enable the session there again",
    (6, 3): f"{RAW} ended the session: this node is not configured there; add this node there",
    (6, 4): f"{RAW} ended the session: reset by its administrator; the session comes back by itself",
    (6, 5): f"{RAW} ended the session: connection refused; see the log",
    (6, 6): f"{RAW} ended the session: its configuration changed; the session comes back by itself",
    (6, 7): f"{RAW} ended the session: a second connection was open; the session comes back by itself; if not",
    (6, 8): f"{RAW} ended the session: out of resources; give it memory",
    (6, 9): f"{RAW} ended the session: hard reset; the session comes back by itself",
    (6, 10): f"{RAW} ended the session: BFD says that the way is down; check that packets pass",
    (6, 99): f"{RAW} ended the session: cease, subcode 99; see the log",
    (7, 1): f"{RAW} ended the session: a route refresh was malformed (7,1)",
    (99, 9): f"{RAW} ended the session: code 99 (99,9)",
}

# What a peer may send once its session is up, and what is said of it (RFC 4271 6, RFC 7313 5).
OFFENCES = {
    "an UPDATE was malformed (3,1)": message(UPDATE, struct.pack("!HH", 99, 99)),
    "a route refresh was malformed (7,2)": message(ROUTE_REFRESH, struct.pack("!HBB", 1, 9, 1)),
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
    wire, _, agent = lab
    agent.want([neighbour(RAW)], [])
    for words, offence in OFFENCES.items():
        peer = await raw_peer(wire, agent)
        try:
            peer.send(offence)
            await says(agent, f"{RAW} broke the protocol: {words}")
        finally:
            peer.close()


async def test_a_message_out_of_turn(lab: Lab) -> None:
    """Where a KEEPALIVE must come an UPDATE does (RFC 4271 6.6)."""
    wire, _, agent = lab
    agent.want([neighbour(RAW)], [])

    def refused() -> bool:
        with contextlib.suppress(OSError):
            RawPeer(wire, RAW, answer=message(UPDATE, bytes(4))).close()
        return f"{RAW} broke the protocol: a message came out of turn (5,2)" in agent.why(RAW)

    await eventually(refused, within=20, say=lambda: agent.why(RAW))


async def test_an_open_that_is_refused(lab: Lab) -> None:
    """A hold time of 1 s is not allowed (RFC 4271 4.2)."""
    wire, _, agent = lab
    agent.want([neighbour(RAW)], [])

    def refused() -> bool:
        with contextlib.suppress(OSError):
            RawPeer(wire, RAW, hold_time=1).close()
        return "broke the protocol: the OPEN was refused (2,6)" in agent.why(RAW)

    await eventually(refused, within=20, say=lambda: agent.why(RAW))


@pytest.mark.parametrize(
    "damaged",
    [
        pytest.param(bytes(16) + struct.pack("!HB", 23, UPDATE) + bytes(4), id="no marker"),
        pytest.param(message(KEEPALIVE, b"x"), id="a length that the type does not have"),
    ],
)
async def test_a_damaged_header(lab: Lab, damaged: bytes) -> None:
    """ExaBGP 5.0.15 should answer it by a NOTIFICATION, and meets an error of its own."""
    wire, _, agent = lab
    agent.want([neighbour(RAW)], [])
    peer = await raw_peer(wire, agent)
    try:
        peer.send(damaged)
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


async def test_the_configuration_cannot_be_written(lab: Lab) -> None:
    """A folder in the file's place, as a disk of its own that is away leaves one: the session that is up stays up."""
    wire, node, agent = lab
    bird = Bird(wire).start()
    try:
        agent.want([neighbour()], [])
        await eventually(agent.up, within=25, say=agent.why)
        node.files.config.rename(node.files.config.with_name("kept"))
        node.files.config.mkdir()
        agent.want([neighbour(), neighbour("10.99.0.9")], [])
        said = "exabgp.conf cannot be written (Is a directory): BGP sessions stay as they are; free or mend its disk"
        await eventually(lambda: said in agent.speaker.problem, say=lambda: agent.speaker.problem)
        assert agent.up()
        node.files.config.rmdir()
        await eventually(lambda: not agent.speaker.problem, say=lambda: agent.speaker.problem)
        await eventually(lambda: agent.why("10.99.0.9"), within=20)
    finally:
        bird.stop()


async def test_a_peer_that_exabgp_cannot_be_configured_with(lab: Lab) -> None:
    _, _, agent = lab
    agent.want([neighbour(), neighbour(RAW, port=99999)], [])
    assert agent.speaker.problem == f"BGP leaves out peer {RAW}: port is 99999, expected 1 to 65535"
    agent.want([neighbour()], [])
    assert agent.speaker.problem == ""


async def test_the_speaker_ends(lab: Lab) -> None:
    _, node, agent = lab
    agent.want([neighbour()], [])
    await eventually(lambda: "has not connected" in agent.why(), within=20, say=agent.why)
    assert node.process is not None
    os.kill(node.exabgp, signal.SIGKILL)
    await says(agent, "the BGP speaker ended or dropped the connection", THEM)
