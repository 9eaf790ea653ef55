"""The decision process: the order of arrival never matters, and what it says is true of its inputs."""

from ipaddress import ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from calico_py.bgp.decide import Identity, decide_prefix, why_refused
from calico_py.model.bgp import Origin, Path

NLRI = ip_network("10.244.1.0/26")
ME = Identity(64512, frozenset({"10.0.0.1"}), "10.0.0.1", frozenset({ip_address("10.0.0.1")}))

hosts = st.integers(1, 4)
ids = hosts.map(lambda n: f"10.0.0.{n}")
hops = st.integers(1, 3) | st.just(64512) | st.tuples(st.integers(1, 3), st.integers(4, 6))


@st.composite
def paths(draw: st.DrawFn) -> Path:
    return Path(
        nlri=NLRI,
        peer=ip_address(draw(ids)),
        next_hop=ip_address(draw(ids)),
        path_id=draw(st.integers(0, 2)),
        origin=draw(st.sampled_from(Origin)),
        as_path=tuple(draw(st.lists(hops, max_size=2))),
        local_pref=draw(st.none() | st.sampled_from([50, 100, 200])),
        med=draw(st.none() | st.integers(0, 2)),
        originator_id=draw(st.just("") | ids),
        cluster_list=tuple(draw(st.lists(ids, max_size=2))),
        peer_router_id=draw(st.just("") | ids),
        ebgp=draw(st.booleans()),
        stale=draw(st.booleans()),
    )


@given(st.lists(paths(), max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_arrival_never_matters(candidates: list[Path], random: object) -> None:
    shuffled = candidates[:]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert decide_prefix(candidates, ME) == decide_prefix(shuffled, ME)


@given(st.lists(paths(), max_size=6))
def test_the_best_is_usable_and_among_the_next_hops(candidates: list[Path]) -> None:
    usable = [path for path in candidates if not why_refused(path, ME)]
    route = decide_prefix(candidates, ME)
    assert (route is None) == (not usable)
    if route is not None:
        assert route.best in usable
        assert route.best.next_hop in route.next_hops
        assert set(route.next_hops) <= {path.next_hop for path in usable}
        assert list(route.next_hops) == sorted(set(route.next_hops), key=int)
        best_pref = max(100 if p.ebgp or p.local_pref is None else p.local_pref for p in usable)
        assert (100 if route.best.ebgp or route.best.local_pref is None else route.best.local_pref) == best_pref


@given(st.lists(paths(), min_size=1, max_size=6))
def test_taking_a_loser_away_changes_neither_best_nor_usable_set(candidates: list[Path]) -> None:
    """But for MED, which is why it is eliminated group by group: the winner alone must still win."""
    route = decide_prefix(candidates, ME)
    if route is not None:
        alone = decide_prefix([route.best], ME)
        assert alone is not None
        assert alone.best == route.best
