"""The bridge as a process, the agent's speaker at its socket, and the test in ExaBGP's place."""

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from calico_py.bgp.exabgp_config import BRIDGE, SpeakerFiles
from calico_py.bgp.speaker import ExaBGPSpeaker
from calico_py.model.bgp import Advertisement, Peer, SessionState
from calico_py.model.speaker import (
    EndOfRib,
    PathAnnounced,
    ReplayComplete,
    ReplayStarted,
    SessionChanged,
    SpeakerEvent,
    SpeakerLost,
)
from tests.unit.bgp.test_bridge import P, eor, head, opened, update

PEER = Peer("Mesh_10_0_0_2", ip_address(P), ip_address("127.0.0.1"), 64512, 64512, "10.0.0.1")
SESSION = [head("state", P, state="connected"), opened(P), head("state", P, state="up")]


class FakeExaBGP:
    """Holds the bridge's pipes."""

    def __init__(self, files: SpeakerFiles) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(BRIDGE), str(files.socket), str(files.announced), "first"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._in, self._out = self.process.stdin, self.process.stdout
        os.set_blocking(self._out.fileno(), False)
        self.heard = ""

    def say(self, *lines: str) -> None:
        """Write as ExaBGP does: it blocks while nobody reads."""
        self._in.write("".join(line + "\n" for line in lines).encode())
        self._in.flush()

    def hear(self) -> str:
        """All commands so far."""
        with contextlib.suppress(BlockingIOError):
            self.heard += os.read(self._out.fileno(), 1 << 20).decode()
        return self.heard

    def close(self) -> None:
        """ExaBGP ends: so must the bridge."""
        self._in.close()
        assert self.process.wait(5) == 0
        self._out.close()


@pytest.fixture
async def files(tmp_path: Path) -> SpeakerFiles:
    return SpeakerFiles(tmp_path)


@pytest.fixture
async def exabgp(files: SpeakerFiles) -> AsyncIterator[FakeExaBGP]:
    fake = FakeExaBGP(files)
    try:
        yield fake
    finally:
        if fake.process.poll() is None:
            fake.close()


@contextlib.asynccontextmanager
async def listening(files: SpeakerFiles) -> AsyncIterator[tuple[ExaBGPSpeaker, list[SpeakerEvent]]]:
    speaker, seen = ExaBGPSpeaker(files), list[SpeakerEvent]()

    async def listen() -> None:
        async for event in speaker.events():
            seen.append(event)

    task = asyncio.get_running_loop().create_task(listen())
    try:
        yield speaker, seen
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(check: Callable[[], object], *, within: float = 10.0) -> None:
    deadline = time.monotonic() + within
    while not check():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def answer(exabgp: FakeExaBGP, files: SpeakerFiles) -> None:
    """What ExaBGP shows of the neighbours of the file."""
    digests = re.findall(r'description "(\w+)"', files.config.read_text())
    exabgp.say(*(f'  description "{digest}";' for digest in digests), "[]")


async def test_sessions_then_announcements_then_end_of_rib(exabgp: FakeExaBGP, files: SpeakerFiles) -> None:
    async with listening(files) as (speaker, seen):
        await until(lambda: ReplayComplete() in seen)
        exabgp.say(*SESSION)
        await until(lambda: any(isinstance(event, SessionChanged) for event in seen))
        advertisements = frozenset({Advertisement(ip_network("10.61.0.0/26"))})
        speaker.set(peers=frozenset({PEER}), advertisements=advertisements)
        await until(lambda: "show neighbor json" in exabgp.hear())
        assert "announce" not in exabgp.heard, "the sessions come first"
        answer(exabgp, files)
        await until(lambda: "eor" in exabgp.hear())
        assert [line for line in exabgp.heard.splitlines() if not line.startswith(("show", "reload"))] == [
            f"neighbor {P} announce attributes next-hop self nlri 10.61.0.0/26",
            f"neighbor {P} announce eor ipv4 unicast",
        ]
        assert exabgp.heard.startswith("reload\n")
        assert json.loads(files.announced.read_text())["complete"] is True
        before = exabgp.hear()
        speaker.set(peers=frozenset({PEER}), advertisements=frozenset(advertisements))
        await asyncio.sleep(0.3)
        assert exabgp.hear() == before, "an unchanged set writes nothing"


