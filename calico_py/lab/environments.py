"""The environment of each process of a node, as its DaemonSet would set it. Pure."""

import sys
from collections.abc import Mapping
from pathlib import Path

from calico_py.lab import nodes
from calico_py.lab.topology import LabSpec

AGENT = "agent"
SPEAKER = "speaker"
TUNNEL = "tunnel"
PROCESSES = (AGENT, SPEAKER, TUNNEL)

_SUBCOMMANDS = {AGENT: "node", SPEAKER: "speaker", TUNNEL: "tunnel"}
_PASSED_ON = ("HOME", "LANG", "PYTHONPATH")


def compute_command(spec: LabSpec, process: str) -> list[str]:
    """The command of a process: ``calico-py`` of this Python's own environment, or what the lab was given instead."""
    given = (spec.commands or {}).get(process)
    return list(given) if given else [str(Path(sys.executable).with_name("calico-py")), _SUBCOMMANDS[process]]


def compute_environment(
    spec: LabSpec, node: str, own: Mapping[str, str], *, generation: int = 1, extra: Mapping[str, str] | None = None
) -> dict[str, str]:
    """All of the environment.

    ``own`` is that of the caller: little of it is passed on. ``generation`` is of the DaemonSet's template.
    ``extra`` overrides.
    """
    ours = str(Path(sys.executable).parent)
    environment = {name: own[name] for name in _PASSED_ON if name in own}
    environment |= {
        "PATH": f"{ours}:{own.get('PATH', '/usr/sbin:/usr/bin:/sbin:/bin')}",
        "NODENAME": node,
        "KUBECONFIG": nodes.KUBECONFIG,
        "CALICO_IPV4POOL_CIDR": spec.pool(4) or "none",
        "CALICO_IPV4POOL_IPIP": str(spec.ipip),
        "CALICO_IPV6POOL_CIDR": spec.pool(6) or "none",
        "IP6": "autodetect",
        "CALICO_PY_TEMPLATE_GENERATION": str(generation),
    }
    return environment | dict(extra or {})
