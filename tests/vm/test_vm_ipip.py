"""What needs a kernel with ipip, run in the guest."""

import pytest

from tests.vm.guest import run_pytest_in_vm

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]


def test_kernels_ipip_and_the_engine_interoperate() -> None:
    done = run_pytest_in_vm("tests/vm/guest_interop.py", "-v", timeout=500)
    assert done.status == 0, done.output
    assert "skipped" not in done.output