async def test_a_file_that_cannot_be_written_ends_nothing_and_is_written_once_it_can(
    exabgp: FakeExaBGP, files: SpeakerFiles, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """/run is full. The agent's routes and pods do not depend on it."""
    monkeypatch.setattr("calico_py.bgp.speaker.LOAD_PATIENCE", 0.05)
    files.config.mkdir()
    async with listening(files) as (speaker, seen):
        await until(lambda: ReplayComplete() in seen)
        speaker.set(peers=frozenset({PEER}), advertisements=frozenset())
        await asyncio.sleep(0.3)
        assert "reload" not in exabgp.hear()
        (told,) = [record.getMessage() for record in caplog.records if "cannot be written" in record.getMessage()]
        assert str(files.config) in told
        files.config.rmdir()
        await until(lambda: "reload" in exabgp.hear())
        assert f"neighbor {P}" in files.config.read_text()


async def test_an_exabgp_that_does_not_load_delays_announcements_by_two_seconds_at_most(
    exabgp: FakeExaBGP, files: SpeakerFiles
) -> None:
    async with listening(files) as (speaker, seen):
        await until(lambda: ReplayComplete() in seen)
        exabgp.say(*SESSION)
        speaker.set(peers=frozenset({PEER}), advertisements=frozenset({Advertisement(ip_network("10.61.0.0/26"))}))
        await until(lambda: "announce" in exabgp.hear(), within=5)


async def test_the_bridge_reads_on_while_nobody_reads_from_it(exabgp: FakeExaBGP, files: SpeakerFiles) -> None:
    """Neither an agent that is stopped nor an ExaBGP that takes no commands makes it block."""
    async with listening(files) as (speaker, seen):
        await until(lambda: ReplayComplete() in seen)
        exabgp.say(*SESSION)
        many = frozenset(Advertisement(ip_network(f"10.{n // 256}.{n % 256}.0/24")) for n in range(20000))
        speaker.set(peers=frozenset({PEER}), advertisements=many)
        await asyncio.sleep(2.5)  # commands that nobody reads now; and below an agent that does not run
        flood = [update(P, f"11.{n // 256}.{n % 256}.0/24") for n in range(20000)]
        began = time.monotonic()
        for start in range(0, len(flood), 1000):
            exabgp.say(*flood[start : start + 1000])
        exabgp.say(eor())
        assert time.monotonic() - began < 10
        await until(lambda: EndOfRib(ip_address(P), 4) in seen, within=20)
        assert len({event.path.nlri for event in seen if isinstance(event, PathAnnounced)}) == 20000
        await until(lambda: exabgp.hear().count("/24") == 20000, within=20)


async def test_the_agent_comes_again_and_is_told_everything(exabgp: FakeExaBGP, files: SpeakerFiles) -> None:
    async with listening(files) as (_, seen):
        await until(lambda: ReplayComplete() in seen)
        exabgp.say(*SESSION, update(P, "10.50.0.0/26"), eor())
        await until(lambda: EndOfRib(ip_address(P), 4) in seen)
    for _ in range(3):
        async with listening(files) as (_, seen):
            await until(lambda: ReplayComplete() in seen)
            assert [type(event) for event in seen] == [
                ReplayStarted,
                SessionChanged,
                PathAnnounced,
                EndOfRib,
                ReplayComplete,
            ]


async def test_the_agent_that_comes_last_is_the_one(exabgp: FakeExaBGP, files: SpeakerFiles) -> None:
    """The old one may hang for ever."""
    await until(files.socket.exists)
    old_reader, old_writer = await asyncio.open_unix_connection(str(files.socket))
    assert b"hello" in await old_reader.readline()
    async with listening(files) as (_, seen):
        await until(lambda: ReplayComplete() in seen)
        await old_reader.read()  # to its end
        exabgp.say(*SESSION)
        await until(lambda: any(isinstance(event, SessionChanged) for event in seen))
    old_writer.close()


async def test_nonsense_on_the_socket_closes_it_and_nothing_else(exabgp: FakeExaBGP, files: SpeakerFiles) -> None:
    await until(files.socket.exists)
    reader, writer = await asyncio.open_unix_connection(str(files.socket))
    writer.write(b"\xff\xfe nonsense\n")
    assert b"hello" in await reader.read()
    writer.close()
    assert exabgp.process.poll() is None
    assert files.socket.stat().st_mode & 0o777 == 0o600
    async with listening(files) as (_, seen):
        await until(lambda: ReplayComplete() in seen)


async def test_a_bridge_that_ends_is_told_and_waited_for(exabgp: FakeExaBGP, files: SpeakerFiles) -> None:
    async with listening(files) as (_, seen):
        await until(lambda: ReplayComplete() in seen)
        exabgp.close()
        await until(lambda: isinstance(seen[-1], SpeakerLost) and "does not run" in seen[-1].reason)
        again = FakeExaBGP(files)
        try:
            again.say(*SESSION)
            established = SessionState.ESTABLISHED
            await until(lambda: any(getattr(event, "state", None) == established for event in seen))
        finally:
            again.close()
