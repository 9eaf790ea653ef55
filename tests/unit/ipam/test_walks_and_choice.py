"""In which order a node walks a pool, and which pools may serve a request."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_py.ipam.choice import choose_pools
from calico_py.ipam.requests import AssignRequest, PoolError
from calico_py.ipam.walks import walk_blocks
from calico_py.model.meta import Meta
from calico_py.model.net import Network, contains
from calico_py.model.pools import AllowedUse, IPPool
from tests.fakes.ipam import pool


@pytest.mark.parametrize("cidr", ["10.0.0.0/24", "10.0.0.0/26", "fd00::/118"])
def test_a_walk_meets_every_block_once(cidr: str) -> None:
    of = pool(cidr)
    walked = list(walk_blocks(of, "node1"))
    assert sorted(walked) == list(ip_network(cidr).subnets(new_prefix=of.block_size))


def test_a_walk_is_the_same_each_time_and_differs_between_nodes() -> None:
    of = pool("10.0.0.0/16")
    starts = {next(walk_blocks(of, f"node{i}")) for i in range(50)}
    assert next(walk_blocks(of, "node1")) == next(walk_blocks(of, "node1"))
    assert len(starts) > 45, "1,024 blocks, 50 nodes"


def test_a_huge_pool_is_walked_lazily() -> None:
    assert next(walk_blocks(pool("fd00::/48"), "node1")).prefixlen == 122


RESERVATIONS = st.lists(
    st.one_of(
        st.integers(20, 32).flatmap(
            lambda length: st.integers(0, 2 ** (length - 20) - 1).map(
                lambda place: ip_network((int(ip_address("10.0.0.0")) + (place << 32 - length), length))
            )
        ),
        st.sampled_from([ip_network("fd00::/64"), ip_network("10.1.0.0/16"), ip_network("10.0.0.0/16")]),
    ),
    max_size=6,
)


@given(RESERVATIONS, st.integers(22, 32))
def test_a_walk_leaves_out_the_blocks_that_are_wholly_reserved(reserved: list[Network], size: int) -> None:
    of = pool("10.0.0.0/22", size)
    closed = {address for address in of.cidr if any(address in cidr for cidr in reserved)}
    expected = [block for block in of.cidr.subnets(new_prefix=size) if not closed.issuperset(block)]
    assert sorted(walk_blocks(of, "node1", reserved)) == expected


@pytest.mark.parametrize(
    ("cidr", "reserved"), [("fd00::/48", ["fd00::/49", "fd00:0:0:8000::/50"]), ("10.0.0.0/8", ["10.0.0.0/9"])]
)
def test_a_reservation_of_a_great_part_of_a_pool_costs_no_time(cidr: str, reserved: list[str]) -> None:
    """Wherever a node begins: its agent serves nothing else while it walks."""
    of, closed = pool(cidr), [ip_network(each) for each in reserved]
    for number in range(20):
        first = next(walk_blocks(of, f"node{number}", closed))
        assert not any(contains(each, first) for each in closed)


def test_of_a_pool_that_is_wholly_reserved_nothing_is_walked() -> None:
    assert list(walk_blocks(pool("fd00::/48"), "node1", [ip_network("fd00::/32")])) == []


def choose(pools: list[IPPool], request: AssignRequest, **labels: str) -> list[str]:
    return [p.name for p in choose_pools(pools, request, 4, node="node1", labels=labels).pools]


AUTO = AssignRequest("h")
A = pool("10.0.0.0/24", name="a")
B = pool("10.1.0.0/24", name="b", node_selector="zone == 'b'")
V6 = pool("fd00::/64", name="six")


def test_pools_come_by_name_and_of_the_family() -> None:
    assert choose([V6, B, A], AUTO, zone="b") == ["a", "b"]


def test_a_node_that_a_pool_does_not_select_gets_nothing_of_it() -> None:
    assert choose([B, A], AUTO) == ["a"]
    with pytest.raises(PoolError, match=r"b: spec.nodeSelector \"zone == 'b'\" does not match"):
        choose([B], AUTO)


def test_a_pool_that_is_named_is_used_whatever_its_selector() -> None:
    assert choose([A, B], AssignRequest("h", pools=("b", "10.0.0.0/24"))) == ["b", "a"]


@pytest.mark.parametrize("name", ["c", "10.9.0.0/24", "off", "going"])
def test_a_named_pool_that_cannot_be_used_is_refused_in_calicos_words(name: str) -> None:
    off = pool("10.2.0.0/24", name="off", disabled=True)
    going = replace(pool("10.3.0.0/24"), meta=Meta("going", deleting=True))
    with pytest.raises(PoolError, match=rf"the given pool \({name}\) does not exist, or is not enabled"):
        choose([A, off, going], AssignRequest("h", pools=(name,)))


def test_pools_named_for_the_other_family_leave_this_one_to_the_selectors() -> None:
    assert choose([A, V6], AssignRequest("h", pools=("six",))) == ["a"]


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("disabled", True, "spec.disabled is true"),
        ("meta", Meta("p", deleting=True), "it is being deleted"),
        ("allowed_uses", (AllowedUse.TUNNEL,), "spec.allowedUses has Tunnel, not Workload"),
        ("assignment_mode", "Manual", "spec.assignmentMode is Manual"),
        ("namespace_selector", "team == 'x'", "labels are not known"),
        ("node_selector", "zone ==", "spec.nodeSelector: found 'zone =='"),
    ],
)
def test_each_reason_is_told(field: str, value: object, reason: str) -> None:
    with pytest.raises(PoolError) as caught:
        choose([replace(pool("10.0.0.0/24", name="p"), **{field: value})], AUTO)  # type: ignore[arg-type]
    assert f"p: {reason}" in str(caught.value) or reason in str(caught.value)


def test_a_namespace_selector_needs_the_namespaces_labels() -> None:
    of = pool("10.0.0.0/24", name="p", namespace_selector="team == 'x'")
    assert choose([of], AssignRequest("h", namespace_labels={"team": "x"})) == ["p"]
    with pytest.raises(PoolError, match="does not match the namespace's labels"):
        choose([of], AssignRequest("h", namespace_labels={}))


def test_without_any_pool_the_error_says_what_to_do() -> None:
    with pytest.raises(
        PoolError, match="no configured Calico pools for node node1: there is no IPv4 IPPool; create one"
    ):
        choose([V6], AUTO)


def test_a_pool_that_is_named_for_the_other_family_is_refused() -> None:
    asked = AssignRequest("h", pools=("six", "10.0.0.0/24"), pool_families={"six": 4, "10.0.0.0/24": 4})
    with pytest.raises(PoolError, match=r"the given pool \(six\) is of IPv6, expected one of IPv4"):
        choose([V6, A], asked)
    assert choose([V6, A], replace(asked, pool_families={"six": 6})) == ["a"]
