"""Fixtures for every folder."""

import time
from collections.abc import Callable

import pytest


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
