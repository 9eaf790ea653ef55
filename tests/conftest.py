"""Fixtures for every folder, and what a run says of itself at its end."""

import contextlib
import fcntl
import functools
import os
import re
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from tests.figures import Figures

CI = os.environ.get("CI") == "true"
CLUSTER = "tests/cluster/"
LAST = "alone"
# Dear folders first, so that at the end no worker waits long for the other.
DEAR = ("tests/cluster", "tests/vm", "tests/lab", "tests/bgp", "tests/product", "tests/cni", "tests/netns")

# Without the phase that explains a failure: it parses sources deep in the stack, where CPython 3.11's ast gives up.
PHASES = [phase for phase in hypothesis.Phase if phase != hypothesis.Phase.explain]
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True, phases=PHASES)
hypothesis.settings.register_profile("dev", deadline=None, phases=PHASES)
hypothesis.settings.load_profile("ci" if CI else "dev")


@pytest.fixture
def benchmark_seconds() -> Callable[[Callable[[], object]], float]:
    """The best of three runs, in seconds: a coarse guard against a change of complexity, not a benchmark."""

    def measure(run: Callable[[], object]) -> float:
        best = float("inf")
        for _ in range(3):
            start = time.perf_counter()
            run()
            best = min(best, time.perf_counter() - start)
        return best

    return measure


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Iterator[Figures]:
    """To be filled by a benchmark, whose docstring gives the title; it fails where a figure exceeds its limit."""
    title = (request.function.__doc__ or request.node.name).strip().splitlines()[0].rstrip(".")
    found = Figures(title, str(request.path.relative_to(request.config.rootpath)))
    yield found
    found.keep()
    assert not found.missed(), f"missed: {', '.join(found.missed())}"


@contextlib.contextmanager
def locked(path: Path, how: int) -> Iterator[None]:
    """Hold a flock(2) on a file."""
    with path.open("w") as file:
        fcntl.flock(file, how)
        yield


@dataclass(frozen=True, slots=True)
class Turns:
    """Who of a run's workers may do something now.

    Attributes:
        folder: of the files that are locked; None where there is one worker.
    """

    folder: Path | None

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """While nobody else does anything.

        The door is closed first, so that others cannot keep this one waiting, which then waits for those inside.
        """
        if self.folder is None:
            yield
            return
        with locked(self.folder / "door", fcntl.LOCK_EX), locked(self.folder / "room", fcntl.LOCK_EX):
            yield

    @contextlib.contextmanager
    def beside_others(self) -> Iterator[None]:
        """While others who do not mind do what they do."""
        if self.folder is None:
            yield
            return
        with contextlib.ExitStack() as stack:
            with locked(self.folder / "door", fcntl.LOCK_SH):
                stack.enter_context(locked(self.folder / "room", fcntl.LOCK_SH))
            yield


@pytest.fixture(scope="session")
def turns(tmp_path_factory: pytest.TempPathFactory) -> Turns:
    """For fixtures that work outside the turn of a test, and long: those of a session or a module."""
    several = "PYTEST_XDIST_WORKER" in os.environ
    return Turns(tmp_path_factory.getbasetemp().parent if several else None)


@pytest.fixture(autouse=True)
def _turn(request: pytest.FixtureRequest, turns: Turns) -> Iterator[None]:
    """While a test marked ``alone`` runs, no other of this run does: it judges packets or times."""
    with turns.alone() if request.node.get_closest_marker("alone") else turns.beside_others():
        yield


class Schedule(LoadFileScheduling):  # type: ignore[misc]  # xdist has no annotations that mypy may read
    """A worker for each file of tests; one for all those of tests/cluster, which share their cluster.

    Files whose tests run alone are one worker's too, and the last: two such workers would only wait for each other.
    """

    def _split_scope(self, nodeid: str) -> str:
        scope: str = super()._split_scope(nodeid)
        if scope.startswith(CLUSTER):
            return CLUSTER
        return LAST if runs_alone(self.config.rootpath / scope) else scope


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Schedule:
    """Whichever ``--dist`` says."""
    config.option.loadscopereorder = False  # as they were collected
    return Schedule(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Under CI a skip is a failure: a gap must not look green."""
    report = yield
    if CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which counts as a failure under CI: {report.longrepr}"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many tests there were and how many ran, whichever process ran them."""
    ran = {
        report.nodeid
        for outcome in ("passed", "failed", "error", "xfailed", "xpassed")
        for report in terminalreporter.getreports(outcome)
    }
    skipped = {report.nodeid for report in terminalreporter.getreports("skipped")}
    terminalreporter.write_line(f"collected {len(ran | skipped)} tests, ran {len(ran)}")


@functools.cache
def runs_alone(file: Path) -> bool:
    """Whether a file marks all its tests as such."""
    return re.search(r"^pytestmark = .*pytest\.mark\.alone", file.read_text(), re.MULTILINE) is not None


def refuse_alone_among_others(item: pytest.Item) -> None:
    """Amid a run such a test waits for the longest of the others, and keeps all from beginning another."""
    if item.get_closest_marker("alone") and not runs_alone(item.path) and CLUSTER not in item.path.as_posix():
        raise pytest.UsageError(
            f"{item.nodeid}: runs alone, so its file's pytestmark must say so; give it its own file"
        )


def rank(item: pytest.Item) -> tuple[bool, int]:
    """The place of an item's file in the order of a run."""
    folder = item.path.relative_to(item.config.rootpath).parent.as_posix()
    return runs_alone(item.path), DEAR.index(folder) if folder in DEAR else len(DEAR)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Benchmarks are named bench_*.py and never collected by default; root tests need root."""
    items.sort(key=rank)
    for item in items:
        refuse_alone_among_others(item)
    for item in items:
        if item.get_closest_marker("root") and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root: it makes network namespaces"))
