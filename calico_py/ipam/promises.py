"""What this node's pods have been promised, and how the API comes to know it.

A promise is in the journal from before the pod hears of it until the API has it. Each is told once, whoever asks, and
as often as it takes: what the API may have heard already is looked for before it is done again.
"""

import asyncio
import logging
from collections.abc import Collection, Coroutine, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from calico_py.ipam import blocks
from calico_py.ipam.allocator import Allocator
from calico_py.ipam.changes import stands
from calico_py.ipam.commits import BlockGoneError
from calico_py.ipam.journal import Journal, Outstanding, Take
from calico_py.ipam.reconcile import Living
from calico_py.ipam.requests import AddressTakenError, Assigned, AssignRequest, IPAMError, PoolError
from calico_py.model.blocks import IPAMBlock
from calico_py.model.intent import Problem
from calico_py.model.names import workload_handle
from calico_py.model.net import Address

log = logging.getLogger(__name__)

TOOL_SECONDS = 3.0  # a tool that releases an address lowers the count in its IPAMHandle after that, which takes it less


@dataclass(slots=True)
class Pod:
    """A pod that lives, and its addresses as the API has them, or will.

    Attributes:
        take: what is not in the API yet; None once it is.
        sent: whether the API may have heard of it.
        writing: held while the API is told.
    """

    handle_id: str
    secondary: dict[str, str] = field(default_factory=dict)
    addresses: tuple[Assigned, ...] = ()
    take: Take | None = None
    sent: bool = False
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def unheard(self) -> bool:
        """The API certainly knows nothing of it."""
        return self.take is not None and not self.sent

    def __str__(self) -> str:
        notes = self.secondary
        return f"pod {notes['namespace']}/{notes['pod']}" if {"namespace", "pod"} <= notes.keys() else self.handle_id


@dataclass(slots=True)
class Leaving:
    """A handle whose addresses are to be released."""

    handle_id: str
    pod: Pod | None = None
    done: bool = False
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)


