"""The speakers on which the contract suite runs: the fake, and ExaBGP against a BIRD in namespaces."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path

from calico_py.bgp.rib import AdjRibIn
from calico_py.bgp.speaker import ExaBGPSpeaker
from calico_py.model.speaker import Speaker, SpeakerEvent
from tests.bgp.peers import THEM, Bird, Node, Wire
from tests.fakes.speaker import FakeSpeaker


@dataclass(slots=True)
class SpeakerWorld:
    """A speaker and what a test may do around it.

    Attributes:
        peer: the other side runs and has these routes. peer_shut: its administrator ends the session.
        told: what the other side has from the speaker.
        lose, recover: the speaker ends; it is started again.
    """

    speaker: Speaker
    peer: Callable[[set[str]], None]
    peer_shut: Callable[[], None]
    told: Callable[[], set[str]]
    lose: Callable[[], None]
    recover: Callable[[], None]
    events: list[SpeakerEvent] = field(default_factory=list)
    rib: AdjRibIn = field(default_factory=AdjRibIn)

    async def listen(self) -> None:
        """Collect the events, for ever."""
        async for event in self.speaker.events():
            self.events.append(event)
            self.rib.handle(event, time.monotonic())

    def learned(self) -> dict[str, bool]:
        """Prefixes, and whether their path is stale."""
        return {str(nlri): any(path.stale for path in self.rib.candidates(nlri)) for nlri in self.rib.prefixes()}


@asynccontextmanager
async def listening(world: SpeakerWorld) -> AsyncIterator[SpeakerWorld]:
    """Its events are collected meanwhile."""
    task = asyncio.get_running_loop().create_task(world.listen())
    try:
        yield world
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def fake_speaker() -> AsyncIterator[SpeakerWorld]:
    """The fake."""
    speaker = FakeSpeaker()
    address = ip_address(THEM)
    world = SpeakerWorld(
        speaker,
        peer=lambda routes: speaker.peer(address, frozenset(map(ip_network, routes))),
        peer_shut=lambda: speaker.peer_shut(address),
        told=lambda: {str(nlri) for nlri in speaker.told(address)},
        lose=speaker.lose,
        recover=speaker.recover,
    )
    async with listening(world):
        yield world


@asynccontextmanager
async def exabgp_speaker(folder: Path) -> AsyncIterator[SpeakerWorld]:
    """`calico-py speaker` and a BIRD."""
    wire = Wire(folder)
    node, bird = Node(wire), Bird(wire)
    begun = False

    def peer(routes: set[str]) -> None:
        nonlocal begun
        text = " ".join(f"route {route} blackhole;" for route in sorted(routes))
        if begun:
            bird.inject(text)
        else:
            begun, bird.routes = True, text
            bird.start()

    def peer_shut() -> None:
        bird.ctl("disable", "exa")

    def lose() -> None:
        assert node.process is not None
        os.kill(node.exabgp, signal.SIGKILL)
        node.process.wait(5)

    world = SpeakerWorld(
        ExaBGPSpeaker(node.files),
        peer=peer,
        peer_shut=peer_shut,
        told=bird.learned,
        lose=lose,
        recover=node.start,
    )
    try:
        node.start()
        async with listening(world):
            yield world
    finally:
        bird.stop()
        node.stop()
        wire.close()
