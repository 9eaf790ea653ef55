"""Connections to a Service, by the kube-proxy of each node, while the mode of the pool changes."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.cluster.kube_cluster import Cluster, Pod, wait_until
from tests.cluster.pool import set_mode
from tests.echoes import Asking, How, Start, asking, serving

pytestmark = [pytest.mark.root, pytest.mark.timeout(120), pytest.mark.usefixtures("installed")]

PORT = 7070
HOW: tuple[How, How] = ("udp", "tcp")


@pytest.fixture
def service(kube: Cluster, ends: list[Pod]) -> Iterator[dict[str, Any]]:
    """A Service to the second pod alone, once the first one's node knows it; its specification."""
    near, far = ends[:2]
    ports = [{"name": kind.lower(), "port": PORT, "protocol": kind} for kind in ("TCP", "UDP")]
    manifest = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "far"},
        "spec": {"type": "NodePort", "selector": {"end": "far"}, "ports": ports},
    }
    kube.kubectl("label", "pod", far.name, "end=far")
    kube.kubectl("create", "-f", "-", stdin=manifest)
    spec = kube.get("service", "far")["spec"]
    node = near.kube
    assert node is not None
    rules = {f"--dport {port['nodePort']} " for port in spec["ports"]} | {f"{far.address(4)}:{PORT}"}
    wait_until(lambda: all(rule in node.run("iptables-save") for rule in rules), what="kube-proxy knows the Service")
    yield spec
    kube.kubectl("delete", "service", "far")
    kube.kubectl("label", "pod", far.name, "end-")


def test_connections_to_a_service_outlive_the_mode(kube: Cluster, ends: list[Pod], service: dict[str, Any]) -> None:
    """From outside to a NodePort, from a node and from a pod; none stalls, and the server sees none of the changes."""
    near, far = ends[:2]
    assert near.kube is not None
    node_port = service["ports"][0]["nodePort"], service["ports"][1]["nodePort"]
    starts: dict[str, tuple[Start, str, tuple[int, int]]] = {
        "outside": (enter(["nsenter", f"--net={kube.outside}", "--"]), str(near.kube.place.ipv4.ip), node_port),
        "host": (enter(near.kube.enter()), service["clusterIP"], (PORT, PORT)),
        "pod": (near.popen, service["clusterIP"], (PORT, PORT)),
    }
    set_mode(kube, "Always")
    with ExitStack() as stack:
        stack.enter_context(serving(far.popen, PORT))
        running: dict[tuple[str, str, How], Asking] = {}
        for mode in ("Always", "Never", "Always", "Never"):
            set_mode(kube, mode)
            for who, (start, address, (tcp, udp)) in starts.items():
                for how in HOW if (mode, who, "udp") not in running else ():
                    port = tcp if how == "tcp" else udp
                    running[mode, who, how] = stack.enter_context(asking(start, how, address, port))
            time.sleep(1)
        results = {what: each.stop() for what, each in running.items()}
    set_mode(kube, "Always")
    assert not {what: echoes for what, echoes in results.items() if not echoes.whole}


def enter(command: list[str]) -> Start:
    """What starts programs behind that command."""
    return lambda argv, **options: subprocess.Popen([*command, *argv], **options)
