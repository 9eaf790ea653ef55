"""The blocks of one node: which there are, and how it gets one more, nobody's or an empty one of another node."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

from calico_py.ipam import blocks
from calico_py.ipam.choice import pool_of
from calico_py.ipam.claims import Claims
from calico_py.ipam.commits import BlockWriter
from calico_py.ipam.facts import Facts
from calico_py.ipam.requests import UnreadableError
from calico_py.ipam.rules import RECLAIM_AGE, block_limit_of, cooldown_of, may_claim_ahead
from calico_py.ipam.survey import Survey, Surveys
from calico_py.ipam.walks import merge_networks, occupied, walk_blocks
from calico_py.ipam.want import Failure, Want
from calico_py.model.blocks import IPAMBlock
from calico_py.model.net import Network, contains

log = logging.getLogger(__name__)


class NodeBlocks:
    """Those of one node. One claim or release goes on at a time.

    Attributes:
        own: their CIDRs, in the order in which they are tried.
        seen: number of the moment to which what the last try for one more looked at belongs.
    """

    def __init__(self, facts: Facts, writer: BlockWriter, claims: Claims, surveys: Surveys) -> None:
        self.own: list[Network] = []
        self.seen = 0
        self._facts = facts
        self._writer = writer
        self._claims = claims
        self._surveys = surveys
        self._claiming = asyncio.Lock()
        self._idle = asyncio.Event()
        self._idle.set()
        self._loaded = False
        self._loaded_at = 0
        self._failure: Failure | None = None

    async def load(self, *, again: bool = False) -> None:
        """Read the node's blocks and settle what a crash left half-done, once, or again."""
        while not (self._idle.is_set() or (self._loaded and not again)):
            await self._idle.wait()
        if again or not self._loaded:
            async with self._exclusive():
                await self._reload()

    async def _reload(self) -> None:
        moment = self._surveys.moment
        found = [block.cidr for block in await self._claims.list_own()]
        self._loaded_at = moment  # not before: who shares this look must not do without what it failed to see
        kept = [cidr for cidr in self.own if cidr in found]
        self.own = kept + [cidr for cidr in found if cidr not in kept]
        self._loaded = True

    @asynccontextmanager
    async def _exclusive(self) -> AsyncIterator[None]:
        async with self._claiming:
            self._idle.clear()
            try:
                yield
            finally:
                self._idle.set()

    @property
    def changing(self) -> bool:
        """A claim or release is going on."""
        return not self._idle.is_set()

    async def settled(self) -> None:
        """Wait until none does."""
        await self._idle.wait()

    # What they hold

    def serving(self, want: Want) -> list[Network]:
        """Those that lie in the pools of a request."""
        return [cidr for cidr in self.own if pool_of(want.pools, cidr)]

    def may_give(self, cidr: Network, cooldown: timedelta) -> bool:
        """Whether a block of the node has a free address, as far as is known."""
        block = self._writer.known.get(cidr)
        return block is None or self.count_free(block, cooldown) > 0

    def count_free(self, block: IPAMBlock, cooldown: timedelta) -> int:
        """How many addresses of a block, this node's or another's, may be given."""
        reserved = self._facts.reserved()
        if block.unallocated and not reserved:
            return len(block.unallocated)
        return blocks.free_count(blocks.thaw(block, now=self._facts.now(), cooldown=cooldown), reserved)

    # One more

    def limit_reached(self, want: Want) -> bool:
        """Whether the node has all the blocks that it may have in these pools."""
        return len(self.serving(want)) >= block_limit_of(want.config)

    async def gain(self, want: Want) -> bool:
        """Try to get a block with a free address; True if it is worth looking again.

        A failure is shared with all requests for the same pools that had come by then.

        Raises:
            ContendedError, StoreError: it is not known.
        """
        failure = self._failure
        if failure is None or not failure.answers(want):
            async with self._exclusive():
                if await self._gain(want):
                    return True
            failure = self._failure = Failure.of(want, self.seen)
        want.reasons = list(failure.reasons)
        return False

    async def _gain(self, want: Want) -> bool:
        if self._loaded_at < want.since:
            await self._reload()
        self.seen = self._loaded_at
        if any(self.may_give(cidr, cooldown_of(want.config)) for cidr in self.serving(want)):
            return True
        if self.limit_reached(want):
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
        return await self._gain_unclaimed(want) or await self._gain_reclaimed(want)

    def forget_failure(self) -> None:
        """No request waits any more."""
        self._failure = None

    async def gain_first(self, want: Want) -> None:
        """Claim a block for a request that may wait, where the node has none in its pools."""
        async with self._exclusive():
            taken = set(self._facts.taken())
            if not self.serving(want):  # another request may have claimed one while this one waited
                await (self._walk(want, taken) if taken else self._gain_unclaimed(want))

    async def gain_ahead(self, want: Want) -> bool:
        """Claim one more for such a request, where those of its first pool are plenty."""
        taken, pool = self._facts.taken(), want.pools[0]
        if not taken or self.limit_reached(want) or not may_claim_ahead(want.config, pool, len(taken)):
            return False
        async with self._exclusive():
            return await self._walk(replace(want, pools=[pool]), set(taken))

    async def claim(self, cidr: Network) -> bool:
        """Claim a certain block."""
        async with self._exclusive():
            return await self._claim(cidr)

    async def _gain_unclaimed(self, want: Want) -> bool:
        taken = self._facts.taken()
        if taken and await self._walk(want, set(taken)):
            return True
        return await self._walk(want, set(await self._look(want)))

    async def _look(self, want: Want) -> Mapping[Network, IPAMBlock]:
        survey = await self._surveys.look(want)
        self.seen = min(self.seen, survey.number)
        return survey.blocks

    async def _walk(self, want: Want, taken: set[Network]) -> bool:
        taken.update(self.own)
        for pool in want.pools:
            used, wider = occupied(taken, pool)
            for cidr in walk_blocks(pool, self._facts.node, [*self._facts.reserved(), *wider]):
                if cidr not in used and await self._claim(cidr):
                    return True
        return False

    async def _claim(self, cidr: Network) -> bool:
        try:
            if await self._claims.claim(cidr) is None:
                self._surveys.forget()  # another node was faster: what it has claimed may have addresses to lend
                return False
        except UnreadableError as error:
            log.warning("passed over: %s", error)
            return False
        if cidr not in self.own:
            self.own.append(cidr)
        return True

    async def _gain_reclaimed(self, want: Want) -> bool:
        """Take a block from another node that has not used it since it claimed it, 60 s ago or earlier."""
        cooldown = cooldown_of(want.config)
        for cidr, seen in (await self._look(want)).items():
            if pool_of(want.pools, cidr) is None or cidr in self.own or seen.node is None:
                continue
            block = blocks.thaw(seen, now=self._facts.now(), cooldown=cooldown)
            age = self._facts.now() - blocks.parse_time(seen.affinity_claim_time)
            if not blocks.is_empty(block) or age < RECLAIM_AGE or self._all_reserved(cidr):
                continue
            released = await self._claims.release(cidr, seen.node, cooldown=cooldown, sequence=seen.sequence_number)
            if released and await self._claim(cidr):
                return True
        return False

    def _all_reserved(self, cidr: Network) -> bool:
        return any(contains(reserved, cidr) for reserved in merge_networks(self._facts.reserved()))

    async def survey(self, want: Want) -> Survey:
        """A look at all blocks, which no claim of this node overtakes; see Surveys.

        Raises:
            StoreError: the API failed.
        """
        async with self._claiming:
            return await self._surveys.look(want)

    # One less

    def lose(self, cidr: Network) -> None:
        """It turned out to be another node's, or gone."""
        if cidr in self.own:
            self.own.remove(cidr)

    async def release(self, cidr: Network, node: str, cooldown: timedelta, sequence: int | None = None) -> bool:
        """Release a block from a node, this one or another, if it is empty; see Claims."""
        async with self._exclusive():
            released = await self._claims.release(cidr, node, cooldown=cooldown, sequence=sequence)
            if released:
                self.lose(cidr)
            return released

    async def resolve(self, cidr: Network, node: str, cooldown: timedelta) -> None:
        """See Claims."""
        async with self._exclusive():
            await self._claims.resolve(cidr, node, cooldown=cooldown)
