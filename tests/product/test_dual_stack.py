"""Pods with an address of each family: what happens to the routes of one costs the other no packet, nor itself.

IPIP does not carry IPv6 (RFC 2003 is IPv4 in IPv4), so an IPv6 pool has mode Never, and its routes come from BGP or,
where programClusterRoutes says so, from the API.
"""

import contextlib
import itertools
import time
from collections.abc import Iterator
from ipaddress import ip_network

import pytest

from calico_py.lab import agents
from calico_py.lab.flows import FlowResult, stop_all
from calico_py.lab.pings import ping
from calico_py.lab.pods import wait_until_routed
from calico_py.model.net import Family
from calico_py.model.pools import EncapMode
from tests.product.cluster import (
    API,
    BGP,
    DUAL_STACK,
    NODES,
    POOL6,
    TUNNEL,
    Cluster,
    cluster,
    eventually,
    lost,
)

pytestmark = [pytest.mark.root, pytest.mark.alone, pytest.mark.timeout(180)]

FULL_MTU6 = 1430 - 48  # bytes of UDP payload: a dual-stack pod leaves room for VXLAN over IPv6; IPv6 40, UDP 8
AFTER = 0.5  # seconds of traffic after a change is done
PODS = ("pod/p1", "pod/p2", "pod/p3")


@pytest.fixture(scope="module")
def made() -> Iterator[Cluster]:
    with cluster(pools=DUAL_STACK) as up:
        yield up


@pytest.fixture(scope="module")
def two_subnets() -> Iterator[Cluster]:
    """node3 is behind routers that know the pods' blocks, since the lab begins with Never."""
    with cluster(subnets=2, ipip=EncapMode.NEVER, pools=DUAL_STACK) as up:
        yield up


@contextlib.contextmanager
def traffic(made: Cluster) -> Iterator[dict[str, FlowResult]]:
    """Flows of both families and a TCP stream over IPv6; the results are there after the block."""
    results: dict[str, FlowResult] = {}
    with contextlib.ExitStack() as stack:
        running = {
            "pod to pod, IPv4": stack.enter_context(made.flow("pod/p1", "pod/p3")),
            "pod to pod, IPv6": stack.enter_context(made.flow("pod/p1", "pod/p3", family=6)),
            "pod to pod, IPv6, full MTU": stack.enter_context(
                made.flow("pod/p1", "pod/p2", size=FULL_MTU6, port=7778, family=6)
            ),
            "host to pod, IPv6": stack.enter_context(made.flow("node3", "pod/p2", port=7779, family=6)),
        }
        timeouts = stack.enter_context(made.tcp_stream("pod/p3", "pod/p2", family=6))
        yield results
        time.sleep(AFTER)
        results.update(zip(running, stop_all(list(running.values())), strict=True))
        assert timeouts() == 0


@pytest.mark.parametrize("family", [4, 6])
def test_every_pod_reaches_every_other_and_every_node(made: Cluster, family: Family) -> None:
    for source, target in (*itertools.permutations(PODS, 2), *itertools.product(NODES, PODS)):
        result = ping(made.lab.endpoint(source), made.lab.target(target, family), count=1)
        assert result.ok, (source, target, result)


def test_the_ipv4_pool_changes_its_mode(made: Cluster) -> None:
    made.wait_for(TUNNEL)
    made.wait_for(BGP, family=6)
    before = {node: made.routes(node, 6) for node in NODES}
    with traffic(made) as results:
        for mode, way in (("Never", BGP), ("CrossSubnet", API), ("Always", TUNNEL)):
            made.apply_mode(mode)
            made.wait_for(way)
            time.sleep(AFTER)
            assert {node: made.routes(node, 6) for node in NODES} == before
    assert not lost(results)


