"""Ctrl-C and its kin: a command that made a lab takes it down again, and is not interrupted in that."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def as_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP are KeyboardInterrupt too while the block runs, so that what it made is cleaned up."""

    def end(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with _handled(end):
        yield


@contextlib.contextmanager
def put_off() -> Iterator[None]:
    """None of them does anything while the block runs."""
    with _handled(signal.SIG_IGN):
        yield


@contextlib.contextmanager
def _handled(by: Callable[[int, FrameType | None], object] | signal.Handlers) -> Iterator[None]:
    """Python sets handlers on its main thread only, where alone they would run; elsewhere nothing is to be done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, by) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
