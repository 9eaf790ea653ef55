"""Steps: long pure work, taken apart so that an event loop has its turn in between.

With some thousand nodes one computation takes longer than an ADD may wait. What is computed must not change meanwhile:
it works on frozen values and on copies.
"""

import asyncio
import time
from collections.abc import Generator
from typing import TypeAlias, TypeVar

T = TypeVar("T")

Steps: TypeAlias = Generator[None, None, T]
"""Work that yields wherever it may pause, and returns its result."""

SLICE = 0.001  # seconds; an ADD takes several turns of the loop, and waits for a slice at each


def finish(steps: Steps[T]) -> T:
    """The result, without a pause."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


async def finish_in_slices(steps: Steps[T]) -> T:
    """The result; whatever else is ready to run does so after each slice."""
    until = time.monotonic() + SLICE
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        if time.monotonic() >= until:
            await asyncio.sleep(0)
            until = time.monotonic() + SLICE
