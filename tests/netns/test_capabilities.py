"""Each capability that deploy/ gives to a container is needed: without it something fails that its process does.

That they suffice is seen on the cluster, whose containers have no others.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.netns.namespaces import Namespace

pytestmark = pytest.mark.root

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"

_CHANGES_THE_KERNEL = """
import asyncio
from calico_py.dataplane.netlink import LinuxKernel
from calico_py.model.kernel import Link, Put

async def main():
    async with LinuxKernel() as kernel:
        (own,) = await kernel.dump(Link)
        assert await kernel.send([Put(Link(own.name, own.ifindex, up=True))]) == [None]

asyncio.run(main())
"""
_ENTERS_A_POD = """
from calico_py.dataplane.netns import inside, open_current

own = open_current()
with inside(own, own):
    pass
"""
_BINDS_ITS_PORT = """
import socket

socket.create_server(("127.0.0.1", 179)).close()
"""
_SENDS_PROTOCOL_4 = """
from calico_py.dataplane.tunnel.alias import parse_alias
from calico_py.dataplane.tunnel.framing import Ipip

Ipip(parse_alias("calico-py ipip local 192.0.2.1")).sock.close()
"""
_MAKES_ROOM = """
import subprocess
from calico_py.dataplane.tunnel.tun import QUEUE_LENGTH, set_queue_length

set_queue_length("lo", QUEUE_LENGTH)
assert f"qlen {QUEUE_LENGTH}" in subprocess.run(["ip", "link"], capture_output=True, text=True).stdout
"""
_RUNS_AHEAD = """
import os
from calico_py.cli.tunnel import NICE, go_ahead

go_ahead()
assert os.getpriority(os.PRIO_PROCESS, 0) == NICE
"""

USES = {
    ("calico-node", "NET_ADMIN"): _CHANGES_THE_KERNEL,
    ("calico-node", "SYS_ADMIN"): _ENTERS_A_POD,
    ("calico-py-speaker", "NET_BIND_SERVICE"): _BINDS_ITS_PORT,
    ("calico-py-tunnel", "NET_ADMIN"): _MAKES_ROOM,
    ("calico-py-tunnel", "NET_RAW"): _SENDS_PROTOCOL_4,
    ("calico-py-tunnel", "SYS_NICE"): _RUNS_AHEAD,
    ("cleanup", "NET_ADMIN"): _CHANGES_THE_KERNEL,
}


def given() -> dict[str, list[str]]:
    """The capabilities of each container of deploy/ that has any."""
    found = {}
    for path in DEPLOY.rglob("*.yaml"):
        for manifest in yaml.safe_load_all(path.read_text()):
            if manifest["kind"] == "DaemonSet":
                pod = manifest["spec"]["template"]["spec"]
                for container in pod["containers"] + pod.get("initContainers", []):
                    capabilities = container["securityContext"]["capabilities"]
                    assert capabilities["drop"] == ["ALL"]
                    if "add" in capabilities:
                        found[container["name"]] = capabilities["add"]
    return found


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    """Of a process."""
    made = Namespace()
    yield made
    made.close()


@pytest.mark.parametrize(
    ("container", "capability"), [(name, each) for name, capabilities in given().items() for each in capabilities]
)
def test_a_capability_is_needed(namespace: Namespace, container: str, capability: str) -> None:
    capabilities = given()[container]
    use = USES[container, capability]
    assert not succeeds(namespace, [each for each in capabilities if each != capability], use)
    assert succeeds(namespace, capabilities, use)


def succeeds(namespace: Namespace, capabilities: list[str], program: str) -> bool:
    """Whether a program of Python ends well with these capabilities alone."""
    bounding = ",".join(["-all", *(f"+{name.lower()}" for name in capabilities)])
    limit = ("setpriv", "--inh-caps=-all", f"--bounding-set={bounding}", "--")
    done = namespace.run(*limit, sys.executable, "-c", program, check=False)
    return done.returncode == 0
