"""Fixtures for every folder, and what a run says of itself at its end."""

import os
import time
from collections.abc import Callable, Generator

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
