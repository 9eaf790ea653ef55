"""What happens to clusters: pods of the same name again, nodes that go and come, an API server that ends."""

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from ipaddress import ip_network
from typing import Any

import pytest

from tests.cluster.kube_cluster import Cluster, Node, Pod, fetch, wait_until
from tests.cluster.parts import DAEMONSETS, kill, pods_of, restarts
from tests.cluster.pool import hides, set_mode, set_nat
from tests.cluster.traffic import traffic, traffic_to
from tests.cluster.workloads import apply, delete, one_on_each_node, one_pod, rolled_out, running, web_pods

pytestmark = [pytest.mark.root, pytest.mark.timeout(240), pytest.mark.usefixtures("installed", "_without_tunnels")]

AWAY = 60.0  # seconds without an API server
WITHIN = 60.0  # seconds in which all of a deleted node is given back


@pytest.fixture(scope="module")
def _without_tunnels(kube: Cluster) -> None:
    set_mode(kube, "Never")


@pytest.fixture
def database(kube: Cluster) -> Iterator[str]:
    """The pod of a StatefulSet."""
    apply(kube, "stateful.yaml")
    rolled_out(kube, "db", kind="statefulset", namespace="default")
    yield "db-0"
    delete(kube, "stateful.yaml")


def test_a_pod_of_a_statefulset_is_back_at_once(kube: Cluster, database: str) -> None:
    for _ in range(3):
        before = kube.get("pod", database)["metadata"]["uid"]
        kube.kubectl("delete", "pod", database, "--wait=false")
        seconds = wait_until(lambda before=before: is_anew(kube, database, before), within=20, what="it runs again")  # type: ignore[misc]
        assert seconds < 10
        pod = kube.pod(database)
        for node in kube.nodes.values():
            assert fetch(node.network, f"http://{pod.address()}/") == database


def test_a_kubelet_that_starts_again_keeps_the_pods(kube: Cluster, ends: list[Pod]) -> None:
    with traffic(ends) as flows:
        kube.stop("node1-kubelet")
        time.sleep(1)
        kube.start("node1-kubelet")
        time.sleep(5)
        flows.expect_no_loss()
    assert {pod.name for pod in running(kube, "one-each")} == {pod.name for pod in ends}
    expect_new_pods(kube)


def test_without_the_api_server_pods_go_on(kube: Cluster, ends: list[Pod]) -> None:
    """Also when an agent is killed meanwhile. When it is back, all agents follow it at once."""
    before = restarts(kube)
    (victim,) = (pod for pod in ends if pod.node.place.name == "node2")
    assert victim.kube is not None
    with traffic(ends) as flows:
        kube.stop("kube-apiserver")
        time.sleep(AWAY / 3)
        kill(victim.kube, "node")
        time.sleep(AWAY * 2 / 3)
        kube.start_api_server()
        for value in (False, True):
            set_nat(kube, value=value)
            wait_until(lambda value=value: all_hide(kube) is value, within=20, what="all agents follow the API")  # type: ignore[misc]
        flows.expect_no_loss()
    start_waiting_watches_again(kube)
    wait_until(lambda: kube.ready_nodes() == set(kube.nodes), what="the nodes are Ready")
    after = restarts(kube)  # the tunnels' pods come and go with the mode
    assert {pod for pod in before if after.get(pod, before[pod]) != before[pod]} == {agent_of(kube, "node2")}
    expect_new_pods(kube)


def test_drain_moves_the_pods_of_a_node_away(kube: Cluster, ends: list[Pod], pods: list[Pod]) -> None:
    assert {pod.node.place.name for pod in pods} == set(kube.nodes)
    with traffic(ends) as flows:
        kube.kubectl("drain", "node3", "--ignore-daemonsets", "--force", "--disable-eviction", "--timeout=50s")
        held = kube.get("pods", "--field-selector=spec.nodeName=node3")["items"]
        assert {item["metadata"]["labels"]["app"] for item in held} == {"one-each"}
        kube.kubectl("uncordon", "node3")
        rolled_out(kube, "web", kind="deployment", namespace="default")
        flows.expect_no_loss()


def test_a_node_that_is_deleted_gives_everything_back_and_may_return(kube: Cluster) -> None:
    node3 = kube.nodes["node3"]
    assert tunnel_address(node3), "it stays when the pool has gone to Never"
    kube.stop("node3-kubelet")
    try:
        kube.kubectl("delete", "node", "node3")
        # What Kubernetes does by itself 40 to 60 s later, as long as which a pod may live and keep its address.
        gone = ("--all-namespaces", "--field-selector=spec.nodeName=node3", "--force", "--grace-period=0")
        kube.kubectl("delete", "pods", *gone)
        seconds = wait_until(lambda: not owned_by(kube, "node3"), within=WITHIN, what="all of node3 is given back")
        print(f"\nall of a deleted node was given back after {seconds:.0f} s")
    finally:
        kube.start("node3-kubelet")
    wait_until(lambda: kube.ready_nodes() == set(kube.nodes), what="node3 is back")
    # It was given back as well: a pod of this node may get it.
    wait_until(lambda: not tunnel_address(node3), within=10, what="node3 takes the old address off tunl0")
    for name in DAEMONSETS:
        rolled_out(kube, name)
    expect_new_pods(kube)


