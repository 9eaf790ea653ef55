"""Fixtures of the contract suite: ``api_server`` is first the embedded server, then a real kube-apiserver."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from calico_py.lab.api.binaries import MissingError
from tests.contract.servers import ApiUnderTest, Kubectl, embedded, find_kubectl, kube

# So few that a test can outrun it.
WINDOW = 100


@pytest.fixture(scope="session", params=["embedded", "kube"])
def running_server(request: pytest.FixtureRequest) -> Iterator[ApiUnderTest]:
    """One server for all tests of a run."""
    folder = Path(tempfile.mkdtemp(prefix=f"cpy{os.getpid()}-api-"))
    few = ["--window", str(WINDOW)]
    try:
        with embedded(folder, arguments=few) if request.param == "embedded" else kube(folder) as api:
            yield api
    except MissingError as error:
        pytest.skip(str(error))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def api_server(running_server: ApiUnderTest) -> ApiUnderTest:
    """The server without objects of other tests: url, kubeconfig, and ``request`` for raw HTTP."""
    running_server.sweep()
    return running_server


@pytest.fixture(scope="session")
def kubectl_program() -> Path:
    """kubectl, built where the cache has none."""
    try:
        return find_kubectl()
    except MissingError as error:
        pytest.skip(str(error))


@pytest.fixture
def kubectl(api_server: ApiUnderTest, kubectl_program: Path, tmp_path: Path) -> Kubectl:
    """The unmodified program, against the server of the test."""
    return Kubectl(kubectl_program, api_server.kubeconfig, tmp_path / "kubectl-cache")
