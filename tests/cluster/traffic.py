"""Traffic between pods of all nodes, and how much of it is lost."""

import contextlib
import itertools
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from calico_py.lab.flows import FlowResult, RunningFlow, running_flow
from calico_py.model.net import FAMILIES, Family
from tests.cluster.kube_cluster import Pod

RATE = 100  # datagrams a second and direction

Pair = tuple[str, str, Family]


@dataclass(frozen=True, slots=True)
class Flows:
    """Flows between each two pods, both ways, in each family that both have; by their nodes and the family."""

    running: Mapping[Pair, RunningFlow]

    def stop(self) -> dict[Pair, FlowResult]:
        """End them; what became of them."""
        with ThreadPoolExecutor(len(self.running)) as threads:
            results = threads.map(RunningFlow.stop, self.running.values())
        return dict(zip(self.running, results, strict=True))

    def expect_no_loss(self) -> None:
        """End them and see that nothing was lost, in more than a second of traffic."""
        for (source, target, family), result in self.stop().items():
            assert min(result.there.sent, result.back.sent) > RATE
            assert result.lost == 0, f"IPv{family}: {result.lines(source, target)}"


@contextlib.contextmanager
def traffic_to(target: Pod, sources: list[Pod]) -> Iterator[Flows]:
    """IPv4 flows from one pod of each node that run while the block does."""
    with contextlib.ExitStack() as stack:
        running: dict[Pair, RunningFlow] = {}
        for number, source in enumerate(sources):
            flow = running_flow(source, target, family=4, rate=RATE, port=7750 + number)
            running[(source.node.place.name, target.node.place.name, 4)] = stack.enter_context(flow)
        yield Flows(running)


@contextlib.contextmanager
def traffic(pods: list[Pod]) -> Iterator[Flows]:
    """Flows that run while the block does."""
    with contextlib.ExitStack() as stack:
        running: dict[Pair, RunningFlow] = {}
        for number, (source, target) in enumerate(itertools.combinations(pods, 2)):
            for family in (family for family in FAMILIES if source.has(family) and target.has(family)):
                pair = (source.node.place.name, target.node.place.name, family)
                flow = running_flow(source, target, family=family, rate=RATE, port=7700 + number)
                running[pair] = stack.enter_context(flow)
        yield Flows(running)
