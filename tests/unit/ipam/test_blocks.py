"""What the property tests of blocks don't say: foreign blocks, times, labels."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network

import pytest

from calico_py.ipam import blocks
from calico_py.model.blocks import Attribute, IPAMBlock

NOW = datetime(2026, 5, 4, 12, 0, 0, 123_456, UTC)
POD = Attribute("k8s-pod-network.c1", {"node": "node1", "pod": "web", "namespace": "default"})


def block(cidr: str = "10.0.0.0/30") -> IPAMBlock:
    return blocks.new_block(ip_network(cidr), node="node1", now=NOW)


def test_a_new_block_has_calicos_shape() -> None:
    made = block("10.64.0.0/26")
    assert made.meta.name == "10-64-0-0-26"
    assert made.affinity == "host:node1"
    assert made.affinity_claim_time == "2026-05-04T12:00:00Z"
    assert made.sequence_number == 1_777_896_000_123_456_000
    assert made.unallocated == tuple(range(64))


@pytest.mark.parametrize(
    ("cidr", "ordinal", "address"), [("10.0.0.64/26", 63, "10.0.0.127"), ("fd00::40/122", 1, "fd00::41")]
)
def test_ordinals_of_both_families(cidr: str, ordinal: int, address: str) -> None:
    made = block(cidr)
    assert blocks.address_at(made, ordinal) == ip_address(address)
    assert blocks.ordinal_of(made, ip_address(address)) == ordinal


def test_the_longest_free_ordinal_is_given_first() -> None:
    given, first = blocks.assign_next(block(), 3, POD)
    back = blocks.release(given, [1], now=NOW, cooldown=timedelta(0))
    back = blocks.release(back, [0], now=NOW, cooldown=timedelta(0))
    assert first == (0, 1, 2)
    assert blocks.assign_next(back, 9, POD)[1] == (3, 1, 0)


def test_one_owner_has_one_attribute() -> None:
    given, _ = blocks.assign_next(block(), 2, POD)
    given, _ = blocks.assign_next(given, 1, replace(POD, handle_id="k8s-pod-network.c2"))
    assert given.allocations == (0, 0, 1, None)
    left = blocks.release(given, [0, 1], now=NOW, cooldown=timedelta(0))
    assert left.allocations == (None, None, 0, None)
    assert [a.handle_id for a in left.attributes] == ["k8s-pod-network.c2"]


def test_the_cooldown_ends_to_the_second() -> None:
    given, _ = blocks.assign_next(block(), 1, POD)
    cooldown = timedelta(seconds=30)
    cold = blocks.release(given, [0], now=NOW, cooldown=cooldown)
    assert cold.attributes == (Attribute(released_at="2026-05-04T12:00:00Z"),)
    assert not blocks.is_empty(cold)
    at = datetime(2026, 5, 4, 12, 0, 29, 999_999, UTC)
    assert blocks.thaw(cold, now=at, cooldown=cooldown) is cold
    thawed = blocks.thaw(cold, now=at + timedelta(microseconds=1), cooldown=cooldown)
    assert thawed.unallocated == (1, 2, 3, 0)
    assert blocks.is_empty(thawed)


def test_under_pressure_the_coldest_goes_first_and_no_more_than_asked() -> None:
    given, _ = blocks.assign_next(block(), 3, POD)
    cooldown = timedelta(seconds=30)
    for ordinal in (2, 0, 1):
        at = NOW + timedelta(seconds=5 * ordinal)
        given = blocks.release(given, [ordinal], now=at, cooldown=cooldown)
    assert blocks.thaw(given, now=NOW, cooldown=cooldown, early=2).unallocated == (3, 0, 1)


def test_a_second_release_of_a_cooling_address_changes_nothing() -> None:
    given, _ = blocks.assign_next(block(), 1, POD)
    cold = blocks.release(blocks.sealed(given), [0], now=NOW, cooldown=timedelta(seconds=30))
    later = NOW + timedelta(seconds=20)
    assert blocks.release(cold, [0], now=later, cooldown=timedelta(seconds=30)) is cold
    assert cold.sequence_numbers[0] > given.sequence_numbers[0], "the first owner's number is void"


def test_only_windows_reservations_make_a_block_empty() -> None:
    reserved = Attribute("Windows-Reserved-IPAM-handle", {"note": "windows host rsvd"})
    assert blocks.is_empty(blocks.assign_at(block(), 0, reserved))


def test_handles_that_a_migration_spoilt_are_found() -> None:
    given, _ = blocks.assign_next(block(), 1, replace(POD, handle_id="k8s-pod-network.c1\r\neth0"))
    assert [a.ordinal for a in blocks.held_by(given, "k8s-pod-network.c1")] == [0]


def test_a_handle_is_not_found_by_its_beginning() -> None:
    given, _ = blocks.assign_next(block(), 1, replace(POD, handle_id="k8s-pod-network.c12"))
    assert blocks.held_by(given, "k8s-pod-network.c1") == []


def test_an_allocation_without_its_attribute_stays_an_unknown_owners() -> None:
    torn = replace(block(), allocations=(1, None, None, None), unallocated=(1, 2, 3), attributes=(POD,))
    given, taken = blocks.assign_next(torn, 1, replace(POD, handle_id="k8s-pod-network.c2"))
    assert taken == (1,)
    assert not blocks.held_by(given, "k8s-pod-network.c1")
    assert [a.ordinal for a in blocks.held_by(given, "k8s-pod-network.c2")] == [1]
    assert [a.handle for a in blocks.allocations(given)] == ["", "k8s-pod-network.c2"]


def test_the_borrowed_label_comes_and_goes_with_the_borrower() -> None:
    lent = blocks.assign_at(block(), 2, replace(POD, secondary={"node": "node2"}))
    lent = blocks.sealed(lent)
    assert lent.meta.labels == {"projectcalico.org/borrowed": "true"}
    back = blocks.sealed(blocks.release(lent, [2], now=NOW, cooldown=timedelta(0)))
    assert back.meta.labels == {}


def test_in_a_block_that_is_nobodys_all_is_borrowed() -> None:
    orphan = replace(blocks.assign_at(block(), 2, POD), affinity=None)
    assert [a.ordinal for a in blocks.borrowed(orphan)] == [2]


def test_an_address_whose_writer_named_no_node_is_not_borrowed() -> None:
    assert blocks.borrowed(blocks.assign_at(block(), 0, Attribute("some-handle"))) == []


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda b: replace(b, unallocated=(0, *b.unallocated)), "unallocated"),
        (lambda b: replace(b, unallocated=b.unallocated[1:]), "unallocated"),
        (lambda b: replace(b, attributes=(*b.attributes, Attribute("x"))), "attributes"),
        (lambda b: replace(b, sequence_numbers={}), "sequenceNumberForAllocation"),
        (lambda b: replace(b, sequence_numbers={0: b.sequence_number + 1}), "exceed"),
        (lambda b: replace(b, allocations=b.allocations[1:]), "entries"),
    ],
)
def test_block_problems_names_the_field(spoil: object, word: str) -> None:
    given, _ = blocks.assign_next(block(), 1, POD)
    assert blocks.block_problems(given) == []
    assert callable(spoil)
    assert any(word in problem for problem in blocks.block_problems(spoil(given)))


@pytest.mark.parametrize("text", ["", "soon", "2026-13-01"])
def test_what_is_no_time_was_long_ago(text: str) -> None:
    assert blocks.parse_time(text).year == 1970


def test_a_time_without_a_zone_is_utc() -> None:
    assert blocks.parse_time("2026-05-04T12:00:00") == datetime(2026, 5, 4, 12, tzinfo=UTC)
