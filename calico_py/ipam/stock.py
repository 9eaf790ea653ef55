"""The stock of warm addresses of one node: what the API has under the warm handle, kept at its level."""

import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from datetime import datetime, timedelta

from calico_py.ipam import blocks
from calico_py.ipam.allocator import Allocator
from calico_py.ipam.changes import stands
from calico_py.ipam.choice import pool_of
from calico_py.ipam.requests import Assigned, AssignRequest, PoolError
from calico_py.ipam.reserve import Level, Reserve
from calico_py.ipam.rules import DEFAULT_COOLDOWN
from calico_py.model.names import warm_handle
from calico_py.model.net import FAMILIES, Address, Family
from calico_py.model.pools import AllowedUse, IPPool

log = logging.getLogger(__name__)

LOOK_SECONDS = timedelta(seconds=10)  # between two looks at what pods use though the warm handle has it


class Stock:
    """Every address in it is the warm handle's in the API, as far as this process has seen.

    Args:
        base: how many addresses of each family to keep without load.
        in_use: addresses that pods have, though the warm handle may still hold them.
        now: the time, with a timezone.
        routed: the addresses that devices of pods have.

    Attributes:
        handle_id: the warm handle.
        dropped: how many the API showed gone before they were used.
    """

    def __init__(
        self,
        allocator: Allocator,
        *,
        base: int,
        in_use: Callable[[], Collection[Address]],
        now: Callable[[], datetime],
        routed: Callable[[], Awaitable[Collection[Address]]],
    ) -> None:
        self.handle_id = warm_handle(allocator.node)
        self.dropped = 0
        self._allocator = allocator
        self._base = base
        self._in_use = in_use
        self._now = now
        self._routed = routed
        self._held_back: dict[Address, datetime | None] = {}
        self._looked: datetime | None = None
        self._reserve = Reserve()
        self._levels: dict[Family, Level] = {of: Level(base) for of in FAMILIES}
        self._outgoing: set[Address] = set()

    def count(self, of: Family) -> int:
        """How many addresses of the family there are, resting ones too."""
        return len(self._of(of))

    def take(self, request: AssignRequest) -> tuple[Assigned, ...]:
        """Addresses that serve the whole request, out of the stock now; none if they do not."""
        if not self._base or request.requested or request.use is not AllowedUse.WORKLOAD:
            return ()
        self._reserve.wake(self._now())
        got: list[Assigned] = []
        for of in request.families:
            found = self._take_one(request, of)
            self._levels[of].use(dry=found is None)
            if found is None:
                self._reserve.put(got)
                return ()
            got.append(found)
        return tuple(got)

    def _take_one(self, request: AssignRequest, of: Family) -> Assigned | None:
        try:
            pools = self._allocator.choose(request, of)
        except PoolError:
            return None
        return self._reserve.take(
            lambda warm: (
                warm.address.version == of
                and pool_of(pools, warm.address) is not None
                and stands(self._allocator.writer.known.get(warm.block), warm)
                and not self._is_reserved(warm)
            )
        )

    def hold_back(self, addresses: Collection[Address]) -> None:
        """A pod that nobody knows uses these, though the warm handle has them: they are out of use."""
        self._held_back = dict.fromkeys(addresses)

    async def let_return(self) -> None:
        """Take into use again what no device of a pod has had, at any look, for as long as an address cools down.

        For 30 s at least: a route that somebody removed is away for a moment, and its pod is not.
        """
        now = self._now()
        if not self._held_back or (self._looked is not None and now - self._looked < LOOK_SECONDS):
            return
        self._looked = now
        routed = await self._routed()
        rest = max(self._allocator.cooldown, DEFAULT_COOLDOWN)
        for address, since in list(self._held_back.items()):
            if address in routed:
                self._held_back[address] = None
            elif since is None:
                self._held_back[address] = now
            elif now - since >= rest:
                del self._held_back[address]
                log.info("warm address %s, which no pod uses any more, is in use again", address)

    def put(self, warm: Iterable[Assigned]) -> None:
        """Put back what nobody has used."""
        self._reserve.put(warm)

    def rest(self, warm: Iterable[Assigned]) -> None:
        """Put back what a pod had, to be used again after the cooldown."""
        self._reserve.rest(warm, self._now() + self._allocator.cooldown)

    async def free(self, addresses: Iterable[Address]) -> None:
        """Make these free for anybody, where they are in the stock.

        Raises:
            StoreError, IPAMError: the API failed; what is still held is seen in the blocks.
        """
        await self._give_back([warm for address in addresses if (warm := self._reserve.remove(address)) is not None])

    async def _give_back(self, warm: Collection[Assigned]) -> None:
        if not warm:
            return
        addresses = {a.address for a in warm}
        self._outgoing |= addresses
        try:
            await self._allocator.unreserve(warm)
        finally:
            self._outgoing -= addresses

    async def level(self, of: Family, *, serves: bool) -> None:
        """Drop what is gone, give back what is too much or of no use, and reserve what is missing.

        What a pod had stays for its cooldown: given back it would be anybody's at once.

        Args:
            of: family.
            serves: whether pods of this node get addresses of it.

        Raises:
            StoreError, IPAMError: the API failed.
        """
        self._reserve.wake(self._now())
        self.look(of)
        level = self._levels[of]
        wanted = level.look(self._now()) if serves and self._base else 0
        pools = self._pools(of)
        useful = [warm for warm in self._of(of) if pool_of(pools, warm.address) and not self._is_reserved(warm)]
        kept = self._reserve.resting.union(warm.address for warm in useful[:wanted])
        await self.free([warm.address for warm in self._of(of) if warm.address not in kept])
        count = sum(address.version == of for address in kept)
        if count * 2 > wanted or not wanted:
            return
        try:
            await self._allocator.reserve(self.handle_id, of, lambda own: max(0, level.most(own) - count))
        except PoolError:
            return
        self.look(of)  # another look may have found what was reserved, and a pod may have it by now

    def look(self, of: Family) -> None:
        """Bring the stock in line with what the API was last seen to have under the warm handle.

        What a pod has never comes in, whatever the API was seen to say.
        """
        for block in self._allocator.own_blocks():
            if block.cidr.version != of:
                continue
            held = {a.address: a for a in blocks.held_by(block, self.handle_id) if not a.cooling}
            gone = [warm for warm in self._reserve if warm.block == block.cidr and not stands(block, warm)]
            for warm in gone:
                self._reserve.remove(warm.address)
            if gone:
                self.dropped += len(gone)
                which = ", ".join(str(warm.address) for warm in gone)
                log.warning("somebody released warm addresses, which are this node's no more: %s", which)
            others = self._held_back.keys() | self._outgoing | frozenset(self._in_use())
            self._reserve.put(
                Assigned(a.address, block.cidr, a.sequence, a.handle)
                for a in held.values()
                if a.address not in others and a.address not in self._reserve
            )

    def _of(self, of: Family) -> list[Assigned]:
        return [warm for warm in self._reserve if warm.address.version == of]

    def _pools(self, of: Family) -> Sequence[IPPool]:
        try:
            return self._allocator.choose(AssignRequest(self.handle_id), of)
        except PoolError:
            return ()

    def _is_reserved(self, warm: Assigned) -> bool:
        return self._allocator.is_reserved(warm.address)
