"""What the shim does by itself: the agent is away, hangs, dies amid a call, or talks another version."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from calico_py.cni import wire
from calico_py.cni.config import VERSIONS
from calico_py.cni.results import render_versions
from calico_py.cni.server import listen
from tests.cni.conftest import Agent
from tests.cni.runtime import Runtime, config
from tests.netns.namespaces import Namespace

pytestmark = pytest.mark.root

NewPod = Callable[[], Namespace]
Handler = Callable[[bytes, asyncio.StreamWriter], None]


@asynccontextmanager
async def answering(runtime: Runtime, handle: Handler) -> AsyncIterator[list[bytes]]:
    """A socket that hands each request to a function and closes; the requests."""
    requests: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.read(1 << 20))
        handle(requests[-1], writer)
        writer.close()

    server = await asyncio.start_unix_server(serve, sock=listen(runtime.socket))
    try:
        yield requests
    finally:
        server.close()
        await server.wait_closed()


@asynccontextmanager
async def silent(runtime: Runtime) -> AsyncIterator[None]:
    """An agent that is stopped: the kernel accepts, and nobody reads."""
    listener = listen(runtime.socket)
    try:
        yield
    finally:
        listener.close()


@pytest.mark.parametrize("version", VERSIONS)
async def test_version_is_answered_as_the_agent_would(runtime: Runtime, version: str) -> None:
    """Also the proof that the two know the same versions."""
    answer = await runtime.call("VERSION", {"prevResult": {"cniVersion": "9.9.9"}, "cniVersion": version})
    assert answer.status == 0
    assert answer.json == json.loads(render_versions(version))


@pytest.mark.parametrize("stdin", [b"", b"rubbish", b'{"cniVersion":7}', b'{"cniVersion":"x\\"y"}', b'{"a":"\\'])
async def test_version_is_answered_whatever_comes(runtime: Runtime, stdin: bytes) -> None:
    assert (await runtime.call("VERSION", stdin)).json["cniVersion"] == VERSIONS[-1]


async def test_a_call_by_hand_says_what_it_is(runtime: Runtime) -> None:
    answer = await runtime.call("")
    assert answer.status == 0
    assert answer.stdout == ""
    assert "CNI plugin" in answer.stderr


async def test_calls_wait_five_seconds_for_the_agent(runtime: Runtime) -> None:
    start = time.monotonic()
    verbs = ("ADD", "CHECK", "GC", "NONSENSE")
    answers = await asyncio.gather(*(runtime.call(verb, config("1.1.0"), netns="/proc/self/ns/net") for verb in verbs))
    assert 5 <= time.monotonic() - start < 7
    for answer in answers:
        assert answer.code == 11
        assert answer.json["cniVersion"] == "1.1.0"
        assert "cni.sock" in answer.json["details"]
        assert "calico-node" in answer.json["details"]


async def test_an_agent_that_comes_within_the_time_is_used(
    absent_agent: Agent, runtime: Runtime, new_pod: NewPod
) -> None:
    call = asyncio.create_task(runtime.call("ADD", config(), netns=new_pod().path, pod="web"))
    await asyncio.sleep(1)
    assert not call.done()
    async with absent_agent.serving():
        assert (await call).status == 0


async def test_a_socket_that_a_dead_agent_left_is_no_agent(
    absent_agent: Agent, runtime: Runtime, new_pod: NewPod
) -> None:
    listen(runtime.socket).close()
    call = asyncio.create_task(runtime.call("ADD", config(), netns=new_pod().path, pod="web"))
    await asyncio.sleep(0.5)
    async with absent_agent.serving():
        assert (await call).status == 0


async def test_a_request_that_was_never_begun_is_sent_again(
    absent_agent: Agent, runtime: Runtime, new_pod: NewPod
) -> None:
    """The agent stops with the call in its backlog: nothing was done, so that another may do it."""
    async with silent(runtime):
        call = asyncio.create_task(runtime.call("ADD", config(), netns=new_pod().path, pod="web"))
        await asyncio.sleep(0.3)
    async with absent_agent.serving():
        assert (await call).status == 0
    assert len(absent_agent.addresses.requests) == 1


async def test_status_is_answered_at_once(runtime: Runtime) -> None:
    start = time.monotonic()
    answer = await runtime.call("STATUS", config("1.1.0"))
    assert time.monotonic() - start < 1
    assert answer.code == 50


async def test_status_does_not_wait_for_an_agent_that_hangs(runtime: Runtime) -> None:
    async with silent(runtime):
        start = time.monotonic()
        answer = await runtime.call("STATUS", config("1.1.0"))
        assert time.monotonic() - start < 4
    assert answer.code == 50


async def test_del_is_kept_and_worked_off_before_the_first_add(
    absent_agent: Agent, runtime: Runtime, new_pod: NewPod
) -> None:
    agent = absent_agent
    async with agent.serving():
        for name in ("one", "two"):
            await runtime.call("ADD", config(), netns=new_pod().path, pod=name, container_id=name)
    for name in ("one", "two"):
        start = time.monotonic()
        answer = await runtime.call("DEL", config(), pod=name, container_id=name)
        assert (answer.status, answer.stdout) == (0, "")
        assert time.monotonic() - start < 1
    assert {file.name for file in runtime.deferred.iterdir()} == {"one.eth0", "two.eth0"}
    assert {file.stat().st_mode & 0o777 for file in runtime.deferred.iterdir()} == {0o600}
    async with agent.serving():
        added = await runtime.call("ADD", config(), netns=new_pod().path, pod="three", container_id="three")
        assert added.json["ips"][0]["address"] == "10.65.0.0/32"
        assert set(agent.addresses.held.values()) == {"k8s-pod-network.three"}
    assert list(runtime.deferred.iterdir()) == []


async def test_a_del_that_waits_does_not_hit_a_later_add_of_the_container(
    absent_agent: Agent, runtime: Runtime, new_pod: NewPod
) -> None:
    async with absent_agent.serving():
        await runtime.call("ADD", config(), netns=new_pod().path, pod="web")
    await runtime.call("DEL", config(), pod="web")
    pod = new_pod()
    async with absent_agent.serving():
        result = (await runtime.call("ADD", config(), netns=pod.path, pod="web")).json
        await asyncio.sleep(0.2)
        checked = await runtime.call("CHECK", config(prevResult=result), netns=pod.path, pod="web")
        assert checked.status == 0, checked.stdout


async def test_del_is_kept_for_an_agent_that_hangs(runtime: Runtime) -> None:
    async with silent(runtime):
        answer = await runtime.call("DEL", config(), pod="web")
    assert answer.status == 0
    (file,) = runtime.deferred.iterdir()
    request = wire.parse_request(file.read_bytes())
    assert request.env["CNI_COMMAND"] == "DEL"
    assert request.env["CNI_CONTAINERID"] == "c1"
    assert json.loads(request.stdin) == config()


@pytest.mark.parametrize("name", ["", "../x", ".hidden", "a/b", "-a", "a" * 181])
async def test_a_del_whose_names_make_no_file_name_is_refused(runtime: Runtime, name: str) -> None:
    answer = await runtime.call("DEL", config(), container_id=name)
    assert answer.code == 4
    assert not runtime.deferred.exists()


async def test_a_del_that_cannot_be_kept_fails(runtime: Runtime) -> None:
    runtime.deferred.write_text("a file where the directory should be")
    answer = await runtime.call("DEL", config(), container_id="c1")
    assert answer.code == 5
    assert "cni.sock" in answer.json["details"]


async def test_an_agent_that_dies_amid_a_call_is_told(runtime: Runtime) -> None:
    async with answering(runtime, lambda _request, writer: writer.write(wire.pack_greeting())) as requests:
        answer = await runtime.call("ADD", config(), netns="/proc/self/ns/net")
    assert answer.code == 11
    assert "took the call up" in answer.json["details"]
    assert len(requests) == 1, "an ADD that was begun is not sent twice"


async def test_an_answer_that_ends_early_is_told(runtime: Runtime) -> None:
    def half(_request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write((wire.pack_greeting() + wire.pack_answer(0, b'{"cniVersion":"1.0.0"}'))[:-4])

    async with answering(runtime, half):
        answer = await runtime.call("ADD", config(), netns="/proc/self/ns/net")
    assert answer.code == 11
    assert "ended early" in answer.json["details"]


async def test_a_large_answer_and_a_large_configuration_pass(runtime: Runtime) -> None:
    body = b'"' + b"x" * (3 << 20) + b'"'
    sent: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        collector = wire.RequestReader()
        while (request := collector.feed(await reader.read(1 << 16))) is None:
            pass
        sent.append(len(request.stdin))
        writer.write(wire.pack_greeting() + wire.pack_answer(0, body))
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(serve, sock=listen(runtime.socket))
    large = json.dumps(config(padding="y" * (3 << 20))).encode()
    answer = await runtime.call("ADD", large, netns="/proc/self/ns/net")
    assert answer.stdout.encode() == body
    assert sent == [len(large)]
    server.close()
    await server.wait_closed()


async def test_what_is_too_large_is_refused(runtime: Runtime) -> None:
    answer = await runtime.call("ADD", b" " * ((4 << 20) + 1))
    assert answer.code == 5
    assert "4194304" in answer.json["details"]
    args = "K=" + "v" * (70 << 10)
    assert (await runtime.call("ADD", config(), args=args)).code == 4


async def test_a_namespace_that_cannot_be_opened_is_told_by_the_agent(agent: Agent, runtime: Runtime) -> None:
    answer = await runtime.call("ADD", config(), netns="/run/netns/nowhere")
    assert answer.code == 8
    assert "/run/netns/nowhere: No such file or directory" in answer.json["details"]
    assert agent.addresses.held == {}


async def test_what_is_no_namespace_is_told_by_the_agent(agent: Agent, runtime: Runtime) -> None:
    answer = await runtime.call("ADD", config(), netns="/dev/null")
    assert answer.code == 8
    assert "namespace" in answer.json["details"]
    assert agent.addresses.held == {}


@pytest.mark.parametrize(("status", "body"), [(0, b'{"cniVersion":"1.1.0"}'), (1, b'{"code":11,"msg":"later"}')])
async def test_an_agent_of_a_later_version_is_understood(runtime: Runtime, status: int, body: bytes) -> None:
    """Whether it serves the request of this version or refuses it: greeting and answer never change their form."""
    later = bytes((wire.VERSION + 1,))
    answer = later + wire.pack_answer(status, body)
    async with answering(runtime, lambda _request, writer: writer.write(answer)) as requests:
        found = await runtime.call("ADD", config(), netns="/proc/self/ns/net")
    assert (found.status, found.stdout) == (status, body.decode())
    assert requests[0][0] == wire.VERSION
    assert len(requests) == 1


async def test_a_shim_of_another_version_is_told(agent: Agent, runtime: Runtime) -> None:
    del agent
    with socket.socket(socket.AF_UNIX) as connection:
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(connection, str(runtime.socket))
        await loop.sock_sendall(connection, b"\x63" + bytes(40))
        data = b""
        while chunk := await loop.sock_recv(connection, 4096):
            data += chunk
    status, body = wire.parse_answer(data)
    error = json.loads(body)
    assert (status, error["code"]) == (1, 11)
    assert "found 99, expected 1" in error["details"]
