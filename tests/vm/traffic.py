"""Many datagram flows between namespaces by one process, and the account of each.

A process for each end, as netns/flows.py has them, is too much for a guest without KVM. As a program of its own
(``python -m tests.vm.traffic``): the flows as JSON in the one argument, until its input ends.
"""

import json
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.netns.flows import Account
from tests.netns.tunnel_nodes import inside

RATE = 100  # packets a second of each flow
_PORT = 9000  # of the first flow; each has its own, so that two may end in one namespace
_NUMBER = struct.Struct("!Q")
_BUFFER = 4 << 20
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h
_SETTLE = 1.0  # seconds without a packet, after the last was sent
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Way:
    """A flow.

    Attributes:
        name: for people.
        sender, receiver: names of the namespaces.
        address: of the receiver.
        size: bytes of payload.
    """

    name: str
    sender: str
    receiver: str
    address: str
    size: int


class Traffic:
    """All flows, from the making of the object until ``stop``.

    Attributes:
        began: monotonic time of the first packets, seconds; number N of each flow was sent N / RATE after it.
    """

    def __init__(self, ways: Sequence[Way]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.vm.traffic", json.dumps([asdict(way) for way in ways])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        self.began = time.monotonic()

    def stop(self) -> dict[str, Account]:
        """Send no more, wait for what is under way, and account."""
        try:
            answer, _ = self._process.communicate(timeout=60)
            return {name: Account(**account) for name, account in json.loads(answer).items()}
        finally:
            self.kill()

    def kill(self) -> None:
        """End the program."""
        self._process.kill()
        self._process.wait()


class _Flow:
    """Both ends of one."""

    def __init__(self, way: Way, port: int) -> None:
        self._target = (way.address, port)
        self._padding = bytes(way.size - _NUMBER.size)
        with inside(way.sender):
            self._out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with inside(way.receiver):
            self.receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.receiver.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        self.receiver.setblocking(False)
        self.receiver.bind(self._target)
        self._sent, self._duplicates, self._reordered, self._highest = 0, 0, 0, -1
        self._seen: set[int] = set()

    def send(self) -> None:
        """The next packet; one that the kernel refuses counts as sent."""
        try:
            self._out.sendto(_NUMBER.pack(self._sent) + self._padding, self._target)
        except OSError as error:
            print(f"{self._target}, packet {self._sent}: {error}", file=sys.stderr)
        self._sent += 1

    def receive(self) -> None:
        """All that has arrived."""
        while True:
            try:
                (number,) = _NUMBER.unpack_from(self.receiver.recv(65535))
            except BlockingIOError:
                return
            self._duplicates += number in self._seen
            self._reordered += number < self._highest
            self._highest = max(self._highest, number)
            self._seen.add(number)

    def account(self) -> Account:
        missing = [number for number in range(self._sent) if number not in self._seen]
        return Account(self._sent, len(self._seen), self._duplicates, self._reordered, tuple(missing[:_SHOWN]))


def _run(flows: Sequence[_Flow]) -> None:
    poll = select.poll()
    by_descriptor = {flow.receiver.fileno(): flow for flow in flows}
    for descriptor in (*by_descriptor, sys.stdin.fileno()):
        poll.register(descriptor, select.POLLIN)
    print("ready", flush=True)
    due = time.monotonic()
    sending = True
    while True:
        patience = max(0.0, due - time.monotonic()) if sending else _SETTLE
        ready = [descriptor for descriptor, _ in poll.poll(1000 * patience)]
        for descriptor in ready:
            if descriptor in by_descriptor:
                by_descriptor[descriptor].receive()
            else:
                sending = False
                poll.unregister(descriptor)
        if not ready and not sending:
            return
        if sending and time.monotonic() >= due:
            due += 1 / RATE
            for flow in flows:
                flow.send()


if __name__ == "__main__":
    made = {
        way.name: _Flow(way, _PORT + number)
        for number, way in enumerate(Way(**fields) for fields in json.loads(sys.argv[1]))
    }
    _run(list(made.values()))
    print(json.dumps({name: asdict(flow.account()) for name, flow in made.items()}))
