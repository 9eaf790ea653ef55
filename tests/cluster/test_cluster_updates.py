"""Changes under traffic between pods of all nodes: upgrades, rolling updates, and the mode of the pool in all ways.

While a DaemonSet changes, pods come and go as well.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from deploy.image import version
from tests.cluster.churn import churn
from tests.cluster.images import NEXT_TAG
from tests.cluster.kube_cluster import CHECKOUT, Cluster, Pod, fetch, wait_until
from tests.cluster.parts import AGENTS, DAEMONSETS, IMAGE, images_of, kill, pods_of, restarts
from tests.cluster.pool import POOL, set_mode
from tests.cluster.traffic import traffic
from tests.cluster.workloads import rolled_out

pytestmark = [pytest.mark.root, pytest.mark.timeout(180), pytest.mark.usefixtures("installed")]

READINESS = "http://127.0.0.1:9099/readiness"
TUNNEL_GAP = 6000.0  # milliseconds that a node's userspace tunnel may stand still while its image changes


def test_an_upgrade_loses_nothing(kube: Cluster, ends: list[Pod], tmp_path: Path) -> None:
    """All three DaemonSets at once, by a kustomization with another tag; without the userspace tunnel in use."""
    overlay = {
        "resources": [os.path.relpath(CHECKOUT / "deploy", tmp_path)],
        "images": [{"name": IMAGE, "newTag": NEXT_TAG}],
    }
    (tmp_path / "kustomization.yaml").write_text(json.dumps(overlay))
    set_mode(kube, "Never")
    with traffic(ends) as flows, churn(kube) as pods:
        kube.kubectl("apply", "-k", str(tmp_path))
        for name in DAEMONSETS:
            rolled_out(kube, name)
        time.sleep(1)
        pods.expect_all_ran()
        flows.expect_no_loss()
    assert images_of(kube) == {f"{IMAGE}:{NEXT_TAG}"}
    release = ("--namespace=kube-system", "ds/calico-node", "--", "cat", "/etc/calico-py-release")
    assert kube.kubectl("exec", *release).stdout == NEXT_TAG


@pytest.mark.parametrize(("name", "mode"), [("calico-node", "Always"), ("calico-py-speaker", "Never")])
def test_a_rolling_update_loses_nothing(kube: Cluster, ends: list[Pod], name: str, mode: str) -> None:
    set_mode(kube, mode)
    with traffic(ends) as flows, churn(kube) as pods:
        back_to_the_release(kube, name)
        time.sleep(1)
        pods.expect_all_ran()
        flows.expect_no_loss()


def test_the_tunnel_s_update_stands_still_for_a_moment(kube: Cluster, ends: list[Pod]) -> None:
    """Which shows as well that these tests see a loss."""
    set_mode(kube, "Always")
    with traffic(ends) as flows, churn(kube) as pods:
        back_to_the_release(kube, "calico-py-tunnel")
        time.sleep(2)
        pods.expect_all_ran()
        results = flows.stop()
    gaps = {pair: max(result.there.gap, result.back.gap) for pair, result in results.items() if pair[2] == 4}
    print(f"\nthe userspace tunnel's update, longest gaps in milliseconds: {gaps}")
    for pair, result in results.items():
        if pair[2] == 4:
            assert result.lost > 0, pair
            assert gaps[pair] < TUNNEL_GAP, result.lines(*pair[:2])
        else:
            assert result.lost == 0, pair
    assert images_of(kube) == {f"{IMAGE}:{version()}"}


def back_to_the_release(kube: Cluster, name: str) -> None:
    """One DaemonSet gets the image with which the cluster began."""
    containers = "install-cni,calico-node" if name == "calico-node" else name
    settings = [f"{container}={IMAGE}:{version()}" for container in containers.split(",")]
    kube.kubectl("set", "image", "--namespace=kube-system", f"daemonset/{name}", *settings)
    rolled_out(kube, name)


def test_kubectl_apply_of_the_pool_loses_nothing(kube: Cluster, ends: list[Pod]) -> None:
    set_mode(kube, "Always")
    with traffic(ends) as flows:
        for mode in ("Never", "Always", "Never", "Always"):
            pool = kube.get("ippool", POOL)
            spec = {**pool["spec"], "ipipMode": mode}
            manifest = {"apiVersion": pool["apiVersion"], "kind": "IPPool", "metadata": {"name": POOL}, "spec": spec}
            kube.kubectl("apply", "-f", "-", stdin=manifest)
            wait_until(lambda mode=mode: kube.sends_by(POOL, mode), what=f"all nodes follow {mode}")  # type: ignore[misc]
            time.sleep(1)
        flows.expect_no_loss()


def test_the_environment_of_the_daemonset_changes_the_pool_it_made(kube: Cluster, ends: list[Pod]) -> None:
    """With a rollout that stops after the first agent: an old one that restarts must not take the change back."""
    set_mode(kube, "Always")  # a field with the value that the environment gave it last is the environment's again
    first, second, _ = (pod["metadata"]["name"] for pod in pods_of(kube, "calico-node"))
    node = kube.nodes[kube.get("pod", second, "--namespace=kube-system")["spec"]["nodeName"]]
    with traffic(ends) as flows:
        hold_rollout(kube)
        kube.kubectl("set", "env", *AGENTS, "CALICO_IPV4POOL_IPIP=Never")
        kube.kubectl("delete", "pod", first, "--namespace=kube-system")
        wait_until(lambda: mode_of(kube) == "Never", what="the first agent of the new template changes the pool")
        kill(node, "node")
        wait_until(lambda: restarts(kube)[second] == 1, what=f"{second} starts again")
        wait_until(lambda: fetch(node.network, READINESS) == "ready", what=f"{second} knows the cluster")
        assert generations(kube)[second] < max(generations(kube).values())
        assert mode_of(kube) == "Never"
        resume_rollout(kube)
        rolled_out(kube, "calico-node")
        assert mode_of(kube) == "Never"
        wait_until(lambda: kube.sends_by(POOL, "Never"), what="all nodes send without a tunnel")
        flows.expect_no_loss()


def test_what_a_person_edited_is_stronger_than_the_environment(kube: Cluster) -> None:
    """And an Event tells of it, whose count rises when the agent says it again in its next life."""
    set_mode(kube, "Always")
    kube.kubectl("set", "env", *AGENTS, "CALICO_IPV4POOL_IPIP=CrossSubnet")
    rolled_out(kube, "calico-node")
    wait_until(lambda: told(kube), what="an Event tells it")
    assert mode_of(kube) == "Always"
    node, times = next(iter(told(kube).items()))
    kill(kube.nodes[node], "node")
    wait_until(lambda: told(kube)[node] > times, what="the Event's count rises")


def told(kube: Cluster) -> dict[str, int]:
    """How often each node's agent has said, by an Event, that the pool differs from the environment."""
    events = ("events", "--namespace=default", f"--field-selector=involvedObject.name={POOL}")
    said = "spec.ipipMode is Always, CALICO_IPV4POOL_IPIP is CrossSubnet"
    found = kube.get(*events)["items"]
    return {event["source"]["host"]: event["count"] for event in found if said in event["message"]}


def mode_of(kube: Cluster) -> str:
    found: str = kube.get("ippool", POOL)["spec"]["ipipMode"]
    return found


def hold_rollout(kube: Cluster) -> None:
    """A changed template has no effect on pods that run."""
    change_strategy(kube, {"type": "OnDelete", "rollingUpdate": None})


def resume_rollout(kube: Cluster) -> None:
    """Pods of older templates are replaced, one after the other."""
    change_strategy(kube, {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}})


def change_strategy(kube: Cluster, strategy: dict[str, Any]) -> None:
    patch = json.dumps({"spec": {"updateStrategy": strategy}})
    kube.kubectl("patch", *AGENTS, "--type=merge", f"--patch={patch}")


def generations(kube: Cluster) -> dict[str, int]:
    """Of the template from which each agent comes, by its pod."""
    found = (item["metadata"] for item in pods_of(kube, "calico-node"))
    return {metadata["name"]: int(metadata["labels"]["pod-template-generation"]) for metadata in found}
