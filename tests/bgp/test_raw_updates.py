"""What a peer may say in UPDATEs that BIRD does not: every attribute, malformed ones, and noise in a live session."""

import asyncio
import random
import struct
from collections.abc import AsyncIterator
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path

import pytest

from calico_py.bgp.decide import Identity, decide_prefix
from calico_py.model.bgp import Origin
from calico_py.model.bgp import Path as BgpPath
from tests.bgp.peers import Agent, Bird, Node, Wire, eventually, neighbour, running
from tests.bgp.raw_peer import (
    OPTIONAL,
    TRANSITIVE,
    UPDATE,
    WELL_KNOWN,
    RawPeer,
    as_path,
    attribute,
    message,
    update,
    usual,
)

pytestmark = pytest.mark.root

RAW = "10.99.0.5"
Lab = tuple[Wire, Node, Agent]


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    async with running(tmp_path) as (wire, node, agent):
        wire.address(wire.them, 5)
        yield wire, node, agent


async def raw_peer(wire: Wire, agent: Agent, **more: object) -> RawPeer:
    agent.want([neighbour(RAW, **more)], [])
    await eventually(lambda: f"{RAW} has not connected" in agent.why(RAW))
    return RawPeer(wire, RAW, asn=int(str(more.get("peer_as", 64512))))


def paths(agent: Agent, nlri: str) -> tuple[BgpPath, ...]:
    return agent.rib.candidates(ip_network(nlri))


async def test_every_attribute_arrives_as_it_was_sent(lab: Lab) -> None:
    wire, _, agent = lab
    peer = await raw_peer(wire, agent, peer_as=4200000001)
    try:
        attributes = (
            attribute(WELL_KNOWN, 1, b"\x01")
            + attribute(WELL_KNOWN, 2, as_path((2, [4200000001, 65002]), (1, [9, 7])))
            + attribute(WELL_KNOWN, 3, IPv4Address("10.99.0.9").packed)
            + attribute(OPTIONAL, 4, struct.pack("!I", 4294967295))
            + attribute(TRANSITIVE, 8, struct.pack("!HHI", 64512, 7, 0xFFFFFF01))
            + attribute(TRANSITIVE, 99, b"nobody knows this one" * 20)
        )
        peer.send(update(["10.50.0.0/26", "0.0.0.0/0", "10.9.9.9/32"], attributes))
        await eventually(lambda: len(agent.routes()) == 3, say=agent.routes)
        (path,) = paths(agent, "10.9.9.9/32")
        assert path == BgpPath(
            nlri=ip_network("10.9.9.9/32"),
            peer=ip_address(RAW),
            next_hop=ip_address("10.99.0.9"),
            origin=Origin.EGP,
            as_path=(4200000001, 65002, (7, 9)),
            med=4294967295,
            communities=("64512:7", "65535:65281"),
            peer_as=4200000001,
            peer_router_id=RAW,
            ebgp=True,
        )
        peer.send(update([], b"", withdrawn=["0.0.0.0/0", "10.50.0.0/26"]))
        await eventually(lambda: set(agent.routes()) == {"10.9.9.9/32"}, say=agent.routes)
    finally:
        peer.close()


async def test_reflected_paths_carry_originator_and_clusters(lab: Lab) -> None:
    wire, _, agent = lab
    peer = await raw_peer(wire, agent)
    try:
        reflected = attribute(OPTIONAL, 9, IPv4Address("10.99.0.8").packed)
        reflected += attribute(OPTIONAL, 10, IPv4Address("1.1.1.1").packed + IPv4Address("2.2.2.2").packed)
        peer.send(update(["10.50.0.0/26"], usual("10.99.0.8") + reflected))
        await eventually(lambda: paths(agent, "10.50.0.0/26"))
        (path,) = paths(agent, "10.50.0.0/26")
        assert (path.originator_id, path.cluster_list) == ("10.99.0.8", ("1.1.1.1", "2.2.2.2"))
        assert decide_prefix([path], Identity(64512, frozenset({"10.99.0.8"}))) is None
        assert decide_prefix([path], Identity(64512, cluster_id="2.2.2.2")) is None
    finally:
        peer.close()


async def test_a_malformed_attribute_withdraws_its_prefixes_and_keeps_the_session(lab: Lab) -> None:
    """Treat-as-withdraw (RFC 7606 2)."""
    wire, _, agent = lab
    peer = await raw_peer(wire, agent)
    try:
        peer.send(update(["10.50.0.0/26", "10.50.1.0/26"], usual(RAW)))
        await eventually(lambda: len(agent.routes()) == 2)
        broken = usual(RAW) + attribute(TRANSITIVE, 8, b"\x00\x01\x02")
        peer.send(update(["10.50.0.0/26"], broken))
        await eventually(lambda: set(agent.routes()) == {"10.50.1.0/26"}, say=agent.routes)
        assert agent.up(RAW)
    finally:
        peer.close()


async def test_noise_in_a_live_session_harms_no_other(lab: Lab) -> None:
    wire, node, agent = lab
    bird = Bird(wire, routes="route 10.50.0.0/26 blackhole;").start()
    noise = random.Random(1)
    try:
        agent.want([neighbour(), neighbour(RAW)], ["10.61.0.0/26"])
        await eventually(lambda: agent.routes() == {"10.50.0.0/26": ["10.99.0.2"]} and bird.learned())
        since, process = bird.established(), node.exabgp
        sessions = 0
        for attempt in range(30):
            try:
                peer = await asyncio.to_thread(RawPeer, wire, RAW)
            except OSError:  # refused while the last session is being closed
                await asyncio.sleep(0.1)
                continue
            sessions += 1
            good = update(["10.60.0.0/26"], usual(RAW))
            damaged = bytearray(good)
            for _ in range(noise.randint(1, 6)):
                damaged[noise.randrange(19, len(damaged))] = noise.randrange(256)
            bad = bytes(damaged) if attempt % 2 else message(UPDATE, noise.randbytes(noise.randint(0, 60)))
            peer.send(good + bad)
            await asyncio.sleep(0.1)
            peer.close()
        assert sessions > 10
        assert node.exabgp == process
        assert node.bridge
        assert abs(bird.established() - since) < 0.5
        assert agent.routes()["10.50.0.0/26"] == ["10.99.0.2"]
        bird.inject("route 10.50.9.0/26 blackhole;")
        await eventually(lambda: "10.50.9.0/26" in agent.routes())
    finally:
        bird.stop()
