"""A node whose backend is switched off and on: its sessions end, the others lose its routes, and have them back."""

from collections.abc import Iterator

import pytest

from calico_py.lab import agents
from calico_py.model.pools import EncapMode
from tests.product.cluster import BGP, Cluster, cluster, eventually

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def made() -> Iterator[Cluster]:
    with cluster(ipip=EncapMode.NEVER) as up:
        yield up


def peer_of(made: Cluster, node: str, other: str) -> dict[str, object]:
    """The IPv4 session of a node with another, as its status shows it."""
    address = f"192.168.50.1{other[-1]}"
    return next((peer for peer in made.status(node)["bgp"]["peers"] if peer["address"] == address), {})


def test_a_backend_of_none_ends_the_sessions_and_withdraws_the_routes(made: Cluster) -> None:
    """At once: a speaker that was only left alone would be kept by its peers' graceful restart, or for ever."""
    made.wait_for(BGP)
    agents.change(made.lab, "node3", "restart", env={"CALICO_NETWORKING_BACKEND": "none"})
    eventually("node1 has lost node3's route, not node2's", lambda: len(made.routes("node1")) == 1, within=20)
    eventually("the session is down", lambda: peer_of(made, "node1", "node3").get("state") != "Established", within=20)
    assert peer_of(made, "node1", "node2")["state"] == "Established"
    eventually("node3 shows no peers", lambda: made.status("node3")["bgp"]["peers"] == [])
    assert made.status("node3")["bgp"]["speaker_problem"] == ""
    assert made.routes("node3") == {}, "routes learned by BGP go with it"
    agents.change(made.lab, "node3", "restart", env={"CALICO_NETWORKING_BACKEND": "bird"})
    made.wait_for(BGP)
