"""Runs ExaBGP and watches it together with its bridge: what `calico-py speaker` does.

A bridge that dies leaves an ExaBGP that lives on without its sessions and never heals. So whichever of the two ends,
this process ends as well, and whoever started it starts it again. ExaBGP is killed then, not asked: it would send
its peers a NOTIFICATION, and they would drop our routes; a connection that just closes lets them keep the routes
for the restart time (RFC 4724 4.2). An orderly stop is SIGTERM to ExaBGP, which closes without NOTIFICATION as well.
Nothing is left behind, also after SIGKILL: ExaBGP dies with this process (PR_SET_PDEATHSIG), the bridge when its
stdin ends.
"""

import contextlib
import ctypes
import functools
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from calico_py.alone import alone
from calico_py.bgp import exabgp_config
from calico_py.bgp.exabgp_config import SpeakerFiles

BRIDGE_LIMIT = 20.0  # seconds for ExaBGP to start its bridge
EARLY = 5.0  # seconds after its start within which ExaBGP's end is blamed on the configuration
STOP_LIMIT = 5.0  # seconds for ExaBGP to end by itself
POLL = 0.05  # seconds, while the bridge is looked for

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

# Why each: docs/bgp.md, "Traps".
_SETTINGS = {
    "exabgp.api.ack": "false",
    "exabgp.api.cli": "false",
    "exabgp.api.respawn": "false",
    "exabgp.api.terminate": "true",
    "exabgp.daemon.user": "root",
    "exabgp.daemon.daemonize": "false",
    "exabgp.daemon.pid": "",
    "exabgp.tcp.bind": "",
    "exabgp.log.destination": "stderr",
    "exabgp.log.level": "INFO",
    "exabgp.log.statistics": "false",
    "exabgp.log.processes": "false",
}


class SpeakerError(Exception):
    """Why the speaker cannot run or had to end, and what to do."""


def find_exabgp() -> str:
    """ExaBGP's command, from the environment that this Python is of, else from PATH.

    Raises:
        SpeakerError: there is none.
    """
    beside = Path(sys.executable).parent / "exabgp"
    found = str(beside) if beside.exists() else shutil.which("exabgp")
    if found is None:
        raise SpeakerError(f"exabgp was found neither in {beside.parent} nor in PATH: pip install exabgp==5.0.15")
    return found


def run(files: SpeakerFiles, environment: Mapping[str, str]) -> None:
    """Until SIGTERM or SIGINT, then an orderly stop.

    Args:
        files: where to meet the agent; the directory is made.
        environment: ExaBGP's, to which its settings are added.

    Raises:
        SpeakerError: ExaBGP or its bridge ended, or there is no ExaBGP.
    """
    command = find_exabgp()
    files.directory.mkdir(parents=True, exist_ok=True)
    if not files.config.exists():
        exabgp_config.write(files.config, exabgp_config.render((), files=files)[0])
    inherited = {name: value for name, value in environment.items() if not name.lower().startswith("exabgp")}
    with alone(files.lock) as lock, _stop_pipe() as stop:
        began = time.monotonic()
        child = subprocess.Popen(
            [command, "server", str(files.config)],
            env=inherited | _SETTINGS,
            stdin=subprocess.DEVNULL,
            pass_fds=[lock],  # the port is ExaBGP's, and free when it has ended
            preexec_fn=functools.partial(_die_with, os.getpid()),  # noqa: PLW1509 - there are no threads here
        )
        try:
            _watch(child, stop)
        except SpeakerError:
            # Killed by a signal it has a negative one, and the configuration is not to blame.
            if (child.returncode or 0) > 0 and time.monotonic() - began < EARLY:
                _set_aside(files.config)
            child.kill()
            raise
        finally:
            _end(child)


def _die_with(parent: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before that was in force
        os._exit(1)


@contextlib.contextmanager
def _stop_pipe() -> Iterator[int]:
    """A descriptor that becomes readable when this process is asked to stop."""
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    wakeup = signal.set_wakeup_fd(write)
    try:
        yield read
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(read)
        os.close(write)


def _watch(child: "subprocess.Popen[bytes]", stop: int) -> None:
    """Return when asked to stop; raise when ExaBGP or the bridge is gone."""
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
        selector.register(stop, selectors.EVENT_READ)
        exabgp = _pidfd(stack, child.pid)
        selector.register(exabgp, selectors.EVENT_READ)
        bridge = -1
        limit = time.monotonic() + BRIDGE_LIMIT
        while True:
            for key, _ in selector.select(POLL if bridge < 0 else None):
                if key.fd == stop:
                    return
                if key.fd == exabgp:
                    raise SpeakerError(f"ExaBGP ended with status {child.wait()}: its last lines above say why")
                raise SpeakerError("the bridge ended: ExaBGP cannot live without it, both start again")
            if bridge < 0:
                pid = _find_bridge(child.pid)
                if pid:
                    with contextlib.suppress(ProcessLookupError):
                        bridge = _pidfd(stack, pid)
                        selector.register(bridge, selectors.EVENT_READ)
                elif time.monotonic() > limit:
                    raise SpeakerError(
                        f"ExaBGP did not start its bridge within {BRIDGE_LIMIT:.0f} s: see its log above"
                    )


def _pidfd(stack: contextlib.ExitStack, pid: int) -> int:
    descriptor = os.pidfd_open(pid)
    stack.callback(os.close, descriptor)
    return descriptor


def _find_bridge(parent: int) -> int:
    """Process id of the child of ExaBGP that runs the bridge; 0 while there is none."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, IndexError):
            # proc(5): the name is in parentheses and may hold anything; state and parent follow it.
            after_name = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            if int(after_name[1]) == parent and after_name[0] != "Z":
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
                if os.fsencode(exabgp_config.BRIDGE) in arguments:
                    return int(entry.name)
    return 0


def _set_aside(config: Path) -> None:
    """ExaBGP ended right after its start: the next start is to go without the configuration that may be why."""
    with contextlib.suppress(OSError):
        config.replace(config.with_name(f"{config.name}.refused"))


def _end(child: "subprocess.Popen[bytes]") -> None:
    child.terminate()
    try:
        child.wait(STOP_LIMIT)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
