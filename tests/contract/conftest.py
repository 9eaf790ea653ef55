"""Fixtures of the contract suite: ``api_server`` is first the embedded server, then a real kube-apiserver."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from _pytest.capture import CaptureManager

from calico_py.lab.api.binaries import MissingError, cached
from calico_py.lab.cache import cache_directory
from tests.contract.servers import ApiUnderTest, Kubectl, embedded, kube

# So few that a test can outrun it.
WINDOW = 100


@pytest.fixture(scope="session")
def program(request: pytest.FixtureRequest) -> Callable[[str], Path]:
    """Finds a program of Kubernetes; where it has to be built, says so past pytest's capturing of output."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    assert isinstance(capture, CaptureManager)

    def find(name: str) -> Path:
        with capture.global_and_fixture_disabled():
            return cached(name, cache_directory(os.environ))

    return find


@pytest.fixture(scope="session", params=["embedded", "kube"])
def running_server(request: pytest.FixtureRequest, program: Callable[[str], Path]) -> Iterator[ApiUnderTest]:
    """One server for all tests of a run."""
    folder = Path(tempfile.mkdtemp(prefix=f"cpy{os.getpid()}-api-"))
    few = ["--window", str(WINDOW)]
    try:
        if request.param == "kube":
            program("kube-apiserver")
        with embedded(folder, arguments=few) if request.param == "embedded" else kube(folder) as api:
            yield api
    except MissingError as error:
        pytest.skip(str(error))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def kube_server(program: Callable[[str], Path]) -> Iterator[ApiUnderTest]:
    """A real kube-apiserver for the tests of one file, which do what others of a run must not see."""
    folder = Path(tempfile.mkdtemp(prefix=f"cpy{os.getpid()}-kube-"))
    try:
        program("kube-apiserver")
        with kube(folder) as api:
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
def kubectl_program(program: Callable[[str], Path]) -> Path:
    """The kubectl of the API server's own release, or the one of the path where it cannot be built."""
    try:
        return program("kubectl")
    except MissingError as error:
        other = shutil.which("kubectl") or shutil.which("kubectl", path=str(Path(sys.executable).parent))
        if other is None:
            pytest.skip(str(error))
        return Path(other)


@pytest.fixture
def kubectl(api_server: ApiUnderTest, kubectl_program: Path, tmp_path: Path) -> Kubectl:
    """The unmodified program, against the server of the test."""
    return Kubectl(kubectl_program, api_server.kubeconfig, tmp_path / "kubectl-cache")
