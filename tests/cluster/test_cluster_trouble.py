"""What happens to clusters: pods of the same name again, nodes that go and come, an API server that ends."""

import time
from collections.abc import Iterator
from ipaddress import ip_network

import pytest

from tests.cluster.conftest import DAEMONSETS, manifest, rolled_out
from tests.cluster.kube_cluster import Cluster, Pod, answers, fetch, wait_until
from tests.cluster.rights import asked, granted
from tests.cluster.traffic import one_on_each_node, set_mode, traffic

pytestmark = [pytest.mark.root, pytest.mark.timeout(1800), pytest.mark.usefixtures("installed")]

AWAY = 60  # seconds without an API server
ACCOUNT = "system:serviceaccount:kube-system:calico-node"

# Used in situations that these tests do not bring about.
RARE = {
    "get namespaces",  # before the watch has told of it
    "get pods",
    "get events",  # one that is told again
    "patch events",
    "get leases",  # two agents reached for it at once
    "patch ipamblocks",  # a label that a foreign writer took away
    "patch ippools",  # a changed environment
}


@pytest.fixture(scope="module")
def pods(kube: Cluster) -> Iterator[list[Pod]]:
    """One pod on each node."""
    set_mode(kube, "Never")
    with one_on_each_node(kube) as made:
        yield made


def test_a_pod_of_a_statefulset_is_back_at_once(kube: Cluster) -> None:
    kube.kubectl("apply", "-f", manifest("stateful.yaml"))
    rolled_out(kube, "db", kind="statefulset", namespace="default")
    for _ in range(3):
        before = kube.get("pod", "db-0")["metadata"]["uid"]
        kube.kubectl("delete", "pod", "db-0", "--wait=false")
        seconds = wait_until(lambda before=before: _is_anew(kube, "db-0", before), within=20, what="db-0 runs again")  # type: ignore[misc]
        assert seconds < 10
        pod = kube.pod("db-0")
        for node in kube.nodes.values():
            assert fetch(node.network, f"http://{pod.address()}/") == "db-0"
    kube.kubectl("delete", "-f", manifest("stateful.yaml"))


def test_a_kubelet_that_starts_again_keeps_the_pods(kube: Cluster, pods: list[Pod]) -> None:
    with traffic(pods) as flows:
        kube.stop("node1-kubelet")
        time.sleep(1)
        kube.start("node1-kubelet")
        time.sleep(5)
        flows.expect_no_loss()
    kept = {item["metadata"]["name"] for item in kube.get("pods", "--selector=app=one-each")["items"]}
    assert kept == {pod.name for pod in pods}
    _expect_new_pods(kube)


def test_without_the_api_server_pods_go_on(kube: Cluster, pods: list[Pod]) -> None:
    restarts = _restarts(kube)
    with traffic(pods) as flows:
        kube.stop("kube-apiserver")
        time.sleep(AWAY)
        kube.start("kube-apiserver")
        wait_until(lambda: answers(kube), what="the API server is back")
        wait_until(lambda: kube.ready_nodes() == set(kube.nodes), what="the nodes are Ready")
        time.sleep(3)
        flows.expect_no_loss()
    assert _restarts(kube) == restarts
    _expect_new_pods(kube)


def test_drain_moves_the_pods_of_a_node_away(kube: Cluster, pods: list[Pod]) -> None:
    kube.kubectl("apply", "-f", manifest("web.yaml"))
    rolled_out(kube, "web", kind="deployment", namespace="default")
    with traffic(pods) as flows:
        kube.kubectl("drain", "node3", "--ignore-daemonsets", "--force", "--disable-eviction", "--timeout=50s")
        held = kube.get("pods", "--field-selector=spec.nodeName=node3")["items"]
        assert {item["metadata"]["labels"]["app"] for item in held} == {"one-each"}
        kube.kubectl("uncordon", "node3")
        rolled_out(kube, "web", kind="deployment", namespace="default")
        flows.expect_no_loss()
    kube.kubectl("delete", "-f", manifest("web.yaml"))


