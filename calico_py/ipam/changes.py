"""The changes of a block that BlockWriter applies: assign, release, hand over.

Each is pure but for one memory: what it did when it was last applied. Applied again (after a conflict, or after a write
whose answer never came), it looks for that first, by ordinal, handle and sequence number, so it never does it twice.
When the answer never comes at all, ``attempted`` names what may have been assigned.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from calico_py.ipam import blocks
from calico_py.ipam.requests import AddressTakenError, Assigned, Release, Released
from calico_py.model.blocks import Attribute, IPAMBlock
from calico_py.model.names import warm_handle
from calico_py.model.net import Address, Network

Now = Callable[[], datetime]


class NotOursError(Exception):
    """The block is another node's by now, or nobody's."""


class FullError(Exception):
    """The block has no address to give."""


@dataclass(slots=True)
class Assign:
    """Give up to ``count`` addresses of the block to an owner, at least one.

    Attributes:
        node: the block must be this node's; None: whosever it is (borrowing).
        pool: name of the block's pool, for the answer.
        cooldown: an address that was released is given again after that long.
        pressing: or earlier, if no other is left.
    """

    owner: Attribute
    count: int
    node: str | None
    now: Now
    cooldown: timedelta
    reserved: Collection[Network] = ()
    pool: str = ""
    pressing: bool = False
    attempted: tuple[Assigned, ...] = ()

    def __call__(self, block: IPAMBlock) -> tuple[IPAMBlock, tuple[Assigned, ...]]:
        """Raises NotOursError, FullError."""
        _check_node(block, self.node)
        if self.attempted and all(_stands(block, a) for a in self.attempted):
            return block, self.attempted
        thawed = blocks.thaw(block, now=self.now(), cooldown=self.cooldown)
        if self.pressing:
            missing = max(0, self.count - blocks.free_count(thawed, self.reserved))
            thawed = blocks.thaw(thawed, now=self.now(), cooldown=self.cooldown, early=missing)
        after, ordinals = blocks.assign_next(thawed, self.count, self.owner, reserved=self.reserved)
        if not ordinals:
            raise FullError(f"block {block.cidr} has no free address")
        self.attempted = tuple(_assigned(after, ordinal, self.pool) for ordinal in ordinals)
        return after, self.attempted


@dataclass(slots=True)
class AssignAddress:
    """Give one certain address of the block to an owner, cooling down or not."""

    address: Address
    owner: Attribute
    node: str | None
    now: Now
    pool: str = ""
    attempted: tuple[Assigned, ...] = ()

    def __call__(self, block: IPAMBlock) -> tuple[IPAMBlock, Assigned]:
        """Raises NotOursError, AddressTakenError."""
        _check_node(block, self.node)
        if self.attempted and _stands(block, self.attempted[0]):
            return block, self.attempted[0]
        ordinal = blocks.ordinal_of(block, self.address)
        held = blocks.allocation_at(block, ordinal)
        if held is not None and not held.cooling:
            raise AddressTakenError(f"address {self.address} is already assigned, {_holder(held)}")
        if held is None:
            after = blocks.assign_at(block, ordinal, self.owner)
        else:
            after = blocks.reassign(block, [ordinal], self.owner)
        self.attempted = (_assigned(after, ordinal, self.pool),)
        return after, self.attempted[0]


@dataclass(slots=True)
class ReleaseAddresses:
    """Release addresses that still are what the caller saw.

    Attributes:
        unused_since: from when on they cool down; None: from now on.
        handles: whose they were.
    """

    releases: Sequence[Release]
    now: Now
    cooldown: timedelta
    unused_since: datetime | None = None
    handles: set[str] = field(default_factory=set)
    _last: Mapping[Address, blocks.Allocation] = field(default_factory=dict)

    def __call__(self, block: IPAMBlock) -> tuple[IPAMBlock, Released]:
        """Never raises; what is not released is in the answer."""
        due: dict[Address, blocks.Allocation] = {}
        done: list[Address] = []
        unallocated: list[Address] = []
        refused: dict[Address, str] = {}
        for wanted in {r.address: r for r in self.releases}.values():
            held = blocks.allocation_at(block, blocks.ordinal_of(block, wanted.address))
            if wanted.address in self._last and held != self._last[wanted.address]:
                done.append(wanted.address)
            elif held is None or held.cooling:
                unallocated.append(wanted.address)
            elif reason := _release_refusal(held, wanted):
                refused[wanted.address] = reason
            else:
                due[wanted.address] = held
        self._last = {**self._last, **due}
        self.handles |= {a.handle for a in due.values()}
        now = self.now()
        since = min(self.unused_since or now, now)  # clocks are set back
        cooldown = self.cooldown if since + self.cooldown > now else timedelta(0)
        after = blocks.release(block, [a.ordinal for a in due.values()], now=since, cooldown=cooldown)
        return after, Released((*done, *due), tuple(unallocated), refused)


@dataclass(slots=True)
class HandOver:
    """Make an address that a handle holds another owner's, such as a warm address a pod's."""

    assigned: Assigned
    owner: Attribute
    _last: Assigned | None = None

    def __call__(self, block: IPAMBlock) -> tuple[IPAMBlock, Assigned]:
        """Raises AddressTakenError where the address is no longer what was seen."""
        if self._last is not None and _stands(block, self._last):
            return block, self._last
        if not _stands(block, self.assigned):
            raise AddressTakenError(f"address {self.assigned.address} is no longer of {self.assigned.handle_id}")
        ordinal = blocks.ordinal_of(block, self.assigned.address)
        after = blocks.reassign(block, [ordinal], self.owner)
        self._last = _assigned(after, ordinal, self.assigned.pool)
        return after, self._last


def _holder(held: blocks.Allocation) -> str:
    """Who has an address. A node's stock cannot be asked: a pod may have it by now, without the API's knowledge."""
    if held.node and held.handle == warm_handle(held.node):
        return f"to the stock of node {held.node}; an IPReservation makes every node let it go, and is none for a pod"
    return f"to handle {held.handle or 'unknown'}"


def _check_node(block: IPAMBlock, node: str | None) -> None:
    if node is not None and block.node != node:
        raise NotOursError(f"block {block.cidr} is of {block.affinity or 'nobody'}, not of {node}")


def stands(block: IPAMBlock | None, assigned: Assigned) -> bool:
    """Whether the address is still what was assigned, as far as is known: nothing is, of a block that is None."""
    return block is None or _stands(block, assigned)


def _stands(block: IPAMBlock, assigned: Assigned) -> bool:
    ordinal = blocks.ordinal_of(block, assigned.address)
    return blocks.claim_at(block, ordinal) == (assigned.handle_id, assigned.sequence)


def _assigned(block: IPAMBlock, ordinal: int, pool: str) -> Assigned:
    held = blocks.allocation_at(block, ordinal)
    assert held is not None
    return Assigned(held.address, block.cidr, held.sequence, held.handle, pool)


def _release_refusal(held: blocks.Allocation, wanted: Release) -> str:
    if wanted.handle_id and held.handle != wanted.handle_id:
        return f"is held by {held.handle or 'an unknown handle'}, not by {wanted.handle_id}"
    if wanted.sequence is not None and held.sequence != wanted.sequence:
        return f"was allocated anew: sequence number {held.sequence}, not {wanted.sequence}"
    return ""
