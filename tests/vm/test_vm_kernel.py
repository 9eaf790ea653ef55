"""The contract suite of the Kernel seam, and the repair of tunl0, on a kernel that has ipip."""

import pytest

from tests.vm.guest import run_pytest_in_vm

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]


def test_on_a_kernel_with_ipip() -> None:
    """In one guest: the boot is the dear part."""
    done = run_pytest_in_vm(
        "tests/contract/test_kernel_contract.py", "tests/vm/guest_tunl0.py", "-k", "not fake", timeout=500
    )
    assert done.status == 0, done.output
    assert "skipped" not in done.output
