"""What pods, people and chained plugins expect of a network."""

import json
import re
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from calico_py.model.net import Address
from tests.cluster.kube_cluster import Cluster, Pod, fetch, wait_until
from tests.cluster.outside import who_server
from tests.cluster.pool import hides, set_nat
from tests.cluster.workloads import apply, delete, rolled_out, running, web_pods

pytestmark = [pytest.mark.root, pytest.mark.timeout(120), pytest.mark.usefixtures("installed")]


def test_pods_of_a_deployment_reach_each_other(kube: Cluster, pods: list[Pod]) -> None:
    assert sorted(pod.node.place.name for pod in pods) == sorted([*kube.nodes, *kube.nodes])
    for source in pods:
        for target in pods:
            assert fetch(source.network, f"http://{target.address()}/") == target.name, f"{source} to {target}"
            if source is not target:
                assert heard_from(source, str(target.address())) == source.address()


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


@pytest.fixture
def without_nat(kube: Cluster) -> Iterator[None]:
    """The pool's natOutgoing is false meanwhile."""
    set_nat(kube, value=False)
    yield
    set_nat(kube, value=True)


@pytest.mark.usefixtures("without_nat")
def test_without_nat_nothing_comes_back_from_outside(kube: Cluster, pods: list[Pod]) -> None:
    """The rule is in a table of calico-py's own, and nowhere else."""
    node = kube.nodes[pods[0].node.place.name]
    with who_server(kube) as url:
        wait_until(lambda: not hides(node), within=10, what="the rule is gone")
        assert not fetch(pods[0].network, url)
        set_nat(kube, value=True)
        wait_until(lambda: hides(node), within=10, what="the rule is back")
        assert fetch(pods[0].network, url) == str(pods[0].node.place.ipv4.ip)
    assert "calico" not in node.run("iptables-save")


def test_a_port_of_the_host_leads_to_its_pod(kube: Cluster) -> None:
    apply(kube, "hostport.yaml")
    kube.kubectl("wait", "pod/hostport", "--for=condition=Ready", "--timeout=30s")
    node = kube.pod("hostport").node.place
    url = f"http://{node.ipv4.ip}:8088/"
    assert fetch(kube.outside, url) == "hostport"
    delete(kube, "hostport.yaml")
    assert not fetch(kube.outside, url)


def test_bandwidth_annotations_are_obeyed(kube: Cluster) -> None:
    """By the chained plugin's queues; kubelet allows a burst of 256 MB, so the rate itself cannot be waited for."""
    apply(kube, "limited.yaml")
    kube.kubectl("wait", "pod/limited", "--for=condition=Ready", "--timeout=30s")
    limited = kube.pod("limited")
    assert limited.kube is not None
    route = json.loads(limited.kube.run("ip", "-j", "route", "get", str(limited.address())))
    queues = json.loads(limited.kube.run("tc", "-j", "qdisc", "show"))
    rates = {queue["dev"]: 8 * queue["options"]["rate"] for queue in queues if queue["kind"] == "tbf"}
    into = rates.pop(route[0]["dev"])
    (out_of,) = rates.values()
    assert (into, out_of) == (8_000_000, 16_000_000)
    delete(kube, "limited.yaml")


def test_kubectl_exec_and_logs(kube: Cluster, pods: list[Pod]) -> None:
    for pod in pods[:3]:
        assert kube.kubectl("exec", pod.name, "--", "hostname").stdout.strip() == pod.name
        assert kube.kubectl("logs", pod.name).stdout == "serving\n"


def test_the_agent_s_status_is_asked_by_exec(kube: Cluster) -> None:
    said = kube.kubectl("exec", "--namespace=kube-system", "ds/calico-node", "--", "calico-py", "status").stdout
    assert re.search(r"^Ready +yes *$", said, re.MULTILINE), said


def test_pods_get_both_families_once_the_nodes_have(kube: Cluster) -> None:
    """From then on the cluster is of both; pods that were there keep what they have."""
    before = {pod.name for pod in running(kube, "web")}
    kube.kubectl("set", "env", "--namespace=kube-system", "daemonset/calico-node", "IP6=autodetect")
    rolled_out(kube, "calico-node")
    pools = {item["spec"]["cidr"] for item in kube.get("ippools")["items"]}
    assert pools == {"10.244.0.0/16", "fd00:10:244::/48"}
    kube.kubectl("rollout", "restart", "deployment/web")
    pods = web_pods(kube)
    assert before.isdisjoint(pod.name for pod in pods)
    wait_until(lambda: all_reach_over_ipv6(kube, pods), within=20, what="pods and nodes reach each other over IPv6")
    for source in pods:
        for target in pods:
            assert fetch(source.network, f"http://{target.address(4)}/") == target.name
            if source is not target:
                assert heard_from(source, f"[{target.address(6)}]") == source.address(6)


def all_reach_over_ipv6(kube: Cluster, pods: list[Pod]) -> bool:
    origins = [*(pod.network for pod in pods), *(node.network for node in kube.nodes.values())]
    return all(fetch(origin, f"http://[{pod.address(6)}]/") == pod.name for origin in origins for pod in pods)


def heard_from(source: Pod, target: str) -> Address:
    """The address from which a server in a pod hears another one."""
    heard = ip_address(fetch(source.network, f"http://{target}/cgi-bin/who"))
    return getattr(heard, "ipv4_mapped", None) or heard
