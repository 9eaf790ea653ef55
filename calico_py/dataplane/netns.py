"""Work inside another network namespace, for an instant: setns(2) of the calling thread, and back.

Nothing awaits in there. Python has os.setns from 3.12 on; before that the C library's function serves.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

_CLONE_NEWNET = 0x40000000

_OWN = "/proc/thread-self/ns/net"

_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def inside(netns: int) -> Iterator[None]:
    """The calling thread is in the namespace of that descriptor within the block.

    Raises:
        OSError: EINVAL if the descriptor is no network namespace's, EPERM without CAP_SYS_ADMIN.
        SystemExit: there was no way back; nothing else may run in a thread that is in the wrong namespace.
    """
    own = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _setns(netns)
        try:
            yield
        finally:
            try:
                _setns(own)
            except OSError as error:
                raise SystemExit(f"cannot return to the agent's own network namespace: {error}") from error
    finally:
        os.close(own)


def is_own(netns: int) -> bool:
    """Whether the descriptor is of the namespace in which the calling thread is."""
    return os.path.samestat(os.fstat(netns), os.stat(_OWN))  # noqa: PTH116 - compared with a descriptor's


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
