"""The state directory of a lab, /run/calico-py-lab/NAME: what one command leaves for the next, and for `down`."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calico_py.lab.commands import LabError
from calico_py.lab.processes import Identity
from calico_py.lab.topology import LabSpec, Topology, compute_topology
from calico_py.model.net import InvalidError

BASE = Path("/run/calico-py-lab")


@dataclass(frozen=True, slots=True)
class StateDir:
    """Paths of the state of one lab."""

    name: str

    @property
    def path(self) -> Path:
        """The directory itself."""
        return BASE / self.name

    @property
    def spec(self) -> Path:
        """What was asked for."""
        return self.path / "lab.json"

    @property
    def supervisor(self) -> Path:
        """Identity of the supervisor."""
        return self.path / "supervisor.json"

    @property
    def processes(self) -> Path:
        """What the supervisor runs, written anew at each change."""
        return self.path / "processes.json"

    @property
    def control(self) -> Path:
        """The supervisor's socket."""
        return self.path / "control.sock"

    @property
    def kubeconfig(self) -> Path:
        """For kubectl on the host."""
        return self.path / "kubeconfig"

    @property
    def pods(self) -> Path:
        """One file for each pod: its node and the plugin's results."""
        return self.path / "pods"

    @property
    def api(self) -> Path:
        """The API server's own files."""
        return self.path / "api"

    def log(self, process: str) -> Path:
        """Output of a process, such as ``node1-agent``."""
        return self.path / "logs" / f"{process}.log"

    def read_spec(self) -> LabSpec:
        """What was asked for.

        Raises:
            LabError: there is no lab of that name, or its state is damaged.
        """
        try:
            return LabSpec.from_json(json.loads(self.spec.read_text()))
        except FileNotFoundError:
            raise LabError(
                f"lab {self.name}: there is none; make it with: calico-py lab up --name {self.name}"
            ) from None
        except (ValueError, KeyError, InvalidError) as error:
            raise LabError(
                f"lab {self.name}: {self.spec} is damaged ({error}); remove the lab with: "
                f"calico-py lab down --name {self.name}"
            ) from None

    def read_topology(self) -> Topology:
        """The topology of what was asked for; raises as read_spec does."""
        return compute_topology(self.read_spec())

    def read_processes(self) -> list[dict[str, Any]]:
        """What the supervisor runs; empty before it has said so."""
        found = read_json(self.processes)
        return found if isinstance(found, list) else []

    def read_supervisor(self) -> Identity | None:
        """Who the supervisor is or was."""
        found = read_json(self.supervisor)
        try:
            return Identity(pid=int(found["pid"]), start=int(found["start"]))
        except (KeyError, TypeError, ValueError):
            return None


@contextlib.contextmanager
def base_lock() -> Iterator[None]:
    """Make the base directory if need be and hold its lock (flock(2))."""
    while True:
        BASE.mkdir(mode=0o755, exist_ok=True)
        descriptor = os.open(BASE, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), BASE.stat()):
                break
        os.close(descriptor)  # the last lab took the directory away while this one waited
    try:
        yield
    finally:
        os.close(descriptor)


def list_labs() -> list[str]:
    """Names of the labs that have a state directory."""
    try:
        return sorted(entry.name for entry in BASE.iterdir() if entry.is_dir())
    except FileNotFoundError:
        return []


def read_json(path: Path) -> Any:
    """The value in a file; None if there is no file or it holds no JSON."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None


def write_json(path: Path, value: object) -> None:
    """Write so that a reader sees the old value or the new one."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(json.dumps(value, indent=1) + "\n")
    scratch.replace(path)
