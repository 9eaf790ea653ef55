"""What a container runtime would need to know of a node, for whoever calls the plugin without the lab's help."""

from typing import Any

from calico_py.lab import runtime
from calico_py.lab.commands import LabError
from calico_py.lab.live import Endpoint
from calico_py.lab.nodes import POD_NETNS_DIR, LiveNode


def describe_cni(node: LiveNode) -> dict[str, Any]:
    """Executable, configuration, directories, environment, and how to enter the node.

    ``enter`` is a command: put the executable behind it. All paths are the node's; ``root`` is the directory under
    which the host sees them.

    Raises:
        LabError: the node has no network configuration yet, or its plugin is missing.
    """
    path, conflist = runtime.read_conflist(node)
    executable = f"{runtime.BIN_DIR}/{conflist['plugins'][0]['type']}"
    if not (node.root / executable.lstrip("/")).exists():
        raise LabError(f"{node.place.name}: {path} names {executable}, which does not exist in the node")
    sandbox = runtime.Sandbox("POD", "default", "CONTAINERID")
    return {
        "node": node.place.name,
        "executable": executable,
        "conflistPath": path,
        "conflist": conflist,
        "directories": {
            "bin": runtime.BIN_DIR,
            "conf": runtime.CONF_DIR,
            "cache": runtime.CACHE_DIR,
            "netns": POD_NETNS_DIR,
        },
        "environment": sandbox.environment("ADD"),
        "enter": Endpoint(node).enter(),
        "root": str(node.root),
        "netns": node.place.netns,
    }
