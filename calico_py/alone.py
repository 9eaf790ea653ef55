"""Alone: of a node's processes of one kind one runs at a time; the next one waits until the one before has ended.

A kubelet that was away, or a pod that is deleted in haste, lets two of them meet for a moment. Knows no room.
"""

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)


@contextlib.contextmanager
def alone(path: Path) -> Iterator[int]:
    """Hold the lock of a file (flock(2)) for the block, once nobody else does; the descriptor that holds it.

    Whoever inherits the descriptor holds the lock as well, for as long as it lives.

    Args:
        path: of the file, which is made where it is missing, with its directory, and stays.

    Raises:
        OSError: the file cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.warning("another process holds %s; waiting for its end", path)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)
