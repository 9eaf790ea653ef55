"""plan: the choice among candidates, the resolution of gateways, what may be swept."""

import ipaddress
from collections.abc import Sequence
from dataclasses import replace

import pytest

from calico_py.dataplane.plan import plan_routes, sweep_rule
from calico_py.model.bgp import LearnedRoutes, Peer
from calico_py.model.intent import PROTO_API, PROTO_BGP, Candidate, Destination, Intent, RouteClass, RouteIntent
from calico_py.model.kernel import Link, NextHop, Route, RouteKey, RouteType
from calico_py.model.net import Network

NET = ipaddress.ip_network
IP = ipaddress.ip_address
BLOCK = NET("10.244.2.0/26")
ETH0, TUNL0 = 2, 5
LINKS = [Link("eth0", ETH0, up=True, running=True), Link("tunl0", TUNL0, kind="tun", up=True, running=True)]
CONNECTED = Route(NET("192.168.1.0/24"), next_hops=(NextHop(ETH0),), protocol=2, link_scope=True)
DEFAULT = Route(NET("0.0.0.0/0"), next_hops=(NextHop(ETH0, IP("192.168.1.1")),), protocol=3)
UNDERLAY = [CONNECTED, DEFAULT]
NEAR, FAR = IP("192.168.1.12"), IP("192.168.2.13")


def route(gateway: object, ifindex: int, protocol: int, *, onlink: bool = False) -> Route:
    return Route(BLOCK, next_hops=(NextHop(ifindex, IP(str(gateway)), onlink),), protocol=protocol)


def way(route_class: RouteClass, via: object = NEAR, *, fresh: bool = True) -> Candidate:
    device = "tunl0" if route_class == RouteClass.TUNNEL else ""
    hops = () if route_class == RouteClass.BLACKHOLE else (IP(str(via)),)
    return Candidate(RouteIntent(BLOCK, route_class, hops, device), fresh=fresh)


def plan(
    candidates: Sequence[Candidate],
    *installed: Route,
    links: Sequence[Link] = LINKS,
    waiting: str = "",
    held: Candidate | None = None,
) -> tuple[Route | None, str]:
    intent = Intent(destinations={BLOCK: Destination(BLOCK, tuple(candidates), waiting)})
    out = plan_routes(intent, links, [*UNDERLAY, *installed], {BLOCK: held.route} if held else {})
    return out.desired.get(RouteKey(254, BLOCK, 0)), out.waiting.get(BLOCK, "")


def test_tunnel_route_is_onlink_through_the_device() -> None:
    assert plan([way(RouteClass.TUNNEL)]) == (route(NEAR, TUNL0, PROTO_API, onlink=True), "")


def test_a_tun_device_without_its_engine_gets_no_new_route_and_loses_none() -> None:
    """The node's own engine may be later than the receiver of the other."""
    deaf = [LINKS[0], Link("tunl0", TUNL0, kind="tun", up=True)]
    ways = [way(RouteClass.TUNNEL), way(RouteClass.BGP, fresh=False)]
    learned, tunnel = route(NEAR, ETH0, PROTO_BGP), route(NEAR, TUNL0, PROTO_API, onlink=True)
    why = "no tunnel engine is attached to tunl0 yet: start `calico-py tunnel`"
    assert plan(ways, learned, links=deaf) == (learned, why)
    assert plan(ways, links=deaf) == (None, why)
    assert plan(ways, tunnel, links=deaf) == (tunnel, "")
    assert plan(ways, links=deaf, held=ways[0]) == (tunnel, ""), "taken away meanwhile, or the device made again"
    assert plan(ways, learned) == (tunnel, "")


def test_the_kernels_device_carries_as_soon_as_it_is_up() -> None:
    links = [LINKS[0], Link("tunl0", TUNL0, kind="ipip", up=True)]
    assert plan([way(RouteClass.TUNNEL)], links=links) == (route(NEAR, TUNL0, PROTO_API, onlink=True), "")


def test_direct_and_learned_routes_differ_in_protocol_alone() -> None:
    assert plan([way(RouteClass.DIRECT)]) == (route(NEAR, ETH0, PROTO_API), "")
    assert plan([way(RouteClass.BGP)]) == (route(NEAR, ETH0, PROTO_BGP), "")


def test_a_learned_next_hop_is_resolved_through_the_underlay() -> None:
    assert plan([way(RouteClass.BGP, FAR)]) == (route("192.168.1.1", ETH0, PROTO_BGP), "")


def test_a_direct_route_needs_a_connected_network() -> None:
    found, why = plan([way(RouteClass.DIRECT, FAR)])
    assert found is None
    assert "through the router 192.168.1.1" in why


