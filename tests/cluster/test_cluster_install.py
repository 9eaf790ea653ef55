"""calico-py is installed, serves what pods expect of a network, and is removed again: in this order."""

import json
import re
from collections.abc import Iterator

import pytest

from tests.cluster.conftest import DAEMONSETS, Installed, manifest, rolled_out, traces
from tests.cluster.kube_cluster import CHECKOUT, Cluster, Pod, fetch, wait_until
from tests.cluster.outside import who_server

pytestmark = [pytest.mark.root, pytest.mark.timeout(1800), pytest.mark.usefixtures("installed")]


def test_nodes_become_ready_with_it(kube: Cluster, installed: Installed) -> None:
    assert installed.ready_before == frozenset()
    assert kube.ready_nodes() == set(kube.nodes)


def test_the_scheduler_is_told_that_the_network_is_there(kube: Cluster) -> None:
    for node in kube.get("nodes")["items"]:
        (found,) = [each for each in node["status"]["conditions"] if each["type"] == "NetworkUnavailable"]
        assert (found["status"], found["reason"]) == ("False", "CalicoPyIsUp")


def test_no_container_is_privileged_and_none_restarted(kube: Cluster) -> None:
    for pod in kube.get("pods", "--namespace=kube-system")["items"]:
        for container in pod["spec"]["containers"] + pod["spec"].get("initContainers", []):
            assert not container["securityContext"].get("privileged"), container["name"]
            assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
        restarts = [status["restartCount"] for status in pod["status"]["containerStatuses"]]
        assert restarts == [0], pod["metadata"]["name"]


def test_the_default_pool_lies_where_kubeadm_says(kube: Cluster) -> None:
    (pool,) = kube.get("ippools")["items"]
    assert pool["spec"]["cidr"] == "10.244.0.0/16"
    assert pool["spec"]["ipipMode"] == "Always"


def test_pods_that_the_scheduler_placed_are_of_the_newest_template(kube: Cluster) -> None:
    for name in DAEMONSETS:
        pods = kube.get("pods", "--namespace=kube-system", f"--selector=k8s-app={name}")["items"]
        assert {pod["spec"]["nodeName"] for pod in pods} == set(kube.nodes)
        assert {pod["metadata"]["labels"]["pod-template-generation"] for pod in pods} == {"1"}


@pytest.fixture(scope="module")
def pods(kube: Cluster) -> Iterator[list[Pod]]:
    """The pods of a Deployment, two on each node."""
    kube.kubectl("apply", "-f", manifest("web.yaml"))
    rolled_out(kube, "web", kind="deployment", namespace="default")
    names = [item["metadata"]["name"] for item in kube.get("pods", "--selector=app=web")["items"]]
    yield [kube.pod(name) for name in names]
    kube.kubectl("delete", "-f", manifest("web.yaml"), "--wait=true")


def test_pods_of_a_deployment_reach_each_other(pods: list[Pod]) -> None:
    assert len({pod.node.place.name for pod in pods}) == 3
    for source in pods:
        for target in pods:
            assert fetch(source.network, f"http://{target.address()}/") == target.name, f"{source} to {target}"
            if source is not target:
                assert fetch(source.network, f"http://{target.address()}/cgi-bin/who") == str(source.address())


def test_nodes_reach_pods_and_pods_reach_nodes(kube: Cluster, pods: list[Pod]) -> None:
    for node in kube.nodes.values():
        for pod in pods:
            assert fetch(node.network, f"http://{pod.address()}/") == pod.name
            ping = pod.run(["ping", "-n", "-c", "1", "-W", "2", str(node.place.ipv4.ip)])
            assert ping.returncode == 0, f"{pod.name} to {node.name}: {ping.stdout}"


def test_a_service_is_served_by_all(kube: Cluster, pods: list[Pod]) -> None:
    address = kube.get("service", "web")["spec"]["clusterIP"]
    answers = {fetch(pods[0].network, f"http://{address}/") for _ in range(60)}
    assert answers == {pod.name for pod in pods}


def test_pods_appear_with_their_node_s_address_outside(kube: Cluster, pods: list[Pod]) -> None:
    with who_server(kube) as url:
        for pod in pods:
            assert fetch(pod.network, url) == str(pod.node.place.ipv4.ip)


