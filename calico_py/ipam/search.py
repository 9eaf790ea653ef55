"""Where the next address comes from: the node's own blocks, a new one, a reclaimed one, another node's, in that order.

Differs from Calico in two ways: a node at its block limit borrows before it fails, and where the cooldown is
calico-py's own default, an address that cools down is given again before the request fails.
"""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from calico_py.ipam import blocks
from calico_py.ipam.changes import Assign, AssignAddress, FullError, NotOursError
from calico_py.ipam.choice import pool_of
from calico_py.ipam.claims import Claims
from calico_py.ipam.commits import RETRIES, BlockGoneError, BlockWriter
from calico_py.ipam.requests import AddressTakenError, Assigned, ContendedError, ExhaustedError, UnreadableError
from calico_py.ipam.rules import RECLAIM_AGE, block_limit_of, cooldown_of, may_claim_ahead, may_press
from calico_py.ipam.walks import merge_networks, occupied, walk_blocks
from calico_py.model.blocks import Attribute, IPAMBlock, IPAMConfiguration
from calico_py.model.kinds import IPAM_BLOCKS
from calico_py.model.names import LABEL_BORROWED
from calico_py.model.net import Address, Family, Network, contains, network_at
from calico_py.model.pools import IPPool
from calico_py.model.store import Store, StoreError

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Want:
    """A request for addresses of one family, and what it has so far.

    Attributes:
        pools: that may serve it, in order.
        since: number of the moment at which it came, for sharing a look at all blocks.
        refused: why other pools of the family may not serve it, by name.
        reasons: why a step could not help, in the words that Calico has for it, and what to do.
    """

    family: Family
    count: int
    owner: Attribute
    pools: Sequence[IPPool]
    config: IPAMConfiguration
    since: int
    refused: Mapping[str, str] = field(default_factory=dict)
    got: list[Assigned] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    @property
    def missing(self) -> int:
        """How many addresses are still to be found."""
        return self.count - len(self.got)

    def answers(self, other: "Want") -> bool:
        """Whether the failure of this request, which began at ``since``, is also the other's."""
        return self.since >= other.since and (self.pools, self.config) == (other.pools, other.config)

    def exhausted(self, node: str) -> ExhaustedError:
        """The error that says what was tried, and why each thing had nothing."""
        return ExhaustedError(
            node=node,
            family=self.family,
            pools=[f"{pool.name} ({pool.cidr})" for pool in self.pools],
            reasons=[*self.reasons, *(f"IPPool {name} was not tried: {why}" for name, why in self.refused.items())],
        )


@dataclass(frozen=True, slots=True)
class _Survey:
    """All blocks of the cluster at one moment; ``number``: which moment."""

    blocks: Mapping[Network, IPAMBlock]
    number: int


_NOTHING = _Survey({}, 0)


