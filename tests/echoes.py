"""Questions to a server that echoes, by datagrams or over one TCP connection, through whatever translates addresses.

Also a program of its own, without imports from the project, so that it runs in any namespace: ``echoes.py serve PORT``
answers both; ``echoes.py ask HOW ADDRESS PORT`` (udp, tcp) asks until its input ends, and then says what came of it.
"""

import contextlib
import json
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

How = Literal["udp", "tcp"]

RATE = 100  # questions a second
_PATIENCE = 3.0  # seconds for what is under way when the last question has been asked
_WITHIN = 20.0  # seconds for a program's word

_BUFFER = 8 << 20  # bytes; what a program is too slow to read must not count as lost by the network
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h

# A question and its answer: its number, and the source from which the server heard it.
_RECORD = struct.Struct("!Q56s")

# linux/tcp.h: offsets of tcpi_total_retrans and tcpi_dsack_dups in struct tcp_info.
_TOTAL_RETRANS, _DSACK_DUPS = 100, 216


@dataclass(frozen=True, slots=True)
class Echoes:
    """What came of the questions.

    Attributes:
        sources: from which the server heard them, in order of their first appearance.
        gap: longest time without an answer, seconds.
        missing: segments of the client that TCP had to send again, as the server had not got them; without those
            that were only late, as where the whole machine stands still for longer than a retransmission timeout.
        broken: why the TCP connection ended before its time; empty if it did not.
    """

    asked: int
    answered: int
    sources: tuple[str, ...]
    gap: float
    missing: int = 0
    broken: str = ""

    @property
    def lost(self) -> int:
        """Questions without an answer."""
        return self.asked - self.answered

    @property
    def whole(self) -> bool:
        """Nothing was lost, not even for a moment, and the server has noticed nothing."""
        return not self.lost and not self.missing and not self.broken and len(self.sources) == 1


