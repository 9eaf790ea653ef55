"""The BGP identifier of a node."""

from ipaddress import IPv4Interface, IPv6Interface

import pytest

from calico_py.model.cluster import ClusterState
from calico_py.model.meta import Meta
from calico_py.model.nodes import Node
from calico_py.routing.mesh import compute_peers, router_id

BOTH = Node(Meta("node1"), ipv4=IPv4Interface("192.168.1.11/24"), ipv6=IPv6Interface("fd00::11/64"))
SIX = Node(Meta("node1"), ipv6=IPv6Interface("fd00::11/64"))
OTHER = Node(Meta("node2"), ipv4=IPv4Interface("192.168.1.12/24"), ipv6=IPv6Interface("fd00::12/64"))


@pytest.mark.parametrize(
    ("node", "setting", "expected"),
    [
        (BOTH, "", "192.168.1.11"),
        (BOTH, "10.0.0.1", "10.0.0.1"),
        (SIX, "10.0.0.1", "10.0.0.1"),
    ],
)
def test_a_setting_then_the_address(node: Node, setting: str, expected: str) -> None:
    assert router_id(node, setting) == expected


def test_hash_on_request_and_where_there_is_no_ipv4_address() -> None:
    assert router_id(BOTH, "hash") == router_id(SIX) == router_id(SIX, "hash")
    assert router_id(BOTH, "hash") != router_id(OTHER, "hash")


def test_all_sessions_of_a_node_have_its_own() -> None:
    state = ClusterState(nodes={"node1": BOTH, "node2": OTHER})
    assert {peer.router_id for peer in compute_peers(state, BOTH, "10.0.0.1")} == {"10.0.0.1"}
