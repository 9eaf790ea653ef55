"""The harness itself: what a script says and how it ends comes back, and nothing of a guest stays."""

from pathlib import Path

import pytest

from tests.vm.guest import GuestError, run_in_vm

pytestmark = [pytest.mark.root, pytest.mark.timeout(400)]


def _guests() -> set[str]:
    """Process ids of QEMUs that run a guest of ours, of this test run or another."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes()
        except OSError:
            continue
        if words.startswith(b"qemu-system") and b"calico-py-vm-" in words:
            found.add(entry.parent.name)
    return found


def test_status_output_and_kernel() -> None:
    done = run_in_vm("uname -r; modprobe ipip && ip -o link show tunl0; touch /etc/guest; echo oops >&2; exit 3")
    assert done.status == 3
    assert "tunl0@NONE: <NOARP> mtu 1480" in done.output
    assert "oops" in done.output
    assert not Path("/etc/guest").exists()


@pytest.mark.alone  # it looks at the processes of the machine
def test_script_that_does_not_end_is_killed() -> None:
    before = _guests()
    with pytest.raises(GuestError, match="not done within 15 s"):
        run_in_vm("sleep 1000", timeout=15)
    assert _guests() <= before


def test_guest_that_dies_is_told() -> None:
    with pytest.raises(GuestError, match="the guest died"):
        run_in_vm("echo c > /proc/sysrq-trigger", timeout=60)
