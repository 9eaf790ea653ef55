"""What a process that cannot run said at its end."""

from pathlib import Path

import pytest

from calico_py.lab.logs import last_error

RUNS = "2026-11-24 14:00:32,131 INFO calico_py.agent.main: told to stop; routes, devices and sessions stay\n"
ENDS = "Error: CALICO_IPV4POOL_CIDR: found 10.1.0.0/27, expected at least one block\n"


@pytest.mark.parametrize(
    ("log", "error"),
    [
        ("", ""),
        (RUNS, ""),
        (RUNS + ENDS, "CALICO_IPV4POOL_CIDR: found 10.1.0.0/27, expected at least one block"),
        (ENDS + "Error: AS: found 0\nIP: found x\n", "AS: found 0; IP: found x"),
        (ENDS + RUNS, ""),
    ],
)
def test_an_end_in_error(tmp_path: Path, log: str, error: str) -> None:
    path = tmp_path / "log"
    path.write_text(log)
    assert last_error(path) == error


def test_no_log(tmp_path: Path) -> None:
    assert last_error(tmp_path / "log") == ""
