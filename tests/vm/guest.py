"""Running a script, or tests, in a guest whose kernel has ipip.

The guest sees this machine's files at their own paths, read-only underneath (what it writes is gone with it): the
same Python, the same checkout. It has no network but what a script makes. QEMU runs without KVM, so everything is
10 to 20 times slower than outside; boot to power-off takes 8 s, and pytest 20 s to start: better one guest for many
tests. Files that are for the guest alone are named guest_*.py, so that nobody collects them outside.

    result = run_in_vm("modprobe ipip && ip link show tunl0")
    assert result.status == 0, result.output

    result = run_pytest_in_vm("tests/contract/test_kernel_contract.py", "-k", "routes")
    assert result.status == 0, result.output

A test that must know where it runs looks for the variable CALICO_PY_VM in its environment.
"""

import os
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.vm.guest_kernel import prepare

CHECKOUT = Path(__file__).resolve().parents[2]

_START = """#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME={home} LANG=C.UTF-8 TMPDIR=/run/tmp
export CALICO_PY_VM=1 PYTHONDONTWRITEBYTECODE=1 {environment}
mount --make-rshared /
mkdir -p /dev/pts /dev/shm /run/tmp
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
ln -sf /proc/self/fd /dev/fd
modprobe tun
ip link set lo up
cd {checkout}
/bin/bash /run/exchange/script > /run/exchange/output 2>&1 < /dev/null
echo $? > /run/exchange/status
sync
echo o > /proc/sysrq-trigger
sleep 60
"""
_PASSED_ON = ("CI",)


class GuestError(Exception):
    """The guest did not come to the end of the script; the message has the last that it said."""


@dataclass(frozen=True, slots=True)
class Result:
    """What the script did.

    Attributes:
        status: its exit status.
        output: both of its streams.
    """

    status: int
    output: str


def run_in_vm(script: str, *, timeout: float = 120) -> Result:
    """Run a bash script as root in a fresh guest, in the checkout's folder.

    Args:
        script: its text. Files that it needs are at the same paths as here.
        timeout: seconds, boot included.

    Raises:
        UnavailableError: this machine cannot run a guest.
        GuestError: the script did not end in time, or the guest died.
    """
    kernel = prepare()
    with tempfile.TemporaryDirectory(prefix="calico-py-vm-") as name:
        exchange = Path(name)
        environment = shlex.join(f"{key}={os.environ[key]}" for key in _PASSED_ON if key in os.environ)
        start = _START.format(home=Path.home(), checkout=CHECKOUT, environment=environment)
        (exchange / "start").write_text(start)
        (exchange / "script").write_text(script)
        (exchange / "modules").write_text(str(kernel.modules))
        command = [
            *("setpriv", "--pdeathsig", "KILL"),  # it does not outlive the tests, however they end
            *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048"),
            *("-display", "none", "-monitor", "none", "-no-reboot", "-nic", "none"),
            *("-serial", f"file:{exchange}/console"),
            *("-kernel", str(kernel.image), "-initrd", str(kernel.initramfs)),
            *("-append", "console=ttyS0 quiet panic=-1 mitigations=off"),
            *("-virtfs", "local,path=/,mount_tag=hostroot,security_model=none,readonly=on,multidevs=remap"),
            *("-virtfs", f"local,path={exchange},mount_tag=exchange,security_model=none"),
        ]
        try:
            qemu = subprocess.run(command, check=False, capture_output=True, text=True, timeout=timeout)
        except subprocess.TimeoutExpired:
            raise GuestError(f"not done within {timeout} s\n{_last_words(exchange)}") from None
        if not (exchange / "status").exists():
            raise GuestError(f"the guest died\n{qemu.stderr}\n{_last_words(exchange)}")
        output = (exchange / "output").read_text(errors="replace")
        return Result(int((exchange / "status").read_text()), output)


def run_pytest_in_vm(path: str | Path, *options: str, timeout: float = 600) -> Result:
    """Run tests of this checkout in a guest, with the Python that runs here.

    Args:
        path: file, folder or test id, as pytest takes it, relative to the checkout.
        options: further arguments for pytest.
        timeout: seconds for all of them, boot included; a single test gets all of it.

    Raises:
        UnavailableError: this machine cannot run a guest.
        GuestError: the tests did not end in time, or the guest died.
    """
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-o", f"timeout={timeout}"]
    return run_in_vm(shlex.join([*command, *options, str(path)]), timeout=timeout)


def _last_words(exchange: Path) -> str:
    said = [
        f"--- {name}\n" + "\n".join((exchange / name).read_text(errors="replace").splitlines()[-30:])
        for name in ("console", "output")
        if (exchange / name).exists()
    ]
    return "\n".join(said)
