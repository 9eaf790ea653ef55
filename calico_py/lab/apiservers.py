"""How each kind of API server is started, and where nodes and the host reach it.

The embedded one takes sockets that are open already, one in the lab's network and one on the host's loopback. A real
kube-apiserver cannot: it listens on the host's loopback, and a relay takes what comes in the lab's network there.
"""

import fcntl
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from calico_py.lab import namespaces
from calico_py.lab.api.binaries import MissingError, cached, found
from calico_py.lab.api.control_plane import commands, layout
from calico_py.lab.cache import cache_directory
from calico_py.lab.children import Child
from calico_py.lab.client import Api
from calico_py.lab.commands import LabError
from calico_py.lab.state import StateDir
from calico_py.lab.topology import API_PORT, ApiServer, Topology

_FIRST_FREE = 20  # well above the numbers at which children find their descriptors


@dataclass(frozen=True, slots=True)
class Plan:
    """Processes to run, in order; ``inner`` is the server as nodes see it, ``outer`` as the host does."""

    children: Sequence[Child]
    inner: Api
    outer: Api


def prepare(topology: Topology, state: StateDir) -> Plan:
    """Open what must be open before the server starts. Starts nothing.

    Raises:
        LabError: an address cannot be listened on, or binaries are missing.
    """
    state.api.mkdir(exist_ok=True)
    return _kube(topology, state) if topology.spec.api == ApiServer.KUBE else _embedded(topology, state)


def find_programs(environ: Mapping[str, str]) -> None:
    """See that etcd is there, and build kube-apiserver, in a few minutes, where the cache has none.

    Raises:
        LabError: a program is missing and cannot be built.
    """
    try:
        found("etcd")
        cached("kube-apiserver", cache_directory(environ))
    except MissingError as error:
        raise LabError(f"--api kube: {error}") from None


def _embedded(topology: Topology, state: StateDir) -> Plan:
    """One process with a socket in the lab's network and one on the host's loopback."""
    sockets = (_keep(_listen_inside(topology)), _keep(_listen("127.0.0.1", 0)))
    port = _port(sockets[1])
    given = (topology.spec.commands or {}).get("api")
    command = list(given) if given else [sys.executable, "-m", "calico_py.lab.api"]
    command += ["--db", str(state.api / "objects.sqlite"), "--no-crds", "--fd", "3", "--fd", "4"]
    child = _child(topology, state, "api", command, sockets)
    return Plan(
        children=[child],
        inner=Api(f"http://{topology.core4.ip}:{API_PORT}"),
        outer=Api(f"http://127.0.0.1:{port}"),
    )


def _kube(topology: Topology, state: StateDir) -> Plan:
    """Both programs on the host's loopback, and the relay that listens in the lab's network."""
    inner = _keep(_listen_inside(topology))
    plan = layout(state.api, advertise=str(topology.core4.ip))
    etcd, server = commands(plan, cache_directory(os.environ))
    relay = [sys.executable, "-m", "calico_py.lab.api.relay", "--fd", "3", "--to", f"127.0.0.1:{plan.port}"]
    return Plan(
        children=[
            _child(topology, state, "etcd", etcd),
            _child(topology, state, "api", server),
            _child(topology, state, "relay", relay, (inner,)),
        ],
        inner=Api(f"https://{topology.core4.ip}:{API_PORT}", plan.token, str(plan.authority)),
        outer=Api(plan.url, plan.token, str(plan.authority)),
    )


def _child(topology: Topology, state: StateDir, name: str, command: list[str], sockets: tuple[int, ...] = ()) -> Child:
    environment = {key: os.environ[key] for key in ("PATH", "HOME", "LANG", "PYTHONPATH") if key in os.environ}
    return Child(
        name=name,
        node="",
        process=name,
        command=lambda: command,
        environment=environment,
        log=state.log(name),
        mark=f"{topology.spec.name}/{name}",
        pass_fds=sockets,
    )


def _listen_inside(topology: Topology) -> socket.socket:
    with namespaces.inside(namespaces.named(topology.core)):
        return _listen(str(topology.core4.ip), API_PORT)


def _listen(address: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise LabError(f"the API server cannot listen on {address}:{port}: {error}") from None
    return listener


def _keep(listener: socket.socket) -> int:
    """A descriptor of the socket that stays open for as long as the supervisor runs: a restarted server takes over."""
    with listener:
        return int(fcntl.fcntl(listener.fileno(), fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE))


def _port(descriptor: int) -> int:
    with socket.socket(fileno=os.dup(descriptor)) as copy:
        found: tuple[Any, ...] = copy.getsockname()
        return int(found[1])
