"""Services in a lab: kube-proxy itself on each node, and a machine outside of the cluster."""

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from calico_py.lab.api.binaries import cached
from calico_py.lab.cache import cache_directory
from calico_py.lab.nodes import KUBECONFIG
from tests.echoes import Start
from tests.netns.namespaces import Namespace
from tests.product.cluster import NODES, Cluster, eventually

POD_NETWORK = "10.244.0.0/16"
OUTSIDER = "192.168.49.200"
PORT = 7070  # of the servers in pods

_CONFIG = "/etc/kubernetes/proxy.yaml"


@dataclass(frozen=True, slots=True)
class Service:
    """A Service of type NodePort to the server of one pod; its ports are the same for UDP and TCP."""

    pod: str
    address: str
    node_port: int


@contextlib.contextmanager
def kube_proxy(made: Cluster, mode: str, services: Sequence[Service]) -> Iterator[None]:
    """kube-proxy of that mode on each node, from when its rules know the services; they go with it."""
    program = str(cached("kube-proxy", cache_directory(os.environ)))
    with contextlib.ExitStack() as stack:
        for name in NODES:
            node = made.lab.endpoint(name)
            (node.node.root / _CONFIG.lstrip("/")).write_text(json.dumps(_settings(mode)))
            log = stack.enter_context((made.lab.state.path / f"kube-proxy-{name}.log").open("ab"))
            argv = [program, f"--config={_CONFIG}", f"--hostname-override={name}"]
            process = node.popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            stack.callback(node.run, [program, "--cleanup"])
            stack.callback(process.wait)
            stack.callback(process.kill)
        words = {str(service.node_port) for service in services}
        argv = ["iptables-save"] if mode == "iptables" else ["nft", "list", "table", "ip", "kube-proxy"]
        for name in NODES:
            node = made.lab.endpoint(name)
            eventually(f"rules of {name}", lambda node=node: _has(node.run(argv).stdout, words))  # type: ignore[misc]
        yield


def _has(rules: str, words: set[str]) -> bool:
    return all(word in rules for word in words)


def _settings(mode: str) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": mode,
        "clusterCIDR": POD_NETWORK,
        "clientConnection": {"kubeconfig": KUBECONFIG},
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpCloseWaitTimeout": "0s", "tcpEstablishedTimeout": "0s"},
    }


def make_service(made: Cluster, pod: str) -> Service:
    """Make a Service with its one endpoint, as controllers would."""
    name = pod.replace("/", "-")
    ports = [{"name": kind.lower(), "port": PORT, "protocol": kind} for kind in ("TCP", "UDP")]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"type": "NodePort", "ports": ports},
    }
    endpoints = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": ports,
        "endpoints": [{"addresses": [str(made.lab.endpoint(pod).address(4))], "conditions": {"ready": True}}],
    }
    for each in (service, endpoints):
        made.kubectl("apply", "-f", "-", stdin=json.dumps(each))
    spec = json.loads(made.kubectl("get", "service", name, "-o", "json"))["spec"]
    (node_port,) = {port["nodePort"] for port in spec["ports"]}
    return Service(pod, spec["clusterIP"], node_port)


@contextlib.contextmanager
def outsider(made: Cluster) -> Iterator[Start]:
    """A machine beside the routers, which knows the way to nodes and none to pods; gives what starts programs there."""
    topology = made.lab.topology
    machine = Namespace()
    try:
        wire = ["type", "veth", "peer", "name", "eth0", "netns", machine.path]
        core = ["ip", "-n", topology.core, "link"]
        subprocess.run([*core, "add", "outsider", *wire], check=True)
        subprocess.run([*core, "set", "outsider", "master", "core0", "up"], check=True)
        machine.run("sh", "-ec", f"ip link set lo up; ip link set eth0 up; ip address add {OUTSIDER}/24 dev eth0")
        for router in topology.routers:
            machine.run("ip", "route", "add", str(router.lan4.network), "via", str(router.core4.ip))

        def start(argv: Sequence[str], **options: Any) -> "subprocess.Popen[str]":
            return subprocess.Popen(["nsenter", f"--net={machine.path}", "--", *argv], **options)

        yield start
    finally:
        machine.close()
