"""Labs for tests, and what must not be left of them."""

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from calico_py.lab import lifecycle, namespaces, readiness
from calico_py.lab.cache import cache_directory
from calico_py.lab.children import MARK
from calico_py.lab.live import LiveLab
from calico_py.lab.processes import Identity, find_by_environment
from calico_py.lab.state import StateDir
from calico_py.lab.topology import ApiServer, LabSpec, is_namespace_of

STUBS = {
    "agent": (sys.executable, str(Path(__file__).with_name("stub_agent.py"))),
    "speaker": ("sleep", "86400"),
    "tunnel": ("sleep", "86400"),
}


def unique_name() -> str:
    """A name that no other run has."""
    return f"cpy{os.getpid()}{secrets.token_hex(3)}"


@contextlib.contextmanager
def stub_lab(name: str = "", *, nodes: int = 2, subnets: int = 1, **more: object) -> Iterator[LiveLab]:
    """A lab whose agents are stubs; taken down however the block ends."""
    spec = LabSpec(name or unique_name(), nodes, subnets, **{"commands": STUBS, **more})  # type: ignore[arg-type]
    try:
        lifecycle.start(spec, lambda _: None)
        yield LiveLab(spec.name)
    finally:
        lifecycle.down(spec.name, reaped=False)


NEEDS_KUBE = (
    pytest.mark.timeout(600),  # where the cache has no kube-apiserver it is built
    pytest.mark.skipif(shutil.which("etcd") is None, reason="etcd is not installed: apt-get install etcd-server"),
    pytest.mark.skipif(
        not (cache_directory(os.environ) / "kube-apiserver").exists() and shutil.which("go") is None,
        reason="no kube-apiserver in the cache and no Go to build it",
    ),
)
"""Of tests whose lab has a real kube-apiserver."""


@contextlib.contextmanager
def kube_lab(*, nodes: int = 2, **more: object) -> Iterator[LiveLab]:
    """A lab on a real kube-apiserver, ready; taken down however the block ends."""
    spec = LabSpec(unique_name(), nodes=nodes, api=ApiServer.KUBE, **more)  # type: ignore[arg-type]
    try:
        lifecycle.start(spec, lambda _: None)
        found = LiveLab(spec.name)
        readiness.wait_until_ready(found, within=60)
        yield found
    finally:
        lifecycle.down(spec.name, reaped=False)


def calico_py(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the command as a person would."""
    return subprocess.run(command(*arguments), capture_output=True, text=True, check=False, timeout=90)


def command(*arguments: str) -> list[str]:
    """The installed command with arguments."""
    return [str(Path(sys.executable).with_name("calico-py")), *arguments]


@dataclass(frozen=True)
class Traces:
    """What the machine has that a lab might have changed.

    Other tests use the machine at the same time, so only what bears the lab's name or is the lab's alone is looked at.
    """

    directories: frozenset[str]

    @classmethod
    def now(cls) -> "Traces":
        """Before."""
        suspects = ("/etc/cni", "/opt/cni", "/var/lib/cni", "/var/lib/calico-py", "/etc/calico-py", "/etc/kubernetes")
        return cls(frozenset(path for path in suspects if Path(path).exists()))

    def left_by(self, name: str) -> list[str]:
        """After: what is there and should not be, in words."""
        found = [f"namespace {netns}" for netns in namespaces.list_names() if is_namespace_of(netns, name)]
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        found += [f"mount {line}" for line in mounts if name in line or "calico-py-lab" in line]
        found += [f"process {pid}" for pid in processes_of(name)]
        found += [f"directory {path}" for path in Traces.now().directories - self.directories]
        state = StateDir(name).path
        found += [f"file {path}" for path in (state, *state.rglob("*")) if path.exists()]
        links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
        found += [f"link {line}" for line in links.splitlines() if name in line]
        return found


def processes_of(name: str) -> list[int]:
    """The supervisor of a lab and all that it has started; zombies await their parent and do not count."""
    mark, supervisor = f"{MARK}={name}/".encode(), f"calico_py.lab.supervisor\0{name}\0".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and Identity.of(int(entry.name)):
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes() or supervisor in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


def marked(name: str, process: str) -> list[int]:
    """Processes that a child of the supervisor is or has started."""
    return find_by_environment(f"LAB_PROCESS={name}/{process}")
