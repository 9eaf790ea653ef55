"""What needs a kernel with ipip, in one guest, since its start is the dear part."""

import re

import pytest

from tests.vm.guest import run_pytest_in_vm

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]


def test_on_a_kernel_with_ipip() -> None:
    """The contract suite of the Kernel seam, tunl0 mended, the kernel's ipip against the engine, the toggle."""
    done = run_pytest_in_vm(
        "tests/contract/test_kernel_contract.py",
        "tests/vm/guest_tunl0.py",
        "tests/vm/guest_interop.py",
        "tests/vm/guest_toggle.py",
        "-k",
        "not fake",
        timeout=800,
    )
    assert done.status == 0, done.output
    assert re.search(r"\d+ passed", done.output)
    assert "skipped" not in done.output
