"""The Learner's time: its deadlines are by a clock that nobody sets."""

import asyncio
import contextlib
import time
from ipaddress import ip_address, ip_network

import pytest

from calico_py.agent.learned import Learner
from calico_py.bgp.decide import Identity
from calico_py.model.speaker import SpeakerLost
from tests.fakes.waiting import until
from tests.unit.agent.one_node import FakeSpeaker

PEER, BLOCK = ip_address("192.168.1.12"), ip_network("10.244.2.0/26")


async def test_a_clock_that_is_set_ends_no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """The speaker restarts, its peers' paths are stale for two minutes, and NTP sets the clock an hour on."""
    speaker = FakeSpeaker()
    learner = Learner(speaker, lambda: None)
    task = asyncio.create_task(learner.run())
    speaker.session(PEER, BLOCK)
    await until(lambda: BLOCK in learner.learned().routes)
    learner.configure(Identity(64512), frozenset({PEER}))
    since = learner.sessions()[PEER].since
    assert abs(since - time.time()) < 5, "what people are shown is the time of day"
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 3600)
    speaker.say(SpeakerLost("it restarts"))
    speaker.restarted()
    await until(lambda: not learner.speaker_problem)
    await asyncio.sleep(0.05)
    monkeypatch.setattr(time, "time", lambda: now() + 7200)
    learner.configure(Identity(64513), frozenset({PEER}))
    await asyncio.sleep(0.05)
    assert BLOCK in learner.learned().routes
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
