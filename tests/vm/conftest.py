"""Tests of this folder are skipped, with the reason, where no guest can run."""

import os

import pytest

from tests.vm.guest_kernel import UnavailableError, prepare


@pytest.fixture(scope="session", autouse=True)
def _guest_can_run() -> None:
    if "CALICO_PY_VM" in os.environ:  # this is the guest
        return
    try:
        prepare()
    except UnavailableError as error:
        pytest.skip(str(error))
