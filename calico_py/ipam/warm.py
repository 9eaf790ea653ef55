"""Warm addresses: an ADD takes one that the node has reserved, notes it in the journal, and answers without the API.

Between the verbs of CNI and the allocator, with the same calls. What was promised is written to the API in rounds right
behind the answers: all that waits goes out at once, so that many pods share one write of their block. Where the stock
cannot serve a request, the allocator does.

Three things hold at any moment, whatever dies: an address in the stock is the warm handle's in the API; one that a pod
has without the API's knowledge is in the journal; a pod's addresses are released only once it is known which are its.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from calico_py.ipam.allocator import Allocator
from calico_py.ipam.journal import Journal
from calico_py.ipam.promises import Pod, Promises, renamed
from calico_py.ipam.reconcile import Living
from calico_py.ipam.requests import Assigned, AssignRequest, IPAMError, Release, Released
from calico_py.ipam.stock import Stock
from calico_py.ipam.tasks import pause
from calico_py.model.intent import Problem
from calico_py.model.net import FAMILIES, Address, Family
from calico_py.model.store import StoreError
from calico_py.trouble import Trouble
from calico_py.waiting import came

log = logging.getLogger(__name__)

GATHER_SECONDS = 0.02  # what comes within this time shares a round
LOOK_SECONDS = 10.0  # between two looks at the level, if nothing happens
_LONGEST_PAUSE = 30.0  # between two rounds while the API is away


async def _none() -> Collection[Address]:
    return ()


@dataclass(frozen=True, slots=True)
class Counts:
    """For metrics, since the process began.

    Attributes:
        served: ADDs from the stock; missed: those that the allocator had to serve.
        dropped: warm addresses that the API showed gone before they were used.
        reclaimed: addresses of living pods that the API showed gone and that are theirs again; lost: those that are
            somebody else's now.
    """

    served: int
    missed: int
    dropped: int
    reclaimed: int
    lost: int


class WarmAddresses:
    """The addresses of one node's pods. `start` once, `run` for ever; calls wait for the first.

    Args:
        base: how many addresses of each family to keep; 0 keeps none and leaves everything to the allocator.
        families: those that pods of this node get.
        now: the time, with a timezone, of a clock that nobody sets.
        has_node: whether the node has a Node object. Of one that was deleted the leader frees all addresses: what
            this agent claimed again it would free again, for ever.
        routed: the addresses that devices of pods have.
    """

    def __init__(
        self,
        allocator: Allocator,
        journal: Journal,
        *,
        base: int,
        families: Callable[[], Sequence[Family]],
        now: Callable[[], datetime],
        has_node: Callable[[], bool] = lambda: True,
        routed: Callable[[], Awaitable[Collection[Address]]] = _none,
    ) -> None:
        self._allocator = allocator
        self._base = base
        self._families = families
        self._has_node = has_node
        self._promises = Promises(allocator, journal)
        self._stock = Stock(allocator, base=base, in_use=self._promises.in_use, now=now, routed=routed)
        self._started = asyncio.Event()
        self._woken = asyncio.Event()
        self._failed_rounds = 0
        self._trouble = Trouble(log)
        self._served = 0
        self._missed = 0

    # What the verbs call

    async def assign(self, request: AssignRequest) -> Sequence[Assigned]:
        """Addresses for a pod: warm ones if there are, else the allocator's.

        Raises:
            IPAMError, StoreError: as Allocator.assign.
        """
        await self._started.wait()
        if (leaving := self._promises.leaving.get(request.handle_id)) is not None:
            await self._promises.let_go(leaving)
        before = self._promises.pods.get(request.handle_id)
        if before is not None:
            await self._promises.hand_over(before)
        elif warm := self._stock.take(request):
            pod = Pod(request.handle_id, dict(request.secondary), renamed(warm, request.handle_id))
            if await self._promise(pod, warm):
                return pod.addresses
        return await self._assign_cold(request, before)

    async def _promise(self, pod: Pod, warm: tuple[Assigned, ...]) -> bool:
        try:
            noted = await self._promises.promise(pod, warm)
        except asyncio.CancelledError:
            await self.release_handle(pod.handle_id)
            raise
        if noted:
            self._served += 1
            self._woken.set()
        else:
            self._stock.put(warm)
        return noted

    async def _assign_cold(self, request: AssignRequest, before: Pod | None) -> tuple[Assigned, ...]:
        await self._stock.free(request.requested)  # what is asked for by name and warm here is the allocator's to give
        got = tuple(await self._allocator.assign(request))
        kept = before.addresses if before is not None else ()
        self._promises.pods[request.handle_id] = Pod(request.handle_id, dict(request.secondary), (*kept, *got))
        self._missed += 1
        self._woken.set()
        return got

    async def release(self, releases: Sequence[Release]) -> Released:
        """Release what an ADD got that failed afterwards.

        Raises:
            StoreError, IPAMError: it is not known to be released.
        """
        await self._started.wait()
        parts: list[Released] = []
        for release in releases:
            if not any(release.address in part.released for part in parts):  # a pod's others went with the first
                parts.append(await self._release_one(release))
        self._woken.set()
        return Released(
            tuple(a for part in parts for a in part.released),
            tuple(a for part in parts for a in part.unallocated),
            {address: reason for part in parts for address, reason in part.refused.items()},
        )

    async def _release_one(self, release: Release) -> Released:
        pod = self._promises.pods.get(release.handle_id)
        if pod is None:
            return await self._allocator.release([release])
        if pod.unheard:
            warm = self._promises.take_back(pod)
            self._stock.rest(warm)
            return Released(tuple(a.address for a in warm))
        await self._promises.hand_over(pod)
        due = [a for a in pod.addresses if a.address == release.address]
        pod.addresses = tuple(a for a in pod.addresses if a not in due)
        if not pod.addresses:
            self._promises.forget(pod.handle_id)
        return await self._allocator.release([Release(a.address, a.handle_id, a.sequence, a.block) for a in due])

    async def lookup(self, handle_id: str) -> Sequence[Assigned]:
        """All that the handle holds, or is about to."""
        await self._started.wait()
        pod = self._promises.pods.get(handle_id)
        if pod is not None and pod.take is not None:
            return pod.addresses
        return await self._allocator.lookup(handle_id)

    async def release_handle(self, handle_id: str) -> int:
        """Release all that the handle holds, right behind the return; how many addresses are known to be its own.

        Raises:
            StoreError, IPAMError: the API must hear it first, where there is no journal, and did not.
        """
        await self._started.wait()
        pod = self._promises.pods.get(handle_id)
        known = len(pod.addresses) if pod is not None else 0
        if pod is not None and pod.unheard:
            self._stock.rest(self._promises.take_back(pod))
        elif not await self._promises.promise_release(handle_id) or not self._base:
            await self._promises.let_go(self._promises.leaving[handle_id])
        self._woken.set()
        return known

    # What the agent calls

    async def start(self, living: Living) -> None:
        """Bring journal and API together; until then no call returns. May be repeated if it fails.

        Args:
            living: what has a device on this node.

        Raises:
            StoreError, IPAMError: the API failed.
        """
        held = {a.address for a in await self._allocator.lookup(self._stock.handle_id)}
        self._promises.load(living, await self._allocator.read_own_blocks())
        if used := held & set(living.addresses) - self._promises.promised():
            log.warning("pods use addresses that are warm in the API and not in the journal: %s", used)
        self._stock.hold_back(used)
        for of in FAMILIES:
            self._stock.look(of)
        self._started.set()
        self._woken.set()

    async def run(self) -> None:
        """Rounds, for ever: whenever something waits, and now and then for the level."""
        await self._started.wait()
        while True:
            await came(self._woken, within=LOOK_SECONDS)
            await asyncio.sleep(GATHER_SECONDS)
            self._woken.clear()
            if not await self.catch_up():
                await pause(8 + min(self._failed_rounds, 8), most=_LONGEST_PAUSE)
                self._woken.set()

    def mark(self) -> None:
        """Pools or blocks changed. What is gone leaves the stock at once: the next ADD may know the block no more."""
        if self._started.is_set():
            for of in FAMILIES:
                self._stock.look(of)
        self._woken.set()

    async def close(self) -> None:
        """Give the journal's file back; `run` has ended. What has not been told yet, the next start tells."""
        await self._promises.close()

    async def catch_up(self) -> bool:
        """One round: tell the API all that it does not know, and bring the stock to its level.

        After a round in which nothing could be told the API is away: only what it may have heard of is tried then, and
        the level.

        Returns:
            whether all is done.
        """
        await self._stock.let_return()
        promises, stands = self._promises, self._has_node()
        families = self._families() if stands else ()
        waiting = [pod for pod in promises.pods.values() if pod.take is not None and stands]
        if self._failed_rounds:
            waiting = [pod for pod in waiting if pod.sent]
        work = [
            *(promises.hand_over(pod) for pod in waiting),
            *(promises.let_go(leaving) for leaving in promises.leaving.values()),
            *(promises.restore(pod) for pod in promises.robbed() if stands),
            *(self._stock.level(of, serves=of in families) for of in FAMILIES),
        ]
        results = await asyncio.gather(*work, return_exceptions=True)
        failures = [error for error in results if error is not None]
        for error in failures:
            if not isinstance(error, StoreError | IPAMError):
                raise error
            self._trouble.tell(f"node {self._allocator.node}: the API has not been told of all addresses", error)
        if failures:
            told = None in results[: -len(FAMILIES)]
            self._failed_rounds = 0 if told else self._failed_rounds + 1
            return False
        self._trouble.over()
        again, self._failed_rounds = bool(self._failed_rounds), 0
        if not work[: -len(FAMILIES)] and promises.news:
            promises.news = False
            self._allocator.write_handle(self._stock.handle_id)
        promises.tidy()
        return not again

    # What status and metrics show

    def problems(self) -> tuple[Problem, ...]:
        """What a person must mend."""
        node, trouble = self._allocator.node, self._promises.trouble
        told = [Problem("Node", node, "JournalFailed", f"Node {node}: {trouble}")] if trouble else []
        return (*told, *self._promises.lost.values())

    def count(self, of: Family) -> int:
        """How many addresses of the family are warm."""
        return self._stock.count(of)

    @property
    def counts(self) -> Counts:
        """What happened so far."""
        promises = self._promises
        return Counts(self._served, self._missed, self._stock.dropped, promises.reclaimed, promises.lost_count)
