"""Stopping, starting and killing a node's processes, by the supervisor."""

from collections.abc import Mapping

from calico_py.lab import control, environments
from calico_py.lab.live import LiveLab

PROCESSES = environments.PROCESSES
KILLABLE = (environments.AGENT, "exabgp", "bridge", environments.TUNNEL, environments.SPEAKER)


def change(
    lab: LiveLab,
    node: str,
    action: str,
    *,
    only: str = "",
    env: Mapping[str, str] | None = None,
    generation: int | None = None,
) -> None:
    """``start``, ``stop`` or ``restart`` what runs on a node; returns when the processes have ended or begun.

    ``stop`` and ``start`` are of agent, speaker and tunnel; ``restart`` ends the agent alone, as a rollout of its
    DaemonSet does, and starts whatever is stopped. ``only`` names one process that each then concerns. Environment and
    generation are the agent's, and stay for later starts, as in a DaemonSet's template.

    Raises:
        LabError, InvalidError: no such node, or the supervisor does not answer.
    """
    lab.topology.node(node)
    request = {
        "do": "agent",
        "node": node,
        "action": action,
        "only": only,
        "env": dict(env or {}),
        "generation": generation,
    }
    control.ask(lab.state.control, request)


def kill(lab: LiveLab, node: str, process: str) -> list[int]:
    """SIGKILL a process of a node; the process ids that were killed.

    Raises:
        LabError, InvalidError: no such node, or no such process runs there.
    """
    lab.topology.node(node)
    answer = control.ask(lab.state.control, {"do": "kill", "node": node, "process": process})
    return [int(pid) for pid in answer]
