"""Pings from a node or pod with the system's ping(8), and what they say as data."""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from calico_py.lab.commands import LabError
from calico_py.lab.live import Endpoint

_INTERVAL = 0.2  # seconds; the least that ping grants everybody
_WAIT = 2  # seconds for the last answer

_COUNTS = re.compile(r"(\d+) packets transmitted, (\d+) received")
_DUPLICATES = re.compile(r"\+(\d+) duplicates")
_TIMES = re.compile(r"= ([\d.]+)/([\d.]+)/([\d.]+)/")


@dataclass(frozen=True, slots=True)
class PingResult:
    """What came back.

    Attributes:
        times: least, mean and greatest round trip, milliseconds; None if nothing came back.
        said: ping's own last words when something is wrong.
    """

    address: IPv4Address | IPv6Address
    sent: int
    received: int
    duplicates: int = 0
    times: tuple[float, float, float] | None = None
    said: str = ""

    @property
    def ok(self) -> bool:
        """Whether all were answered."""
        return self.sent == self.received > 0

    def to_json(self) -> dict[str, object]:
        """For -o json."""
        times = dict(zip(("min", "avg", "max"), self.times, strict=True)) if self.times else None
        return {
            "address": str(self.address),
            "sent": self.sent,
            "received": self.received,
            "lost": self.sent - self.received,
            "duplicates": self.duplicates,
            "rtt_ms": times,
            "error": self.said,
        }


def ping(source: Endpoint, to: IPv4Address | IPv6Address, *, count: int = 3) -> PingResult:
    """Send so many echo requests, five a second.

    Raises:
        LabError: ping itself did not run.
    """
    done = source.run(["ping", "-n", "-i", str(_INTERVAL), "-c", str(count), "-W", str(_WAIT), str(to)])
    return parse_ping(to, done.stdout, done.stderr)


def parse_ping(to: IPv4Address | IPv6Address, output: str, errors: str) -> PingResult:
    """The result in what ping (iputils) prints.

    Raises:
        LabError: there is no result in it.
    """
    counts = _COUNTS.search(output.replace("+", " +"))
    if counts is None:
        said = errors.strip() or output.strip() or "no output"
        if "unreachable" not in said:
            raise LabError(f"ping {to}: {said}")
        return PingResult(to, 0, 0, said=said)
    sent, received = int(counts[1]), int(counts[2])
    times, duplicates = _TIMES.search(output), _DUPLICATES.search(output)
    answers = [line for line in output.splitlines() if line.startswith("From ")]
    return PingResult(
        address=to,
        sent=sent,
        received=received,
        duplicates=int(duplicates[1]) if duplicates else 0,
        times=(float(times[1]), float(times[2]), float(times[3])) if times else None,
        said=(answers[-1] if answers else errors.strip()) if received < sent else "",
    )
