"""The harness itself: what a script says and how it ends comes back, and nothing of a guest stays."""

import contextlib
from pathlib import Path

import pytest

from tests.vm.guest import GuestError, run_in_vm

pytestmark = [pytest.mark.root, pytest.mark.timeout(400)]


def test_status_output_and_kernel() -> None:
    done = run_in_vm("uname -r; modprobe ipip && ip -o link show tunl0; touch /etc/guest; echo oops >&2; exit 3")
    assert done.status == 3
    assert "tunl0@NONE: <NOARP> mtu 1480" in done.output
    assert "oops" in done.output
    assert not Path("/etc/guest").exists()


def test_script_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(GuestError, match="not done within 3 s"):
        run_in_vm("sleep 1000", timeout=3)
    assert not _processes_that_name(tmp_path)


def test_guest_that_dies_is_told() -> None:
    with pytest.raises(GuestError, match="the guest died"):
        run_in_vm("echo c > /proc/sysrq-trigger", timeout=60)


def _processes_that_name(folder: Path) -> list[str]:
    """Process ids of those in whose command line a folder stands, as in that of a guest whose exchange is there."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(folder).encode() in entry.read_bytes():
                found.append(entry.parent.name)
    return found
