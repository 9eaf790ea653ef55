"""Where the next address comes from: the node's own blocks, a new one, a reclaimed one, another node's, in that order.

Differs from Calico in two ways: a node at its block limit borrows before it fails, and where the cooldown is
calico-py's own default, an address that cools down is given again before the request fails.
"""

import asyncio
import hashlib
from collections.abc import Callable, Iterable
from datetime import timedelta

from calico_py.ipam.blocks import allocations
from calico_py.ipam.changes import Assign, AssignAddress, FullError, NotOursError
from calico_py.ipam.choice import pool_of
from calico_py.ipam.commits import RETRIES, BlockGoneError, BlockWriter
from calico_py.ipam.facts import Facts
from calico_py.ipam.node_blocks import NodeBlocks
from calico_py.ipam.requests import AddressTakenError, Assigned, ContendedError, UnreadableError
from calico_py.ipam.rules import cooldown_of, may_press
from calico_py.ipam.survey import Surveys
from calico_py.ipam.want import Want
from calico_py.model.blocks import Attribute, IPAMBlock, IPAMConfiguration
from calico_py.model.names import LABEL_BORROWED, warm_handle
from calico_py.model.net import Address, Network, contains, network_at
from calico_py.model.pools import IPPool
from calico_py.model.store import StoreError


