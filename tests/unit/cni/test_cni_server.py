"""The agent's end of the shim's socket when descriptors run out, and when the other side is slow."""

import asyncio
import json
import os
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from calico_py.cni import server as module
from calico_py.cni.deferred import DeferredDels
from calico_py.cni.server import Server
from calico_py.cni.verbs import Plugin, Surroundings
from calico_py.cni.wire import Request, pack_request, parse_answer
from tests.fakes.addresses import FakeAddresses
from tests.fakes.wiring import FakePodWiring

VERSION = pack_request(Request({"CNI_COMMAND": "VERSION"}, json.dumps({"cniVersion": "1.0.0"}).encode()))


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[Path]:
    """Of a server's socket."""
    plugin = Plugin(
        wiring=FakePodWiring(),
        addresses=FakeAddresses(),
        surroundings=Surroundings(ready=str, families=tuple, mtu=lambda: 1450),
        deferred=DeferredDels(tmp_path / "del"),
    )
    task = asyncio.create_task(Server(plugin, path=tmp_path / "cni.sock").serve())
    await asyncio.sleep(0.01)
    yield tmp_path / "cni.sock"
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@contextmanager
def no_more_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open("/dev/null", os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_call_is_served_once_there_are_descriptors_again(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shim = socket.socket(socket.AF_UNIX)
    with no_more_descriptors():
        shim.connect(str(path))
        shim.send(VERSION)
        await asyncio.sleep(0.25)
    shim.setblocking(False)
    reader, writer = await asyncio.open_unix_connection(sock=shim)
    async with asyncio.timeout(5):
        status, body = parse_answer(await reader.read())
    writer.close()
    assert (status, "supportedVersions" in json.loads(body)) == (0, True)
    told = [record.getMessage() for record in caplog.records]
    assert len([each for each in told if each.startswith("cannot accept a CNI call")]) == 1, told


async def test_a_request_may_come_in_pieces(path: Path) -> None:
    reader, writer = await asyncio.open_unix_connection(str(path))
    for piece in (VERSION[:7], VERSION[7:40], VERSION[40:]):
        writer.write(piece)
        await asyncio.sleep(0.02)
    assert parse_answer(await reader.read())[0] == 0
    writer.close()


async def test_who_sends_nothing_is_not_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REQUEST_SECONDS", 0.1)
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(VERSION[:7])
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    writer.close()