def test_blackhole() -> None:
    expected = Route(BLOCK, type=RouteType.BLACKHOLE, protocol=PROTO_API)
    assert plan([way(RouteClass.BLACKHOLE)]) == (expected, "")


def test_ipv6_has_metric_1024() -> None:
    block: Network = NET("fd10::40/122")
    connected = Route(NET("fd00::/64"), next_hops=(NextHop(ETH0),), protocol=2, metric=256)
    hole = RouteIntent(block, RouteClass.DIRECT, (IP("fd00::12"),))
    intent = Intent(destinations={block: Destination(block, (Candidate(hole),))})
    (found,) = plan_routes(intent, LINKS, [connected]).desired.values()
    assert found == Route(block, next_hops=(NextHop(ETH0, IP("fd00::12")),), protocol=PROTO_API, metric=1024)


def test_the_way_that_the_kernel_has_is_kept_while_the_better_one_is_missing() -> None:
    candidates = [way(RouteClass.TUNNEL, fresh=False), way(RouteClass.DIRECT, fresh=False)]
    tunnel = route(NEAR, TUNL0, PROTO_API, onlink=True)
    direct = route(NEAR, ETH0, PROTO_API)
    assert plan(candidates, tunnel, waiting="waiting for BGP") == (tunnel, "waiting for BGP")
    assert plan(candidates, direct, waiting="waiting for BGP") == (direct, "waiting for BGP")


def test_a_better_way_that_cannot_be_had_takes_none_away() -> None:
    """Same subnet by the annotation's prefix, but reached through a router: the tunnel route of before stays."""
    tunnel = route(FAR, TUNL0, PROTO_API, onlink=True)
    found, why = plan([way(RouteClass.DIRECT, FAR), way(RouteClass.TUNNEL, FAR, fresh=False)], tunnel)
    assert found == tunnel
    assert "through the router 192.168.1.1" in why


def test_a_fresh_node_installs_none_of_them() -> None:
    assert plan([way(RouteClass.TUNNEL, fresh=False)], waiting="waiting for BGP") == (None, "waiting for BGP")


def test_a_withdrawn_path_is_not_kept_as_if_the_api_had_asked_for_it() -> None:
    candidates = [way(RouteClass.TUNNEL, fresh=False), way(RouteClass.DIRECT, fresh=False)]
    assert plan(candidates, route(NEAR, ETH0, PROTO_BGP))[0] is None


def test_a_kept_route_must_still_lead_to_the_same_node() -> None:
    moved = [way(RouteClass.TUNNEL, "192.168.1.99", fresh=False)]
    assert plan(moved, route(NEAR, TUNL0, PROTO_API, onlink=True))[0] is None


def test_a_kept_way_that_was_taken_away_is_put_back_by_the_last_plan() -> None:
    intent = Intent(destinations={BLOCK: Destination(BLOCK, (way(RouteClass.TUNNEL, fresh=False),), "waiting for BGP")})
    tunnel = route(NEAR, TUNL0, PROTO_API, onlink=True)
    before = plan_routes(intent, LINKS, [*UNDERLAY, tunnel])
    down = plan_routes(intent, LINKS[:1], UNDERLAY, before.held)
    assert not down.desired
    again = plan_routes(intent, LINKS, UNDERLAY, down.held)
    assert list(again.desired.values()) == [tunnel]
    assert again.waiting[BLOCK] == "waiting for BGP"


def test_what_the_kernel_has_counts_for_more_than_the_last_plan() -> None:
    candidates = (way(RouteClass.TUNNEL, fresh=False), way(RouteClass.DIRECT, fresh=False))
    direct = route(NEAR, ETH0, PROTO_API)
    intent = Intent(destinations={BLOCK: Destination(BLOCK, candidates)})
    out = plan_routes(intent, LINKS, [*UNDERLAY, direct], {BLOCK: candidates[0].route})
    assert list(out.desired.values()) == [direct]


def test_a_way_that_is_no_candidate_any_more_is_forgotten() -> None:
    intent = Intent(destinations={BLOCK: Destination(BLOCK, (way(RouteClass.DIRECT, fresh=False),))})
    assert not plan_routes(intent, LINKS, UNDERLAY, {BLOCK: way(RouteClass.TUNNEL).route}).held


@pytest.mark.parametrize("links", [LINKS[:1], [LINKS[0], Link("tunl0", TUNL0, kind="tun", up=False)]])
def test_without_its_device_a_tunnel_route_waits_and_what_is_installed_stays(links: list[Link]) -> None:
    direct = route(NEAR, ETH0, PROTO_BGP)
    found, why = plan([way(RouteClass.TUNNEL), way(RouteClass.BGP, fresh=False)], direct, links=links)
    assert found == direct
    assert "tunl0" in why