class Search:
    """The search of one node. Assigning from blocks never waits for a claim."""

    def __init__(self, facts: Facts, writer: BlockWriter, node_blocks: NodeBlocks, surveys: Surveys) -> None:
        self._facts = facts
        self._writer = writer
        self._blocks = node_blocks
        self._surveys = surveys
        self._searching = 0

    async def find(self, want: Want) -> None:
        """Fill ``want.got``.

        Raises:
            ExhaustedError: not all could be found.
            ContendedError: too many conflicts.
            StoreError: the API failed. In all these cases what is in ``want.got`` is the caller's to release.
        """
        self._searching += 1
        try:
            await self._blocks.load()
            await self._find(want)
        finally:
            self._rest()

    def _rest(self) -> None:
        self._searching -= 1
        if not self._searching:
            self._surveys.forget()  # thousands of blocks, of no use to a later request
            self._blocks.forget_failure()

    async def reserve(self, want: Want, most: Callable[[int], int]) -> None:
        """Fill ``want.got`` from the node's own blocks; see Allocator.reserve for ``most``.

        Where they do not suffice the next block is claimed, if those of the pool are plenty.

        Raises:
            ContendedError, StoreError: as ``find``; what is in ``got`` is the caller's to release.
        """
        self._searching += 1
        try:
            await self._blocks.load()
            if not self._blocks.serving(want) and want.config.auto_allocate_blocks:
                await self._blocks.gain_first(want)
            want.count = most(sum(cidr.num_addresses for cidr in self._blocks.serving(want)))
            await self._take_own(want)
            if want.missing and await self._blocks.gain_ahead(want):
                await self._take_own(want)
        finally:
            self._rest()

    async def take_address(
        self, address: Address, pool: IPPool, owner: Attribute, config: IPAMConfiguration, got: list[Assigned]
    ) -> None:
        """Assign one certain address and add it to ``got``, claiming its block if nobody has it, whatever the limit.

        Raises:
            AddressTakenError: somebody holds it; its block is another node's and affinity is strict; or blocks of
                another size are in its way.
            ContendedError, StoreError: as ``find``; what is in ``got`` is the caller's to release.
        """
        await self._blocks.load()
        looked = False  # another node's block is not watched: what is known of it may be old
        for _ in range(RETRIES):
            taken = self._facts.taken()
            cidr = next((each for each in taken if contains(each, address)), network_at(address, pool.block_size))
            if await self._writer.latest(cidr) is None:
                if inner := next((each for each in taken if each != cidr and contains(cidr, each)), None):
                    raise AddressTakenError(
                        f"address {address}: found block {inner} in {cidr}, expected none but of /{pool.block_size}: "
                        f"IPPool {pool.name} was made anew with another blockSize; delete the pods of that block first"
                    )
                await self._blocks.claim(cidr)
                continue
            change = AssignAddress(
                address, owner, self._facts.node if config.strict_affinity else None, self._facts.now, pool.name
            )
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
        raise ContendedError(f"address {address}: its block came and went {RETRIES} times")

    async def _find(self, want: Want) -> None:
        began = asyncio.get_running_loop().time()
        for _ in range(RETRIES):
            await self._take_known(want)
            while want.missing and (self._blocks.changing or self._surveys.in_vain(want)):
                # All who wait go on at once, so that one write, or one look, serves them.
                await (self._blocks.settled() if self._blocks.changing else self._surveys.pause(want))
                began = asyncio.get_running_loop().time()
                await self._take_known(want)
            if not want.missing:
                return
            if self._surveys.answer(want) is not None or not await self._blocks.gain(want):
                break
        else:
            raise ContendedError(f"node {self._facts.node}: {RETRIES} blocks were claimed and none had an address left")
        if (answer := self._surveys.answer(want)) is None:
            await self._borrow(want, began)
        else:
            want.reasons = list(answer.reasons)
        if want.missing and may_press(want.config):
            await self._take_own(want, pressing=True)
        if want.missing:
            raise want.exhausted(self._facts.node)

    async def _take_known(self, want: Want) -> None:
        """From the node's own blocks; also what cools down, where a moment ago there was nothing else anywhere."""
        await self._take_own(want)
        if want.missing and may_press(want.config) and self._surveys.in_vain(want):
            await self._take_own(want, pressing=True)

    async def _take_own(self, want: Want, *, pressing: bool = False) -> None:
        cooldown = timedelta(0) if pressing else cooldown_of(want.config)
        for cidr in tuple(self._blocks.own):
            while want.missing and (pool := pool_of(want.pools, cidr)) is not None:
                if not self._blocks.may_give(cidr, cooldown) or not await self._take(
                    want, cidr, pool, own=True, pressing=pressing
                ):
                    break

    async def _take(self, want: Want, cidr: Network, pool: IPPool, *, own: bool, pressing: bool = False) -> bool:
        change = Assign(
            owner=want.owner,
            count=want.missing,
            node=self._facts.node if own else None,
            now=self._facts.now,
            cooldown=cooldown_of(want.config),
            reserved=self._facts.reserved(),
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
            if own:
                self._blocks.lose(cidr)
            return False
        return True

    async def _borrow(self, want: Want, began: float) -> None:
        if want.config.strict_affinity:
            want.reasons.append(
                "No more free affine blocks and strict affinity enabled"
                " (create another IPPool, or set spec.strictAffinity of IPAMConfiguration default to false)"
            )
            self._surveys.found_nothing(want, self._blocks.seen, began)
            return
        cooldown = cooldown_of(want.config)
        survey = await self._blocks.survey(want)
        for pool in want.pools:
            lenders = [b for b in survey.blocks.values() if contains(pool.cidr, b.cidr) and b.node != self._facts.node]
            for block in sorted(lenders, key=self._preference):
                if want.missing and self._blocks.count_free(self._writer.later(block), cooldown):
                    self._writer.learn(block)
                    await self._take(want, block.cidr, pool, own=False)
        if want.missing:
            pools = " ".join(str(pool.cidr) for pool in want.pools)
            reserved = self._facts.reserved()
            held = ", ".join(_what_holds(pool, survey.blocks.values(), reserved) for pool in want.pools)
            want.reasons.append(f"No IPs available in pools: [{pools}] ({held}; create another IPPool, or delete pods)")
            self._surveys.found_nothing(want, min(self._blocks.seen, survey.number), began)

    def _preference(self, block: IPAMBlock) -> tuple[bool, bytes]:
        """Blocks that lend already come first, for all nodes watch each of them; then each node has its own order."""
        digest = hashlib.sha256(f"{self._facts.node} {block.cidr}".encode()).digest()
        return (LABEL_BORROWED not in block.meta.labels, digest)


def _what_holds(pool: IPPool, blocks: Iterable[IPAMBlock], reserved: Iterable[Network]) -> str:
    """Where the addresses of a pool are, all of which somebody or something holds."""
    found = [a for block in blocks if contains(pool.cidr, block.cidr) for a in allocations(block)]
    cooling = sum(a.cooling for a in found)
    warm = sum(a.handle == warm_handle(a.node) for a in found)
    parts = [f"{pool.name}: {len(found) - cooling - warm} of {pool.cidr.num_addresses} in use"]
    parts += [f"{cooling} cool down (spec.ipCooldownSeconds of IPAMConfiguration default)"] if cooling else []
    parts += [f"{warm} are kept ready by nodes (CALICO_PY_WARM_ADDRESSES)"] if warm else []
    parts += ["IPReservations keep some back"] if any(pool.cidr.overlaps(cidr) for cidr in reserved) else []
    return " and ".join(parts)
