"""What runs where in a lab, as data and as tables."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from calico_py.lab import environments
from calico_py.lab.live import LiveLab
from calico_py.lab.processes import Identity
from calico_py.lab.readiness import find_causes


def read_status(lab: LiveLab) -> dict[str, Any]:
    """Nodes with their processes, readiness and pods; processes with their ids in the host's /proc.

    Raises:
        LabError: the API server does not answer.
    """
    causes = find_causes(lab)
    processes = lab.state.read_processes()
    pods = lab.pods()
    spec = lab.topology.spec
    return {
        "lab": spec.name,
        "api": str(spec.api),
        "kubeconfig": str(lab.state.kubeconfig),
        "supervisor": _running(lab.state.read_supervisor()),
        "processes": {entry["process"]: _process(entry) for entry in processes if not entry["node"]},
        "nodes": [
            {
                "name": place.name,
                "netns": place.netns,
                "subnet": place.subnet,
                "ipv4": str(place.ipv4.ip),
                "ipv6": str(place.ipv6.ip),
                "ready": not causes[place.name],
                "cause": causes[place.name],
                "pods": {
                    pod.name: [str(address) for address in pod.addresses] for pod in pods if pod.node == place.name
                },
                "processes": {entry["process"]: _process(entry) for entry in processes if entry["node"] == place.name},
            }
            for place in lab.topology.nodes
        ],
    }


def render_status(status: Mapping[str, Any]) -> Group:
    """What `lab status` prints: nodes, pods, and beneath them why a node is not ready and how processes have ended."""
    supervisor = status["supervisor"] or "gone"
    nodes = Table(title=f"lab {status['lab']} ({status['api']} API, supervisor {supervisor})", title_justify="left")
    for column in ("node", "address", "subnet", *environments.PROCESSES, "ready"):
        nodes.add_column(column, no_wrap=True)
    pods = Table(title="pods", title_justify="left")
    for column in ("pod", "node", "addresses"):
        pods.add_column(column, no_wrap=True)
    remarks = []
    for node in status["nodes"]:
        processes = {process: node["processes"].get(process) for process in environments.PROCESSES}
        cells = map(_cell, processes.values())
        nodes.add_row(node["name"], node["ipv4"], str(node["subnet"]), *cells, "yes" if node["ready"] else "no")
        for name, addresses in node["pods"].items():
            pods.add_row(name, node["name"], "\n".join(addresses))
        remarks += [f"{node['name']}: {node['cause']}"] if node["cause"] else []
        remarks += [
            f"{node['name']}: {name} started again {process['restarts']} times, last after {process['last_exit']}"
            for name, process in processes.items()
            if process and process["restarts"]
        ]
    return Group(nodes, *([pods] if pods.row_count else []), *map(Text, remarks))


def _process(entry: Mapping[str, Any]) -> dict[str, Any]:
    identity = Identity(entry["pid"], entry["start"]) if entry.get("start") else None
    return {
        "pid": entry["pid"] if identity is None or identity.alive else 0,
        "wanted": entry.get("wanted", True),
        "held": entry.get("held", False),
        "restarts": entry.get("restarts", 0),
        "last_exit": entry.get("last_exit", ""),
    }


def _cell(process: Mapping[str, Any] | None) -> str:
    """The process id; else whether it should run at all."""
    if process is None:
        return "-"
    if process["pid"]:
        return str(process["pid"])
    return "ended" if process["wanted"] else "stopped" if process["held"] else "-"


def _running(identity: Identity | None) -> int:
    return identity.pid if identity and identity.alive else 0