class Asking:
    """A client that runs."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def stop(self) -> Echoes:
        """Ask nothing more, wait for the answers, and tell."""
        answer, _ = self._process.communicate(timeout=_WITHIN)
        found = json.loads(answer)
        return Echoes(**{**found, "sources": tuple(found["sources"])})


# Starts a program in a namespace, with the keywords of subprocess.Popen.
Start = Callable[..., "subprocess.Popen[str]"]


@contextlib.contextmanager
def serving(start: Start, port: int) -> Iterator[None]:
    """A server where ``start`` starts programs, while the block runs."""
    with _program(start, "serve", str(port)):
        yield


@contextlib.contextmanager
def asking(start: Start, how: How, address: str, port: int) -> Iterator[Asking]:
    """A client of that address, from its first answer on."""
    with _program(start, "ask", how, address, str(port)) as process:
        yield Asking(process)


@contextlib.contextmanager
def _program(start: Start, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    argv = [sys.executable, "-I", str(Path(__file__).resolve()), *arguments]
    process = start(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        said = process.stdout.readline() if select.select([process.stdout], [], [], _WITHIN)[0] else "no answer"
        assert said == "ready\n", f"{arguments}: {said}{process.stderr.read() if not said else ''}"
        yield process
    finally:
        process.kill()
        process.communicate()


def _serve(port: int) -> None:
    """Answer until the input ends."""
    datagrams = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    datagrams.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
    datagrams.bind(("::", port))
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    streams: dict[socket.socket, bytes] = {}
    print("ready", flush=True)
    while True:
        ready, _, _ = select.select([sys.stdin, datagrams, listener, *streams], [], [])
        for each in ready:
            if each is sys.stdin:
                return
            if each is datagrams:
                question, peer = datagrams.recvfrom(2048)
                datagrams.sendto(_answer(question, peer), peer)
            elif each is listener:
                streams[listener.accept()[0]] = b""
            elif each in streams:
                _serve_stream(each, streams)


def _serve_stream(stream: socket.socket, streams: dict[socket.socket, bytes]) -> None:
    try:
        heard = stream.recv(65536)
        if not heard:
            raise ConnectionResetError
        heard = streams[stream] + heard
        whole = len(heard) // _RECORD.size * _RECORD.size
        for start in range(0, whole, _RECORD.size):
            stream.sendall(_answer(heard[start : start + _RECORD.size], stream.getpeername()))
        streams[stream] = heard[whole:]
    except OSError:
        del streams[stream]
        stream.close()


def _answer(question: bytes, peer: tuple[Any, ...]) -> bytes:
    number, _ = _RECORD.unpack(question)
    address = str(peer[0]).removeprefix("::ffff:")
    return _RECORD.pack(number, f"{address} {peer[1]}".encode())


class _Client:
    """Asks at a steady rate and notes what is answered."""

    def __init__(self, how: How, address: str, port: int) -> None:
        self._tcp = how == "tcp"
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM if self._tcp else socket.SOCK_DGRAM)
        if not self._tcp:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        self._socket.settimeout(_PATIENCE)
        self._socket.connect((address, port))
        self._socket.setblocking(False)
        self._asked = 0
        self._answered: set[int] = set()
        self._sources: dict[str, None] = {}
        self._unsent = b""
        self._heard = b""
        self._last = time.monotonic()
        self._gap = 0.0
        self._broken = ""

    def run(self) -> Echoes:
        """Until the input ends, and then for as long as answers are missing."""
        begun = time.monotonic()
        told = ended = False
        deadline = float("inf")
        while time.monotonic() < deadline and not (ended and len(self._answered) == self._asked) and not self._broken:
            due = begun + self._asked / RATE
            if not ended and time.monotonic() >= due:
                self._ask()
            wait = max(0.0, due - time.monotonic()) if not ended else 0.01
            ready, _, _ = select.select([self._socket, *([] if ended else [sys.stdin])], [], [], wait)
            if self._socket in ready:
                self._hear()
            if self._answered and not told:
                told = True
                print("ready", flush=True)
            if sys.stdin in ready:
                ended, deadline = True, time.monotonic() + _PATIENCE
        return Echoes(
            self._asked, len(self._answered), tuple(self._sources), round(self._gap, 3), self._missing(), self._broken
        )

    def _ask(self) -> None:
        self._unsent += _RECORD.pack(self._asked, b"")
        self._asked += 1
        try:
            self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except BlockingIOError:
            pass
        except OSError as error:
            self._fail(error)

    def _hear(self) -> None:
        try:
            heard = self._socket.recv(65536)
        except OSError as error:
            self._fail(error)
            return
        if self._tcp and not heard:
            self._broken = "closed by the server"
        heard = self._heard + heard
        whole = len(heard) // _RECORD.size * _RECORD.size
        for start in range(0, whole, _RECORD.size):
            number, source = _RECORD.unpack_from(heard, start)
            self._answered.add(number)
            self._sources.setdefault(source.rstrip(b"\0").decode())
        self._heard = heard[whole:]
        now = time.monotonic()
        self._gap, self._last = max(self._gap, now - self._last), now

    def _fail(self, error: OSError) -> None:
        """A refused datagram is a lost one; a refused segment is the end."""
        if self._tcp:
            self._broken = str(error)
        else:
            self._unsent = b""

    def _missing(self) -> int:
        """A duplicate is acknowledged as such (RFC 2883)."""
        if not self._tcp:
            return 0
        info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 512)
        again, duplicates = (int.from_bytes(info[at : at + 4], sys.byteorder) for at in (_TOTAL_RETRANS, _DSACK_DUPS))
        return again - duplicates


def main(arguments: list[str]) -> None:
    """As a program."""
    match arguments:
        case ["serve", port]:
            _serve(int(port))
        case ["ask", "udp" | "tcp" as how, address, port]:
            print(json.dumps(asdict(_Client(how, address, int(port)).run())))


if __name__ == "__main__":
    main(sys.argv[1:])
