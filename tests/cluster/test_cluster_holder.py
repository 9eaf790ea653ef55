"""Whoever started a cluster may be killed at any time: nothing of it is left."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from calico_py.lab.processes import find_by_command
from tests.cluster.holder import hierarchies
from tests.cluster.kube_cluster import CHECKOUT, wait_until

pytestmark = pytest.mark.root

_STARTER = """
import subprocess, sys, time
holder = subprocess.Popen(
    [sys.executable, "-m", "tests.cluster.holder", *sys.argv[1:]], stdin=subprocess.PIPE, start_new_session=True
)
time.sleep(600)
"""


def test_a_killed_starter_leaves_nothing(tmp_path: Path) -> None:
    name, folder = f"cpy{os.getpid():x}", tmp_path / "cluster"
    folder.mkdir()
    command = [sys.executable, "-c", _STARTER, name, str(folder), "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=CHECKOUT) as starter:
        assert starter.stdout is not None
        pids = json.loads(starter.stdout.readline())
        assert pids.keys() == {"control", "node1", "node2"}
        groups = [own / name for _, _, own in hierarchies()]
        assert groups
        assert all(group.is_dir() for group in groups)
        starter.send_signal(signal.SIGKILL)
    wait_until(lambda: not any(group.exists() for group in groups), what="the control groups are gone")
    wait_until(lambda: not folder.exists(), what="the folder is gone")
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids.values())
    assert find_by_command(name, str(folder), "2") == []
    assert name not in Path("/proc/self/mountinfo").read_text()
