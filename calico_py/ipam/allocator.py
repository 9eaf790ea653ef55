"""The allocator of one node: addresses for pods and tunnels, by compare-and-swap on the API and nothing else.

One allocator for each node at a time. What it holds in memory only saves reads: all of it can be lost at any moment.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from calico_py.ipam import blocks
from calico_py.ipam.changes import HandOver
from calico_py.ipam.choice import choose_pools, closed_because, pool_of
from calico_py.ipam.claims import Claims
from calico_py.ipam.commits import BlockGoneError, BlockWriter
from calico_py.ipam.facts import Facts
from calico_py.ipam.handles import Handles
from calico_py.ipam.holdings import Holdings
from calico_py.ipam.node_blocks import NodeBlocks
from calico_py.ipam.reconcile import Living, ReconcileReport, leaked_addresses
from calico_py.ipam.releases import Releases
from calico_py.ipam.requests import Assigned, AssignRequest, IPAMError, PoolError, Release, Released, Tunnel
from calico_py.ipam.rivals import Rivals
from calico_py.ipam.search import Search
from calico_py.ipam.survey import REST, Surveys
from calico_py.ipam.tasks import Tasks, all_of
from calico_py.ipam.tunnels import TunnelAddresses
from calico_py.ipam.want import Want
from calico_py.model.blocks import Attribute, BlockAffinity, IPAMBlock, IPAMConfiguration, IPAMHandle
from calico_py.model.net import Address, Family, Network, contains, family
from calico_py.model.pools import AllowedUse, IPPool
from calico_py.model.store import Store

log = logging.getLogger(__name__)

# An ADD that has its address but no device yet is younger than this: the kubelet's own limit is four minutes.
_ADD_TAKES_AT_MOST = timedelta(minutes=5)
_UNDO_TRIES = 8


def _none() -> Collection[Network]:
    return ()


def _never() -> datetime | None:
    return None


class Allocator:
    """Assigns, finds and releases the addresses of one node.

    Args:
        node: name of the node. labels: of the node, for the pools' nodeSelector.
        pools: that may be used; pools that the agent refuses (overlaps) are left out by it.
        now: the time, with a timezone.
        reserved: CIDRs of all IPReservations.
        taken: CIDRs of all BlockAffinities, from a watch; without it a claim lists all blocks.
        gone_since: when this node's Node was seen to be gone, and with it all routes to its addresses; None: it stands.
        affinities: all BlockAffinities by name, from a watch; without it a claim lists them.
        rest: see Surveys.
    """

    def __init__(
        self,
        store: Store,
        *,
        node: str,
        labels: Callable[[], Mapping[str, str]],
        pools: Callable[[], Sequence[IPPool]],
        config: Callable[[], IPAMConfiguration],
        now: Callable[[], datetime],
        reserved: Callable[[], Collection[Network]] = _none,
        taken: Callable[[], Collection[Network]] = _none,
        gone_since: Callable[[], datetime | None] = _never,
        affinities: Callable[[], Mapping[str, BlockAffinity]] | None = None,
        rest: float = REST,
    ) -> None:
        self.node = node
        facts = self._facts = Facts(node, labels, pools, config, now, reserved, taken, gone_since)
        self._tasks = Tasks()
        self.writer = BlockWriter(store, self._tasks)
        self._handles = Handles(store, self.writer, self._tasks)
        self._surveys = Surveys(store, taken=taken, rest=rest)
        claims = Claims(store, self.writer, Rivals(store, affinities), node=node, now=now)
        self._blocks = NodeBlocks(facts, self.writer, claims, self._surveys)
        self._search = Search(facts, self.writer, self._blocks, self._surveys)
        self._holdings = Holdings(store, self.writer, self._handles, self._blocks)
        self._releases = Releases(
            facts,
            self.writer,
            self._handles,
            self._holdings,
            self._blocks,
            changed=self._surveys.blocks_changed,
            tasks=self._tasks,
        )
        self._tunnels = TunnelAddresses(facts, self)

    def give_way(self, calm: asyncio.Event) -> None:
        """What is written behind the answers waits a moment while this is not set: answers are being prepared."""
        self._handles.calm = calm

    @property
    def cooldown(self) -> timedelta:
        """How long an address rests between two owners."""
        return self._facts.cooldown

    @property
    def pools(self) -> Sequence[IPPool]:
        """Those that may be used."""
        return self._facts.pools()

    # Assigning

    async def assign(self, request: AssignRequest) -> tuple[Assigned, ...]:
        """Assign all that the request asks for, in its order, or nothing.

        A caller that is cancelled leaves nothing behind: what was assigned for it is released.

        Raises:
            IPAMError: PoolError, ExhaustedError, AddressTakenError or ContendedError, with the reason.
            StoreError: the API failed.
        """
        work = self._tasks.spawn(self._assign(request), name=f"assign for {request.handle_id}", awaited=True)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            self._tasks.spawn(self._undo_late(work), name=f"undo for {request.handle_id}")
            raise

    async def _assign(self, request: AssignRequest) -> tuple[Assigned, ...]:
        owner = self._owner(request.handle_id, request.secondary)
        got: list[Assigned] = []
        since = self._surveys.arrive()
        self._holdings.begin(request.handle_id, self._facts.now())
        try:
            await self._blocks.load()
            await all_of(self._parts(request, owner, got, since))
        except BaseException:
            await self._releases.undo(got)
            self._holdings.give_up(request.handle_id)
            raise
        self._holdings.note(request.handle_id, {a.block for a in got}, self._facts.now())
        return _in_order(request, got)

    def _owner(self, handle_id: str, secondary: Mapping[str, str]) -> Attribute:
        stamp = f"{self._facts.now().astimezone(UTC):%Y-%m-%d %H:%M:%S.%f} +0000 UTC"  # as Go prints a time
        return Attribute(handle_id, {"node": self.node, "timestamp": stamp, **secondary})

    def _parts(
        self, request: AssignRequest, owner: Attribute, got: list[Assigned], since: int
    ) -> list[Coroutine[Any, Any, None]]:
        """The request, taken apart into what can be assigned at the same time. All errors of choice come from here."""
        pools, labels, config = self._facts.pools(), self._facts.labels(), self._facts.config()
        if request.requested:
            chosen = [(address, _pool_for(address, pools, request.use)) for address in request.requested]
            return [self._search.take_address(address, pool, owner, config, got) for address, pool in chosen]
        choices = {f: choose_pools(pools, request, f, node=self.node, labels=labels) for f in set(request.families)}
        counts = Counter(request.families)
        wants = [Want(f, counts[f], owner, c.pools, config, since, c.refused) for f, c in choices.items()]
        return [self._assign_family(want, got) for want in wants]

    async def _assign_family(self, want: Want, got: list[Assigned]) -> None:
        await self._releases.release_unselected(want.family)
        try:
            await self._search.find(want)
        finally:
            got += want.got

    async def _undo_late(self, work: asyncio.Task[tuple[Assigned, ...]]) -> None:
        await asyncio.wait([work])
        if not work.cancelled() and work.exception() is None:
            await self._releases.undo(work.result())

    async def reserve(self, handle_id: str, of: Family, most: Callable[[int], int]) -> tuple[Assigned, ...]:
        """Assign addresses of the node's own blocks ahead of need, as many as there are of those that are wanted.

        No address is borrowed and none that cools down is taken. The next block is claimed where blocks are plenty (see
        rules).

        Args:
            handle_id: whose they are meanwhile.
            of: family.
            most: how many, given how many addresses the node's blocks have altogether.

        Raises:
            PoolError: no pool of the family serves this node's pods.
            StoreError, ContendedError: the API failed; what is assigned all the same stays, and is seen in the blocks.
        """
        return await self._tasks.to_its_end(self._reserve(handle_id, of, most), name=f"reserve for {handle_id}")

    async def _reserve(self, handle_id: str, of: Family, most: Callable[[int], int]) -> tuple[Assigned, ...]:
        choice = self.choose(AssignRequest(handle_id), of)
        want = Want(of, 0, self._owner(handle_id, {}), choice, self._facts.config(), self._surveys.arrive())
        await self._search.reserve(want, most)
        if want.got:
            self._holdings.note(handle_id, {a.block for a in want.got}, self._facts.now())
        return tuple(want.got)

    async def unreserve(self, assigned: Collection[Assigned]) -> Released:
        """Release addresses that nobody has used: they need not cool down.

        Raises:
            StoreError: the API failed.
        """
        releases = [Release(a.address, a.handle_id, a.sequence, a.block) for a in assigned]
        return await self._tasks.to_its_end(
            self._releases.release_only(releases, timedelta(0)), name="release what was reserved"
        )

    def choose(self, request: AssignRequest, of: Family) -> tuple[IPPool, ...]:
        """The pools that may serve the request; PoolError if there are none."""
        return choose_pools(self._facts.pools(), request, of, node=self.node, labels=self._facts.labels()).pools

    def own_blocks(self) -> list[IPAMBlock]:
        """This node's blocks as they were last seen; those that are being read again are left out."""
        return [block for cidr in self._blocks.own if (block := self.writer.known.get(cidr)) is not None]

    async def read_own_blocks(self) -> list[IPAMBlock]:
        """All of this node's blocks, those that were being read again too; StoreError where the API failed."""
        await self._blocks.load()
        return await self._holdings.read_own()

    def is_reserved(self, address: Address) -> bool:
        """Whether an IPReservation contains it."""
        return any(contains(cidr, address) for cidr in self._facts.reserved())

    def write_handle(self, handle_id: str) -> None:
        """Write behind what a handle has in the node's blocks by now."""
        self._handles.mark(handle_id, self._blocks.own)

    def rewrite_handle(self, handle_id: str) -> None:
        """The same where somebody else may have changed the IPAMHandle since this process wrote it."""
        self._handles.distrust(handle_id)
        self._handles.mark(handle_id, self._blocks.own)

    async def hand_over(self, assigned: Assigned, handle_id: str, secondary: Mapping[str, str]) -> Assigned:
        """Give an address from the handle that holds it to another, such as a warm address to a pod.

        The IPAMHandle that it leaves is not written: see `write_handle`.

        Raises:
            AddressTakenError: it is not what it was any more: released, or allocated anew.
            BlockGoneError: its block does not exist any more.
            StoreError: the API failed; whether the address changed hands is then not known.
        """
        return await self._tasks.to_its_end(
            self._hand_over(assigned, self._owner(handle_id, secondary)), name=f"hand over to {handle_id}"
        )

    async def _hand_over(self, assigned: Assigned, owner: Attribute) -> Assigned:
        handle_id = owner.handle_id or ""
        self._holdings.begin(handle_id, self._facts.now())
        try:
            after = await self.writer.change(assigned.block, HandOver(assigned, owner))
        except (IPAMError, BlockGoneError):
            self._holdings.give_up(handle_id)
            raise
        self._holdings.note(after.handle_id, {assigned.block}, self._facts.now())
        return after

    def adopt(self, assigned: Assigned) -> None:
        """It turned out to be assigned, though the answer that said so was lost: its IPAMHandle is written behind."""
        self._holdings.note(assigned.handle_id, {assigned.block}, self._facts.now())

    # Finding and releasing

    async def lookup(self, handle_id: str) -> tuple[Assigned, ...]:
        """The addresses that a handle holds, by address; also those of which the IPAMHandle does not know."""
        found = await self._holdings.find(handle_id)
        pools = self._facts.pools()
        return tuple(replace(a, pool=pool.name) if (pool := pool_of(pools, a.address)) else a for a in found)

    async def release_handle(self, handle_id: str) -> int:
        """Release all addresses of a handle, and say how many there were; none is success."""
        return await self._tasks.to_its_end(self._releases.release_handle(handle_id), name=f"release {handle_id}")

    async def release(self, releases: Iterable[Release], *, unused_since: datetime | None = None) -> Released:
        """Release addresses that still are what the caller saw; what is not released is in the answer.

        Args:
            releases: what to release.
            unused_since: from when on they cool down; None: from now on.

        Raises:
            StoreError: the API failed; what had been released by then is.
        """
        return await self._tasks.to_its_end(self._releases.release(list(releases), unused_since), name="release")

    # Tunnels

    async def ensure_tunnel_address(self, tunnel: Tunnel) -> Address | None:
        """See TunnelAddresses."""
        return await self._tunnels.ensure(tunnel)

    async def release_tunnel_address(self, tunnel: Tunnel) -> int:
        """See TunnelAddresses."""
        return await self._tunnels.release(tunnel)

    # Repair

    async def reconcile(self, living: Living) -> ReconcileReport:
        """Finish or undo what an earlier agent of this node left: claims, addresses of dead containers, handles.

        ADDs that this allocator serves at the same time are safe: what it assigned within the last five minutes stays.
        """
        seen = await self._holdings.list_all()
        recent = self._holdings.since(self._facts.now() - _ADD_TAKES_AT_MOST)
        kept = replace(living, handles=recent.union(living.handles))
        released = await self.release(leaked_addresses(seen, kept, node=self.node))
        mine = [a for block in seen for a in blocks.allocations(block) if a.node == self.node and not a.cooling]
        for block in seen:
            for handle_id in {a.handle for a in blocks.allocations(block) if a.node == self.node}:
                self._handles.mark(handle_id, [block.cidr])
        self._holdings.forget_lending()
        return ReconcileReport(released, len(mine) - len(released.released))

    async def release_block(self, block: IPAMBlock) -> bool:
        """Give an empty block back for whichever node has it, unless it was written since it was seen so."""
        assert block.node is not None
        return await self._blocks.release(block.cidr, block.node, self.cooldown, block.sequence_number)

    async def resolve(self, affinity: BlockAffinity) -> None:
        """Finish or undo a claim or release of whichever node that nobody goes on with."""
        await self._blocks.resolve(affinity.cidr, affinity.node, self.cooldown)

    async def repair(self) -> None:
        """Settle this node's claims: to be called when an affinity of the node is seen that is not confirmed."""
        await self._blocks.load(again=True)

    def observe(self, block: IPAMBlock) -> None:
        """Hear of a block of this node from a watch: saves a conflict, or a look for what others gave back."""
        if block.cidr in self._blocks.own and not block.deleted:
            before = self.writer.known.get(block.cidr)
            if before is None or before.meta.resource_version != block.meta.resource_version:
                self.writer.learn(block)
                self._surveys.blocks_changed()

    def learn_handles(self, handles: Iterable[IPAMHandle]) -> None:
        """Objects as the API has just shown them, of handles that are about to be released: saves reading each."""
        self._handles.learn(handles)

    def forget_foreign_blocks(self) -> None:
        """Drop other nodes' blocks from memory; they are read again when needed."""
        self.writer.forget_but(self._blocks.own)

    async def drain(self) -> None:
        """Wait for what goes on behind the answers: handles, and what is undone."""
        await self._tasks.drain()


def _pool_for(address: Address, pools: Iterable[IPPool], use: AllowedUse) -> IPPool:
    pool = pool_of((p for p in pools if not closed_because(p)), address)
    if pool is None:
        raise PoolError(f"address {address}: the provided IP address is not in a configured pool that is enabled")
    if use not in pool.allowed_uses:
        uses = ", ".join(pool.allowed_uses)
        raise PoolError(f"address {address} is in IPPool {pool.name}, whose allowedUses has {uses}, not {use}")
    return pool


def _in_order(request: AssignRequest, got: Sequence[Assigned]) -> tuple[Assigned, ...]:
    if request.requested:
        return tuple(sorted(got, key=lambda a: request.requested.index(a.address)))
    by_family = {of: iter([a for a in got if family(a.address) == of]) for of in set(request.families)}
    return tuple(next(by_family[of]) for of in request.families)
