"""Long work in steps: the same result either way, and others have their turn meanwhile."""

import asyncio
import time

from calico_py.steps import SLICE, Steps, finish, finish_in_slices


def count(to: int, *, seconds: float = 0.0) -> Steps[int]:
    for _ in range(to):
        time.sleep(seconds)
        yield
    return to


async def turns(work: Steps[int]) -> int:
    """How often another task had its turn until the work was done."""
    done = asyncio.create_task(finish_in_slices(work))
    had = 0
    while not done.done():
        await asyncio.sleep(0)
        had += 1
    return had


async def test_both_ways_give_the_result() -> None:
    assert finish(count(5)) == 5
    assert await finish_in_slices(count(5)) == 5


async def test_others_have_their_turn_after_each_slice() -> None:
    assert await turns(count(20, seconds=SLICE)) >= 20


async def test_short_work_is_done_at_once() -> None:
    assert await turns(count(3)) < 5