class Promises:
    """Those of one node.

    Attributes:
        pods: that live, by handle. leaving: by handle.
        trouble: why the journal is of no use, as a sentence; empty if all is well.
        reclaimed: how many addresses of living pods were gone from the API and are theirs again.
        lost: those that are somebody else's now; lost_count: how many there were.
        news: something was told since this was last set to False.
    """

    def __init__(self, allocator: Allocator, journal: Journal) -> None:
        self.pods: dict[str, Pod] = {}
        self.leaving: dict[str, Leaving] = {}
        self.trouble = ""
        self.reclaimed = 0
        self.lost: dict[tuple[str, Address], Problem] = {}
        self.lost_count = 0
        self.news = False
        self._allocator = allocator
        self._journal = journal
        self._reclaimed_at: dict[str, float] = {}

    # What is promised

    def load(self, living: Living, own: Iterable[IPAMBlock]) -> None:
        """Take over what an earlier agent left, by its journal and the node's own blocks.

        What was promised to a container without a device is released: its ADD never ended, or its DEL will come.
        """
        try:
            outstanding = self._journal.load()
        except OSError as error:
            self._distrust(error)
            outstanding = Outstanding()
        handles = {workload_handle(container) for container in living.containers}
        self.pods, self.leaving = _find_pods(own, handles), {}
        for handle_id, take in outstanding.takes.items():
            if handle_id in handles:
                addresses = renamed(take.addresses, handle_id)
                self.pods[handle_id] = Pod(handle_id, dict(take.secondary), addresses, take, sent=True)
            else:
                self.leaving[handle_id] = Leaving(handle_id)
        for handle_id in outstanding.releases:
            if handle_id not in handles:
                self.leaving[handle_id] = Leaving(handle_id)
            else:
                log.warning("the journal wants %s released, but its device exists: it stays", handle_id)

    def promised(self) -> frozenset[Address]:
        """Addresses that pods have, though the API may not know it."""
        return frozenset(a.address for take in self._takes().values() for a in take.addresses)

    def in_use(self) -> frozenset[Address]:
        """Those, and what the API knows to be pods', of pods that are leaving too."""
        return self.promised().union(a.address for pod in self._all() for a in pod.addresses)

    def _takes(self) -> dict[str, Take]:
        return {pod.handle_id: pod.take for pod in self._all() if pod.take is not None}

    def _all(self) -> tuple[Pod, ...]:
        going = (leaving.pod for leaving in self.leaving.values() if leaving.pod is not None)
        return (*going, *self.pods.values())

    async def promise(self, pod: Pod, warm: tuple[Assigned, ...]) -> bool:
        """Note in the journal that the pod has these; False where the disk refuses, and nothing is promised."""
        pod.take = Take(pod.handle_id, pod.secondary, warm)
        self.pods[pod.handle_id] = pod
        if await self._noted(self._journal.take(pod.take)) or pod.sent:
            return True
        self.forget(pod.handle_id)
        self._journal.done([pod.handle_id])
        return False

    def take_back(self, pod: Pod) -> tuple[Assigned, ...]:
        """A pod of which the API never heard is gone; what it had is the warm handle's as before."""
        assert pod.take is not None
        assert not pod.sent
        warm, pod.take = pod.take.addresses, None
        self.forget(pod.handle_id)
        self._journal.done([pod.handle_id])
        return warm

    async def promise_release(self, handle_id: str) -> bool:
        """The handle's pod is gone: note it in the journal; False where the disk refuses, and the API must hear it."""
        pod = self.pods.get(handle_id)
        self.forget(handle_id)
        self.leaving.setdefault(handle_id, Leaving(handle_id, pod))
        return await self._noted(self._journal.release(handle_id))

    def forget(self, handle_id: str) -> None:
        """The pod lives no more."""
        self.pods.pop(handle_id, None)
        for key in [key for key in self.lost if key[0] == handle_id]:
            del self.lost[key]

    async def _noted(self, line: Coroutine[Any, Any, None]) -> bool:
        try:
            await line
        except OSError as error:
            self._distrust(error)
            return False
        self.trouble = ""
        return True

    def _distrust(self, error: OSError) -> None:
        trouble = (
            f"the journal of warm addresses cannot be written: {error.strerror or error}; until it can, pods get their "
            "addresses from the API; look at the disk that holds /var/lib/calico-py"
        )
        if trouble != self.trouble:
            log.warning("%s", trouble)
        self.trouble = trouble

    def tidy(self) -> None:
        """Keep the journal short, and look after the IPAMHandles of which a tool thinks that they hold less."""
        now = asyncio.get_running_loop().time()
        for handle_id in [each for each, at in self._reclaimed_at.items() if now - at >= TOOL_SECONDS]:
            del self._reclaimed_at[handle_id]
            self._allocator.rewrite_handle(handle_id)
        self._journal.tidy(lambda: Outstanding(self._takes(), dict.fromkeys(self.leaving)))

    async def close(self) -> None:
        """Give the journal's file back."""
        await self._journal.close()

    # How the API hears of it; each of these raises StoreError or IPAMError where it must be tried again

    async def hand_over(self, pod: Pod) -> None:
        """Make the pod's what the warm handle holds for it."""
        async with pod.writing:
            if pod.take is None:
                return
            pod.sent = True
            work = [self._hand_over_one(pod, warm) for warm in pod.take.addresses]
            got = await asyncio.gather(*work, return_exceptions=True)
            for found in got:
                if isinstance(found, BaseException):
                    raise found
            pod.addresses = tuple(found for found in got if isinstance(found, Assigned))
            pod.take, self.news = None, True
            if pod.handle_id not in self.leaving:
                self._journal.done([pod.handle_id])

    async def _hand_over_one(self, pod: Pod, warm: Assigned) -> Assigned | None:
        try:
            return await self._allocator.hand_over(warm, pod.handle_id, pod.secondary)
        except (AddressTakenError, BlockGoneError):
            return await self._reclaim(pod, warm.address)

    async def _reclaim(self, pod: Pod, address: Address) -> Assigned | None:
        """A pod lives with an address that is not the API's any more, or whose hand-over lost its answer."""
        held = {a.address: a for a in await self._allocator.lookup(pod.handle_id)}
        if address in held:
            self._allocator.adopt(held[address])
            return held[address]
        if not self._lives(pod):
            return None  # it needs the address no more
        try:
            got = await self._allocator.assign(AssignRequest(pod.handle_id, pod.secondary, requested=(address,)))
        except (AddressTakenError, PoolError) as error:
            if self._lives(pod):
                self._tell_lost(pod, address, error)
            return None
        self.reclaimed += 1
        self._reclaimed_at[pod.handle_id] = asyncio.get_running_loop().time()
        log.warning("address %s of %s had been released by somebody else and is its own again", address, pod)
        return got[0]

    def _lives(self, pod: Pod) -> bool:
        return self.pods.get(pod.handle_id) is pod

    def _tell_lost(self, pod: Pod, address: Address, error: IPAMError) -> None:
        node = self._allocator.node
        message = (
            f"Node {node}: {pod} uses {address}, which somebody else released or took: {error}; "
            "delete the pod, so that it gets another address"
        )
        log.error("%s", message)
        self.lost_count += 1
        self.lost[pod.handle_id, address] = Problem("Node", node, "AddressLost", message)

    async def let_go(self, leaving: Leaving) -> None:
        """Release all that the handle holds."""
        async with leaving.writing:
            if leaving.done:
                return
            if leaving.pod is not None:
                # A hand-over whose answer was lost may still be on its way, and must not land behind the release.
                await self.hand_over(leaving.pod)
            await self._allocator.release_handle(leaving.handle_id)
            leaving.done, self.news = True, True
            del self.leaving[leaving.handle_id]
            self._journal.done([leaving.handle_id])

    def robbed(self) -> list[Pod]:
        """Pods that have an address which the API, as last seen, does not give them."""
        return [pod for pod in self.pods.values() if pod.take is None and self._missing(pod)]

    def _missing(self, pod: Pod) -> list[Assigned]:
        return [a for a in pod.addresses if not stands(self._allocator.writer.known.get(a.block), a)]

    async def restore(self, pod: Pod) -> None:
        """Claim again what the pod has and the API does not give it."""
        async with pod.writing:
            for missing in self._missing(pod):
                if not self._lives(pod):
                    return
                found = await self._reclaim(pod, missing.address)
                kept = tuple(a for a in pod.addresses if a != missing)
                pod.addresses = kept if found is None else (*kept, found)


def renamed(warm: Iterable[Assigned], handle_id: str) -> tuple[Assigned, ...]:
    """The same addresses as those of another handle."""
    return tuple(replace(assigned, handle_id=handle_id) for assigned in warm)


def _find_pods(own: Iterable[IPAMBlock], handles: Collection[str]) -> dict[str, Pod]:
    """The pods that live, as the node's blocks have them."""
    found: dict[str, Pod] = {}
    for block in own:
        for a in blocks.allocations(block):
            if a.handle in handles and not a.cooling:
                notes = {k: v for k, v in a.attribute.secondary.items() if k not in ("node", "timestamp")}
                pod = found.setdefault(a.handle, Pod(a.handle, notes))
                pod.addresses += (Assigned(a.address, block.cidr, a.sequence, a.handle),)
    return found
