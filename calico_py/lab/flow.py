"""A flow of numbered datagrams in both directions, and what became of them. Standard library only.

Each end sends and receives: ``python -m calico_py.lab.flow --local ADDRESS --peer ADDRESS``. It is driven by lines on
its standard input, so that both ends begin and end together: it says ``receiving`` once its socket is open, sends
from ``go`` to ``stop``, receives until ``report``, and prints one. Loss needs both reports: what one end sent and the
other did not receive. Times are CLOCK_MONOTONIC, which all namespaces of a machine share.
"""

import argparse
import ipaddress
import json
import os
import select
import socket
import struct
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

PORT = 7777
RATE = 1000  # datagrams a second
SIZE = 64  # bytes of UDP payload

_HEADER = struct.Struct("!Qd")  # sequence number, time of sending
_BUFFER = 8 * 2**20  # bytes; what the process is too slow to read must not count as lost by the network
_SO_RCVBUFFORCE = 33  # asm-generic/socket.h
_SO_MEMINFO = 55
_MEMINFO = struct.Struct("=9I")  # linux/sock_diag.h, SK_MEMINFO_*; the last is SK_MEMINFO_DROPS
_STDIN = 0
_SHOWN = 20  # sequence numbers of lost datagrams that a result names


@dataclass(slots=True)
class Report:
    """What one end did and saw.

    Attributes:
        sent: datagrams handed to the kernel or refused by it. refused: by errno's message, how often.
        received: how often each sequence number came. reordered: arrivals after one with a higher number.
        gap: longest time without an arrival, seconds. latency: longest way of a datagram, seconds.
        dropped: by the receiver's own socket buffer: a slow process, not the network.
    """

    sent: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    received: dict[int, int] = field(default_factory=dict)
    reordered: int = 0
    last_received: float = 0.0
    gap: float = 0.0
    latency: float = 0.0
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class Direction:
    """One direction of a flow.

    Attributes:
        gap: longest silence, milliseconds. latency: longest way, milliseconds.
        dropped: of the lost, those that reached the receiver's socket and were not read in time.
        missing: sequence numbers of the first few that were lost.
        refused: what the sender's kernel said to datagrams that it did not take.
    """

    sent: int
    received: int
    lost: int
    duplicates: int
    reordered: int
    gap: float
    latency: float
    dropped: int = 0
    missing: tuple[int, ...] = ()
    refused: Mapping[str, int] = field(default_factory=dict)

    def describe(self) -> str:
        """For people."""
        said = f"sent {self.sent}, lost {self.lost}, duplicates {self.duplicates}, reordered {self.reordered}, "
        said += f"longest gap {self.gap} ms, longest way {self.latency} ms"
        if self.dropped:
            said += f", dropped by the receiver's own socket {self.dropped}"
        return said + "".join(f", refused by the sender's kernel {n} ({why})" for why, n in self.refused.items())

    def to_json(self) -> dict[str, Any]:
        """For -o json."""
        return asdict(self)


def compute_direction(sender: Mapping[str, Any], receiver: Mapping[str, Any]) -> Direction:
    """What became of the sender's datagrams, from the two ends' reports as JSON."""
    sent = int(sender["sent"])
    counts = {int(number): int(count) for number, count in receiver["received"]}
    missing = [number for number in range(sent) if number not in counts]
    return Direction(
        sent=sent,
        received=sent - len(missing),
        lost=len(missing),
        duplicates=sum(count - 1 for count in counts.values()),
        reordered=int(receiver["reordered"]),
        gap=round(1000 * float(receiver["gap"]), 1),
        latency=round(1000 * float(receiver["latency"]), 1),
        dropped=int(receiver["dropped"]),
        missing=tuple(missing[:_SHOWN]),
        refused=dict(sender["refused"]),
    )


class Flow:
    """One end: sends at a steady rate and notes what arrives."""

    def __init__(self, local: tuple[str, int], peer: tuple[str, int], *, rate: int, size: int) -> None:
        family = socket.AF_INET6 if ipaddress.ip_address(peer[0]).version == 6 else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        self._socket.bind(local)
        self._socket.setblocking(False)
        self._peer = peer
        self._rate = rate
        self._padding = bytes(max(0, size - _HEADER.size))
        self._highest = -1
        self._heard = b""
        self.report = Report()

    def run(self) -> Report:
        """Obey standard input: go, stop, report; its end counts as all three."""
        self._until(b"go")
        begun = time.monotonic()
        while b"stop" not in self._heard:
            now = time.monotonic()
            due = begun + self.report.sent / self._rate
            if now >= due:
                self._send(now)
            self._wait(max(0.0, due - now))
        self._until(b"report")
        drops = _MEMINFO.unpack(self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size))[-1]
        self.report.dropped = int(drops)
        self._socket.close()
        return self.report

    def _until(self, word: bytes) -> None:
        while word not in self._heard:
            self._wait(None)

    def _wait(self, seconds: float | None) -> None:
        """Receive what arrives, and hear what is said, within so many seconds (None: for ever)."""
        ready, _, _ = select.select([self._socket.fileno(), _STDIN], [], [], seconds)
        if self._socket.fileno() in ready:
            self._receive()
        if _STDIN in ready:
            self._heard += os.read(_STDIN, 100) or b"go stop report"

    def _send(self, now: float) -> None:
        datagram = _HEADER.pack(self.report.sent, now) + self._padding
        self.report.sent += 1
        try:
            self._socket.sendto(datagram, self._peer)
        except OSError as error:
            reason = error.strerror or str(error)
            self.report.refused[reason] = self.report.refused.get(reason, 0) + 1

    def _receive(self) -> None:
        """All that has arrived."""
        while True:
            try:
                datagram = self._socket.recv(65536)
            except OSError:
                return  # nothing more, or an ICMP error for something that was sent: the count tells
            number, sent = _HEADER.unpack_from(datagram)
            self._note(number, sent, time.monotonic())

    def _note(self, number: int, sent: float, now: float) -> None:
        report = self.report
        report.received[number] = report.received.get(number, 0) + 1
        report.gap = max(report.gap, now - (report.last_received or now))
        report.last_received = now
        report.latency = max(report.latency, now - sent)
        if number < self._highest:
            report.reordered += 1
        self._highest = max(self._highest, number)


def render_report(report: Report) -> str:
    """As one line of JSON; the counts as pairs, since JSON's keys are strings."""
    return json.dumps(asdict(report) | {"received": sorted(report.received.items())})


def main(arguments: Iterable[str] | None = None) -> None:
    """One end, as a program."""
    parser = argparse.ArgumentParser(prog="calico_py.lab.flow", description=__doc__)
    parser.add_argument("--local", required=True, help="address to bind")
    parser.add_argument("--peer", required=True, help="address to send to")
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--rate", type=int, default=RATE, help="datagrams a second")
    parser.add_argument("--size", type=int, default=SIZE, help="bytes of payload")
    given = parser.parse_args(list(arguments) if arguments is not None else None)
    flow = Flow((given.local, given.port), (given.peer, given.port), rate=given.rate, size=given.size)
    print("receiving", flush=True)
    print(render_report(flow.run()), flush=True)


if __name__ == "__main__":
    main()
