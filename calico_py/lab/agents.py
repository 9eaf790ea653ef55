"""Stopping, starting and killing a node's processes, by the supervisor."""

from collections.abc import Mapping

from calico_py.lab import control, environments
from calico_py.lab.live import LiveLab

KILLABLE = (environments.AGENT, "exabgp", "bridge", environments.TUNNEL, environments.SPEAKER)


def change(
    lab: LiveLab, node: str, action: str, *, env: Mapping[str, str] | None = None, generation: int | None = None
) -> None:
    """``start``, ``stop`` or ``restart`` the agent of a node; returns when the process has ended or begun.

    Environment and generation stay for later starts, as in a DaemonSet's template.

    Raises:
        LabError, InvalidError: no such node, or the supervisor does not answer.
    """
    lab.topology.node(node)
    request = {"do": "agent", "node": node, "action": action, "env": dict(env or {}), "generation": generation}
    control.ask(lab.state.control, request)


def kill(lab: LiveLab, node: str, process: str) -> list[int]:
    """SIGKILL a process of a node; the process ids that were killed.

    Raises:
        LabError, InvalidError: no such node, or no such process runs there.
    """
    lab.topology.node(node)
    answer = control.ask(lab.state.control, {"do": "kill", "node": node, "process": process})
    return [int(pid) for pid in answer]
