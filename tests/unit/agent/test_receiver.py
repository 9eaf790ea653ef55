"""The receiver's life, and who counts as a sender."""

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_py.agent.receiver import LINGER, Phase, Receiver, find_senders, resume, step, wants_ipip
from calico_py.model.meta import Meta
from calico_py.model.nodes import Node, Sending
from calico_py.model.pools import EncapMode, IPPool


def pool(mode: EncapMode) -> IPPool:
    return IPPool(Meta("pool"), ip_network("10.244.0.0/16"), ipip_mode=mode)


def node(name: str, *modes: str) -> Node:
    return Node(Meta(name), sending={f"pool{i}": Sending(mode, "") for i, mode in enumerate(modes)})


def test_a_whole_life() -> None:
    receiver = step(Receiver(), wanted=True, senders=False, now=10)
    assert (receiver.phase, receiver.open, receiver.announced) == (Phase.UP, True, True)
    receiver = step(receiver, wanted=False, senders=True, now=20)
    assert receiver.phase == Phase.UP, "somebody still sends"
    receiver = step(receiver, wanted=False, senders=False, now=30)
    assert (receiver.phase, receiver.announced, receiver.deadline) == (Phase.LINGERING, True, 90)
    assert step(receiver, wanted=False, senders=False, now=89.9) == receiver
    receiver = step(receiver, wanted=False, senders=False, now=90)
    assert (receiver.phase, receiver.open, receiver.announced) == (Phase.WITHDRAWN, True, False)
    receiver = step(receiver, wanted=False, senders=False, now=149)
    assert receiver.open
    receiver = step(receiver, wanted=False, senders=False, now=150)
    assert (receiver.phase, receiver.open, receiver.deadline) == (Phase.DOWN, False, None)


@pytest.mark.parametrize("phase", list(Phase))
def test_a_pool_that_tunnels_brings_it_up_at_once(phase: Phase) -> None:
    assert step(Receiver(phase, 0), wanted=True, senders=False, now=1).phase == Phase.UP


def test_a_sender_that_missed_the_withdrawal_keeps_it_open_but_not_announced() -> None:
    receiver = Receiver(Phase.WITHDRAWN, 0)
    receiver = step(receiver, wanted=False, senders=True, now=59)
    assert (receiver.phase, receiver.announced) == (Phase.WITHDRAWN, False)
    assert step(receiver, wanted=False, senders=False, now=61).open, "the time runs from the last sender"
    assert not step(receiver, wanted=False, senders=False, now=59 + LINGER).open


def test_an_agent_that_starts_keeps_what_its_node_announces() -> None:
    assert resume(announced=True, now=5) == Receiver(Phase.LINGERING, 5)
    assert step(resume(announced=True, now=5), wanted=False, senders=True, now=6).phase == Phase.UP
    assert step(resume(announced=False, now=5), wanted=False, senders=True, now=6).phase == Phase.WITHDRAWN
    assert step(resume(announced=False, now=5), wanted=False, senders=False, now=6).phase == Phase.DOWN


@given(st.lists(st.tuples(st.floats(0, 30), st.booleans(), st.booleans())))
def test_never_closed_within_the_linger_of_an_announcement_or_a_sender(moves: list[tuple[float, bool, bool]]) -> None:
    receiver, now, last_use = Receiver(), 0.0, -1e9
    for delay, wanted, senders in moves:
        now += delay
        receiver = step(receiver, wanted=wanted, senders=senders, now=now)
        if wanted or senders or receiver.announced:
            assert receiver.open
            last_use = now
        if not receiver.open:
            assert now - last_use >= LINGER


def test_senders() -> None:
    nodes = [
        node("me", "IPIP"),
        node("tunnels", "None", "IPIP"),
        node("direct", "None"),
        node("vxlan", "VXLAN"),
        Node(Meta("calico")),
    ]
    assert find_senders("me", nodes, [pool(EncapMode.ALWAYS)]) == {"tunnels", "calico"}
    assert find_senders("me", nodes, [pool(EncapMode.CROSS_SUBNET)]) == {"tunnels", "calico"}
    assert find_senders("me", nodes, [pool(EncapMode.NEVER)]) == {"tunnels"}
    assert find_senders("me", nodes, [pool(EncapMode.ALWAYS)], mode="VXLAN") == {"vxlan"}


def test_wants() -> None:
    assert wants_ipip([pool(EncapMode.CROSS_SUBNET)])
    assert not wants_ipip([pool(EncapMode.NEVER)])


def test_an_annotation_that_still_stands_holds_the_receiver_open() -> None:
    withdrawn = Receiver(Phase.WITHDRAWN, 0.0)
    late = step(withdrawn, wanted=False, senders=False, now=2 * LINGER, announced=True)
    assert late == Receiver(Phase.WITHDRAWN, 2 * LINGER)
    gone = step(late, wanted=False, senders=False, now=2.5 * LINGER)
    assert gone == late
    assert step(gone, wanted=False, senders=False, now=3 * LINGER).phase == Phase.DOWN


def test_a_restart_just_after_the_withdrawal_closes_nothing_at_once() -> None:
    resumed = resume(announced=False, now=10.0, was_open=True)
    assert resumed.open
    assert not resumed.announced
    assert step(resumed, wanted=False, senders=False, now=10.0 + LINGER).phase == Phase.DOWN
    assert resume(announced=False, now=10.0).phase == Phase.DOWN