def test_without_nat_nothing_comes_back_from_outside(kube: Cluster, pods: list[Pod]) -> None:
    def set_nat(value: bool) -> None:
        patch = json.dumps({"spec": {"natOutgoing": value}})
        kube.kubectl("patch", "ippool", "default-ipv4-ippool", "--type=merge", f"--patch={patch}")

    with who_server(kube) as url:
        set_nat(False)
        try:
            wait_until(lambda: not fetch(pods[0].network, url), within=20, what="the pool's addresses are not hidden")
        finally:
            set_nat(True)
        wait_until(lambda: fetch(pods[0].network, url), within=20, what="the pool's addresses are hidden again")


def test_a_port_of_the_host_leads_to_its_pod(kube: Cluster) -> None:
    kube.kubectl("apply", "-f", manifest("hostport.yaml"))
    kube.kubectl("wait", "pod/hostport", "--for=condition=Ready", "--timeout=30s")
    node = kube.pod("hostport").node.place
    url = f"http://{node.ipv4.ip}:8088/"
    assert fetch(kube.outside, url) == "hostport"
    kube.kubectl("delete", "-f", manifest("hostport.yaml"))
    assert not fetch(kube.outside, url)


def test_bandwidth_annotations_are_obeyed(kube: Cluster) -> None:
    """By the chained plugin's queues; kubelet allows a burst of 256 MB, so the rate itself cannot be waited for."""
    kube.kubectl("apply", "-f", manifest("limited.yaml"))
    kube.kubectl("wait", "pod/limited", "--for=condition=Ready", "--timeout=30s")
    limited = kube.pod("limited")
    assert limited.kube is not None
    route = json.loads(limited.kube.run("ip", "-j", "route", "get", str(limited.address())))
    queues = json.loads(limited.kube.run("tc", "-j", "qdisc", "show"))
    rates = {queue["dev"]: 8 * queue["options"]["rate"] for queue in queues if queue["kind"] == "tbf"}
    into = rates.pop(route[0]["dev"])
    (out_of,) = rates.values()
    assert (into, out_of) == (8_000_000, 16_000_000)
    kube.kubectl("delete", "-f", manifest("limited.yaml"))


def test_kubectl_exec_and_logs(kube: Cluster, pods: list[Pod]) -> None:
    for pod in pods[:3]:
        assert kube.kubectl("exec", pod.name, "--", "hostname").stdout.strip() == pod.name
        assert kube.kubectl("logs", pod.name).stdout == "serving\n"


def test_the_agent_s_status_is_asked_by_exec(kube: Cluster) -> None:
    said = kube.kubectl("exec", "--namespace=kube-system", "ds/calico-node", "--", "calico-py", "status").stdout
    assert re.search(r"^Ready +yes *$", said, re.MULTILINE), said


def test_removal_leaves_nothing(kube: Cluster, installed: Installed) -> None:
    agents = ("ds/calico-node", "ds/calico-py-speaker", "ds/calico-py-tunnel")
    kube.kubectl("delete", "--namespace=kube-system", *agents, "--wait=true")
    wait_until(lambda: not kube.get("pods", "--namespace=kube-system")["items"], what="the pods are gone")
    kube.kubectl("apply", "-k", str(CHECKOUT / "deploy" / "uninstall"))
    rolled_out(kube, "calico-py-cleanup")
    kube.kubectl("delete", "-k", str(CHECKOUT / "deploy" / "uninstall"))
    kube.kubectl("delete", "-k", str(CHECKOUT / "deploy"), "--ignore-not-found", "--wait=false")
    for node in kube.nodes.values():
        assert traces(node) == installed.traces[node.name], node.name
    wait_until(lambda: not kube.ready_nodes(), within=60, what="the nodes are NotReady")
    wait_until(lambda: "projectcalico.org" not in crds(kube), what="the CRDs are gone")
    for item in kube.get("nodes")["items"]:
        ours = [key for key in item["metadata"].get("annotations", {}) if "calico" in key]
        assert ours == [], item["metadata"]["name"]
        assert [key for key in item["metadata"]["labels"] if "calico" in key] == []


def crds(kube: Cluster) -> str:
    return kube.kubectl("get", "crds").stdout
