"""Adj-RIB-In by RFC 4724: what is kept, for how long, and when a peer's view is complete."""

from dataclasses import replace
from ipaddress import ip_address, ip_network

from calico_py.bgp.rib import SYNC_LIMIT, AdjRibIn
from calico_py.model.bgp import Path, SessionState
from calico_py.model.net import Network
from calico_py.model.speaker import (
    EndOfRib,
    PathAnnounced,
    PathWithdrawn,
    ReplayComplete,
    ReplayStarted,
    SessionChanged,
    SpeakerEvent,
    SpeakerLost,
)

A, B = ip_address("10.0.0.1"), ip_address("10.0.0.2")
ONE, TWO = ip_network("10.244.1.0/26"), ip_network("10.244.2.0/26")
UP_A = SessionChanged(A, SessionState.ESTABLISHED, hold_time=90, restart_time=120, forwarding=True)
DOWN_A = SessionChanged(A, SessionState.CONNECT, reason="gone", restart_time=120)


def path(nlri: Network, peer: str = "10.0.0.1", **more: int) -> Path:
    return Path(nlri=nlri, peer=ip_address(peer), next_hop=ip_address(peer), **more)  # type: ignore[arg-type]


def established(*nlris: Network) -> AdjRibIn:
    """A rib with peer A up and in sync at time 0."""
    rib = AdjRibIn()
    announced = [PathAnnounced(path(nlri)) for nlri in nlris]
    events: list[SpeakerEvent] = [ReplayStarted(), ReplayComplete(), UP_A, *announced, EndOfRib(A, 4)]
    for event in events:
        rib.handle(event, 0.0)
    rib.take_changed()
    return rib


def known(rib: AdjRibIn) -> dict[Network, bool]:
    """Prefixes, and whether all their paths are stale."""
    return {nlri: all(p.stale for p in rib.candidates(nlri)) for nlri in rib.prefixes()}


def test_a_path_comes_changes_and_goes() -> None:
    rib = established()
    rib.handle(PathAnnounced(path(ONE)), 1)
    assert rib.take_changed() == {ONE}
    rib.handle(PathAnnounced(path(ONE)), 2)
    assert rib.take_changed() == frozenset(), "the same again is no change"
    rib.handle(PathAnnounced(replace(path(ONE), med=7)), 3)
    assert rib.take_changed() == {ONE}
    assert rib.candidates(ONE) == (replace(path(ONE), med=7),)
    rib.handle(PathWithdrawn(A, ONE), 4)
    assert rib.take_changed() == {ONE}
    assert known(rib) == {}
    rib.handle(PathWithdrawn(A, ONE), 5)
    assert rib.take_changed() == frozenset()


def test_add_path_keeps_paths_apart_and_removes_one() -> None:
    rib = established()
    rib.handle(PathAnnounced(path(ONE, path_id=1)), 1)
    rib.handle(PathAnnounced(path(ONE, path_id=2)), 1)
    rib.handle(PathAnnounced(path(ONE, "10.0.0.2")), 1)
    rib.handle(PathWithdrawn(A, ONE, path_id=1), 2)
    assert sorted((str(p.peer), p.path_id) for p in rib.candidates(ONE)) == [("10.0.0.1", 2), ("10.0.0.2", 0)]


def test_without_graceful_restart_paths_go_with_the_session() -> None:
    rib = established(ONE)
    rib.handle(replace(DOWN_A, restart_time=0), 2)
    assert known(rib) == {}
    assert rib.take_changed() == {ONE}


def test_paths_are_stale_for_the_peers_restart_time_and_then_gone() -> None:
    rib = established(ONE)
    rib.handle(DOWN_A, 10)
    assert known(rib) == {ONE: True}
    assert rib.deadline() == 130
    rib.expire(129.9)
    assert known(rib) == {ONE: True}
    rib.expire(130)
    assert known(rib) == {}
    assert rib.deadline() is None


