"""Of two processes of a kind the second waits for the end of the first, and of whom that has left the lock to."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

from calico_py.alone import alone

_HOLDER = """
import subprocess, sys, time
from pathlib import Path
from calico_py.alone import alone

with alone(Path(sys.argv[1])) as lock:
    heir = subprocess.Popen(["sleep", "60"], pass_fds=[lock], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    print(heir.pid, flush=True)
    time.sleep(60)
"""


def hold(path: Path) -> "subprocess.Popen[str]":
    """A process that takes the lock, leaves it to a child as well, and says which."""
    command = [sys.executable, "-c", _HOLDER, str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def heir_of(holder: "subprocess.Popen[str]") -> int:
    """The child, once the lock is held."""
    assert holder.stdout is not None
    return int(holder.stdout.readline())


def test_the_next_waits_for_the_end_of_all_who_hold_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "run" / "lock"
    with hold(path) as first:
        first_heir = heir_of(first)
        with hold(path) as second:
            assert second.stdout is not None
            assert second.stderr is not None
            assert second.stderr.readline() == f"another process holds {path}; waiting for its end\n"
            first.kill()
            first.wait()
            assert select.select([second.stdout], [], [], 0.3)[0] == []  # the child of the first lives
            os.kill(first_heir, signal.SIGKILL)
            os.kill(heir_of(second), signal.SIGKILL)
            second.kill()


def test_the_lock_is_free_again_behind_the_block(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    for _ in range(2):
        with alone(path):
            assert path.stat().st_mode & 0o777 == 0o600