def test_the_ipv6_pool_goes_from_bgp_to_the_api_and_back(made: Cluster) -> None:
    """IPv4's tunnels stay as they are: only what has no encapsulation moves."""
    made.wait_for(TUNNEL)
    made.wait_for(BGP, family=6)
    with traffic(made) as results:
        for change, way in ((made.api_fed, API), (made.bgp_fed, BGP)):
            with made.stopped_agents() as go_on:
                change()
                for node in ("node2", "node3", "node1"):
                    go_on(node)
                    time.sleep(0.7)
            made.wait_for(way, family=6)
            time.sleep(AFTER)
            made.wait_for(TUNNEL)
    assert not lost(results)


def test_the_ipv6_pool_is_deleted_and_made_again(made: Cluster) -> None:
    """Blocks and pods outlive a pool that somebody forces away, and so do their routes."""
    manifest = made.kubectl("get", "ippool", POOL6, "-o", "json")
    made.wait_for(BGP, family=6)
    with traffic(made) as results:
        made.delete_pool(POOL6)
        time.sleep(1)
        made.force_pool_away(POOL6)
        time.sleep(1)
        made.kubectl("create", "-f", "-", stdin=manifest)
        time.sleep(1)
        made.wait_for(BGP, family=6)
    assert not lost(results)


def test_flushed_routes_are_back_within_a_second(made: Cluster) -> None:
    made.wait_for(BGP, family=6)
    node = made.lab.endpoint("node1")
    assert node.run(["ip", "-6", "route", "flush", "proto", "81"]).returncode == 0
    eventually("routes are back", lambda: len(made.routes("node1", 6)) == 2, within=1.0)


def test_these_flows_do_notice_a_loss(made: Cluster) -> None:
    """Negative control: one route is away for 50 ms, while the agent that would repair it is stopped."""
    made.wait_for(BGP, family=6)
    node = made.lab.endpoint("node1")
    address = made.lab.endpoint("pod/p2").address(6)
    (target,) = [block for block in made.routes("node1", 6) if address in ip_network(block)]
    with made.flow("pod/p1", "pod/p2", family=6) as flow:
        with made.stopped_agents():
            route = node.run(["ip", "-6", "route", "show", target]).stdout.split()
            assert node.run(["ip", "-6", "route", "del", target]).returncode == 0
            time.sleep(0.05)
            node.run(["ip", "-6", "route", "add", *route])
        result = flow.stop()
    assert result.there.lost > 10


def test_a_node_whose_own_engine_comes_late_sends_as_before(two_subnets: Cluster) -> None:
    """The others receive already; what it sent to a tunnel that nobody serves would be lost."""
    made = two_subnets
    made.wait_for(BGP)
    agents.change(made.lab, "node3", "stop", only="tunnel")
    with traffic(made) as results:
        made.apply_mode("Always")
        made.wait_for(TUNNEL, BGP, nodes=("node1", "node2"))
        time.sleep(1)
        made.wait_for(BGP, nodes=("node3",))
        waiting = {route["waiting"] for route in made.status("node3")["routes"]["routes"]}
        assert "no tunnel engine is attached to tunl0 yet: start `calico-py tunnel`" in waiting
        agents.change(made.lab, "node3", "start", only="tunnel")
        made.wait_for(TUNNEL)
        time.sleep(AFTER)
        made.apply_mode("Never")
        made.wait_for(BGP)
    assert not lost(results)


def test_between_subnets_whose_routers_know_the_pods(two_subnets: Cluster) -> None:
    """Never, with next hops that BGP tells and the underlay resolves; and the tunnels, which need no such routers."""
    made = two_subnets
    for record in made.lab.pods():
        assert wait_until_routed(made.lab, record, within=20) == []
    made.wait_for(BGP)
    made.wait_for(BGP, family=6)
    with traffic(made) as results:
        made.apply_mode("Always")
        made.wait_for(TUNNEL)
        time.sleep(AFTER)
        made.apply_mode("CrossSubnet")
        made.wait_for(TUNNEL, nodes=("node3",))
        made.wait_for(TUNNEL, API, nodes=("node1", "node2"))
        time.sleep(AFTER)
        made.apply_mode("Never")
        made.wait_for(BGP)
        made.wait_for(BGP, family=6)
    assert not lost(results)
