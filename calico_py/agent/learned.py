"""Learner: keeps the outcome of BGP's decision process current, prefix by prefix, as the speaker tells its events."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from calico_py.bgp.decide import Identity, decide_prefix
from calico_py.bgp.rib import AdjRibIn
from calico_py.model.bgp import LearnedRoute, LearnedRoutes, Session
from calico_py.model.net import Address, Network
from calico_py.model.speaker import Speaker
from calico_py.waiting import came


class Learner:
    """The Loc-RIB of this node.

    Args:
        on_change: called when the outcome may have changed; must not block.
    """

    def __init__(self, speaker: Speaker, on_change: Callable[[], None]) -> None:
        self._speaker = speaker
        self._on_change = on_change
        self._rib = AdjRibIn()
        self._me = Identity(as_number=0)
        self._routes: dict[Network, LearnedRoute] = {}
        self._wake = asyncio.Event()

    @property
    def speaker_problem(self) -> str:
        """Why there is no speaker, or what it could not be told; empty if all is well."""
        return self._rib.speaker_problem or self._speaker.problem

    def sessions(self) -> Mapping[Address, Session]:
        """Each peer's session; ``since`` in Unix time. The RIB's own clock is one that nobody sets."""
        ahead = time.time() - time.monotonic()
        return {peer: replace(found, since=found.since + ahead) for peer, found in self._rib.sessions().items()}

    def configure(self, me: Identity, peers: frozenset[Address]) -> bool:
        """Who this node is and whom it peers with; True if that changed the outcome or who is in sync."""
        before = dict(self._routes), self._rib.in_sync
        self._rib.configure(peers, time.monotonic())
        if me != self._me:
            self._me = me
            self._routes.clear()
            self._decide(tuple(self._rib.prefixes()))
        self._wake.set()
        self._decide(self._rib.take_changed())
        return before != (self._routes, self._rib.in_sync)

    def learned(self) -> LearnedRoutes:
        """What BGP has to say to routing now."""
        self._decide(self._rib.take_changed())
        return LearnedRoutes(dict(self._routes), self._rib.in_sync)

    async def run(self) -> None:
        """Take the speaker's events and the RIB's deadlines, for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen(), name="speaker events")
            tasks.create_task(self._keep_time(), name="BGP deadlines")

    async def _listen(self) -> None:
        async for event in self._speaker.events():
            self._rib.handle(event, time.monotonic())
            self._wake.set()
            self._on_change()

    async def _keep_time(self) -> None:
        while True:
            self._wake.clear()
            deadline = self._rib.deadline()
            wait = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not await came(self._wake, within=wait):
                self._rib.expire(time.monotonic())
                self._on_change()

    def _decide(self, prefixes: Iterable[Network]) -> None:
        for prefix in prefixes:
            found = decide_prefix(self._rib.candidates(prefix), self._me)
            if found is None:
                self._routes.pop(prefix, None)
            else:
                self._routes[prefix] = found