def test_a_node_that_is_deleted_gives_everything_back_and_may_return(kube: Cluster) -> None:
    with one_on_each_node(kube):
        pass
    kube.stop("node3-kubelet")
    kube.kubectl("delete", "node", "node3")
    seconds = wait_until(lambda: not _owned_by(kube, "node3"), within=150, what="the blocks of node3 are given back")
    print(f"\nall of a deleted node was given back after {seconds:.0f} s")
    kube.start("node3-kubelet")
    wait_until(lambda: kube.ready_nodes() == set(kube.nodes), within=60, what="node3 is back")
    for name in DAEMONSETS:
        rolled_out(kube, name)
    _expect_new_pods(kube)


def test_addresses_are_in_order_after_all_this(kube: Cluster) -> None:
    """Each pod that runs has its address in one block, and no other address is in use but the nodes' tunnels'."""
    with one_on_each_node(kube) as pods:
        wait_until(lambda: _in_use(kube) >= {str(pod.address()) for pod in pods}, what="blocks tell of the pods")
        tunnels = {
            item["metadata"]["annotations"]["projectcalico.org/IPv4IPIPTunnelAddr"]
            for item in kube.get("nodes")["items"]
        }
        wait_until(
            lambda: _in_use(kube) == {*(str(pod.address()) for pod in pods), *tunnels},
            within=120,
            what="addresses of pods that are gone are free",
        )


def _in_use(kube: Cluster) -> set[str]:
    """Addresses that blocks have under the handle of a pod or a tunnel, not in an agent's reserve."""
    found = set()
    for block in kube.get("ipamblocks")["items"]:
        network, attributes = ip_network(block["spec"]["cidr"]), block["spec"]["attributes"]
        for ordinal, index in enumerate(block["spec"]["allocations"]):
            handle = attributes[index].get("handle_id") if index is not None else None
            if handle and not handle.startswith("calico-py-warm-"):  # without one it cools down
                found.add(str(network[ordinal]))
    return found


def test_the_agents_may_do_what_they_do_and_little_more(kube: Cluster) -> None:
    requests = asked(kube.folder / "audit.log", ACCOUNT)
    assert {request for request, refused in requests if refused} == set()
    assert granted(kube) - {request for request, _ in requests} <= RARE


def _is_anew(kube: Cluster, name: str, before: str) -> bool:
    found = [item for item in kube.get("pods")["items"] if item["metadata"]["name"] == name]
    return any(
        item["metadata"]["uid"] != before
        and all(status["ready"] for status in item["status"].get("containerStatuses", [{"ready": False}]))
        for item in found
    )


def _restarts(kube: Cluster) -> dict[str, int]:
    return {
        item["metadata"]["name"]: status["restartCount"]
        for item in kube.get("pods", "--namespace=kube-system")["items"]
        for status in item["status"]["containerStatuses"]
    }


def _expect_new_pods(kube: Cluster) -> None:
    """New pods on every node reach each other."""
    kube.kubectl("apply", "-f", manifest("web.yaml"))
    try:
        rolled_out(kube, "web", kind="deployment", namespace="default")
        found = [kube.pod(item["metadata"]["name"]) for item in kube.get("pods", "--selector=app=web")["items"]]
        assert {pod.node.place.name for pod in found} == set(kube.nodes)
        for source in found:
            for target in found:
                assert fetch(source.network, f"http://{target.address()}/") == target.name
    finally:
        kube.kubectl("delete", "-f", manifest("web.yaml"))


def _owned_by(kube: Cluster, node: str) -> list[str]:
    """Blocks and handles that name a node."""
    affinities = [
        item["metadata"]["name"] for item in kube.get("blockaffinities")["items"] if item["spec"]["node"] == node
    ]
    handles = [
        item["metadata"]["name"] for item in kube.get("ipamhandles")["items"] if node in item["metadata"]["name"]
    ]
    return affinities + handles
