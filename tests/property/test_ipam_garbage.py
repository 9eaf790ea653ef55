"""Whatever the cluster looks like: an address that a living pod reports is never released, and nobody's half is."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_network

from hypothesis import given
from hypothesis import strategies as st

from calico_py.ipam import blocks
from calico_py.ipam.garbage import Memory, PodView, View, judge, living_addresses
from calico_py.model.blocks import Attribute, IPAMBlock

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
GRACE = timedelta(minutes=15)
NODES = st.sampled_from(["node1", "node2", "gone"])
NAMES = st.sampled_from(["a", "b", "c"])
CIDRS = [ip_network("10.0.0.0/30"), ip_network("10.0.0.4/30"), ip_network("fd00::/126")]
ADDRESSES = st.sampled_from([address for cidr in CIDRS for address in cidr])

OWNERS = st.one_of(
    st.builds(
        lambda name, node: Attribute(f"k8s-pod-network.{name}", {"node": node, "pod": name, "namespace": "n"}),
        NAMES,
        NODES,
    ),
    st.builds(lambda node: Attribute(f"ipip-{node}", {"node": node, "type": "ipipTunnelAddress"}), NODES),
    st.builds(lambda node: Attribute("stranger", {"node": node} if node != "gone" else {}), NODES),
)


@st.composite
def some_blocks(draw: st.DrawFn) -> list[IPAMBlock]:
    found = []
    for cidr in CIDRS:
        block = blocks.new_block(cidr, node=draw(NODES), now=NOW)
        for ordinal in draw(st.sets(st.integers(0, 3))):
            block = blocks.sealed(blocks.assign_at(block, ordinal, draw(OWNERS)))
        found.append(block)
    return found


PODS = st.dictionaries(
    st.tuples(st.just("n"), NAMES),
    st.builds(PodView, NODES, st.frozensets(ADDRESSES, max_size=3), st.booleans()),
)


@given(some_blocks(), st.lists(st.tuples(PODS, st.integers(0, 20)), min_size=1, max_size=4))
def test_what_lives_stays(found: list[IPAMBlock], looks: list[tuple[dict[tuple[str, str], PodView], int]]) -> None:
    memory: Memory = {}
    now = NOW
    held = [a for block in found for a in blocks.allocations(block)]
    for pods, minutes in looks:
        now += timedelta(minutes=minutes)
        judgement = judge(View(found, {"node1", "node2"}, pods), memory, now=now, grace=GRACE, cooldown=timedelta(0))
        memory = judgement.memory
        released = {release.address for release in judgement.releases}
        assert not released & living_addresses(pods)
        for a in held:
            if a.address in released:
                assert {b.address for b in held if b.handle == a.handle} <= released, "a handle goes as a whole"
                assert a.node, "an unknown owner stays"
                assert a.handle != "stranger", "an owner that is no pod stays"
                assert a.node == "gone" or now - NOW >= GRACE, "a candidate waits"
        assert {(r.address, r.handle_id, r.sequence) for r in judgement.releases} <= {
            (a.address, a.handle, a.sequence) for a in held
        }


@given(some_blocks(), PODS)
def test_a_judgement_follows_from_what_is_seen(found: list[IPAMBlock], pods: dict[tuple[str, str], PodView]) -> None:
    """The order of blocks changes nothing."""
    one = judge(View(found, {"node1"}, pods), {}, now=NOW, grace=GRACE, cooldown=timedelta(0))
    two = judge(View(found[::-1], {"node1"}, pods), {}, now=NOW, grace=GRACE, cooldown=timedelta(0))
    assert set(one.releases) == set(two.releases)
    assert one.memory == two.memory
