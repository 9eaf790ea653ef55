"""The toggle with the kernel's ipip: a pool's mode changes under traffic, and not one packet is lost.

Run in a guest whose kernel has ipip, see test_vm_ipip. Three nodes on one switch, on each the agent's own loop; at each
change all nodes are deaf, and hear of it, and of what the others say, one after the other.
"""

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from calico_py.agent.receiver import Phase
from calico_py.dataplane.ipip import Engine
from tests.netns.tunnel_nodes import Cluster, cluster, eventually
from tests.vm.agents import agents
from tests.vm.toggling import ALWAYS, CROSS_SUBNET, FULL, NEVER, PATIENCE, Run, routes_are
from tests.vm.traffic import RATE, Traffic, Way

pytestmark = pytest.mark.root

MODES = (NEVER, ALWAYS, CROSS_SUBNET, NEVER, CROSS_SUBNET, ALWAYS)
ORDERS = tuple(itertools.permutations(range(3)))  # as many as modes: each change in another order
SHORT_LINGER = 3.0  # seconds; more than a node is deaf, as the real one is more than a watch hangs


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Nodes whose administrators have rp_filter strict."""
    with cluster(tmp_path_factory.mktemp("toggle"), size=3) as made:
        for node in made.nodes:
            node.sysctl("ipv4/conf/eth0/rp_filter", "1")
        yield made


def test_with_sessions_that_are_up(three: Cluster, tmp_path: Path) -> None:
    with agents(three.nodes, tmp_path) as made:
        run = Run(three.nodes, made)
        run.begin()
        assert {agent.engine for agent in made} == {Engine.KERNEL}
        run.announce(announced=True)
        with run.traffic():
            for mode, order in zip(MODES, ORDERS, strict=True):
                run.change(mode, order, (0.5, 2.0))
                run.wait_for(mode)


def test_with_bgp_behind_and_receivers_that_close(
    three: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths come after the mode, until when the way before is kept; the last Never lasts until no receiver is open."""
    monkeypatch.setattr("calico_py.agent.receiver.LINGER", SHORT_LINGER)
    with agents(three.nodes, tmp_path) as made:
        run = Run(three.nodes, made)
        run.begin()
        with run.traffic():
            run.late_bgp(ORDERS[5], before=ALWAYS)
            run.change(CROSS_SUBNET, ORDERS[4], (2.0, 0.5))
            run.wait_for(CROSS_SUBNET)
            run.late_bgp(ORDERS[3], before=CROSS_SUBNET)
            eventually(lambda: all(agent.phase == Phase.DOWN for agent in made), within=PATIENCE)
            run.note("no receivers")
            run.change(ALWAYS, ORDERS[2], (2.0, 0.5))
            run.wait_for(ALWAYS)


def test_the_agents_set_reverse_path_filters(three: Cluster) -> None:
    for node in three.nodes:
        for device in ("eth0", "tunl0"):
            assert node.setting(f"ipv4/conf/{device}/rp_filter") == "2"


def test_control_a_deleted_route_loses(three: Cluster) -> None:
    """The agents have ended and their routes are there: a tenth of a second without one."""
    one, other, _ = three.nodes
    assert routes_are(three.nodes, ALWAYS)
    running = Traffic(
        [
            Way("there", one.pod_namespace, other.pod_namespace, other.pod, FULL),
            Way("back", other.pod_namespace, one.pod_namespace, one.pod, FULL),
        ]
    )
    try:
        time.sleep(0.5)
        one.ip("route", "del", other.block)
        time.sleep(0.1)
        one.route(other)
        time.sleep(0.5)
        accounts = running.stop()
    finally:
        running.kill()
    assert accounts["there"].lost >= RATE / 20
    assert accounts["back"].lost == 0


def test_across_subnets(three: Cluster, tmp_path: Path) -> None:
    """Node 3 moves to another subnet, behind a router that knows nothing of pods; the switch is the router too."""
    three.move_to_second_subnet(three.nodes[2])
    with agents(three.nodes, tmp_path) as made:
        run = Run(three.nodes, made)
        run.begin()
        with run.traffic():
            for mode, order in ((CROSS_SUBNET, ORDERS[1]), (ALWAYS, ORDERS[4])):
                run.change(mode, order, (0.5, 1.0))
                run.wait_for(mode)
