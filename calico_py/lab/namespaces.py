"""Named network namespaces (ip-netns(8)): making and removing them, and being inside one for a moment."""

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from calico_py.lab.commands import LabError, run

NETNS_DIR = Path("/run/netns")

CLONE_NEWNET = 0x40000000  # linux/sched.h
CLONE_NEWPID = 0x20000000

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """Move the calling process (for a PID namespace: its children) into new namespaces.

    Raises:
        OSError: with the kernel's errno.
    """
    if _libc.unshare(flags) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"unshare: {os.strerror(code)}")


@contextlib.contextmanager
def inside(netns: Path) -> Iterator[None]:
    """The calling thread is in that network namespace (setns(2)) and comes back. Sockets made inside stay there.

    Raises:
        LabError: there is no such namespace.
        OSError: the kernel refused.
    """
    with contextlib.ExitStack() as stack:
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, home)
        try:
            there = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise LabError(f"network namespace {netns}: not found; has the lab been taken down?") from None
        stack.callback(os.close, there)
        _setns(there)
        stack.callback(_setns, home)
        yield


def named(name: str) -> Path:
    """Where a named namespace is mounted."""
    return NETNS_DIR / name


def list_names() -> list[str]:
    """All named namespaces of the host."""
    try:
        return sorted(entry.name for entry in NETNS_DIR.iterdir())
    except FileNotFoundError:
        return []


def add(name: str) -> None:
    """Make a named namespace.

    Raises:
        LabError: the name is taken, or the kernel refused.
    """
    run(["ip", "netns", "add", name])


def delete(name: str) -> None:
    """Remove a named namespace and end the processes inside; gone already is success.

    Raises:
        LabError: the name could not be removed.
    """
    end_processes(named(name))
    if named(name).exists():
        run(["ip", "netns", "delete", name])


def end_processes(netns: Path, *, within: float = 5.0) -> None:
    """SIGKILL all processes of a network namespace and wait, at most so many seconds, until they are gone.

    Raises:
        LabError: some did not end.
    """
    deadline = time.monotonic() + within
    while pids := list_processes(netns):
        if time.monotonic() > deadline:
            raise LabError(f"processes {pids} in network namespace {netns.name} do not end on SIGKILL")
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def list_processes(netns: Path) -> list[int]:
    """Process ids of those inside a network namespace; empty if that is the caller's own or does not exist."""
    try:
        wanted = netns.stat()
    except OSError:
        return []
    if os.path.samestat(wanted, Path("/proc/self/ns/net").stat()):
        return []
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                if os.path.samestat(wanted, (entry / "ns/net").stat()):
                    found.append(int(entry.name))
    return found


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"setns: {os.strerror(code)}")
