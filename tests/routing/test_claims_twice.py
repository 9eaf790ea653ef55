"""Two confirmed claims on one block: who holds the block knows, and the other does not swallow its packets."""

from ipaddress import ip_interface, ip_network

import pytest

from calico_py.model.bgp import Advertisement, LearnedRoutes
from calico_py.model.blocks import AffinityState, BlockAffinity, IPAMBlock
from calico_py.model.cluster import ClusterState, Local
from calico_py.model.intent import RouteClass
from calico_py.model.meta import Meta
from calico_py.model.nodes import Node
from calico_py.model.pools import EncapMode, IPPool
from calico_py.routing.compute import compute_intent

CIDR = ip_network("10.244.7.0/26")
NODES = {
    name: Node(Meta(name), ipv4=ip_interface(address), ipip_tunnel=ip_interface("10.244.0.1").ip)  # type: ignore[arg-type]  # IPv4
    for name, address in (("wrong", "192.168.1.11/24"), ("right", "192.168.1.12/24"), ("third", "192.168.1.13/24"))
}
BLOCK = IPAMBlock(Meta("b"), CIDR, "host:right", (None,) * 64, tuple(range(64)))


def state(*, sees_block: bool, wrong_is_older: bool) -> ClusterState:
    ages = ("1", "2") if wrong_is_older else ("2", "1")
    claims = {
        name: BlockAffinity(Meta(name, creation_timestamp=age), CIDR, name, AffinityState.CONFIRMED)
        for name, age in zip(("wrong", "right"), ages, strict=True)
    }
    return ClusterState(
        nodes=NODES,
        pools={"p": IPPool(Meta("p"), ip_network("10.244.0.0/16"), ipip_mode=EncapMode.ALWAYS)},
        affinities=claims,
        blocks={CIDR: BLOCK} if sees_block else {},
    )


@pytest.mark.parametrize("wrong_is_older", [True, False])
def test_who_holds_the_block_announces_it_and_the_other_passes_packets_on(*, wrong_is_older: bool) -> None:
    right = compute_intent(state(sees_block=True, wrong_is_older=wrong_is_older), LearnedRoutes(), Local("right"))
    assert right.destinations[CIDR].candidates[0].route.route_class == RouteClass.BLACKHOLE
    assert right.advertisements == {Advertisement(CIDR)}
    wrong = compute_intent(state(sees_block=False, wrong_is_older=wrong_is_older), LearnedRoutes(), Local("wrong"))
    way = wrong.destinations[CIDR].candidates[0].route
    assert (way.route_class, str(way.via[0])) == (RouteClass.TUNNEL, "192.168.1.12")
    assert not wrong.advertisements
    assert [problem.reason for problem in wrong.problems] == ["DuplicateAffinity"]


def test_whoever_sees_no_block_goes_by_the_older_claim() -> None:
    third = compute_intent(state(sees_block=False, wrong_is_older=False), LearnedRoutes(), Local("third"))
    assert str(third.destinations[CIDR].candidates[0].route.via[0]) == "192.168.1.12"
