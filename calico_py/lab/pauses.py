"""Starting the process that makes a node and holds it."""

import os
import select
from typing import Any

from calico_py.lab.children import MARK
from calico_py.lab.commands import LabError
from calico_py.lab.nodes import LiveNode, pause_command
from calico_py.lab.processes import host_pid
from calico_py.lab.state import StateDir
from calico_py.lab.topology import NodePlace

_READY = b"ready"
_WITHIN = 10.0  # seconds


def start_pause(place: NodePlace, state: StateDir) -> LiveNode:
    """Make the node's mount namespace, held by a child of the caller.

    Raises:
        LabError: with what the mounting said.
    """
    log = state.log(f"{place.name}-pause")
    reading, writing = os.pipe()
    try:
        actions: list[tuple[Any, ...]] = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, writing, 1),
            (os.POSIX_SPAWN_OPEN, 2, str(log), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644),
        ]
        argv = pause_command(place)
        environment = {**os.environ, MARK: f"{state.name}/{place.name}-pause"}
        pid = os.posix_spawnp(argv[0], argv, environment, file_actions=actions, setsid=True)
        os.close(writing)
        writing = -1
        heard = os.read(reading, len(_READY)) if select.select([reading], [], [], _WITHIN)[0] else b""
    finally:
        os.close(reading)
        if writing >= 0:
            os.close(writing)
    if heard != _READY:
        raise LabError(f"{place.name}: its mounts could not be made: {log.read_text().strip() or 'no answer'}")
    return LiveNode(place, host_pid(pid))
