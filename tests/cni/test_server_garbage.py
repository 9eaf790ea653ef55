"""The server under garbage: it answers or closes, and goes on serving."""

import asyncio
import json
import random
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from calico_py.cni import wire
from tests.cni.conftest import Agent
from tests.cni.runtime import Runtime, config
from tests.netns.namespaces import Namespace

pytestmark = pytest.mark.root


def _open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def send(runtime: Runtime, data: bytes, *, descriptors: tuple[int, ...] = (), end: bool = True) -> bytes:
    """What comes back until the server closes; with ``end`` we stop sending first."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.setblocking(False)
        await loop.sock_connect(connection, str(runtime.socket))
        received = b""
        try:
            if descriptors:
                socket.send_fds(connection, [data[:1]], descriptors)
                data = data[1:]
            await loop.sock_sendall(connection, data)
            if end:
                connection.shutdown(socket.SHUT_WR)
            while chunk := await loop.sock_recv(connection, 1 << 16):
                received += chunk
        except (BrokenPipeError, ConnectionResetError):
            pass  # the server has seen enough
        return received


def mutations(seed: int) -> list[bytes]:
    """Requests that are broken somehow."""
    chance = random.Random(seed)
    good = wire.pack_request(
        wire.Request({"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c", "CNI_IFNAME": "e"}, json.dumps(config()).encode())
    )
    out = []
    for _ in range(150):
        data = bytearray(good)
        for _ in range(chance.randrange(1, 6)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        out.append(bytes(data[: chance.choice([len(data), chance.randrange(len(data))])]))
        out.append(chance.randbytes(chance.randrange(1, 200)))
    return out


@pytest.mark.parametrize("seed", range(3))
async def test_garbage_harms_nobody(
    agent: Agent, runtime: Runtime, new_pod: Callable[[], Namespace], seed: int
) -> None:
    open_before = _open_descriptors()
    await asyncio.gather(*(send(runtime, data) for data in mutations(seed)))
    await asyncio.sleep(0.05)
    assert _open_descriptors() <= open_before
    assert agent.addresses.held == {}
    assert (await runtime.call("ADD", config(), netns=new_pod().path, pod="web")).status == 0


@pytest.mark.parametrize(
    "stdin",
    [b"", b"[]", b"null", b"\xff\xfe", b'{"cniVersion":[]}', b"[" * 5000, b'{"cniVersion":"1.0.0","name":{}}'],
    ids=lambda value: value[:12].decode(errors="replace"),
)
async def test_a_configuration_that_is_none_gets_a_code(agent: Agent, runtime: Runtime, stdin: bytes) -> None:
    del agent
    answer = await runtime.call("ADD", stdin, netns="/proc/self/ns/net")
    assert answer.code in (1, 6, 7)


async def test_too_many_descriptors_are_closed(agent: Agent, runtime: Runtime) -> None:
    del agent
    request = wire.pack_request(wire.Request({"CNI_COMMAND": "ADD"}))
    open_before = _open_descriptors()
    for _ in range(20):
        data = await send(runtime, request, descriptors=(0, 1, 2))
        assert wire.parse_answer(data)[0] == 1
    await asyncio.sleep(0.05)
    assert _open_descriptors() <= open_before


async def test_a_request_larger_than_announced_is_refused(agent: Agent, runtime: Runtime) -> None:
    del agent
    data = await send(runtime, wire.pack_request(wire.Request({"CNI_COMMAND": "ADD"})) + b"more")
    status, body = wire.parse_answer(data)
    assert (status, json.loads(body)["code"]) == (1, 5)


async def test_a_defect_of_ours_is_told_and_ends_nothing(
    agent: Agent, runtime: Runtime, new_pod: Callable[[], Namespace]
) -> None:
    async def defect(_verb: str) -> None:
        raise RuntimeError("nobody thought of this")

    fault, agent.addresses.fault = agent.addresses.fault, defect
    answer = await runtime.call("ADD", config(), netns=new_pod().path)
    assert answer.code == 999
    assert "nobody thought of this" in answer.json["details"]
    agent.addresses.fault = fault
    assert (await runtime.call("ADD", config(), netns=new_pod().path)).status == 0
