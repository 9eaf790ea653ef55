"""A lab that runs, as commands find it: its nodes, its pods, and how to be inside of either."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

from calico_py.lab.client import Api, read_kubeconfig
from calico_py.lab.commands import LabError
from calico_py.lab.nodes import KUBECONFIG, LiveNode
from calico_py.lab.processes import command_line
from calico_py.lab.state import StateDir, read_json
from calico_py.lab.topology import Topology
from calico_py.model.net import Family

_POD = "pod/"


@dataclass(frozen=True, slots=True)
class PodRecord:
    """What `pod add` remembers of a pod.

    Attributes:
        container_id: CNI_CONTAINERID. conflist: the file that the plugins came from, whole. results: one for each
            plugin that was called, in order.
    """

    name: str
    node: str
    container_id: str
    addresses: tuple[IPv4Address | IPv6Address, ...]
    conflist: Mapping[str, Any]
    results: tuple[Mapping[str, Any], ...]

    def to_json(self) -> dict[str, Any]:
        """As written to the state directory."""
        return {
            "pod": self.name,
            "node": self.node,
            "containerID": self.container_id,
            "addresses": [str(address) for address in self.addresses],
            "conflist": self.conflist,
            "results": list(self.results),
        }


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A node, or a pod on it: where a command can run and a packet can come from."""

    node: LiveNode
    pod: PodRecord | None = None

    @property
    def label(self) -> str:
        """As it is spelt on the command line."""
        return f"{_POD}{self.pod.name}" if self.pod else self.node.place.name

    def enter(self) -> list[str]:
        """The command before which a command runs there; what it starts ends with whoever started it.

        setpriv(1) sees to that: nsenter itself stays in the caller's PID namespace, with the command as its child.
        """
        return [*self.node.enter(pod=self.pod.name if self.pod else ""), "setpriv", "--pdeathsig", "TERM", "--"]

    def environment(self) -> dict[str, str]:
        """The caller's own, with what the agent of the node knows, and ``calico-py`` itself in PATH."""
        place = self.node.place
        path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
        return {**os.environ, "PATH": path, "NODENAME": place.name, "KUBECONFIG": KUBECONFIG}

    def popen(self, argv: Sequence[str], **options: Any) -> "subprocess.Popen[str]":
        """Start a command there."""
        options = {"text": True, "env": self.environment(), **options}
        return subprocess.Popen([*self.enter(), *argv], **options)

    def run(self, argv: Sequence[str], *, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command there to its end; its exit code is the caller's to judge."""
        return subprocess.run(
            [*self.enter(), *argv],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            env=self.environment(),
        )

    def address(self, family: Family | None = None) -> IPv4Address | IPv6Address:
        """Where it is reached: its address of that family, or else the first, which is IPv4 where it has one.

        Raises:
            LabError: it has none.
        """
        place = self.node.place
        found = self.pod.addresses if self.pod else (place.ipv4.ip, place.ipv6.ip)
        for address in sorted(found, key=lambda a: a.version):
            if family in (None, address.version):
                return address
        raise LabError(f"{self.label}: has no IPv{family or ''} address, only {', '.join(map(str, found)) or 'none'}")


class LiveLab:
    """A lab by its name.

    Raises:
        LabError: there is none of that name, or it does not run.
    """

    def __init__(self, name: str) -> None:
        self.state = StateDir(name)
        self.topology: Topology = self.state.read_topology()

    @property
    def nodes(self) -> tuple[LiveNode, ...]:
        """All nodes, in order."""
        pauses = {
            entry["node"]: entry["pid"] for entry in self.state.read_processes() if entry.get("process") == "pause"
        }
        found = []
        for place in self.topology.nodes:
            pid = pauses.get(place.name)
            if pid is None or command_line(pid)[:1] != ["sleep"]:
                raise LabError(
                    f"lab {self.state.name}: {place.name} does not run; "
                    f"see {self.state.log('supervisor')}, then take the lab down and up again"
                )
            found.append(LiveNode(place, pid))
        return tuple(found)

    def node(self, name: str) -> LiveNode:
        """A node by its name; InvalidError if the lab has none such."""
        place = self.topology.node(name)
        return next(node for node in self.nodes if node.place == place)

    def endpoint(self, text: str) -> Endpoint:
        """``nodeN`` or ``pod/POD``.

        Raises:
            LabError, InvalidError: there is no such node or pod.
        """
        if text.startswith(_POD):
            record = self.pod(text.removeprefix(_POD))
            return Endpoint(self.node(record.node), record)
        return Endpoint(self.node(text))

    def target(self, text: str, family: Family | None = None) -> IPv4Address | IPv6Address:
        """``nodeN``, ``pod/POD`` or an address, as an address."""
        try:
            return ip_address(text)
        except ValueError:
            return self.endpoint(text).address(family)

    def pods(self) -> list[PodRecord]:
        """All pods, by name."""
        return [self.pod(path.stem) for path in sorted(self.state.pods.glob("*.json"))]

    def pod(self, name: str) -> PodRecord:
        """A pod by its name.

        Raises:
            LabError: the lab has no such pod.
        """
        found = read_json(self.state.pods / f"{name}.json")
        if found is None:
            known = ", ".join(path.stem for path in sorted(self.state.pods.glob("*.json"))) or "none"
            raise LabError(f"pod {name}: not found in lab {self.state.name}; its pods: {known}")
        return PodRecord(
            name=found["pod"],
            node=found["node"],
            container_id=found["containerID"],
            addresses=tuple(ip_address(address) for address in found["addresses"]),
            conflist=found["conflist"],
            results=tuple(found["results"]),
        )

    def api(self) -> Api:
        """The API server as the host reaches it."""
        return read_kubeconfig(self.state.kubeconfig)
