"""AddressCare: keeps this node's claims and addresses true to what lives here.

Once after API in-sync: journal and API are brought together, what an earlier agent began is finished or undone, and
addresses of dead containers are freed, in this order: what the journal knows to be a pod's must not be freed.
Then, for ever: the allocator hears of changes to this node's blocks, and claims that stay unsettled are settled.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from calico_py.agent.pod_addresses import list_pod_addresses
from calico_py.agent.view import ClusterView
from calico_py.ipam.allocator import Allocator
from calico_py.ipam.reconcile import Living
from calico_py.ipam.requests import IPAMError
from calico_py.ipam.warm import WarmAddresses
from calico_py.kube.backoff import Backoff
from calico_py.model.blocks import AffinityState
from calico_py.model.kernel import Kernel
from calico_py.model.store import StoreError
from calico_py.model.wiring import PodWiring
from calico_py.trouble import Trouble

log = logging.getLogger(__name__)

_CLAIM_SECONDS = 2.0  # a claim that goes well is settled long before
_LONGEST_PAUSE = 30.0


class AddressCare:
    """Runs beside the convergence; ``mark`` is among the reactions to whatever is watched."""

    def __init__(
        self,
        allocator: Allocator,
        warm: WarmAddresses,
        view: ClusterView,
        wiring: PodWiring,
        kernel: Kernel,
        *,
        node: str,
    ) -> None:
        self._allocator = allocator
        self._warm = warm
        self._view = view
        self._wiring = wiring
        self._kernel = kernel
        self._node = node
        self._trouble = Trouble(log)
        self._changed = asyncio.Event()
        self._claims = asyncio.Event()

    def mark(self) -> None:
        """Something that is watched changed."""
        self._changed.set()

    async def run(self) -> None:
        """Reconcile once, then take care, for ever."""
        await self._view.wait_in_sync()
        await self._until_done(self._start, "pods get no addresses yet")
        await self._until_done(self._reconcile, "addresses of dead containers are not looked for yet")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen(), name="own blocks")
            tasks.create_task(self._settle(), name="own claims")

    async def _listen(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            for block in self._view.own_blocks.objects.values():
                self._allocator.observe(block)
            self._warm.mark()
            if self._unsettled():
                self._claims.set()

    async def _until_done(self, work: Callable[[], Awaitable[None]], otherwise: str) -> None:
        backoff = Backoff()
        while True:
            try:
                await work()
            except (StoreError, IPAMError) as error:
                self._trouble.tell(otherwise, error)
                await asyncio.sleep(backoff.wait())
            else:
                self._trouble.over()
                return

    async def _start(self) -> None:
        await self._warm.start(await self._living())

    async def _reconcile(self) -> None:
        report = await self._allocator.reconcile(await self._living())
        log.info("addresses: %d in use, %d of dead containers freed", report.kept, len(report.released.released))

    async def _living(self) -> Living:
        """Containers by their devices, and addresses: by these real Calico's pods are known."""
        containers = await self._wiring.list_containers()
        return Living(containers=containers, addresses=await list_pod_addresses(self._kernel))

    def _unsettled(self) -> bool:
        """Not of a Node that was deleted: its claims are the leader's to end."""
        claims = self._view.affinities.objects.values()
        return self._node in self._view.nodes.objects and any(
            claim.node == self._node and claim.state != AffinityState.CONFIRMED and not claim.deleted
            for claim in claims
        )

    async def _settle(self) -> None:
        backoff = Backoff(_CLAIM_SECONDS, cap=_LONGEST_PAUSE)
        while True:
            await self._claims.wait()
            await asyncio.sleep(_CLAIM_SECONDS)
            self._claims.clear()
            try:
                if self._unsettled():
                    await self._allocator.repair()
            except (StoreError, IPAMError) as error:
                self._trouble.tell("a claim of this node stays unsettled", error)
                await asyncio.sleep(backoff.wait())
                self._claims.set()
            else:
                self._trouble.over()
                backoff.reset()
