"""Adj-RIB-In under any sequence of events: consistent, bounded in time, indifferent to how peers interleave."""

from ipaddress import ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

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

PEERS = [ip_address("10.0.0.1"), ip_address("10.0.0.2")]
NLRIS = [ip_network(f"10.244.{n}.0/26") for n in range(3)]

peers = st.sampled_from(PEERS)
of_a_peer: st.SearchStrategy[SpeakerEvent] = st.one_of(
    st.builds(
        lambda peer, nlri, path_id, med: PathAnnounced(Path(nlri, peer, peer, path_id, med=med)),
        peers,
        st.sampled_from(NLRIS),
        st.integers(0, 1),
        st.integers(0, 1),
    ),
    st.builds(PathWithdrawn, peers, st.sampled_from(NLRIS), st.integers(0, 1)),
    st.builds(EndOfRib, peers, st.just(4)),
    st.builds(
        SessionChanged,
        peers,
        st.sampled_from(SessionState),
        restart_time=st.sampled_from([0, 30]),
        forwarding=st.booleans(),
    ),
)
of_the_speaker = st.sampled_from([ReplayStarted(), ReplayComplete(), SpeakerLost("gone")])
events = st.lists(of_a_peer | of_the_speaker, max_size=30)


def table(rib: AdjRibIn) -> dict[Network, frozenset[Path]]:
    return {nlri: frozenset(rib.candidates(nlri)) for nlri in rib.prefixes()}


def peer_of(event: SpeakerEvent) -> object:
    return event.path.peer if isinstance(event, PathAnnounced) else getattr(event, "peer", None)


@given(events)
def test_every_change_is_told_and_the_index_is_right(given_events: list[SpeakerEvent]) -> None:
    rib = AdjRibIn()
    for now, event in enumerate(given_events):
        before = table(rib)
        rib.take_changed()
        rib.handle(event, float(now))
        after = table(rib)
        assert all(after.values()), "a prefix without a path is no prefix"
        differing = {nlri for nlri in before | after if before.get(nlri) != after.get(nlri)}
        assert differing <= rib.take_changed()
        assert sum(len(paths) for paths in after.values()) == sum(s.received for s in rib.sessions().values())


@given(events)
def test_without_a_lost_speaker_nothing_stays_stale_beyond_the_limits(given_events: list[SpeakerEvent]) -> None:
    rib = AdjRibIn()
    for event in given_events:
        rib.handle(event, 0.0)
    rib.handle(ReplayComplete(), 0.0)
    for _ in range(10):
        deadline = rib.deadline()
        if deadline is None:
            break
        assert deadline <= SYNC_LIMIT
        rib.expire(deadline)
    assert rib.deadline() is None
    assert not any(path.stale for paths in table(rib).values() for path in paths)
    assert rib.in_sync == set(rib.sessions())


@given(st.lists(of_a_peer, max_size=30))
def test_peers_do_not_disturb_each_other(given_events: list[SpeakerEvent]) -> None:
    mixed, apart = AdjRibIn(), AdjRibIn()
    for rib, order in ((mixed, given_events), (apart, sorted(given_events, key=lambda event: str(peer_of(event))))):
        rib.handle(ReplayStarted(), 0.0)
        rib.handle(ReplayComplete(), 0.0)
        for event in order:
            rib.handle(event, 1.0)
    assert table(mixed) == table(apart)
    assert mixed.in_sync == apart.in_sync
    assert mixed.deadline() == apart.deadline()


@given(events, events)
def test_replaying_what_is_known_changes_nothing(before: list[SpeakerEvent], after: list[SpeakerEvent]) -> None:
    """A peer whose whole table is told again between the marks has that table, whatever came before."""
    rib = AdjRibIn()
    for event in before:
        rib.handle(event, 0.0)
    peer = PEERS[0]
    told = [event for event in after if isinstance(event, PathAnnounced) and event.path.peer == peer]
    up = SessionChanged(peer, SessionState.ESTABLISHED)
    replay: list[SpeakerEvent] = [ReplayStarted(), up, *told, EndOfRib(peer, 4), ReplayComplete()]
    for step in replay:
        rib.handle(step, 1.0)
    expected = {(event.path.nlri, event.path.path_id): event.path for event in told}
    found = {(p.nlri, p.path_id): p for paths in table(rib).values() for p in paths if p.peer == peer}
    assert found == expected
