"""Changes under traffic between pods of all nodes: rolling updates, and the mode of the pool in all ways."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster.conftest import rolled_out
from tests.cluster.kube_cluster import Cluster, Pod, wait_until
from tests.cluster.traffic import POOL, one_on_each_node, set_mode, traffic

pytestmark = [pytest.mark.root, pytest.mark.timeout(1800), pytest.mark.usefixtures("installed")]

TUNNEL_GAP = 6000.0  # milliseconds that a node's userspace tunnel may stand still while its image changes
AGENTS = ("--namespace=kube-system", "daemonset/calico-node")


@pytest.fixture(scope="module")
def pods(kube: Cluster) -> Iterator[list[Pod]]:
    """One pod on each node."""
    with one_on_each_node(kube) as made:
        yield made


def restart(kube: Cluster, name: str) -> float:
    """Roll a DaemonSet; the seconds that it took."""
    begun = time.monotonic()
    kube.kubectl("rollout", "restart", f"daemonset/{name}", "--namespace=kube-system")
    rolled_out(kube, name)
    return time.monotonic() - begun


@pytest.mark.parametrize(
    ("name", "mode"), [("calico-node", "Always"), ("calico-node", "Never"), ("calico-py-speaker", "Never")]
)
def test_a_rolling_update_loses_nothing(kube: Cluster, pods: list[Pod], name: str, mode: str) -> None:
    set_mode(kube, mode)
    with traffic(pods) as flows:
        restart(kube, name)
        time.sleep(1)
        flows.expect_no_loss()


def test_the_tunnel_s_update_stands_still_for_a_moment(kube: Cluster, pods: list[Pod]) -> None:
    """Which shows as well that these tests see a loss."""
    set_mode(kube, "Always")
    with traffic(pods) as flows:
        restart(kube, "calico-py-tunnel")
        time.sleep(2)
        results = flows.stop()
    gaps = {pair: max(result.there.gap, result.back.gap) for pair, result in results.items()}
    print(f"\nthe userspace tunnel's update, longest gaps in milliseconds: {gaps}")
    for pair, result in results.items():
        assert result.lost > 0, pair
        assert gaps[pair] < TUNNEL_GAP, result.lines(*pair)


def test_kubectl_apply_of_the_pool_loses_nothing(kube: Cluster, pods: list[Pod]) -> None:
    set_mode(kube, "Always")
    with traffic(pods) as flows:
        for mode in ("Never", "Always", "Never", "Always"):
            pool = kube.get("ippool", POOL)
            spec = {**pool["spec"], "ipipMode": mode}
            manifest = {"apiVersion": pool["apiVersion"], "kind": "IPPool", "metadata": {"name": POOL}, "spec": spec}
            kube.kubectl("apply", "-f", "-", stdin=manifest)
            wait_until(lambda mode=mode: kube.sends_by(POOL, mode), what=f"all nodes follow {mode}")  # type: ignore[misc]
            time.sleep(1)
        flows.expect_no_loss()


def test_the_environment_of_the_daemonset_changes_the_pool_it_made(kube: Cluster, pods: list[Pod]) -> None:
    """With a slow rollout, amid which an agent of the old template restarts and must not take the change back."""
    give_the_pool_back(kube)
    set_rollout(kube, 6)
    with traffic(pods) as flows:
        kube.kubectl("set", "env", *AGENTS, "CALICO_IPV4POOL_IPIP=Never")
        wait_until(
            lambda: mode(kube) == "Never", within=60, what="the first agent of the new template changes the pool"
        )
        old = [pod for pod in agents(kube) if template_generation(pod) == min(map(template_generation, agents(kube)))]
        assert len(old) < 3
        assert old, "the rollout was too fast to have an old agent restart amid it"
        kill_agent(kube, old[0])
        restarted = old[0]["metadata"]["name"]
        wait_until(lambda: restarts(kube, restarted) == 1, what=f"{restarted} starts again with the old environment")
        rolled_out(kube, "calico-node")
        assert mode(kube) == "Never"
        wait_until(lambda: kube.sends_by(POOL, "Never"), what="all nodes send without a tunnel")
        flows.expect_no_loss()
    set_rollout(kube, 0)


def test_what_a_person_edited_is_stronger_than_the_environment(kube: Cluster) -> None:
    set_mode(kube, "Always")
    kube.kubectl("set", "env", *AGENTS, "CALICO_IPV4POOL_IPIP=CrossSubnet")
    rolled_out(kube, "calico-node")
    time.sleep(1)
    assert mode(kube) == "Always"
    events = kube.get("events", "--namespace=default", f"--field-selector=involvedObject.name={POOL}")["items"]
    assert any("CALICO_IPV4POOL_IPIP" in event["message"] for event in events), events
    kube.kubectl("set", "env", *AGENTS, "CALICO_IPV4POOL_IPIP=Always")
    rolled_out(kube, "calico-node")


def mode(kube: Cluster) -> str:
    found: str = kube.get("ippool", POOL)["spec"]["ipipMode"]
    return found


def give_the_pool_back(kube: Cluster) -> None:
    """A field with the value that the environment gave it last is the environment's again."""
    set_mode(kube, "Always")


def set_rollout(kube: Cluster, seconds: int) -> None:
    """Each new agent must have been Ready for so long before the next one follows."""
    patch = json.dumps({"spec": {"minReadySeconds": seconds}})
    kube.kubectl("patch", *AGENTS, "--type=merge", f"--patch={patch}")


def agents(kube: Cluster) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = kube.get("pods", "--namespace=kube-system", "--selector=k8s-app=calico-node")["items"]
    return found


def template_generation(pod: dict[str, Any]) -> int:
    return int(pod["metadata"]["labels"]["pod-template-generation"])


def restarts(kube: Cluster, pod: str) -> int:
    (status,) = kube.get("pod", pod, "--namespace=kube-system")["status"]["containerStatuses"]
    return int(status["restartCount"]) if status["ready"] else 0


def kill_agent(kube: Cluster, pod: dict[str, Any]) -> None:
    """SIGKILL from its node: PID 1 of a container hears no signal from inside."""
    node = kube.nodes[pod["spec"]["nodeName"]]
    node.run("pkill", "--signal", "KILL", "--full", "^/opt/calico-py/bin/python /opt/calico-py/bin/calico-py node")