class Search:
    """The search of one node. One claim goes on at a time; assigning from blocks never waits for it.

    Attributes:
        own: CIDRs of the node's blocks, in the order in which they are tried.
        reserved: CIDRs of all IPReservations.
    """

    def __init__(
        self,
        store: Store,
        writer: BlockWriter,
        claims: Claims,
        *,
        node: str,
        now: Callable[[], datetime],
        reserved: Callable[[], Collection[Network]],
        taken: Callable[[], Collection[Network]],
    ) -> None:
        self.own: list[Network] = []
        self._store = store
        self._writer = writer
        self._claims = claims
        self._node = node
        self._now = now
        self.reserved = reserved
        self._taken = taken
        self._claiming = asyncio.Lock()
        self._idle = asyncio.Event()
        self._idle.set()
        self._loaded = False
        self._loaded_at = 0
        self._moment = 0
        self._searching = 0
        self._survey = _NOTHING
        self._failure: Want | None = None

    async def load(self, *, again: bool = False) -> None:
        """Read the node's blocks and settle what a crash left half-done, once, or again."""
        while not (self._idle.is_set() or (self._loaded and not again)):
            await self._idle.wait()
        if again or not self._loaded:
            async with self._exclusive():
                await self._reload()

    async def _reload(self) -> None:
        moment = self._moment
        found = [block.cidr for block in await self._claims.list_own()]
        self._loaded_at = moment  # not before: who shares this look must not do without what it failed to see
        kept = [cidr for cidr in self.own if cidr in found]
        self.own = kept + [cidr for cidr in found if cidr not in kept]
        self._loaded = True

    def block_limit_reached(self, want: Want) -> bool:
        """Whether the node has all the blocks that it may have in these pools."""
        return sum(pool_of(want.pools, cidr) is not None for cidr in self.own) >= block_limit_of(want.config)

    def arrive(self) -> int:
        """The number of this moment, at which a request comes."""
        self._moment += 1
        return self._moment

    async def find(self, want: Want) -> None:
        """Fill ``want.got``.

        Raises:
            ExhaustedError: not all could be found.
            ContendedError: too many conflicts.
            StoreError: the API failed. In all these cases what is in ``want.got`` is the caller's to release.
        """
        self._searching += 1
        try:
            await self.load()
            await self._find(want)
        finally:
            self._rest()

    def _rest(self) -> None:
        self._searching -= 1
        if not self._searching:
            self._survey = _NOTHING  # thousands of blocks, of no use to a later request
            self._failure = None

    async def reserve(self, want: Want, most: Callable[[int], int]) -> None:
        """Fill ``want.got`` from the node's own blocks; see Allocator.reserve for ``most``.

        Where they do not suffice the next block is claimed, if those of the pool are plenty.

        Raises:
            ContendedError, StoreError: as ``find``; what is in ``got`` is the caller's to release.
        """
        self._searching += 1
        try:
            await self.load()
            if not self._ours(want) and want.config.auto_allocate_blocks:
                async with self._exclusive():
                    taken = set(self._taken())
                    if not self._ours(want):  # another request may have claimed one while this one waited
                        await (self._walk(want, taken) if taken else self._claim_unclaimed(want))
            want.count = most(sum(cidr.num_addresses for cidr in self._ours(want)))
            await self._take_own(want)
            if want.missing and await self._claim_ahead(want):
                await self._take_own(want)
        finally:
            self._rest()

    async def _claim_ahead(self, want: Want) -> bool:
        taken, pool = self._taken(), want.pools[0]
        if not taken or self.block_limit_reached(want) or not may_claim_ahead(want.config, pool, len(taken)):
            return False
        async with self._exclusive():
            return await self._walk(replace(want, pools=[pool]), set(taken))

    def _ours(self, want: Want) -> list[Network]:
        return [cidr for cidr in self.own if pool_of(want.pools, cidr)]

    async def take_address(
        self, address: Address, pool: IPPool, owner: Attribute, config: IPAMConfiguration, got: list[Assigned]
    ) -> None:
        """Assign one certain address and add it to ``got``, claiming its block if nobody has it, whatever the limit.

        Raises:
            AddressTakenError: somebody holds it; its block is another node's and affinity is strict; or blocks of
                another size are in its way.
            ContendedError, StoreError: as ``find``; what is in ``got`` is the caller's to release.
        """
        await self.load()
        taken = self._taken()
        cidr = next((each for each in taken if contains(each, address)), network_at(address, pool.block_size))
        looked = False  # another node's block is not watched: what is known of it may be old
        for _ in range(RETRIES):
            block = await self._writer.latest(cidr)
            if block is None:
                if inner := next((each for each in taken if each != cidr and contains(cidr, each)), None):
                    raise AddressTakenError(
                        f"address {address}: found block {inner} in {cidr}, expected none but of /{pool.block_size}: "
                        f"IPPool {pool.name} was made anew with another blockSize; delete the pods of that block first"
                    )
                async with self._exclusive():
                    await self._claim(cidr)
                continue
            change = AssignAddress(address, owner, self._node if config.strict_affinity else None, self._now, pool.name)
            try:
                got.append(await self._writer.change(cidr, change))
                return
            except StoreError:
                got += change.attempted
                raise
            except (AddressTakenError, NotOursError) as error:
                if not looked and await self._writer.refresh(cidr):
                    looked = True
                elif isinstance(error, NotOursError):
                    raise AddressTakenError(f"address {address}: {error}, and strictAffinity is true") from None
                else:
                    raise
            except BlockGoneError:
                continue
        raise ContendedError(f"address {address}: block {cidr} came and went {RETRIES} times")

    async def release_block(self, cidr: Network, node: str, cooldown: timedelta, sequence: int | None = None) -> bool:
        """Release a block from a node, this one or another, if it is empty; see Claims."""
        async with self._exclusive():
            released = await self._claims.release(cidr, node, cooldown=cooldown, sequence=sequence)
            if released and cidr in self.own:
                self.own.remove(cidr)
            return released

    async def resolve(self, cidr: Network, node: str, cooldown: timedelta) -> None:
        """See Claims."""
        async with self._exclusive():
            await self._claims.resolve(cidr, node, cooldown=cooldown)

    async def _find(self, want: Want) -> None:
        for _ in range(RETRIES):
            await self._take_own(want)
            while want.missing and not self._idle.is_set():
                await self._idle.wait()  # all who wait for a claim go on at once, so that one write serves them
                await self._take_own(want)
            if not want.missing:
                return
            if not await self._claim_or_share(want):
                break
        else:
            raise ContendedError(f"node {self._node}: {RETRIES} blocks were claimed and none had an address left")
        await self._borrow(want)
        if want.missing and may_press(want.config):
            await self._take_own(want, pressing=True)
        if want.missing:
            raise want.exhausted(self._node)

    @asynccontextmanager
    async def _exclusive(self) -> AsyncIterator[None]:
        async with self._claiming:
            self._idle.clear()
            try:
                yield
            finally:
                self._idle.set()

    async def _claim_or_share(self, want: Want) -> bool:
        """Try to get the node a block; a failure that began after this request came, for the same pools, is its own."""
        failure = self._failure
        if failure is None or not failure.answers(want):
            began = self._moment
            async with self._exclusive():
                if await self._claim_next(want):
                    return True
            failure = self._failure = replace(want, since=began, got=[])
        want.reasons = list(failure.reasons)
        return False

    async def _take_own(self, want: Want, *, pressing: bool = False) -> None:
        cooldown = timedelta(0) if pressing else cooldown_of(want.config)
        for cidr in tuple(self.own):
            while want.missing and (pool := pool_of(want.pools, cidr)) is not None:
                if not self._may_give(cidr, cooldown) or not await self._take(
                    want, cidr, pool, own=True, pressing=pressing
                ):
                    break

    def _may_give(self, cidr: Network, cooldown: timedelta) -> bool:
        block = self._writer.known.get(cidr)
        if block is None:
            return True
        return self._free(block, cooldown) > 0

    def _free(self, block: IPAMBlock, cooldown: timedelta) -> int:
        reserved = self.reserved()
        if block.unallocated and not reserved:
            return len(block.unallocated)
        return blocks.free_count(blocks.thaw(block, now=self._now(), cooldown=cooldown), reserved)

    async def _take(self, want: Want, cidr: Network, pool: IPPool, *, own: bool, pressing: bool = False) -> bool:
        change = Assign(
            owner=want.owner,
            count=want.missing,
            node=self._node if own else None,
            now=self._now,
            cooldown=cooldown_of(want.config),
            reserved=self.reserved(),
            pool=pool.name,
            pressing=pressing,
        )
        try:
            want.got += await self._writer.change(cidr, change)
        except StoreError:
            want.got += change.attempted  # whether that stands is not known: to be released like the others
            raise
        except FullError:
            return False
        except (NotOursError, BlockGoneError, UnreadableError):
            if own and cidr in self.own:
                self.own.remove(cidr)
            return False
        return True

    async def _claim_next(self, want: Want) -> bool:
        """Try to get the node a block with a free address; True if it is worth looking again."""
        if self._loaded_at < want.since:
            await self._reload()
        fresh = [c for c in self.own if pool_of(want.pools, c) and self._may_give(c, cooldown_of(want.config))]
        if fresh:
            return True
        if self.block_limit_reached(want):
            limit = block_limit_of(want.config)
            want.reasons.append(
                f"Need to allocate an IPAM block but could not - limit of {limit} blocks reached for this node"
                " (raise spec.maxBlocksPerHost of IPAMConfiguration default)"
            )
            return False
        if not want.config.auto_allocate_blocks:
            want.reasons.append(
                "no new block is claimed (set spec.autoAllocateBlocks of IPAMConfiguration default to true)"
            )
            return False
        return await self._claim_unclaimed(want) or await self._claim_reclaimed(want)

    async def _claim_unclaimed(self, want: Want) -> bool:
        taken = self._taken()
        if taken and await self._walk(want, set(taken)):
            return True
        survey = await self._look(want)
        return await self._walk(want, set(survey.blocks))

    async def _walk(self, want: Want, taken: set[Network]) -> bool:
        taken.update(self.own)
        for pool in want.pools:
            used, wider = occupied(taken, pool)
            for cidr in walk_blocks(pool, self._node, [*self.reserved(), *wider]):
                if cidr not in used and await self._claim(cidr):
                    return True
        return False

    def _all_reserved(self, cidr: Network) -> bool:
        return any(contains(reserved, cidr) for reserved in merge_networks(self.reserved()))

    async def _claim(self, cidr: Network) -> bool:
        try:
            if await self._claims.claim(cidr) is None:
                self._survey = _NOTHING  # another node was faster: what it has claimed since may have addresses to lend
                return False
        except UnreadableError as error:
            log.warning("passed over: %s", error)
            return False
        if cidr not in self.own:
            self.own.append(cidr)
        return True

    async def _claim_reclaimed(self, want: Want) -> bool:
        """Take a block from another node that has not used it since it claimed it, 60 s ago or earlier."""
        cooldown = cooldown_of(want.config)
        for cidr, seen in (await self._look(want)).blocks.items():
            if pool_of(want.pools, cidr) is None or cidr in self.own or seen.node is None:
                continue
            block = blocks.thaw(seen, now=self._now(), cooldown=cooldown)
            age = self._now() - blocks.parse_time(seen.affinity_claim_time)
            if not blocks.is_empty(block) or age < RECLAIM_AGE or self._all_reserved(cidr):
                continue
            released = await self._claims.release(cidr, seen.node, cooldown=cooldown, sequence=seen.sequence_number)
            if released and await self._claim(cidr):
                return True
        return False

    async def _look(self, want: Want) -> _Survey:
        """All blocks at a moment after the request came; requests that came before share it."""
        if self._survey.number < want.since:
            number = self._moment
            listing = await self._store.list(IPAM_BLOCKS)
            self._survey = _Survey({block.cidr: block for block in listing.items if not block.deleted}, number)
        return self._survey

    async def _borrow(self, want: Want) -> None:
        if want.config.strict_affinity:
            want.reasons.append(
                "No more free affine blocks and strict affinity enabled"
                " (create another IPPool, or set spec.strictAffinity of IPAMConfiguration default to false)"
            )
            return
        cooldown = cooldown_of(want.config)
        async with self._claiming:
            survey = await self._look(want)
        for pool in want.pools:
            lenders = [b for b in survey.blocks.values() if contains(pool.cidr, b.cidr) and b.node != self._node]
            for block in sorted(lenders, key=self._preference):
                if want.missing and self._free(self._writer.later(block), cooldown):
                    self._writer.learn(block)
                    await self._take(want, block.cidr, pool, own=False)
        if want.missing:
            pools = " ".join(str(pool.cidr) for pool in want.pools)
            want.reasons.append(f"No IPs available in pools: [{pools}] (create another IPPool, or delete pods)")

    def _preference(self, block: IPAMBlock) -> tuple[bool, bytes]:
        """Blocks that lend already come first, for all nodes watch each of them; then each node has its own order."""
        digest = hashlib.sha256(f"{self._node} {block.cidr}".encode()).digest()
        return (LABEL_BORROWED not in block.meta.labels, digest)
