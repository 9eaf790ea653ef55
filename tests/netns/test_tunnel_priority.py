"""The tunnel's process gets a processor when others want it as well: the packets of all pods wait for it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.root, pytest.mark.alone]  # it measures shares of a processor

HOGS = 4
BUSY = "while True: pass"
SHARE = """
import time
from calico_py.cli.tunnel import go_ahead

{}
begin, used = time.monotonic(), time.process_time()
while time.monotonic() < begin + 1:
    pass
print(time.process_time() - used)
"""


@pytest.fixture
def crowd() -> Iterator[set[int]]:
    """One processor that processes of several sessions want the whole of."""
    processor = {min(os.sched_getaffinity(0))}
    hogs = [on(processor, BUSY) for _ in range(HOGS)]
    yield processor
    for hog in hogs:
        hog.kill()
        hog.communicate()


def test_runs_ahead_of_other_sessions(crowd: set[int]) -> None:
    assert share(crowd, "go_ahead()") > 0.6
    assert share(crowd, "pass") < 0.5


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="the kernel has no autogroups")
def test_a_session_with_a_terminal_is_left_alone() -> None:
    master, slave = os.openpty()
    show = "from pathlib import Path; print(Path('/proc/self/autogroup').read_text())"
    code = f"import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); {{}}; {show}"
    call = "from calico_py.cli.tunnel import go_ahead; go_ahead()"
    try:
        shown = [
            subprocess.run(
                [sys.executable, "-c", code.format(each)],
                stdin=slave,
                capture_output=True,
                text=True,
                check=True,
                start_new_session=True,
            ).stdout
            for each in ("pass", call)
        ]
    finally:
        os.close(master)
        os.close(slave)
    assert [each.split()[-1] for each in shown] == ["0", "0"]


def on(processors: set[int], code: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    os.sched_setaffinity(process.pid, processors)
    return process


def share(processors: set[int], call: str) -> float:
    """The part of a second that a process of a session of its own is given."""
    return float(on(processors, SHARE.format(call)).communicate()[0])