def test_our_own_routes_are_no_underlay() -> None:
    """A learned route that covers a node's address must not resolve that node's gateway."""
    covering = Route(NET("192.168.2.0/24"), next_hops=(NextHop(TUNL0, NEAR, onlink=True),), protocol=PROTO_BGP)
    out = plan_routes(
        Intent(destinations={BLOCK: Destination(BLOCK, (way(RouteClass.BGP, FAR),))}), LINKS, [*UNDERLAY, covering]
    )
    assert out.desired[RouteKey(254, BLOCK, 0)] == route("192.168.1.1", ETH0, PROTO_BGP)


def test_equal_cost_paths_make_one_route_with_sorted_hops() -> None:
    both = RouteIntent(BLOCK, RouteClass.BGP, (IP("192.168.1.14"), NEAR))
    intent = Intent(destinations={BLOCK: Destination(BLOCK, (Candidate(both),))})
    (found,) = plan_routes(intent, LINKS, UNDERLAY).desired.values()
    assert found.next_hops == (NextHop(ETH0, NEAR), NextHop(ETH0, IP("192.168.1.14")))


def test_a_next_hop_that_cannot_be_reached_takes_no_other_with_it() -> None:
    """Its interface is down: it is no way any more (RFC 4271 9.1.2.1), but the other one is."""
    lost = RouteIntent(BLOCK, RouteClass.BGP, (IP("172.16.0.5"), NEAR))
    intent = Intent(destinations={BLOCK: Destination(BLOCK, (Candidate(lost),))})
    assert list(plan_routes(intent, LINKS, [CONNECTED]).desired.values()) == [route(NEAR, ETH0, PROTO_BGP)]
    alone = Intent(destinations={BLOCK: Destination(BLOCK, (way(RouteClass.BGP, "172.16.0.5"),))})
    out = plan_routes(alone, LINKS, [CONNECTED])
    assert not out.desired
    assert "no route of this node leads to 172.16.0.5" in out.waiting[BLOCK]


def test_next_hops_behind_one_router_are_one_way() -> None:
    """IPv6 refuses a route that has a next hop twice (EEXIST)."""
    both = RouteIntent(BLOCK, RouteClass.BGP, (FAR, IP("192.168.2.14")))
    intent = Intent(destinations={BLOCK: Destination(BLOCK, (Candidate(both),))})
    (found,) = plan_routes(intent, LINKS, UNDERLAY).desired.values()
    assert found == route("192.168.1.1", ETH0, PROTO_BGP)


def test_a_learned_route_does_not_take_the_place_of_a_connected_network() -> None:
    """A router announces the nodes' own network, to which NetworkManager and DHCP clients give a metric."""
    own = replace(CONNECTED, metric=100)
    learned = RouteIntent(own.dst, RouteClass.BGP, (NEAR,))
    intent = Intent(destinations={own.dst: Destination(own.dst, (Candidate(learned),))})
    out = plan_routes(intent, LINKS, [own, DEFAULT])
    assert not out.desired
    assert "192.168.1.0/24 is connected to eth0" in out.waiting[own.dst]
    default = RouteIntent(DEFAULT.dst, RouteClass.BGP, (NEAR,))
    intent = Intent(destinations={DEFAULT.dst: Destination(DEFAULT.dst, (Candidate(default),))})
    assert plan_routes(intent, LINKS, [own, replace(DEFAULT, metric=100)]).desired


def peers(*addresses: object) -> Intent:
    own = IP("192.168.1.11")
    return Intent(peers=frozenset(Peer(str(a), IP(str(a)), own, 64512, 64512, str(own)) for a in addresses))


def test_what_may_be_swept() -> None:
    api, near = route(NEAR, ETH0, PROTO_API), route(NEAR, ETH0, PROTO_BGP)
    through_router = route("192.168.1.1", ETH0, PROTO_BGP)
    none = sweep_rule(peers(NEAR, FAR), LearnedRoutes())
    assert [none(r) for r in (api, near, through_router)] == [True, False, False]
    one = sweep_rule(peers(NEAR, FAR), LearnedRoutes(in_sync=frozenset({NEAR})))
    assert [one(r) for r in (api, near, through_router)] == [True, True, False]
    all_ = sweep_rule(peers(NEAR, FAR), LearnedRoutes(in_sync=frozenset({NEAR, FAR})))
    assert [all_(r) for r in (api, near, through_router)] == [True, True, True]
    assert sweep_rule(peers(), LearnedRoutes())(through_router)
