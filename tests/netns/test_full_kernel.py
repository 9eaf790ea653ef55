"""A kernel that takes no more routes: the memory limit of the agent's container counts them."""

import json
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.root, pytest.mark.timeout(90)]

CONTROLLER = Path("/sys/fs/cgroup/memory")
A_LITTLE = 64 << 10  # bytes


def feed(group: Path, child: "subprocess.Popen[str]") -> None:
    """Give the program a little more whenever it needs memory for itself, until it ends."""
    limit = group / "memory.limit_in_bytes"
    deadline = time.monotonic() + 60
    while child.poll() is None:
        assert time.monotonic() < deadline, "the program does not end"
        if "under_oom 1" in (group / "memory.oom_control").read_text():
            limit.write_text(str(int(limit.read_text()) + A_LITTLE))
        time.sleep(0.02)


@pytest.mark.skipif(
    not (CONTROLLER / "memory.oom_control").exists(),
    reason="the kernel has no memory controller of cgroup v1, in which the limit refuses instead of killing",
)
def test_routes_beyond_the_memory_limit_are_refused_with_the_cure_and_set_once_there_is_more() -> None:
    group = CONTROLLER / f"cpy{os.getpid()}{secrets.token_hex(2)}"
    group.mkdir()
    try:
        (group / "memory.oom_control").write_text("1")
        program = Path(__file__).with_name("starved.py")
        environment = {**os.environ, "PYTHONPATH": str(program.parents[2])}
        argv = [sys.executable, str(program), str(group)]
        with subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        ) as child:
            try:
                feed(group, child)
                out, err = child.communicate(timeout=5)
            finally:
                child.kill()
        assert child.returncode == 0, err
        refused, again = json.loads(out)
        assert refused
        for sentence in refused:
            assert sentence.startswith("cannot set route 10.")
            assert sentence.endswith(
                "; the kernel gives no more memory: "
                "raise the memory limit of the agent's container, or free the node's memory"
            )
        assert again == []
    finally:
        (group / "memory.limit_in_bytes").write_text("-1")
        group.rmdir()
