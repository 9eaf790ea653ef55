"""Each rule of the decision process, by two paths that differ in nothing above it."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from calico_py.bgp.decide import MAX_NEXT_HOPS, Identity, Rule, decide, decide_prefix, why_refused
from calico_py.model.bgp import Origin, Path

NLRI = ip_network("10.244.1.0/26")
ME = Identity(
    as_number=64512,
    router_ids=frozenset({"10.0.0.9"}),
    cluster_id="1.1.1.1",
    addresses=frozenset({ip_address("10.0.0.9")}),
)
BASE = Path(
    nlri=NLRI,
    peer=ip_address("10.0.0.1"),
    next_hop=ip_address("10.0.0.1"),
    origin=Origin.IGP,
    local_pref=100,
    peer_as=64512,
    peer_router_id="10.0.0.1",
)
EBGP = replace(BASE, ebgp=True, peer_as=65001, as_path=(65001,), local_pref=None)


@pytest.mark.parametrize(
    ("better", "worse", "rule"),
    [
        (replace(BASE, local_pref=200, as_path=(1, 2)), BASE, Rule.LOCAL_PREF),
        (replace(BASE, local_pref=None), replace(BASE, local_pref=99), Rule.LOCAL_PREF),
        (replace(BASE, as_path=(1,), origin=Origin.INCOMPLETE), replace(BASE, as_path=(1, 2)), Rule.AS_PATH),
        (replace(BASE, as_path=((1, 2, 3),)), replace(BASE, as_path=(1, 2)), Rule.AS_PATH),
        (replace(BASE, med=9), replace(BASE, origin=Origin.EGP), Rule.ORIGIN),
        (replace(BASE, origin=Origin.EGP), replace(BASE, origin=Origin.INCOMPLETE), Rule.ORIGIN),
        (BASE, replace(BASE, med=1), Rule.MED),
        (EBGP, replace(BASE, as_path=(65002,)), Rule.EBGP),
        (BASE, replace(BASE, peer_router_id="10.0.0.2", peer=ip_address("10.0.0.0")), Rule.ROUTER_ID),
        (
            replace(BASE, originator_id="10.0.0.1", peer_router_id="10.0.0.8"),
            replace(BASE, peer_router_id="10.0.0.2"),
            Rule.ROUTER_ID,
        ),
        (
            replace(BASE, peer=ip_address("10.0.0.3"), cluster_list=("2.2.2.2",)),
            replace(BASE, cluster_list=("2.2.2.2", "3.3.3.3")),
            Rule.CLUSTER_LIST,
        ),
        (replace(BASE, peer=ip_address("10.0.0.9")), replace(BASE, peer=ip_address("10.0.0.10")), Rule.PEER_ADDRESS),
        (replace(BASE, path_id=1), replace(BASE, path_id=2), Rule.PATH_ID),
    ],
)
def test_rule(better: Path, worse: Path, rule: Rule) -> None:
    for order in ([better, worse], [worse, better]):
        route = decide_prefix(order, ME)
        assert route is not None
        assert (route.best, route.reason) == (better, rule)


def test_a_path_alone_is_the_best() -> None:
    route = decide_prefix([BASE], ME)
    assert route is not None
    assert (route.next_hops, route.reason) == ((BASE.next_hop,), Rule.ONLY)


def test_med_compares_within_one_neighbouring_as_only() -> None:
    dear = replace(EBGP, med=50)
    cheap_of_another = replace(EBGP, med=10, as_path=(65002,), peer=ip_address("10.0.0.2"), peer_router_id="10.0.0.2")
    route = decide_prefix([dear, cheap_of_another], ME)
    assert route is not None
    assert route.best == dear
    assert route.reason == Rule.ROUTER_ID


def test_equals_share_the_load_and_their_order_is_that_of_numbers() -> None:
    paths = [
        replace(BASE, peer=ip_address(f"10.0.0.{n}"), next_hop=ip_address(f"10.0.0.{n}"), peer_router_id=f"10.0.0.{n}")
        for n in (10, 2, 3)
    ]
    worse = replace(BASE, peer=ip_address("10.0.0.4"), next_hop=ip_address("10.0.0.4"), local_pref=50)
    route = decide_prefix([*paths, worse], ME)
    assert route is not None
    assert [str(hop) for hop in route.next_hops] == ["10.0.0.2", "10.0.0.3", "10.0.0.10"]


def test_there_are_never_more_next_hops_than_the_limit_and_the_best_is_among_them() -> None:
    many = [
        replace(
            BASE,
            peer=ip_address(f"10.0.1.{n}"),
            next_hop=ip_address(f"10.0.1.{100 - n}"),
            peer_router_id=f"10.0.1.{n}",
        )
        for n in range(1, 40)
    ]
    route = decide_prefix(many, ME)
    assert route is not None
    assert len(route.next_hops) == MAX_NEXT_HOPS
    assert route.best.next_hop in route.next_hops


@pytest.mark.parametrize(
    ("path", "word"),
    [
        (replace(EBGP, as_path=(65001, 64512)), "own AS 64512"),
        (replace(EBGP, as_path=(65001, (64512, 7))), "own AS 64512"),
        (replace(BASE, originator_id="10.0.0.9"), "originated"),
        (replace(BASE, cluster_list=("2.2.2.2", "1.1.1.1")), "cluster list"),
        (replace(BASE, next_hop=ip_address("10.0.0.9")), "this node"),
        (replace(BASE, next_hop=ip_address("2001:db8::1")), "other address family"),
        (replace(BASE, next_hop=ip_address("0.0.0.0")), "cannot be a next hop"),
        (replace(BASE, next_hop=ip_address("127.0.0.1")), "cannot be a next hop"),
        (replace(BASE, next_hop=ip_address("169.254.0.1")), "link-local"),
        (replace(BASE, nlri=ip_network("224.0.0.0/4")), "not a prefix"),
        (replace(BASE, nlri=ip_network("127.0.0.0/8")), "not a prefix"),
        (replace(BASE, nlri=ip_network("169.254.0.0/16")), "not a prefix"),
    ],
)
def test_refused(path: Path, word: str) -> None:
    assert word in why_refused(path, ME)
    assert decide_prefix([path], ME) is None
    other = replace(BASE, nlri=path.nlri, local_pref=1)
    if path.nlri == NLRI:
        route = decide_prefix([path, other], ME)
        assert route is not None
        assert route.best == other


def test_a_default_route_and_ipv6_are_fine() -> None:
    default = replace(BASE, nlri=ip_network("0.0.0.0/0"))
    six = replace(BASE, nlri=ip_network("fd00:10::/122"), next_hop=ip_address("fd00::1"), peer=ip_address("fd00::1"))
    assert why_refused(default, ME) == ""
    learned = decide({default.nlri: [default], six.nlri: [six], NLRI: []}, ME, in_sync=frozenset({BASE.peer}))
    assert set(learned.routes) == {default.nlri, six.nlri}
    assert learned.in_sync == {BASE.peer}
