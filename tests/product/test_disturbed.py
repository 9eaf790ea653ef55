"""Mode changes and annotations under disturbance: killed agents and speakers, a slip of kubectl. Nothing is lost."""

import os
import random
import signal
import time
from collections.abc import Iterator

import pytest

from calico_py.lab import agents
from calico_py.lab.processes import find_by_environment
from calico_py.model.names import NODE_IPV4_ADDRESS, NODE_IPV4_IPIP_TUNNEL, NODE_SENDING
from tests.product.cluster import BGP, NODES, TUNNEL, Cluster, cluster, lost
from tests.product.test_toggle import traffic

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]


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
    assert not lost(results), results


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
    assert not lost(results), results


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
    assert not lost(results), results
