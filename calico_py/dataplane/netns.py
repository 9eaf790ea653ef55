"""Work inside another network namespace, for an instant: setns(2) of the calling thread, and back.

Nothing awaits in there. Python has os.setns from 3.12 on; before that the C library's function serves.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

_CLONE_NEWNET = 0x40000000

_CURRENT = "/proc/thread-self/ns/net"

_libc = ctypes.CDLL(None, use_errno=True)


def open_current() -> int:
    """A descriptor of the namespace in which the calling thread is."""
    return os.open(_CURRENT, os.O_RDONLY | os.O_CLOEXEC)


@contextmanager
def inside(netns: int, own: int) -> Iterator[None]:
    """The calling thread is in the namespace of that descriptor within the block.

    Args:
        netns: a descriptor of the namespace.
        own: one of that in which the thread is, by which it comes back.

    Raises:
        OSError: EINVAL if the descriptor is no network namespace's, EPERM without CAP_SYS_ADMIN.
        SystemExit: there was no way back; nothing else may run in a thread that is in the wrong namespace.
    """
    _setns(netns)
    try:
        yield
    finally:
        try:
            _setns(own)
        except OSError as error:
            raise SystemExit(f"cannot return to the agent's own network namespace: {error}") from error


def is_same(one: int, other: int) -> bool:
    """Whether two descriptors are of one namespace."""
    return os.path.sameopenfile(one, other)


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
