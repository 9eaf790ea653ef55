"""Which blocks a lab's routers know, and by which way."""

from ipaddress import ip_address, ip_network

from calico_py.lab.router_routes import RouterRoute, compute_router_routes
from calico_py.lab.topology import LabSpec, compute_topology
from calico_py.model.pools import EncapMode

IPV4, IPV6 = ip_network("10.244.5.0/26"), ip_network("fd00:10:244::/122")


def test_ipv6_always_since_no_tunnel_carries_it() -> None:
    topology = compute_topology(LabSpec("x", nodes=3, subnets=2))
    assert compute_router_routes(topology, {IPV4: "node3", IPV6: "node3"}) == {
        RouterRoute("x-router1", IPV6, ip_address("fd00:192:168:49::12")),
        RouterRoute("x-router2", IPV6, ip_address("fd00:192:168:51::13")),
    }


def test_ipv4_in_a_lab_that_began_with_never() -> None:
    topology = compute_topology(LabSpec("x", nodes=3, subnets=2, ipip=EncapMode.NEVER))
    assert compute_router_routes(topology, {IPV4: "node1"}) == {
        RouterRoute("x-router1", IPV4, ip_address("192.168.50.11")),
        RouterRoute("x-router2", IPV4, ip_address("192.168.49.11")),
    }


def test_none_where_there_is_one_subnet() -> None:
    topology = compute_topology(LabSpec("x", ipip=EncapMode.NEVER))
    assert compute_router_routes(topology, {IPV4: "node1", IPV6: "node2"}) == frozenset()


def test_a_block_of_a_node_that_is_not_the_labs_is_nobodys() -> None:
    topology = compute_topology(LabSpec("x", subnets=2))
    assert compute_router_routes(topology, {IPV6: "elsewhere"}) == frozenset()