def test_the_label_of_a_block_with_a_borrowed_address_comes_back(kube: Cluster, ends: list[Pod]) -> None:
    """A foreign writer drops labels that it does not know; by this one other nodes find the block.

    Meanwhile packets from all nodes go on.
    """
    block = next(item for item in kube.get("ipamblocks")["items"] if is_lender(item))
    address = str(ip_network(block["spec"]["cidr"])[-2])
    lender, borrower = block["metadata"]["name"], "borrower"
    manifest = one_pod(borrower, "node1", {"cni.projectcalico.org/ipAddrs": f'["{address}"]'})
    kube.kubectl("apply", "-f", "-", stdin=manifest)
    try:
        kube.kubectl("wait", f"pod/{borrower}", "--for=condition=Ready", "--timeout=30s")
        pod = kube.pod(borrower)
        assert str(pod.address(4)) == address
        wait_until(lambda: is_labelled(kube, lender), within=10, what="the block is labelled")
        for node in kube.nodes.values():
            wait_until(lambda node=node: reaches(node, address), within=10, what="all have its route")  # type: ignore[misc]
        with traffic_to(pod, ends) as flows:
            for _ in range(3):
                time.sleep(1)
                kube.kubectl("label", "ipamblock", lender, "projectcalico.org/borrowed-")
                wait_until(lambda: is_labelled(kube, lender), within=10, what="the block is labelled again")
            flows.expect_no_loss()
    finally:
        kube.kubectl("delete", "pod", borrower, "--grace-period=1")


def test_addresses_are_in_order_after_all_this(kube: Cluster) -> None:
    """Each pod that runs has its addresses, each node that of its tunnel, and nobody else has any."""
    set_mode(kube, "Always")
    ends = [*one_on_each_node(kube), *web_pods(kube)]
    expected = {str(address) for pod in ends for address in pod.addresses}
    wait_until(lambda: in_use(kube)["pods"] == expected, within=90, what="blocks tell of the pods that run, alone")
    assert len(in_use(kube)["tunnels"]) == len(kube.nodes)
    print(kube.kubectl("exec", "--namespace=kube-system", "ds/calico-node", "--", "calico-py", "ipam", "check").stdout)


def reaches(node: Node, address: str) -> bool:
    """Whether one ping is answered."""
    return ", 1 received" in node.run("ping", "-n", "-c", "1", "-W", "1", address, check=False)


def start_waiting_watches_again(kube: Cluster) -> None:
    """Kubernetes' own, of which some wait for a minute after a minute's absence, as a node does to be Ready."""
    for process in ("kube-controller-manager", "kube-scheduler", *(f"{name}-kubelet" for name in kube.nodes)):
        kube.stop(process)
        kube.start(process)


def all_hide(kube: Cluster) -> bool | None:
    """Whether all nodes hide their pods, or none does; None if some do."""
    (found, *others) = {hides(node) for node in kube.nodes.values()}
    return None if others else found


def agent_of(kube: Cluster, node: str) -> str:
    """The pod of a node's agent."""
    (found,) = (pod["metadata"]["name"] for pod in pods_of(kube, "calico-node") if pod["spec"]["nodeName"] == node)
    return str(found)


def in_use(kube: Cluster) -> dict[str, set[str]]:
    """Addresses that blocks have under the handle of a pod or a tunnel, not in an agent's reserve."""
    found: dict[str, set[str]] = defaultdict(set)
    for block in kube.get("ipamblocks")["items"]:
        network, attributes = ip_network(block["spec"]["cidr"]), block["spec"]["attributes"]
        for ordinal, index in enumerate(block["spec"]["allocations"]):
            handle = attributes[index].get("handle_id", "") if index is not None else ""
            if handle and not handle.startswith("calico-py-warm-"):  # without one it cools down
                kind = "tunnels" if handle.startswith("ipip-tunnel-addr-") else "pods"
                found[kind].add(str(network[ordinal]))
    return found


def is_anew(kube: Cluster, name: str, before: str) -> bool:
    found = [item for item in kube.get("pods")["items"] if item["metadata"]["name"] == name]
    return any(
        item["metadata"]["uid"] != before
        and all(status["ready"] for status in item["status"].get("containerStatuses", [{"ready": False}]))
        for item in found
    )


def is_labelled(kube: Cluster, block: str) -> bool:
    labels: dict[str, str] = kube.get("ipamblock", block)["metadata"].get("labels", {})
    return labels.get("projectcalico.org/borrowed") == "true"


def expect_new_pods(kube: Cluster) -> None:
    """New pods on every node reach each other."""
    kube.kubectl("rollout", "restart", "deployment/web")
    found = web_pods(kube)
    assert {pod.node.place.name for pod in found} == set(kube.nodes)
    for source in found:
        for target in found:
            assert fetch(source.network, f"http://{target.address()}/") == target.name, f"{source} to {target}"


def tunnel_address(node: Node) -> list[str]:
    """The IPv4 addresses of tunl0."""
    devices = json.loads(node.run("ip", "-json", "-4", "address", "show", "dev", "tunl0"))
    return [address["local"] for device in devices for address in device.get("addr_info", ())]


def owned_by(kube: Cluster, node: str) -> list[str]:
    """Blocks and handles that name a node."""
    affinities = [
        item["metadata"]["name"] for item in kube.get("blockaffinities")["items"] if item["spec"]["node"] == node
    ]
    handles = [
        item["metadata"]["name"] for item in kube.get("ipamhandles")["items"] if node in item["metadata"]["name"]
    ]
    return affinities + handles


def is_lender(block: dict[str, Any]) -> bool:
    """Whether it is the IPv4 block of node2."""
    return block["spec"].get("affinity") == "host:node2" and ":" not in block["spec"]["cidr"]
