"""Dumps that are interrupted or refused, and requests by the hundred, against a peer that plays the kernel."""

import errno
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import pytest

from calico_py.dataplane import nlmsg, rtnl_socket

Answer = Callable[[list[nlmsg.Message]], Sequence[bytes]]
"""The datagrams that answer the messages of one send."""


def entry(number: int, *, interrupted: bool = False) -> bytes:
    flags = nlmsg.NLM_F_MULTI | (nlmsg.NLM_F_DUMP_INTR if interrupted else 0)
    return nlmsg.pack_message(24, flags, 1, bytes((number,)))


def done(error: int = 0) -> bytes:
    return nlmsg.pack_message(nlmsg.NLMSG_DONE, nlmsg.NLM_F_MULTI, 1, (-error).to_bytes(4, "little", signed=True))


def ack(request: nlmsg.Message, error: int = 0) -> bytes:
    body = (-error).to_bytes(4, "little", signed=True) + nlmsg.pack_message(request.type, 0, request.seq, b"")
    return nlmsg.pack_message(nlmsg.NLMSG_ERROR, nlmsg.NLM_F_CAPPED, request.seq, body)


class Peer:
    """Answers each send on each new socket by the next script, the last one for ever."""

    def __init__(self, *scripts: Answer) -> None:
        self._scripts = list(scripts)
        self._threads: list[threading.Thread] = []
        self.sends: list[int] = []

    def open_socket(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        thread = threading.Thread(target=self._serve, args=(theirs, script))
        thread.start()
        self._threads.append(thread)
        return ours

    def _serve(self, theirs: socket.socket, script: Answer) -> None:
        with theirs:
            while data := theirs.recv(1 << 20):
                messages = list(nlmsg.iter_messages(data))
                self.sends.append(len(messages))
                for datagram in script(messages):
                    theirs.send(datagram)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(5)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Peer]]:
    peers: list[Peer] = []

    def play(*scripts: Answer) -> Peer:
        peers.append(Peer(*scripts))
        monkeypatch.setattr(rtnl_socket, "open_socket", peers[-1].open_socket)
        return peers[-1]

    yield play
    for peer in peers:
        peer.join()


def says(*datagrams: bytes) -> Answer:
    return lambda _: datagrams


async def numbers() -> list[int]:
    messages = await rtnl_socket.dump(lambda seq: nlmsg.pack_message(26, nlmsg.NLM_F_DUMP, seq, b""))
    return [message.body[0] for message in messages]


async def test_a_dump_of_several_datagrams(kernel: Callable[..., Peer]) -> None:
    kernel(says(entry(1) + entry(2), entry(3), done()))
    assert await numbers() == [1, 2, 3]


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(says(entry(7, interrupted=True) + entry(8), done()), id="early"),
        pytest.param(says(entry(7), entry(8, interrupted=True), done()), id="late"),
        pytest.param(says(entry(7), done(errno.EINTR)), id="by the end"),
    ],
)
async def test_an_interrupted_dump_is_made_again_from_the_start(kernel: Callable[..., Peer], first: Answer) -> None:
    peer = kernel(first, says(entry(1), done()))
    assert await numbers() == [1]
    assert peer.sends == [1, 1]


async def test_a_dump_goes_on_however_often_it_is_interrupted(
    kernel: Callable[..., Peer], caplog: pytest.LogCaptureFixture
) -> None:
    peer = kernel(*[says(entry(7, interrupted=True), done())] * 25, says(entry(1), done()))
    began = time.monotonic()
    assert await numbers() == [1]
    assert peer.sends == [1] * 26
    assert time.monotonic() - began > 0.1, "without a pause it would keep a core busy"
    (line,) = caplog.messages
    assert "interrupted 20 times" in line


@pytest.mark.parametrize("end", [done(errno.EPERM), ack(nlmsg.Message(26, 0, 1, b""), errno.EPERM)])
async def test_a_refused_dump(kernel: Callable[..., Peer], end: bytes) -> None:
    kernel(says(entry(1), end))
    with pytest.raises(rtnl_socket.DumpRefusedError, match="not permitted"):
        await numbers()


def request(number: int, seq: int, flags: int) -> bytes:
    return nlmsg.pack_message(24, flags, seq, bytes((number % 256,)))


def judge(messages: list[nlmsg.Message]) -> Sequence[bytes]:
    """Multiples of seven are refused; success is said where it was asked for."""
    return [
        ack(message, errno.EEXIST if message.body[0] % 7 == 0 else 0)
        for message in messages
        if message.body[0] % 7 == 0 or message.flags & nlmsg.NLM_F_ACK
    ]


@pytest.mark.parametrize("count", [1, 2, 255, 256, 257, 1000])
async def test_each_request_gets_its_own_answer(kernel: Callable[..., Peer], count: int) -> None:
    peer = kernel(judge)
    answers = await rtnl_socket.exchange([partial(request, number) for number in range(count)])
    assert [answer.errno for answer in answers] == [errno.EEXIST if n % 256 % 7 == 0 else 0 for n in range(count)]
    assert max(peer.sends) <= 256
    assert sum(peer.sends) == count


async def test_no_requests_no_answers(kernel: Callable[..., Peer]) -> None:
    kernel(judge)
    assert await rtnl_socket.exchange([]) == []
