"""Running a flow (calico_py.lab.flow) between two endpoints of a lab."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from calico_py.lab import flow
from calico_py.lab.commands import LabError
from calico_py.lab.flow import Direction, compute_direction
from calico_py.lab.live import Endpoint
from calico_py.model.net import Family

LINGER = 1.0  # seconds for what is under way when the senders stop
_WITHIN = 20.0  # seconds
_APART = 0.1  # seconds between the beginning of one end and of the other


@dataclass(frozen=True, slots=True)
class FlowResult:
    """Both directions: ``there`` from source to target, ``back`` from target to source."""

    there: Direction
    back: Direction

    @property
    def lost(self) -> int:
        """Datagrams lost in either direction."""
        return self.there.lost + self.back.lost

    def lines(self, source: str, target: str) -> list[str]:
        """For people: a line for each direction and the sum."""
        ways = ((source, target, self.there), (target, source, self.back))
        return [*(f"{start} -> {end}: {way.describe()}" for start, end, way in ways), f"lost: {self.lost}"]

    def to_json(self) -> dict[str, Any]:
        """For -o json."""
        return {"lost": self.lost, "there": self.there.to_json(), "back": self.back.to_json()}


class RunningFlow:
    """Two ends that send to each other; ``stop`` ends them and tells the result."""

    def __init__(self, ends: tuple["subprocess.Popen[str]", "subprocess.Popen[str]"]) -> None:
        self._ends = ends
        for end in ends:
            if _line(end).strip() != "receiving":
                raise LabError(f"flow: an end did not start: {_rest(end)}")
        # One after the other: of two first packets that cross each other, one of which natOutgoing is to translate,
        # connection tracking drops one (nf_conntrack, insert_failed), whatever the routes do.
        for end in ends:
            self._tell(end, "go")
            time.sleep(_APART)

    def stop(self) -> FlowResult:
        """Stop sending, wait for what is under way, and compare what was sent with what came.

        Raises:
            LabError: an end has died.
        """
        return stop_all([self])[0]

    def report(self) -> FlowResult:
        """What came of what was sent; once, after ``stop`` was said.

        Raises:
            LabError: an end has died.
        """
        self.say("report")
        reports = []
        for end in self._ends:
            try:
                reports.append(json.loads(_line(end)))
            except ValueError:
                raise LabError(f"flow: an end gave no report: {_rest(end)}") from None
        here, there = reports
        return FlowResult(compute_direction(here, there), compute_direction(there, here))

    def say(self, word: str) -> None:
        """Give both ends a word of calico_py.lab.flow: go, stop, report."""
        for end in self._ends:
            self._tell(end, word)

    def _tell(self, end: "subprocess.Popen[str]", word: str) -> None:
        assert end.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            end.stdin.write(f"{word}\n")
            end.stdin.flush()


def stop_all(running: Sequence[RunningFlow]) -> list[FlowResult]:
    """Stop several flows at once; their results in order.

    Raises:
        LabError: an end has died.
    """
    for each in running:
        each.say("stop")
    time.sleep(LINGER)
    return [each.report() for each in running]


@contextlib.contextmanager
def running_flow(
    source: Endpoint,
    target: Endpoint,
    *,
    family: Family | None = None,
    rate: int = flow.RATE,
    size: int = flow.SIZE,
    port: int = flow.PORT,
) -> Iterator[RunningFlow]:
    """A flow that runs while the block does; its ends are gone afterwards, however the block ends.

    Raises:
        LabError: an end has no address of that family, or did not start.
    """
    here, there = source.address(family), target.address(family)
    with contextlib.ExitStack() as stack:
        ends = []
        for endpoint, local, peer in ((source, here, there), (target, there, here)):
            argv = [sys.executable, "-m", "calico_py.lab.flow", "--local", str(local), "--peer", str(peer)]
            argv += ["--rate", str(rate), "--size", str(size), "--port", str(port)]
            end = endpoint.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            stack.callback(_end, end)
            ends.append(end)
        yield RunningFlow((ends[0], ends[1]))


def run(source: Endpoint, target: Endpoint, seconds: float, **options: Any) -> FlowResult:
    """A flow of so many seconds; options as running_flow has them."""
    with running_flow(source, target, **options) as running:
        time.sleep(seconds)
        return running.stop()


def _end(end: "subprocess.Popen[str]") -> None:
    end.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        end.wait(_WITHIN)
    if end.returncode is None:
        end.kill()
        end.wait()
    for stream in (end.stdin, end.stdout, end.stderr):
        if stream:
            with contextlib.suppress(BrokenPipeError):
                stream.close()


def _line(end: "subprocess.Popen[str]") -> str:
    assert end.stdout is not None
    return end.stdout.readline()


def _rest(end: "subprocess.Popen[str]") -> str:
    end.kill()
    return (end.communicate()[1] or "").strip() or "it said nothing"
