"""Fixtures for every folder, and what a run says of itself at its end."""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import hypothesis
import pytest

CI = os.environ.get("CI") == "true"

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


@contextlib.contextmanager
def locked(path: Path, how: int) -> Iterator[None]:
    """Hold a flock(2) on a file."""
    with path.open("w") as file:
        fcntl.flock(file, how)
        yield


@pytest.fixture(autouse=True)
def _alone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """While a test marked ``alone`` runs, no other of this run does: it judges packets or times.

    Such a test first closes the door, so that others cannot keep it waiting, then waits until those inside are done.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        yield
        return
    door, room = (tmp_path_factory.getbasetemp().parent / name for name in ("door", "room"))
    if request.node.get_closest_marker("alone"):
        with locked(door, fcntl.LOCK_EX), locked(room, fcntl.LOCK_EX):
            yield
        return
    with contextlib.ExitStack() as stack:
        with locked(door, fcntl.LOCK_SH):
            stack.enter_context(locked(room, fcntl.LOCK_SH))
        yield


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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Benchmarks are named bench_*.py and never collected by default; root tests need root."""
    for item in items:
        if item.get_closest_marker("root") and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root: it makes network namespaces"))
