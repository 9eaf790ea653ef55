"""Mode changes and annotations under disturbance: killed agents and speakers, a slip of kubectl. Nothing is lost."""

import json
import os
import random
import signal
import time
from collections.abc import Iterator

import pytest

from calico_py.lab import agents
from calico_py.lab.processes import find_by_environment
from calico_py.model.names import NODE_IPV4_ADDRESS, NODE_IPV4_IPIP_TUNNEL, NODE_SENDING
from tests.product.cluster import BGP, NODES, POOL, TUNNEL, Cluster, cluster, eventually, lost
from tests.product.test_toggle import traffic

pytestmark = [pytest.mark.root, pytest.mark.alone, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def made() -> Iterator[Cluster]:
    with cluster() as up:
        yield up


def kill(made: Cluster, process: str) -> None:
    """SIGKILL to that process of each node; the supervisor starts them again."""
    for node in NODES:
        for pid in find_by_environment(f"LAB_PROCESS={made.lab.state.name}/{node}-{process}")[:1]:
            os.kill(pid, signal.SIGKILL)


def test_agents_killed_amid_mode_changes(made: Cluster) -> None:
    dice = random.Random(20261124)
    made.wait_for(TUNNEL)
    with traffic(made) as results:
        for mode, way in (("Never", BGP), ("Always", TUNNEL)) * 2:
            made.apply_mode(mode)
            for _ in range(2):
                time.sleep(dice.uniform(0, 0.3))
                kill(made, "agent")
            made.wait_for(way)
            time.sleep(0.5)
    assert not lost(results)


def test_speakers_killed_before_a_mode_change(made: Cluster) -> None:
    """The agents restart with speakers that know of no session, and a pool that wants BGP's routes."""
    made.wait_for(TUNNEL)
    with traffic(made) as results:
        for node in NODES:
            agents.kill(made.lab, node, "exabgp")
        made.apply_mode("Never")
        kill(made, "agent")
        made.wait_for(BGP)
        time.sleep(0.5)
        made.apply_mode("Always")
        made.wait_for(TUNNEL)
    assert not lost(results)


@pytest.mark.parametrize(("mode", "way"), [("Always", TUNNEL), ("Never", BGP)])
def test_annotations_that_someone_breaks_or_removes(made: Cluster, mode: str, way: tuple[str, str]) -> None:
    made.apply_mode(mode)
    made.wait_for(way)
    before = made.routes("node1")
    with traffic(made) as results:
        for key in (NODE_IPV4_ADDRESS, NODE_SENDING, NODE_IPV4_IPIP_TUNNEL):
            for change in (f"{key}-", f"{key}=nonsense"):
                made.kubectl("annotate", "--overwrite", "node", "node2", change)
                time.sleep(0.5)
        assert made.routes("node1") == before
    assert not lost(results)


def test_a_pool_that_is_deleted_and_made_again(made: Cluster) -> None:
    """It stays while pods have its addresses; where somebody forces it away, its prefixes count as of mode Never."""
    made.apply_mode("Always")
    made.wait_for(TUNNEL)
    with traffic(made) as results:
        made.delete_pool(POOL)
        time.sleep(1)
        made.wait_for(TUNNEL)
        made.force_pool_away(POOL)
        made.wait_for(BGP)
        time.sleep(0.5)
        made.apply_mode("Always")
        made.wait_for(TUNNEL)
        time.sleep(0.5)
    assert not lost(results)


def test_a_node_that_is_deleted_and_made_again_is_reached_again(made: Cluster) -> None:
    """Without its Node it is nobody's peer; with it, it is as before, its pods and their addresses included."""
    made.apply_mode("Always")
    made.wait_for(TUNNEL)
    address = str(made.lab.endpoint("pod/p2").address(4))
    whole = json.loads(made.kubectl("get", "node", "node2", "-o", "json"))
    made.kubectl("delete", "node", "node2")
    eventually("its routes are gone", lambda: len(made.routes("node1")) == 1)
    time.sleep(3)
    again = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "node2", "labels": whole["metadata"].get("labels", {})},
    }
    made.kubectl("create", "-f", "-", stdin=json.dumps(again))
    made.wait_for(TUNNEL)
    ping = ["ping", "-c1", "-W1", address]
    eventually("p2 is reached", lambda: made.lab.endpoint("pod/p1").run(ping).returncode == 0)
    made.apply_mode("Never")
    made.wait_for(BGP)
    eventually("by BGP too", lambda: made.lab.endpoint("pod/p1").run(ping).returncode == 0)


@pytest.mark.parametrize(("mode", "way"), [("Always", TUNNEL), ("Never", BGP)])
def test_everything_restarts_while_the_api_is_away(made: Cluster, mode: str, way: tuple[str, str]) -> None:
    made.apply_mode(mode)
    made.wait_for(way)
    (server,) = find_by_environment(f"LAB_PROCESS={made.lab.state.name}/api")[:1]
    with traffic(made) as results:
        os.kill(server, signal.SIGSTOP)
        try:
            time.sleep(2)
            kill(made, "agent")
            for node in NODES:
                agents.kill(made.lab, node, "exabgp")
            time.sleep(5)
            assert all(made.routes(node) for node in NODES)
        finally:
            os.kill(server, signal.SIGCONT)
        eventually("the agents are ready", lambda: not any(made.status(node)["not_ready"] for node in NODES))
        time.sleep(2)
        made.wait_for(way)
    assert not lost(results)
