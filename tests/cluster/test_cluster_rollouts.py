"""Rolling updates under traffic between pods of all nodes, and how much of it is lost."""

import time
from collections.abc import Iterator

import pytest

from tests.cluster.conftest import rolled_out
from tests.cluster.kube_cluster import Cluster, Pod
from tests.cluster.traffic import one_on_each_node, set_mode, traffic

pytestmark = [pytest.mark.root, pytest.mark.timeout(1800), pytest.mark.usefixtures("installed")]

TUNNEL_GAP = 6000.0  # milliseconds that a node's userspace tunnel may stand still while its image changes


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


@pytest.mark.parametrize("mode", ["Always", "Never"])
@pytest.mark.parametrize("name", ["calico-node", "calico-py-speaker"])
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
