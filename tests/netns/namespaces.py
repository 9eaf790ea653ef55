"""Network namespaces without names: they live as long as a descriptor of the test does, and leave nothing behind."""

import ctypes
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class Namespace:
    """A new network namespace with its loopback down, as a runtime makes it."""

    def __init__(self) -> None:
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            assert _libc.unshare(_CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
            self.descriptor = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        finally:
            assert _libc.setns(own, _CLONE_NEWNET) == 0
            os.close(own)

    @property
    def path(self) -> str:
        """For CNI_NETNS and nsenter(1)."""
        return f"/proc/{os.getpid()}/fd/{self.descriptor}"

    @contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread is inside."""
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        assert _libc.setns(self.descriptor, _CLONE_NEWNET) == 0
        try:
            yield
        finally:
            assert _libc.setns(own, _CLONE_NEWNET) == 0
            os.close(own)

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program inside."""
        done = subprocess.run(
            ["nsenter", f"--net={self.path}", "--", *command], capture_output=True, text=True, check=False, timeout=30
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done

    def ip(self, *words: str) -> Any:
        """What ``ip -j`` prints, parsed."""
        return json.loads(self.run("ip", "-j", *words).stdout or "[]")

    def setting(self, name: str) -> str:
        """A value under /proc/sys."""
        return self.run("cat", f"/proc/sys/{name}").stdout.strip()

    def close(self) -> None:
        """Let the kernel remove it."""
        os.close(self.descriptor)


@contextmanager
def host_namespace() -> Iterator[Namespace]:
    """A namespace that plays the node: an address, forwarding on, and the calling thread inside."""
    host = Namespace()
    try:
        host.run("ip", "link", "set", "lo", "up")
        for address in ("192.0.2.1/32", "2001:db8::1/128"):
            host.run("ip", "address", "add", address, "dev", "lo")
        host.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        with host.entered():
            yield host
    finally:
        host.close()
