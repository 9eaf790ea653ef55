"""Bringing a lab up and taking it down.

Down needs nothing of what up left but its names: it kills the supervisor, and with it every process of the lab's PID
namespace, then removes the namespaces by their reserved names, then the state directory. So it works after a crash
of any part, half-way through up, and twice.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from calico_py.lab import apiservers, control, interrupts, namespaces
from calico_py.lab.commands import LabError, require, run
from calico_py.lab.processes import Identity, find_by_command
from calico_py.lab.state import BASE, StateDir, base_lock, list_labs, write_json
from calico_py.lab.topology import ApiServer, LabSpec, is_namespace_of

_SUPERVISOR = "calico_py.lab.supervisor"
_NETNS_DIR_MADE = "netns-directory-made"
_KILL_WITHIN = 10.0  # seconds
_REAP_WITHIN = 2.0  # seconds
_SOCKET_WITHIN = 10.0  # seconds


def start(spec: LabSpec, progress: Callable[[str], None]) -> StateDir:
    """Make the lab: its namespaces, API server, Node objects and processes. Does not wait until the nodes are ready.

    Raises:
        LabError: it exists already, or a part of it could not be made; nothing is left then.
    """
    _check_machine()
    if spec.api == ApiServer.KUBE:
        apiservers.find_programs(os.environ)  # here, where a person sees that it is built
    state = StateDir(spec.name)
    _claim(spec, state)
    with contextlib.ExitStack() as undo:
        undo.callback(_undo, spec.name)
        try:
            _start_supervisor(state)
            control.ask(state.control, {"do": "boot"}, progress=progress)
        except LabError as error:
            raise LabError(f"{error}{_last_words(state)}") from None
        undo.pop_all()
    return state


def down(name: str, *, reaped: bool = True) -> bool:
    """Take a lab down, whatever is left of it; True if anything was.

    ``reaped``: wait also until the machine's first process, whose child the supervisor is, has taken note of its end.

    Raises:
        LabError: something could not be removed.
    """
    state = StateDir(name)
    _check_root()
    with base_lock():
        existed = state.path.exists()
        supervisors = _kill_supervisors(state)
        for netns in namespaces.list_names():
            if is_namespace_of(netns, name):
                existed = True
                namespaces.delete(netns)
        if state.path.exists():
            shutil.rmtree(state.path)
        if not list_labs():
            _leave_nothing()
    if reaped:
        _wait_until_reaped(supervisors)
    return existed


def _undo(name: str) -> None:
    """Whoever is impatient does not interrupt it."""
    with interrupts.put_off():
        down(name)


def _check_root() -> None:
    if os.geteuid() != 0:
        raise LabError("a lab makes network namespaces, which only root may do; use sudo")


def _check_machine() -> None:
    _check_root()
    require("ip", "nsenter", "unshare", "mount", "umount", "sleep", "setpriv", "nft")
    if not Path("/proc/sys/net/ipv6").exists():
        raise LabError("this kernel runs without IPv6 (ipv6.disable=1?); a lab has addresses of both families")


def _claim(spec: LabSpec, state: StateDir) -> None:
    """Reserve the name: make the state directory, if neither it nor a namespace of the lab exists."""
    with base_lock():
        if state.path.exists():
            raise LabError(f"lab {spec.name} exists already; take it down with: calico-py lab down --name {spec.name}")
        taken = [netns for netns in namespaces.list_names() if is_namespace_of(netns, spec.name)]
        if taken:
            raise LabError(
                f"network namespaces {', '.join(taken)} exist but no lab {spec.name}; remove them with "
                f"`calico-py lab down --name {spec.name}` or choose another --name"
            )
        if not os.path.ismount(namespaces.NETNS_DIR):
            # `ip netns` mounts the directory on itself at its first use, and leaves it.
            write_json(BASE / _NETNS_DIR_MADE, namespaces.NETNS_DIR.exists())
        for directory in (state.path, state.pods, state.path / "logs"):
            directory.mkdir(mode=0o755)
        write_json(state.spec, spec.to_json())


def _start_supervisor(state: StateDir) -> None:
    log = state.log("supervisor")
    with log.open("ab") as output:
        done = subprocess.run(
            [sys.executable, "-m", _SUPERVISOR, state.name],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            check=False,
        )
    if done.returncode != 0:
        raise LabError(f"the supervisor did not start (exit code {done.returncode})")
    deadline = time.monotonic() + _SOCKET_WITHIN
    while not state.control.exists():
        supervisor = state.read_supervisor()
        if supervisor is None or not supervisor.alive:
            raise LabError("the supervisor ended at once")
        if time.monotonic() > deadline:
            raise LabError(f"the supervisor has not opened {state.control} within {_SOCKET_WITHIN:.0f} s")
        time.sleep(0.01)


def _last_words(state: StateDir) -> str:
    """The end of the supervisor's log, since the log goes with the lab."""
    with contextlib.suppress(OSError):
        lines = state.log("supervisor").read_text(errors="replace").strip().splitlines()
        return "".join(f"\n  {line}" for line in lines[-8:])
    return ""


def _kill_supervisors(state: StateDir) -> list[Identity]:
    """SIGKILL the supervisor and whoever is about to become it; found by their command, as the state may be partial."""
    pids = find_by_command("-m", _SUPERVISOR, state.name)
    supervisors = [found for found in map(Identity.of, pids) if found]
    for supervisor in supervisors:
        if not supervisor.kill(wait=_KILL_WITHIN):
            raise LabError(f"lab {state.name}: its supervisor, process {supervisor.pid}, does not end on SIGKILL")
    return supervisors


def _wait_until_reaped(supervisors: list[Identity]) -> None:
    """Until /proc does not list them any more, or for so long: some first processes reap seldom, or never."""
    deadline = time.monotonic() + _REAP_WITHIN
    while any(supervisor.listed for supervisor in supervisors) and time.monotonic() < deadline:
        time.sleep(0.01)


def _leave_nothing() -> None:
    """With the last lab goes what the first one made for all."""
    made = BASE / _NETNS_DIR_MADE
    if made.exists():
        existed = made.read_text().strip() == "true"
        if not namespaces.list_names():
            with contextlib.suppress(LabError, OSError):
                run(["umount", str(namespaces.NETNS_DIR)])
                if not existed:
                    namespaces.NETNS_DIR.rmdir()
        made.unlink()
    with contextlib.suppress(OSError):
        BASE.rmdir()
