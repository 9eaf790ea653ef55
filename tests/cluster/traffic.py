"""Traffic between pods of all nodes, and how much of it is lost."""

import contextlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from calico_py.lab.flows import FlowResult, RunningFlow, running_flow
from tests.cluster.conftest import manifest, rolled_out
from tests.cluster.kube_cluster import Cluster, Pod, wait_until

POOL = "default-ipv4-ippool"
RATE = 100  # datagrams a second and direction


@contextlib.contextmanager
def one_on_each_node(kube: Cluster) -> Iterator[list[Pod]]:
    """Pods of a DaemonSet."""
    kube.kubectl("apply", "-f", manifest("one-each.yaml"))
    rolled_out(kube, "one-each", namespace="default")
    names = [item["metadata"]["name"] for item in kube.get("pods", "--selector=app=one-each")["items"]]
    yield [kube.pod(name) for name in names]
    kube.kubectl("delete", "-f", manifest("one-each.yaml"))


@dataclass(frozen=True, slots=True)
class Flows:
    """Flows between each two pods, both ways."""

    running: Mapping[tuple[str, str], RunningFlow]

    def stop(self) -> dict[tuple[str, str], FlowResult]:
        """End them; what became of them."""
        return {pair: running.stop() for pair, running in self.running.items()}

    def expect_no_loss(self) -> None:
        """End them and see that nothing was lost, in more than a second of traffic."""
        for pair, result in self.stop().items():
            assert min(result.there.sent, result.back.sent) > RATE
            assert result.lost == 0, f"{pair}: {result.lines(*pair)}"


@contextlib.contextmanager
def traffic(pods: list[Pod]) -> Iterator[Flows]:
    """Flows that run while the block does."""
    with contextlib.ExitStack() as stack:
        running = {}
        for number, (source, target) in enumerate(itertools.combinations(pods, 2)):
            pair = (source.node.place.name, target.node.place.name)
            running[pair] = stack.enter_context(running_flow(source, target, rate=RATE, port=7700 + number))
        yield Flows(running)


def set_mode(kube: Cluster, mode: str) -> None:
    """Switch the pool, and wait until every node sends in that way."""
    patch = f'{{"spec": {{"ipipMode": "{mode}"}}}}'
    kube.kubectl("patch", "ippool", POOL, "--type=merge", f"--patch={patch}")
    wait_until(lambda: kube.sends_by(POOL, mode), what=f"all nodes follow {mode}")
