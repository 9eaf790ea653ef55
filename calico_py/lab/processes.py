"""Processes by identity: a process id with its start time, since ids are used again (proc(5), /proc/PID/stat)."""

import contextlib
import os
import select
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True, slots=True)
class Identity:
    """One process and no other.

    Attributes:
        pid: as the host's /proc numbers it. start: clock ticks after boot.
    """

    pid: int
    start: int

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """The process that has that id now; None if there is none or it is a zombie."""
        found = _state_and_start(pid)
        return cls(pid, found[1]) if found and found[0] not in "ZX" else None

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return Identity.of(self.pid) == self

    @property
    def listed(self) -> bool:
        """Whether /proc still shows it, if only as a zombie that its parent has not reaped."""
        found = _state_and_start(self.pid)
        return found is not None and found[1] == self.start

    def kill(self, number: signal.Signals = signal.SIGKILL, *, wait: float = 0) -> bool:
        """Send a signal and wait at most so many seconds for its end; True if it is gone.

        A process that ended before counts as gone; another one with the same id is never touched.
        """
        try:
            descriptor = os.pidfd_open(_own_id(self.pid))
        except (OSError, IndexError):  # gone, or in no PID namespace below the caller's
            return not self.alive
        try:
            if not self.alive:  # compared after the descriptor was opened: from here on it cannot be another one
                return True
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)
            return bool(select.select([descriptor], [], [], wait)[0])
        finally:
            os.close(descriptor)


def host_pid(pid: int) -> int:
    """The id in the host's /proc of a child whose id is known in the caller's own PID namespace.

    Raises:
        ProcessLookupError: there is no such process.
    """
    descriptor = os.pidfd_open(pid)
    try:
        for line in Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines():
            if line.startswith("Pid:"):
                return int(line.split()[1])
    finally:
        os.close(descriptor)
    raise ProcessLookupError(pid)


def _own_id(pid: int) -> int:
    """The id in the caller's PID namespace of a process of the host's /proc: the opposite of host_pid.

    /proc/PID/status lists a process's ids (NSpid), from the namespace of that /proc down to the process's own.
    """
    depth = len(_namespace_ids("self")) - 1
    return _namespace_ids(str(pid))[depth]


def _namespace_ids(process: str) -> list[int]:
    for line in Path("/proc", process, "status").read_text().splitlines():
        if line.startswith("NSpid:"):
            return [int(word) for word in line.split()[1:]]
    return []


def find_by_environment(entry: str) -> list[int]:
    """Host's ids of all processes whose environment had that ``NAME=VALUE`` when they were started."""
    wanted = entry.encode()
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            with contextlib.suppress(OSError):
                if wanted in (process / "environ").read_bytes().split(b"\0"):
                    found.append(int(process.name))
    return found


def find_by_command(*words: str) -> list[int]:
    """Host's ids of all processes whose arguments end with these."""
    numbers = (int(process.name) for process in Path("/proc").iterdir() if process.name.isdecimal())
    return [pid for pid in numbers if command_line(pid)[-len(words) :] == list(words)]


def command_line(pid: int) -> list[str]:
    """The arguments of a process; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def _state_and_start(pid: int) -> tuple[str, int] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name before may hold blanks and parentheses
    return fields[0], int(fields[19])
