"""How a test provokes a cause on a node of a lab, and reads what the node says of it."""

import contextlib
import json
import os
import signal
from collections.abc import Iterator, Sequence
from typing import Any

from calico_py.lab import agents, environments
from tests.product.cluster import NODES, POOL, TUNNEL, Cluster, eventually

V3 = "projectcalico.org/v3"


def all_well(made: Cluster) -> None:
    """Return once all routes go by the tunnel and every node is ready."""
    made.wait_for(TUNNEL)

    def causes() -> str:
        return " | ".join(filter(None, (told(made, node, "not_ready") for node in NODES)))

    eventually("every node is ready", lambda: not causes(), last=causes)


def told(made: Cluster, node: str, *where: str) -> str:
    """What a node's status says there."""
    found: Any = made.status(node)
    for key in where:
        found = found[key] if isinstance(found, dict) else ""  # while no agent answers
    return json.dumps(found) if found else ""


def waits(made: Cluster, node: str) -> str:
    """What a node's routes wait for."""
    return told(made, node, "routes", "routes")


def ready(made: Cluster, node: str) -> str:
    """The body of /readiness."""
    return made.lab.endpoint(node).run(["curl", "-s", "http://127.0.0.1:9099/readiness"]).stdout


def run(made: Cluster, node: str, *argv: str) -> str:
    done = made.lab.endpoint(node).run(argv)
    assert done.returncode == 0, done.stderr
    return done.stdout


def patch_pool(made: Cluster, **spec: object) -> None:
    made.kubectl("patch", "ippool", POOL, "--type=merge", "-p", json.dumps({"spec": spec}))


def annotate(made: Cluster, node: str, *annotations: str) -> None:
    made.kubectl("annotate", "--overwrite", "node", node, *annotations)


@contextlib.contextmanager
def applied(made: Cluster, *manifests: dict[str, Any]) -> Iterator[None]:
    """Objects that exist for the length of the block."""
    for manifest in manifests:
        made.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
    try:
        yield
    finally:
        for manifest in manifests:
            made.kubectl("delete", manifest["kind"].lower(), manifest["metadata"]["name"])


@contextlib.contextmanager
def restarted(made: Cluster, node: str, normally: dict[str, str], **env: str) -> Iterator[None]:
    """An agent with another environment, and afterwards with the one that it had."""
    agents.change(made.lab, node, "restart", env=env)
    try:
        yield
    finally:
        agents.change(made.lab, node, "restart", env=normally)


@contextlib.contextmanager
def stopped(made: Cluster, node: str) -> Iterator[None]:
    """No agent on a node."""
    agents.change(made.lab, node, "stop", only=environments.AGENT)
    try:
        yield
    finally:
        agents.change(made.lab, node, "start", only=environments.AGENT)


@contextlib.contextmanager
def frozen(made: Cluster, node: str) -> Iterator[None]:
    """An agent that sees what happens meanwhile only all at once."""
    pid = made.agents()[node]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def programmed(felix: str, bgp: str) -> Sequence[dict[str, Any]]:
    return [
        {"apiVersion": V3, "kind": kind, "metadata": {"name": "default"}, "spec": {"programClusterRoutes": value}}
        for kind, value in (("FelixConfiguration", felix), ("BGPConfiguration", bgp))
    ]
