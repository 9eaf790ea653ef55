"""calico-py is installed by `kubectl apply -k deploy/` in a cluster that has no network: what is there afterwards."""

import json
from ipaddress import ip_address, ip_network

import pytest

from tests.cluster.conftest import Installed
from tests.cluster.kube_cluster import Cluster, Node, fetch
from tests.cluster.parts import DAEMONSETS, pid_of
from tests.cluster.workloads import rolled_out
from tests.cni import elf

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("installed")]

# Linux' numbers of the capabilities that each process has, as deploy/ gives them (linux/capability.h).
NET_BIND_SERVICE, NET_ADMIN, NET_RAW, SYS_ADMIN, SYS_NICE = 10, 12, 13, 21, 23
CAPABILITIES = {
    "node": {NET_ADMIN, SYS_ADMIN},
    "speaker": {NET_BIND_SERVICE},
    "tunnel": {NET_ADMIN, NET_RAW, SYS_NICE},
}


def test_nodes_become_ready_with_it(kube: Cluster, installed: Installed) -> None:
    assert installed.ready_before == frozenset()
    assert kube.ready_nodes() == set(kube.nodes)


def test_no_pod_came_before_the_network(kube: Cluster, installed: Installed) -> None:
    """Pods that waited for it are placed when it can serve them, and the runtime's first attempt succeeds."""
    assert installed.placed_before == frozenset()
    items = kube.get("pods", "--selector=app=web")["items"]
    assert len(items) == 6
    failed = kube.get("events", "--field-selector=reason=FailedCreatePodSandBox")["items"]
    assert [event["message"] for event in failed] == []


def test_the_taints_of_a_node_without_a_network_are_gone(kube: Cluster) -> None:
    for node in kube.get("nodes")["items"]:
        assert node["spec"].get("taints", []) == [], node["metadata"]["name"]


def test_the_scheduler_is_told_that_the_network_is_there(kube: Cluster) -> None:
    for node in kube.get("nodes")["items"]:
        (found,) = [each for each in node["status"]["conditions"] if each["type"] == "NetworkUnavailable"]
        assert (found["status"], found["reason"]) == ("False", "CalicoPyIsUp")


def test_no_container_is_privileged_and_none_restarted(kube: Cluster) -> None:
    for pod in kube.get("pods", "--namespace=kube-system")["items"]:
        for container in pod["spec"]["containers"] + pod["spec"].get("initContainers", []):
            assert not container["securityContext"].get("privileged"), container["name"]
            assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
            assert container["securityContext"]["readOnlyRootFilesystem"]
        restarts = [status["restartCount"] for status in pod["status"]["containerStatuses"]]
        assert restarts == [0], pod["metadata"]["name"]


@pytest.mark.parametrize("part", CAPABILITIES)
def test_processes_have_the_capabilities_that_are_named_and_no_others(kube: Cluster, part: str) -> None:
    for node in kube.nodes.values():
        status = status_of(node, part)
        effective = int(status["CapEff"], 16)
        assert {number for number in range(64) if effective >> number & 1} == CAPABILITIES[part], node.name
        assert status["Seccomp"] == "2"  # the runtime's filter (proc(5))


def test_the_scheduler_makes_room_for_them(kube: Cluster) -> None:
    for pod in kube.get("pods", "--namespace=kube-system")["items"]:
        assert pod["spec"]["priorityClassName"] == "system-node-critical"
        assert pod["spec"]["priority"] == 2_000_001_000
        assert {"operator": "Exists"} in pod["spec"]["tolerations"]


def test_probes_are_answered_on_the_node_alone(kube: Cluster) -> None:
    for node in kube.nodes.values():
        assert fetch(node.network, "http://127.0.0.1:9099/readiness") == "ready"
        assert fetch(node.network, "http://127.0.0.1:9099/liveness")
        assert not fetch(kube.outside, f"http://{node.place.ipv4.ip}:9099/readiness")


def test_the_default_pool_lies_where_kubeadm_says(kube: Cluster) -> None:
    (pool,) = kube.get("ippools")["items"]
    assert pool["spec"]["cidr"] == "10.244.0.0/16"
    assert pool["spec"]["ipipMode"] == "Always"
    rolled_out(kube, "web", kind="deployment", namespace="default")
    for pod in kube.get("pods")["items"]:
        assert ip_address(pod["status"]["podIP"]) in ip_network("10.244.0.0/16")


def test_pods_that_the_scheduler_placed_are_of_the_newest_template(kube: Cluster) -> None:
    for name in DAEMONSETS:
        items = kube.get("pods", "--namespace=kube-system", f"--selector=k8s-app={name}")["items"]
        assert {pod["spec"]["nodeName"] for pod in items} == set(kube.nodes)
        assert {pod["metadata"]["labels"]["pod-template-generation"] for pod in items} == {"1"}


def test_the_chain_has_portmap_and_bandwidth(kube: Cluster) -> None:
    for node in kube.nodes.values():
        (file,) = (node.root / "etc/cni/net.d").iterdir()  # nothing half-written beside it
        conflist = json.loads(file.read_text())
        assert [plugin["type"] for plugin in conflist["plugins"]] == ["calico-py", "portmap", "bandwidth"]
        assert file.stat().st_mode & 0o777 == 0o600


def test_the_executable_needs_nothing_of_its_host(kube: Cluster) -> None:
    for node in kube.nodes.values():
        executable = node.root / "opt/cni/bin/calico-py"
        assert not elf.needs_interpreter(executable)
        said = node.run("env", "-i", "CNI_COMMAND=VERSION", "/opt/cni/bin/calico-py")
        assert {"0.1.0", "0.3.1", "1.1.0"} <= set(json.loads(said)["supportedVersions"])


def test_the_image_has_the_executable_for_two_architectures(kube: Cluster) -> None:
    node = next(iter(kube.nodes.values()))
    shims = node.root / "proc" / pid_of(node, "node") / "root/opt/calico-py/shim"
    assert {machine.name for machine in shims.iterdir()} == {"aarch64", "x86_64"}
    for machine in shims.iterdir():
        assert elf.machine(machine / "calico-py") == machine.name


def status_of(node: Node, part: str) -> dict[str, str]:
    """Fields of proc_pid_status(5)."""
    lines = node.run("cat", f"/proc/{pid_of(node, part)}/status").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
