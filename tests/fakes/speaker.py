"""A Speaker without processes: peers are entries of a dict, and what is told to them can be read."""

import asyncio
from collections.abc import AsyncIterator

from calico_py.model.bgp import Advertisement, Origin, Path, Peer, SessionState
from calico_py.model.net import Address, Network, family
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

RESTART_TIME = 120


class FakeSpeaker:
    """Implements model.speaker.Speaker. Peers are there or not; the speaker itself can be away."""

    problem = ""

    def __init__(self) -> None:
        self._peers: dict[Address, Peer] = {}
        self._advertisements: frozenset[Advertisement] = frozenset()
        self._reachable: dict[Address, frozenset[Network]] = {}
        self._up: set[Address] = set()
        self._away = False
        self._events: asyncio.Queue[SpeakerEvent] = asyncio.Queue()
        self._replay()

    def set(self, *, peers: frozenset[Peer], advertisements: frozenset[Advertisement]) -> None:
        """All sessions and announcements as they should be."""
        self._peers = {peer.address: peer for peer in peers}
        self._advertisements = advertisements
        self._settle()

    async def events(self) -> AsyncIterator[SpeakerEvent]:
        """What happens, for ever."""
        while True:
            yield await self._events.get()

    # What a test does

    def peer(self, address: Address, routes: frozenset[Network]) -> None:
        """A peer is there and has these routes."""
        before = self._reachable.get(address, frozenset())
        self._reachable[address] = routes
        if address in self._up:
            for nlri in sorted(before - routes, key=str):
                self._say(PathWithdrawn(address, nlri))
            for nlri in sorted(routes - before, key=str):
                self._say(PathAnnounced(self._path(address, nlri)))
        self._settle()

    def peer_shut(self, address: Address) -> None:
        """Its administrator ends the session."""
        del self._reachable[address]
        self._settle()

    def told(self, address: Address) -> frozenset[Network]:
        """What the peer has from this speaker. One that is away leaves its routes behind for the restart time."""
        if address not in self._peers or address not in self._reachable:
            return frozenset()
        return frozenset(
            advertisement.nlri
            for advertisement in self._advertisements
            if family(advertisement.nlri) == family(address)
            and (not advertisement.peers or address in advertisement.peers)
        )

    def lose(self) -> None:
        """The speaker ends."""
        self._away = True
        self._up.clear()
        self._say(SpeakerLost("ended by the test"))

    def recover(self) -> None:
        """A new speaker: it knows nothing of sessions, and sessions come up again."""
        self._away = False
        self._replay()

    def _say(self, *events: SpeakerEvent) -> None:
        for event in events:
            self._events.put_nowait(event)

    def _replay(self) -> None:
        self._say(ReplayStarted(), ReplayComplete())
        self._settle()

    def _settle(self) -> None:
        """Sessions up where both sides want one, down where one of them does not."""
        if self._away:
            return
        wanted = self._peers.keys() & self._reachable.keys()
        for address in self._up - wanted:
            self._up.discard(address)
            if address in self._peers:
                self._say(SessionChanged(address, SessionState.CONNECT, reason=f"{address} ended the session"))
        for address in sorted(wanted - self._up, key=str):
            self._up.add(address)
            hold_time = self._peers[address].hold_time
            up = SessionChanged(
                address, SessionState.ESTABLISHED, hold_time=hold_time, restart_time=RESTART_TIME, forwarding=True
            )
            routes = sorted(self._reachable[address], key=str)
            self._say(up, *(PathAnnounced(self._path(address, nlri)) for nlri in routes))
            self._say(EndOfRib(address, family(address)))

    def _path(self, address: Address, nlri: Network) -> Path:
        peer = self._peers[address]
        return Path(
            nlri=nlri,
            peer=address,
            next_hop=address,
            origin=Origin.IGP,
            local_pref=100,
            peer_as=peer.peer_as,
            peer_router_id=str(address),
            ebgp=peer.peer_as != peer.local_as,
        )
