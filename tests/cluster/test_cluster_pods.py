"""What pods, people and chained plugins expect of a network."""

import json
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address, ip_interface

import pytest

from calico_py.model.net import Address
from tests.cluster.images import TEST_IMAGE
from tests.cluster.kube_cluster import Cluster, Node, Pod, fetch, wait_until
from tests.cluster.outside import who_server
from tests.cluster.parts import pid_of
from tests.cluster.pool import POOL6, hides, set_nat
from tests.cluster.workloads import apply, delete, one_pod, rolled_out, running, web_pods

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


def test_kubectl_attaches_to_a_pod(kube: Cluster) -> None:
    run = ("run", "echo", f"--image={TEST_IMAGE}", "--restart=Never", "--rm", "--stdin", "--quiet", "--command")
    assert kube.kubectl(*run, "--", "cat", stdin="is anybody there?\n").stdout == "is anybody there?\n"


def test_kubectl_forwards_a_port(kube: Cluster, pods: list[Pod]) -> None:
    command = kube.kubectl.command("port-forward", f"pod/{pods[0].name}", "8090:80")
    with subprocess.Popen(command, stdout=subprocess.PIPE) as forwarder:
        try:
            assert forwarder.stdout is not None
            assert forwarder.stdout.readline() == b"Forwarding from 127.0.0.1:8090 -> 80\n"
            assert fetch(kube.outside, "http://127.0.0.1:8090/") == pods[0].name
        finally:
            forwarder.terminate()


def test_a_sandbox_of_no_pod_gets_a_network(kube: Cluster) -> None:
    """Such as a person makes it by `crictl runp`. The agent asks the API for the pod and its namespace, in vain."""
    node, other = kube.nodes["node1"], kube.nodes["node2"]
    node.run("ip", "netns", "add", "nobody")
    try:
        (address,) = (ip_interface(found["address"]).ip for found in json.loads(call(node, "ADD", "nobody"))["ips"])
        wait_until(lambda: reaches(other, address), within=10, what=f"{address} answers")
        call(node, "DEL", "nobody")
        assert not reaches(other, address)
    finally:
        node.run("ip", "netns", "delete", "nobody")


def test_the_executable_for_the_other_architecture_serves_a_runtime(kube: Cluster) -> None:
    """Under QEMU's user mode, called by the node's own containerd."""
    other = {"x86_64": "aarch64", "aarch64": "x86_64"}[platform.machine()]
    emulator = shutil.which(f"qemu-{other}")
    if emulator is None:
        pytest.skip(f"qemu-{other} is not installed (Debian: qemu-user)")
    node = kube.nodes["node1"]
    executable, foreign = (node.root / "opt/cni/bin" / name for name in ("calico-py", f"calico-py-{other}"))
    shims = node.root / "proc" / pid_of(node, "node") / "root/opt/calico-py/shim"
    own = executable.read_bytes()
    try:
        foreign.write_bytes((shims / other / "calico-py").read_bytes())
        foreign.chmod(0o755)
        executable.write_text(
            f"#!/bin/sh\necho $CNI_COMMAND >> /run/foreign\nexec {emulator} /opt/cni/bin/{foreign.name}\n"
        )
        kube.kubectl("apply", "-f", "-", stdin=one_pod("foreign", node.name, {}))
        kube.kubectl("wait", "pod/foreign", "--for=condition=Ready", "--timeout=30s")
        address = kube.pod("foreign").address()
        assert reaches(kube.nodes["node2"], address)
        kube.kubectl("delete", "pod", "foreign")
        assert not reaches(kube.nodes["node2"], address)
    finally:
        executable.write_bytes(own)
        foreign.unlink(missing_ok=True)
    calls = (node.root / "run/foreign").read_text().split()
    assert {"ADD", "DEL"} <= set(calls)


def call(node: Node, verb: str, name: str) -> str:
    """What the executable answers to somebody who calls it for the network namespace of that name, as libcni would."""
    (conflist,) = (node.root / "etc/cni/net.d").glob("*.conflist")
    document = json.loads(conflist.read_text())
    config = document["plugins"][0] | {"name": document["name"], "cniVersion": document["cniVersion"]}
    environment = {
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": name,
        "CNI_NETNS": f"/run/netns/{name}",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/opt/cni/bin",
        "CNI_ARGS": f"K8S_POD_NAMESPACE=nowhere;K8S_POD_NAME={name}",
    }
    words = [f"{key}={value}" for key, value in environment.items()]
    script = 'printf %s "$1" | { shift; env "$@" /opt/cni/bin/calico-py; }'
    return node.run("sh", "-euc", script, "sh", json.dumps(config), *words)


def reaches(node: Node, address: Address) -> bool:
    """Whether a node gets an answer from there."""
    return ", 0% packet loss" in node.run("ping", "-n", "-c", "1", "-W", "1", str(address), check=False)


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


def test_a_port_of_the_host_leads_to_its_pod_in_both_families(kube: Cluster) -> None:
    apply(kube, "hostport.yaml")
    kube.kubectl("wait", "pod/hostport", "--for=condition=Ready", "--timeout=30s")
    place = kube.pod("hostport").node.place
    for host in (str(place.ipv4.ip), f"[{place.ipv6.ip}]"):
        assert fetch(kube.outside, f"http://{host}:8088/") == "hostport"
    delete(kube, "hostport.yaml")


def test_ipv6_appears_with_the_node_s_address_where_the_pool_says_so(kube: Cluster, pods: list[Pod]) -> None:
    """By default it does not, as with Calico: the outside, which knows no way to pods, cannot answer."""
    with who_server(kube, 6) as url:
        assert not fetch(pods[0].network, url)
        set_nat(kube, value=True, pool=POOL6)
        wait_until(lambda: all(hides(node, 6) for node in kube.nodes.values()), within=10, what="the rule is there")
        for pod in pods:
            assert fetch(pod.network, url) == str(pod.node.place.ipv6.ip)
        set_nat(kube, value=False, pool=POOL6)
        wait_until(lambda: not any(hides(node, 6) for node in kube.nodes.values()), within=10, what="the rule is gone")


def all_reach_over_ipv6(kube: Cluster, pods: list[Pod]) -> bool:
    origins = [*(pod.network for pod in pods), *(node.network for node in kube.nodes.values())]
    return all(fetch(origin, f"http://[{pod.address(6)}]/") == pod.name for origin in origins for pod in pods)


def heard_from(source: Pod, target: str) -> Address:
    """The address from which a server in a pod hears another one."""
    heard = ip_address(fetch(source.network, f"http://{target}/cgi-bin/who"))
    return getattr(heard, "ipv4_mapped", None) or heard
