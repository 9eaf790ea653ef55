"""A datagram flow with numbered packets, and the account of what became of them.

Also a program of its own, without imports from the project, so that it runs in any namespace:
``flows.py send ADDRESS PORT RATE SECONDS SIZE`` and ``flows.py receive ADDRESS PORT`` (until its input ends).
"""

import json
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_SO_RCVBUFFORCE = 33
_BUFFER = 32 << 20
_NUMBER = struct.Struct("!Q")
_SETTLE = 0.5  # seconds that a packet may be under way after the last was sent


@dataclass(frozen=True, slots=True)
class Account:
    """What became of a flow.

    Attributes:
        missing: numbers of the first packets that were lost, at most 20.
        reordered: packets that came after a later one.
    """

    sent: int
    received: int
    duplicates: int
    reordered: int
    missing: tuple[int, ...] = ()

    @property
    def lost(self) -> int:
        """Packets that did not arrive."""
        return self.sent - self.received


class Flow:
    """From one namespace to an address in another, until it is stopped.

    Args:
        enter_sender: command prefix that runs a program where the flow begins; enter_receiver: where it ends.
        rate: packets a second; size: bytes of payload, at least 8.
        seconds: how long it runs if nobody waits for it earlier.
    """

    def __init__(
        self,
        *,
        enter_sender: Sequence[str],
        enter_receiver: Sequence[str],
        address: str,
        port: int = 9000,
        rate: int = 1000,
        seconds: float = 5.0,
        size: int = 64,
    ) -> None:
        program = [sys.executable, "-I", str(Path(__file__).resolve())]
        self._receiver = subprocess.Popen(
            [*enter_receiver, *program, "receive", address, str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._receiver.stdout is not None
        assert self._receiver.stdout.readline() == "ready\n"
        self._sender = subprocess.Popen(
            [*enter_sender, *program, "send", address, str(port), str(rate), str(seconds), str(size)],
            stdout=subprocess.PIPE,
            text=True,
        )

    def finish(self) -> Account:
        """Wait for the sender's end and account."""
        try:
            output, _ = self._sender.communicate(timeout=60)
            time.sleep(_SETTLE)
            answer, _ = self._receiver.communicate(timeout=20)
            got = json.loads(answer)
            return Account(int(output), got["received"], got["duplicates"], got["reordered"], tuple(got["missing"]))
        finally:
            self.kill()

    def kill(self) -> None:
        """End both programs."""
        for process in (self._sender, self._receiver):
            process.kill()
            process.wait()


def _send(address: str, port: int, rate: float, seconds: float, size: int) -> int:
    # Not connected: an ICMP error about one packet would otherwise fail the sending of the next.
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    padding = bytes(size - _NUMBER.size)
    start = time.monotonic()
    number, total = 0, int(rate * seconds)
    while number < total:
        due = min(total, int((time.monotonic() - start) * rate) + 1)
        while number < due:
            try:
                sock.sendto(_NUMBER.pack(number) + padding, (address, port))
            except OSError as error:
                print(f"packet {number}: {error}", file=sys.stderr)
            number += 1
        time.sleep(max(0.0, min(0.001, start + number / rate - time.monotonic())))
    return total


def _receive(address: str, port: int) -> dict[str, object]:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
    sock.bind((address, port))
    sock.setblocking(False)
    print("ready", flush=True)
    seen: set[int] = set()
    highest, duplicates, reordered = -1, 0, 0
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    poll.register(sys.stdin, select.POLLIN)
    ended = False
    while True:
        try:
            (number,) = _NUMBER.unpack_from(sock.recv(65535))
        except BlockingIOError:
            if ended:
                break
            ended = any(fd == sys.stdin.fileno() for fd, _ in poll.poll())
            continue
        duplicates += number in seen
        reordered += number < highest
        highest = max(highest, number)
        seen.add(number)
    missing = [number for number in range(highest + 1) if number not in seen][:20]
    return {"received": len(seen), "duplicates": duplicates, "reordered": reordered, "missing": missing}


if __name__ == "__main__":
    if sys.argv[1] == "send":
        print(_send(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), float(sys.argv[5]), int(sys.argv[6])))
    else:
        print(json.dumps(_receive(sys.argv[2], int(sys.argv[3]))))