def test_end_of_rib_sweeps_what_was_not_announced_again() -> None:
    rib = established(ONE, TWO)
    rib.handle(DOWN_A, 10)
    rib.handle(UP_A, 20)
    rib.handle(PathAnnounced(path(ONE)), 21)
    assert known(rib) == {ONE: False, TWO: True}
    rib.handle(EndOfRib(A, 6), 22)
    assert known(rib) == {ONE: False, TWO: True}, "the End-of-RIB of another family says nothing"
    rib.handle(EndOfRib(A, 4), 23)
    assert known(rib) == {ONE: False}


def test_a_peer_that_lost_its_forwarding_state_loses_its_stale_paths_at_once() -> None:
    rib = established(ONE)
    rib.handle(DOWN_A, 10)
    rib.handle(replace(UP_A, forwarding=False), 20)
    assert known(rib) == {}


def test_the_second_restart_in_a_row_deletes_what_was_stale_before() -> None:
    rib = established(ONE, TWO)
    rib.handle(DOWN_A, 10)
    rib.handle(UP_A, 20)
    rib.handle(PathAnnounced(path(ONE)), 21)
    rib.handle(DOWN_A, 22)
    assert known(rib) == {ONE: True}


def test_a_failed_attempt_to_connect_is_no_loss() -> None:
    rib = established(ONE)
    rib.handle(DOWN_A, 10)
    rib.handle(DOWN_A, 50)
    assert rib.deadline() == 130, "the restart time runs from the loss"


def test_a_lost_speaker_keeps_everything_as_stale_for_as_long_as_it_takes() -> None:
    rib = established(ONE, TWO)
    rib.handle(SpeakerLost("it ended"), 10)
    rib.expire(100_000)
    assert known(rib) == {ONE: True, TWO: True}
    assert rib.deadline() is None
    assert rib.sessions()[A].last_error == "it ended"
    # A new ExaBGP knows nothing: no path may go before the peer has spoken.
    rib.handle(ReplayStarted(), 100_001)
    rib.handle(ReplayComplete(), 100_002)
    assert known(rib) == {ONE: True, TWO: True}
    rib.handle(replace(UP_A, forwarding=False), 100_003)
    assert known(rib) == {ONE: True, TWO: True}, "it was us who restarted: the peer's F bit says nothing of it"
    rib.handle(PathAnnounced(path(TWO)), 100_004)
    rib.handle(EndOfRib(A, 4), 100_005)
    assert known(rib) == {TWO: False}


def test_after_the_speaker_is_back_a_peer_that_stays_away_has_120_seconds() -> None:
    rib = established(ONE)
    rib.handle(SpeakerLost("it ended"), 10)
    rib.handle(ReplayStarted(), 20)
    rib.handle(ReplayComplete(), 21)
    assert rib.deadline() == 21 + SYNC_LIMIT
    rib.expire(21 + SYNC_LIMIT)
    assert known(rib) == {}


def test_a_replay_of_the_same_table_changes_nothing_in_the_end() -> None:
    rib = established(ONE, TWO)
    rib.handle(SpeakerLost("the connection broke"), 10)
    for event in (ReplayStarted(), UP_A, PathAnnounced(path(ONE)), EndOfRib(A, 4), ReplayComplete()):
        rib.handle(event, 11)
    assert known(rib) == {ONE: False}, "what the replay no longer had is swept at its End-of-RIB"
    assert rib.deadline() is None


def test_a_replayed_loss_counts_from_when_it_happened() -> None:
    rib = AdjRibIn()
    age = replace(DOWN_A, age=100.0)
    for event in (ReplayStarted(), replace(UP_A, age=100.0), PathAnnounced(path(ONE)), age, ReplayComplete()):
        rib.handle(event, 1000.0)
    assert known(rib) == {ONE: True}
    rib.expire(1019.9)
    assert known(rib) == {ONE: True}
    rib.expire(1020.0)
    assert known(rib) == {}


