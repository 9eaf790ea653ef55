"""kubectl apply of a pool that differs in ipipMode alone moves a running cluster, and not one packet is lost.

Flows of 1,000 datagrams a second each way run through all changes of a test: pod to pod with small and with full-MTU
datagrams, host to pod and pod to host, and a TCP stream. The uplinks had rp_filter=1 before the agents started.
"""

import contextlib
import itertools
import time
from collections.abc import Iterator
from ipaddress import ip_network

import pytest

from calico_py.lab.flows import FlowResult, RunningFlow, stop_all
from tests.product.cluster import API, BGP, FULL_MTU, NODES, TUNNEL, Cluster, cluster, lost

pytestmark = [pytest.mark.root, pytest.mark.alone, pytest.mark.timeout(300)]

# Each order of nodes, with the seconds between one and the next at either change: five in all, or two.
ORDERS = list(zip(itertools.permutations(NODES), itertools.cycle(((2.5, 1.0), (1.0, 2.5))), strict=False))
AFTER = 0.5  # seconds of traffic after a change is done


@pytest.fixture(scope="module")
def one_subnet() -> Iterator[Cluster]:
    with cluster() as made:
        yield made


@pytest.fixture(scope="module")
def two_subnets() -> Iterator[Cluster]:
    with cluster(subnets=2) as made:
        yield made


@contextlib.contextmanager
def traffic(made: Cluster) -> Iterator[dict[str, FlowResult]]:
    """All flows and the TCP stream; the results are there after the block, and the stream must not have stalled."""
    results: dict[str, FlowResult] = {}
    with contextlib.ExitStack() as stack:
        running: dict[str, RunningFlow] = {
            "pod to pod": stack.enter_context(made.flow("pod/p1", "pod/p2")),
            "pod to pod, full MTU": stack.enter_context(made.flow("pod/p1", "pod/p3", size=FULL_MTU, port=7778)),
            "host to pod": stack.enter_context(made.flow("node3", "pod/p2", port=7779)),
        }
        timeouts = stack.enter_context(made.tcp_stream("pod/p3", "pod/p2"))
        yield results
        time.sleep(AFTER)
        results.update(zip(running, stop_all(list(running.values())), strict=True))
        assert timeouts() == 0


def test_always_and_never_by_bgp(one_subnet: Cluster) -> None:
    one_subnet.wait_for(TUNNEL)
    with traffic(one_subnet) as results:
        for _ in range(2):
            one_subnet.apply_mode("Never")
            one_subnet.wait_for(BGP)
            time.sleep(AFTER)
            one_subnet.apply_mode("Always")
            one_subnet.wait_for(TUNNEL)
            time.sleep(AFTER)
    assert not lost(results)


def test_what_is_on_the_wire(one_subnet: Cluster) -> None:
    """Protocol 4 between the nodes' addresses with Always; plain packets between the pods' with Never."""
    address = {pod: str(one_subnet.lab.endpoint(pod).address(4)) for pod in ("pod/p1", "pod/p2")}
    inner = f"{address['pod/p1']}.7777 > {address['pod/p2']}.7777"
    one_subnet.wait_for(TUNNEL)
    with one_subnet.flow("pod/p1", "pod/p2"):
        tunnelled = one_subnet.packets("node1")
        one_subnet.apply_mode("Never")
        one_subnet.wait_for(BGP)
        time.sleep(0.2)
        plain = one_subnet.packets("node1")
        one_subnet.apply_mode("Always")
        one_subnet.wait_for(TUNNEL)
    assert f"IP 192.168.50.11 > 192.168.50.12: IP {inner}" in tunnelled
    assert f"IP {inner}" in plain
    assert "192.168.50.11 > 192.168.50.12: IP" not in plain


@pytest.mark.parametrize(("order", "gaps"), ORDERS, ids=["-".join(order) for order, _ in ORDERS])
def test_nodes_that_react_at_different_times(
    one_subnet: Cluster, order: tuple[str, ...], gaps: tuple[float, float]
) -> None:
    """The agents are stopped, the pool is changed, and they go on one after the other."""
    one_subnet.wait_for(TUNNEL)
    with traffic(one_subnet) as results:
        for mode, way, gap in (("Never", BGP, gaps[0]), ("Always", TUNNEL, gaps[1])):
            with one_subnet.stopped_agents() as go_on:
                one_subnet.apply_mode(mode)
                for node in order:
                    go_on(node)
                    time.sleep(gap if node != order[-1] else 0)
            one_subnet.wait_for(way)
            time.sleep(AFTER)
    assert not lost(results)


def test_cross_subnet_on_one_subnet(one_subnet: Cluster) -> None:
    one_subnet.wait_for(TUNNEL)
    with traffic(one_subnet) as results:
        one_subnet.apply_mode("CrossSubnet")
        one_subnet.wait_for(API)
        time.sleep(AFTER)
        one_subnet.apply_mode("Never")
        one_subnet.wait_for(BGP)
        time.sleep(AFTER)
        one_subnet.apply_mode("CrossSubnet")
        one_subnet.wait_for(API)
        time.sleep(AFTER)
        one_subnet.apply_mode("Always")
        one_subnet.wait_for(TUNNEL)
    assert not lost(results)


def test_always_and_cross_subnet_on_two_subnets(two_subnets: Cluster) -> None:
    """node1 and node2 share a subnet, node3 is on the other. Never is for routers that know the pods' blocks."""
    two_subnets.wait_for(TUNNEL)
    with traffic(two_subnets) as results:
        for _ in range(2):
            two_subnets.apply_mode("CrossSubnet")
            two_subnets.wait_for(TUNNEL, API, nodes=("node1", "node2"))
            two_subnets.wait_for(TUNNEL, nodes=("node3",))
            time.sleep(AFTER)
            two_subnets.apply_mode("Always")
            two_subnets.wait_for(TUNNEL)
            time.sleep(AFTER)
    assert not lost(results)


def test_never_fed_by_the_api(one_subnet: Cluster) -> None:
    one_subnet.wait_for(TUNNEL)
    one_subnet.api_fed()
    try:
        with traffic(one_subnet) as results:
            one_subnet.apply_mode("Never")
            one_subnet.wait_for(API)
            time.sleep(AFTER)
            one_subnet.apply_mode("Always")
            one_subnet.wait_for(TUNNEL)
    finally:
        one_subnet.bgp_fed()
    assert not lost(results)


def test_these_flows_do_notice_a_loss(one_subnet: Cluster) -> None:
    """Negative control: one route is away for 50 ms, while the agent that would repair it is stopped."""
    one_subnet.wait_for(TUNNEL)
    node = one_subnet.lab.endpoint("node1")
    address = one_subnet.lab.endpoint("pod/p2").address(4)
    (target,) = [block for block in one_subnet.routes("node1") if address in ip_network(block)]
    with one_subnet.flow("pod/p1", "pod/p2") as flow:
        with one_subnet.stopped_agents():
            route = node.run(["ip", "route", "show", target]).stdout.split()
            assert node.run(["ip", "route", "del", target]).returncode == 0
            time.sleep(0.05)
            node.run(["ip", "route", "add", *route])
        result = flow.stop()
    assert result.there.lost > 10
