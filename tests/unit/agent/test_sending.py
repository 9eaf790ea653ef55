"""What a node says that it sends."""

from ipaddress import ip_address, ip_network

from calico_py.agent.sending import compute_sending
from calico_py.model.intent import Destination, RouteClass, RouteIntent
from calico_py.model.net import Network
from calico_py.model.nodes import Sending

A, B, C = (ip_network(f"10.244.{n}.0/26") for n in (1, 2, 3))
VIA = (ip_address("192.168.1.12"),)
DESTINATIONS: dict[Network, Destination] = {
    A: Destination(A, (), pool="one"),
    B: Destination(B, (), pool="one"),
    C: Destination(C, (), pool="two"),
}


def route(dst: Network, route_class: RouteClass, device: str = "") -> RouteIntent:
    return RouteIntent(dst, route_class, VIA, device)


def test_one_tunnel_route_makes_the_pool_tunnelled() -> None:
    applied = {
        A: route(A, RouteClass.TUNNEL, "tunl0"),
        B: route(B, RouteClass.DIRECT),
        C: route(C, RouteClass.BGP),
    }
    found = compute_sending(applied, DESTINATIONS, ["two", "one", "three"], previous=None, now="t1")
    assert found == {"one": Sending("IPIP", "t1"), "two": Sending("None", "t1"), "three": Sending("None", "t1")}


def test_the_time_moves_with_the_mode_only() -> None:
    before = {"one": Sending("IPIP", "t0"), "two": Sending("None", "t0"), "gone": Sending("None", "t0")}
    applied = {A: route(A, RouteClass.TUNNEL, "tunl0"), C: route(C, RouteClass.TUNNEL, "vxlan.calico")}
    found = compute_sending(applied, DESTINATIONS, ["one", "two"], previous=before, now="t1")
    assert found == {"one": Sending("IPIP", "t0"), "two": Sending("VXLAN", "t1")}


def test_a_tunnel_route_of_a_deleted_pool_is_not_forgotten() -> None:
    applied = {A: route(A, RouteClass.TUNNEL, "tunl0")}
    orphan = {A: Destination(A, (), pool="")}
    assert compute_sending(applied, orphan, [], previous=None, now="t1") == {"": Sending("IPIP", "t1")}
    assert compute_sending(applied, {}, [], previous=None, now="t1") == {"": Sending("IPIP", "t1")}
