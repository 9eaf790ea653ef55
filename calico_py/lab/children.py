"""The supervisor's child processes: started, restarted when they end, stopped, and swept with all they left.

A child stands for a container: when its main process ends, whatever else that started ends too. Descendants are
recognised by an entry of their environment, since daemons leave their parent's session.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calico_py.lab.processes import Identity, find_by_environment, host_pid

MARK = "LAB_PROCESS"
GRACE = 10.0  # seconds from SIGTERM to SIGKILL

# Quick at first, so that a killed agent is back before anybody misses it; a child that lived long starts over.
_DELAYS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # seconds
_LONG_LIFE = 10.0  # seconds


@dataclass(slots=True)
class Child:
    """One process that should run, and what became of it.

    Attributes:
        name: within the lab, such as ``node1-agent``; also of its log.
        node, process: for people and for `lab status`.
        command: makes the arguments at each start. environment: all of it.
        wanted: it should run on this node. held: somebody stopped it, so that it does not. pass_fds: open descriptors
            that it finds as 3, 4 and on.
        pid: in the supervisor's PID namespace, 0 while it does not run; identity: in the host's.
        restart_at: monotonic seconds; None if no start is due.
    """

    name: str
    node: str
    process: str
    command: Callable[[], Sequence[str]]
    environment: dict[str, str]
    log: Path
    mark: str
    wanted: bool = True
    held: bool = False
    pass_fds: tuple[int, ...] = ()
    pid: int = 0
    identity: Identity | None = None
    restarts: int = 0
    last_exit: str = ""
    restart_at: float | None = None
    _started: float = 0.0
    _failures: int = field(default=0)

    @property
    def due(self) -> bool:
        """Whether it is to run, and to be started again when it ends."""
        return self.wanted and not self.held

    def start(self) -> None:
        """Run it now; its output is appended to the log.

        Raises:
            OSError: the command could not be executed.
        """
        argv = list(self.command())
        actions: list[tuple[Any, ...]] = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(self.log), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
            *((os.POSIX_SPAWN_DUP2, source, 3 + i) for i, source in enumerate(self.pass_fds)),
        ]
        environment = {**self.environment, MARK: self.mark}
        self.pid = os.posix_spawnp(argv[0], argv, environment, file_actions=actions, setsid=True)
        self.identity = Identity.of(host_pid(self.pid))
        self.restart_at = None
        self._started = time.monotonic()

    def ended(self, status: int) -> None:
        """The process was reaped with that wait status: sweep what it left, and plan the restart if it is due."""
        self.sweep()
        code = os.waitstatus_to_exitcode(status)
        self.last_exit = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        self.pid, self.identity = 0, None
        now = time.monotonic()
        self._failures = 0 if now - self._started > _LONG_LIFE else self._failures
        if self.due:
            self.restart_at = now + _DELAYS[min(self._failures, len(_DELAYS) - 1)]
            self.restarts += 1
            self._failures += 1

    def sweep(self) -> None:
        """SIGKILL whatever bears this child's mark."""
        for pid in find_by_environment(f"{MARK}={self.mark}"):
            found = Identity.of(pid)
            if found:
                found.kill()

    def forgive(self) -> None:
        """Forget the failures: somebody asked for a start."""
        self._failures = 0
        self.restart_at = None

    def describe(self) -> Mapping[str, Any]:
        """As `lab status` reads it."""
        return {
            "name": self.name,
            "node": self.node,
            "process": self.process,
            "wanted": self.due,
            "held": self.held,
            "pid": self.identity.pid if self.identity else 0,
            "start": self.identity.start if self.identity else 0,
            "restarts": self.restarts,
            "last_exit": self.last_exit,
            "log": str(self.log),
        }


def reap() -> list[tuple[int, int]]:
    """All children that have ended, as (process id, wait status); orphans of the PID namespace among them."""
    found = []
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            found.append((pid, status))
    return found
