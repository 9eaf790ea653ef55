"""One suite for every Speaker: the fake, and ExaBGP against a real BIRD."""

import asyncio
from collections.abc import AsyncIterator
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
import pytest_asyncio

from calico_py.model.bgp import Advertisement, SessionState
from calico_py.model.speaker import (
    EndOfRib,
    PathAnnounced,
    PathWithdrawn,
    ReplayComplete,
    ReplayStarted,
    SessionChanged,
    SpeakerLost,
)
from tests.bgp.peers import THEM, eventually, neighbour
from tests.contract.speakers import SpeakerWorld, exabgp_speaker, fake_speaker

PEER = ip_address(THEM)
ROUTES = {"10.50.0.0/26", "10.50.0.64/26"}
OURS = {"10.61.0.0/26", "10.61.0.64/26"}


@pytest_asyncio.fixture(params=["fake", pytest.param("exabgp", marks=pytest.mark.root)])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SpeakerWorld]:
    async with fake_speaker() if request.param == "fake" else exabgp_speaker(tmp_path) as found:
        yield found


def want(world: SpeakerWorld, announced: set[str], *, peers: bool = True) -> None:
    world.rib.configure(frozenset({PEER} if peers else ()), 0.0)
    world.speaker.set(
        peers=frozenset({neighbour()} if peers else ()),
        advertisements=frozenset(Advertisement(ip_network(nlri)) for nlri in announced),
    )


async def settled(world: SpeakerWorld, *, told: set[str] = OURS, learned: set[str] = ROUTES) -> None:
    await eventually(lambda: world.told() == told, say=world.told)
    await eventually(lambda: world.learned() == dict.fromkeys(learned, False), say=world.learned)


async def test_what_it_says_begins_with_a_replay(world: SpeakerWorld) -> None:
    await eventually(lambda: ReplayComplete() in world.events)
    said = [event for event in world.events if not isinstance(event, SpeakerLost)]
    assert said[0] == ReplayStarted()


async def test_a_session_its_paths_and_their_end_come_in_this_order(world: SpeakerWorld) -> None:
    world.peer(ROUTES)
    want(world, OURS)
    await settled(world)
    await eventually(lambda: EndOfRib(PEER, 4) in world.events)
    kinds = [type(event) for event in world.events if isinstance(event, SessionChanged | PathAnnounced | EndOfRib)]
    up = next(i for i, e in enumerate(world.events) if getattr(e, "state", None) == SessionState.ESTABLISHED)
    session = world.events[up]
    assert isinstance(session, SessionChanged)
    assert (session.peer, session.hold_time, session.restart_time) == (PEER, 90, 120)
    assert kinds[-3:] == [PathAnnounced, PathAnnounced, EndOfRib]
    assert world.rib.in_sync == {PEER}


async def test_changes_go_both_ways_and_an_unchanged_set_does_nothing(world: SpeakerWorld) -> None:
    world.peer(ROUTES)
    want(world, OURS)
    await settled(world)
    await eventually(lambda: EndOfRib(PEER, 4) in world.events)
    seen = len(world.events)
    want(world, OURS)
    want(world, {"10.61.0.0/26", "10.61.1.0/26"})
    await settled(world, told={"10.61.0.0/26", "10.61.1.0/26"})
    assert len(world.events) == seen, "announcing makes no event"
    world.peer({"10.50.0.0/26", "10.50.1.0/26"})
    await settled(world, told={"10.61.0.0/26", "10.61.1.0/26"}, learned={"10.50.0.0/26", "10.50.1.0/26"})
    assert any(isinstance(event, PathWithdrawn) for event in world.events)


async def test_a_speaker_that_ends_and_comes_back_costs_no_path(world: SpeakerWorld) -> None:
    world.peer(ROUTES)
    want(world, OURS)
    await settled(world)
    world.lose()
    await eventually(lambda: world.learned() == dict.fromkeys(ROUTES, True), say=world.learned)
    assert world.told() == OURS, "the peer keeps them for the restart time"
    seen = len(world.events)
    world.recover()
    while True in world.learned().values():
        assert world.learned().keys() == ROUTES
        await asyncio.sleep(0.01)
    await settled(world)
    later = world.events[seen:]
    assert later.index(ReplayStarted()) < later.index(ReplayComplete())


async def test_a_set_while_the_speaker_is_away_holds_when_it_is_back(world: SpeakerWorld) -> None:
    world.peer(ROUTES)
    want(world, OURS)
    await settled(world)
    world.lose()
    await eventually(lambda: world.learned() == dict.fromkeys(ROUTES, True))
    want(world, {"10.61.9.0/26"})
    world.recover()
    await settled(world, told={"10.61.9.0/26"})


async def test_a_peer_that_is_none_any_more_has_nothing_from_us(world: SpeakerWorld) -> None:
    world.peer(ROUTES)
    want(world, OURS)
    await settled(world)
    want(world, OURS, peers=False)
    await settled(world, told=set(), learned=set())


async def test_a_session_ended_on_purpose_takes_its_paths_along(world: SpeakerWorld) -> None:
    world.peer(ROUTES)
    want(world, OURS)
    await settled(world)
    world.peer_shut()
    await eventually(lambda: world.learned() == {}, say=world.learned)
    down = [event for event in world.events if isinstance(event, SessionChanged)][-1]
    assert (down.state, down.restart_time) == (SessionState.CONNECT, 0)
    assert THEM in down.reason