def test_a_deadline_that_passed_before_the_replay_waits_for_its_end() -> None:
    """A session that was up for an hour is told again in pieces; the rest of its paths is still under way."""
    rib = established(ONE, TWO)
    rib.handle(SpeakerLost("the connection broke"), 10)
    for event in (ReplayStarted(), replace(UP_A, age=3600.0), PathAnnounced(path(ONE))):
        rib.handle(event, 11)
    assert rib.deadline() is None
    rib.expire(11)
    assert known(rib) == {ONE: False, TWO: True}
    rib.handle(ReplayComplete(), 12)
    assert rib.deadline() is not None
    rib.expire(12)
    assert known(rib) == {ONE: False}, "without End-of-RIB: what was not told again is swept when all was told"


def test_nobody_is_in_sync_before_the_first_replay_is_complete() -> None:
    """An agent starts: what the kernel has of BGP stays until all that the bridge knows has been told."""
    rib = AdjRibIn()
    rib.configure(frozenset({A}), 0.0)
    for event in (ReplayStarted(), replace(UP_A, age=3600.0)):
        rib.handle(event, 1.0)
    rib.expire(1.0)
    assert rib.in_sync == frozenset()
    rib.handle(PathAnnounced(path(ONE)), 1.0)
    rib.handle(EndOfRib(A, 4), 1.0)
    assert rib.in_sync == frozenset()
    rib.handle(ReplayComplete(), 1.0)
    assert rib.in_sync == {A}
    rib.handle(SpeakerLost("the connection broke"), 2.0)
    rib.handle(ReplayStarted(), 3.0)
    assert rib.in_sync == {A}, "stale paths bridge a later replay"


def test_in_sync_takes_end_of_rib_or_two_minutes() -> None:
    rib = AdjRibIn()
    rib.configure(frozenset({A, B}), 0.0)
    rib.expire(1000.0)
    assert rib.in_sync == frozenset(), "no speaker: nothing is known of any peer"
    rib.handle(ReplayStarted(), 1000.0)
    rib.handle(ReplayComplete(), 1001.0)
    rib.handle(UP_A, 1002.0)
    rib.handle(EndOfRib(A, 4), 1003.0)
    assert rib.in_sync == {A}
    rib.expire(1001.0 + SYNC_LIMIT - 1)
    assert rib.in_sync == {A}
    rib.expire(1001.0 + SYNC_LIMIT)
    assert rib.in_sync == {A, B}, "B never came: after the limit it has nothing to say"


def test_a_peer_that_is_none_any_more_is_forgotten_at_once() -> None:
    rib = established(ONE)
    rib.configure(frozenset({B}), 10)
    assert known(rib) == {}
    assert rib.take_changed() == {ONE}
    assert rib.in_sync == frozenset()
    assert set(rib.sessions()) == {B}


def test_what_is_still_said_of_a_former_peer_is_ignored() -> None:
    rib = established()
    rib.configure(frozenset({B}), 10)
    for event in (PathAnnounced(path(ONE)), UP_A, EndOfRib(A, 4), PathWithdrawn(A, ONE)):
        rib.handle(event, 11)
    assert known(rib) == {}
    assert set(rib.sessions()) == {B}


def test_the_limit_of_prefixes_ignores_the_rest_and_says_so() -> None:
    rib = AdjRibIn(max_prefixes=1)
    for event in (ReplayStarted(), ReplayComplete(), UP_A, PathAnnounced(path(ONE)), PathAnnounced(path(TWO))):
        rib.handle(event, 0)
    assert known(rib) == {ONE: False}
    assert "1 prefixes above the limit of 1" in rib.sessions()[A].last_error
    rib.handle(PathAnnounced(replace(path(ONE), med=1)), 1)
    assert rib.candidates(ONE)[0].med == 1, "a known prefix may still change"
    rib.handle(PathWithdrawn(A, TWO), 2)
    assert rib.sessions()[A].last_error == ""
