"""Block arithmetic: who has which ordinal of a block, and what assigning and releasing do to it.

Pure: a block goes in, another comes out, ``now`` is a parameter. What is kept, and how, is Calico's (libcalico-go,
lib/ipam): ``unallocated`` is a queue (head out, tail in), allocations with the same owner share an attribute, an
attribute without an allocation goes away and the others are renumbered, and an allocation remembers the sequence number
that the block had before the write that made it. Only ``sealed`` counts the sequence number up, once for each write.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from calico_py.model.blocks import Attribute, IPAMBlock
from calico_py.model.meta import Meta
from calico_py.model.names import LABEL_BORROWED, block_name
from calico_py.model.net import Address, Network, contains

# Calico reserves addresses of Windows nodes under this handle; a block with nothing else is empty all the same.
WINDOWS_RESERVED = "windows-reserved-ipam-handle"

_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Allocation:
    """An address of a block that somebody holds, or that cools down.

    Attributes:
        sequence: the block's sequence number at the allocation; 0 in blocks older than the field.
    """

    ordinal: int
    address: Address
    attribute: Attribute
    sequence: int

    @property
    def handle(self) -> str:
        """The handle without what a faulty migration from host-local appended to it; empty if there is none."""
        return _handle(self.attribute)

    @property
    def node(self) -> str:
        """The node that uses the address, or empty where its writer did not say."""
        return self.attribute.secondary.get("node", "")

    @property
    def cooling(self) -> bool:
        """Released, but not free yet."""
        return bool(self.attribute.released_at)


def _handle(attribute: Attribute) -> str:
    return (attribute.handle_id or "").split("\r")[0]


def format_time(at: datetime) -> str:
    """RFC 3339 in whole seconds, as Kubernetes writes times."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> datetime:
    """RFC 3339; what is absent or no time counts as long ago."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return _LONG_AGO
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def new_block(cidr: Network, *, node: str, now: datetime) -> IPAMBlock:
    """A block of a node with every ordinal free.

    The sequence number starts at the time in nanoseconds, so that a block deleted and made again never repeats one.
    """
    return IPAMBlock(
        meta=Meta(name=block_name(cidr)),
        cidr=cidr,
        affinity=f"host:{node}",
        allocations=(None,) * cidr.num_addresses,
        unallocated=tuple(range(cidr.num_addresses)),
        sequence_number=int(now.timestamp()) * 1_000_000_000 + now.microsecond * 1_000,
        affinity_claim_time=format_time(now),
    )


def ordinal_of(block: IPAMBlock, address: Address) -> int:
    """Index of an address in the block that contains it."""
    assert contains(block.cidr, address), f"{address} is not in block {block.cidr}"
    return int(address) - int(block.cidr.network_address)


def address_at(block: IPAMBlock, ordinal: int) -> Address:
    """The address with that index."""
    return block.cidr[ordinal]


def allocations(block: IPAMBlock) -> Iterator[Allocation]:
    """All that are held or cool down, by ordinal."""
    for ordinal in range(len(block.allocations)):
        found = allocation_at(block, ordinal)
        if found is not None:
            yield found


def allocation_at(block: IPAMBlock, ordinal: int) -> Allocation | None:
    """Who has that ordinal; None if it is free."""
    index = block.allocations[ordinal]
    if index is None:
        return None
    sequence = block.sequence_numbers.get(ordinal, 0)
    return Allocation(ordinal, address_at(block, ordinal), _attribute(block, index), sequence)


def claim_at(block: IPAMBlock, ordinal: int) -> tuple[str, int] | None:
    """Handle and sequence number of it alone: this is asked for each warm address and each pod at every change."""
    index = block.allocations[ordinal]
    return None if index is None else (_handle(_attribute(block, index)), block.sequence_numbers.get(ordinal, 0))


def _attribute(block: IPAMBlock, index: int) -> Attribute:
    """A foreign writer's block may lack it: an address of an unknown owner, never a free one."""
    return block.attributes[index] if index < len(block.attributes) else Attribute()


def held_by(block: IPAMBlock, handle_id: str) -> list[Allocation]:
    """The addresses of a handle in this block."""
    wanted = {i for i, attribute in enumerate(block.attributes) if _handle(attribute) == handle_id}
    ordinals = [o for o, index in enumerate(block.allocations) if index in wanted] if wanted else []
    return [found for o in ordinals if (found := allocation_at(block, o)) is not None]


def free_count(block: IPAMBlock, reserved: Collection[Network] = ()) -> int:
    """How many ordinals can be assigned, leaving those of reservations out."""
    return sum(1 for _ in _assignable(block, reserved))


def _assignable(block: IPAMBlock, reserved: Collection[Network]) -> Iterator[int]:
    near = [cidr for cidr in reserved if cidr.version == block.cidr.version and cidr.overlaps(block.cidr)]
    for ordinal in block.unallocated:
        if not near or not any(contains(cidr, address_at(block, ordinal)) for cidr in near):
            yield ordinal


def is_empty(block: IPAMBlock) -> bool:
    """Nobody holds an address of it, and none cools down."""
    return all(_handle(owner).lower() == WINDOWS_RESERVED for owner in _owners(block))


def _owners(block: IPAMBlock) -> Iterator[Attribute]:
    """The attributes to which allocations refer, each once: in a large block far fewer steps than allocations."""
    for index in {index for index in block.allocations if index is not None}:
        yield block.attributes[index] if index < len(block.attributes) else Attribute()


def assign_next(
    block: IPAMBlock, count: int, owner: Attribute, *, reserved: Collection[Network] = ()
) -> tuple[IPAMBlock, tuple[int, ...]]:
    """Give up to ``count`` of the ordinals that have been free for longest, and say which."""
    taken: list[int] = []
    for ordinal in _assignable(block, reserved):
        if len(taken) == count:
            break
        taken.append(ordinal)
    return _allocate(block, taken, owner), tuple(taken)


def assign_at(block: IPAMBlock, ordinal: int, owner: Attribute) -> IPAMBlock:
    """Give one ordinal, which must be free."""
    assert block.allocations[ordinal] is None, f"{address_at(block, ordinal)} is taken"
    return _allocate(block, [ordinal], owner)


def _allocate(block: IPAMBlock, ordinals: Sequence[int], owner: Attribute) -> IPAMBlock:
    if not ordinals:
        return block
    attributes = _known_attributes(block)
    if owner in attributes:
        index = attributes.index(owner)
    else:
        index, attributes = len(attributes), (*attributes, owner)
    entries, sequences = list(block.allocations), dict(block.sequence_numbers)
    for ordinal in ordinals:
        entries[ordinal] = index
        sequences[ordinal] = block.sequence_number
    gone = set(ordinals)
    return replace(
        block,
        allocations=tuple(entries),
        unallocated=tuple(o for o in block.unallocated if o not in gone),
        attributes=attributes,
        sequence_numbers=sequences,
    )


def _known_attributes(block: IPAMBlock) -> tuple[Attribute, ...]:
    """The attributes, filled up where allocations refer to more than a foreign writer left: unknown stays unknown."""
    missing = 1 + max((i for i in block.allocations if i is not None), default=-1) - len(block.attributes)
    return block.attributes + (Attribute(),) * missing


def release(block: IPAMBlock, ordinals: Collection[int], *, now: datetime, cooldown: timedelta) -> IPAMBlock:
    """Take ordinals back: to the end of the queue at once, or, with a cooldown, once ``thaw`` finds that it has passed.

    An ordinal that is free or cools down already stays as it is. One that begins to cool down gets a new sequence
    number, so that a late second release, which carries the old one, is seen for what it is.
    """
    held = sorted(o for o in ordinals if (a := allocation_at(block, o)) is not None and not a.cooling)
    if not held:
        return block
    if cooldown <= timedelta(0):
        return _free(block, held)
    cold = Attribute(released_at=format_time(now))
    return _compact(_allocate(replace(block, allocations=_without(block, held)), held, cold))


def thaw(block: IPAMBlock, *, now: datetime, cooldown: timedelta, early: int = 0) -> IPAMBlock:
    """Free ordinals whose cooldown has passed, and ``early`` more before their time: first released, first freed."""
    times = {i: parse_time(a.released_at) for i, a in enumerate(block.attributes) if a.released_at}
    if not times:
        return block
    cooling = sorted((times[index], ordinal) for ordinal, index in enumerate(block.allocations) if index in times)
    due = sum(released + cooldown <= now for released, _ in cooling)
    return _free(block, [ordinal for _, ordinal in cooling[: due + early]])


def reassign(block: IPAMBlock, ordinals: Collection[int], owner: Attribute) -> IPAMBlock:
    """Give ordinals that are held to another owner; each gets a new sequence number, for its old owner's is void."""
    return _compact(_allocate(replace(block, allocations=_without(block, ordinals)), sorted(ordinals), owner))


def _free(block: IPAMBlock, ordinals: Sequence[int]) -> IPAMBlock:
    if not ordinals:
        return block
    gone = set(ordinals)
    return _compact(
        replace(
            block,
            allocations=_without(block, gone),
            unallocated=(*block.unallocated, *ordinals),
            sequence_numbers={o: n for o, n in block.sequence_numbers.items() if o not in gone},
        )
    )


def _without(block: IPAMBlock, ordinals: Collection[int]) -> tuple[int | None, ...]:
    return tuple(None if o in ordinals else index for o, index in enumerate(block.allocations))


def _compact(block: IPAMBlock) -> IPAMBlock:
    used = sorted({index for index in block.allocations if index is not None})
    if len(used) == len(block.attributes):
        return block
    moved: Mapping[int, int] = {index: place for place, index in enumerate(used)}
    return replace(
        block,
        allocations=tuple(None if index is None else moved[index] for index in block.allocations),
        attributes=tuple(block.attributes[index] for index in used if index < len(block.attributes)),
    )


def borrowed(block: IPAMBlock) -> list[Allocation]:
    """The addresses that a node other than the block's uses; all of them in a block that is nobody's.

    One that cools down is nobody's, and one whose writer did not name a node counts as the block's own.
    """
    return [a for a in allocations(block) if _borrows(block, a.attribute)]


def _borrows(block: IPAMBlock, owner: Attribute) -> bool:
    return not owner.released_at and (block.node is None or owner.secondary.get("node", "") not in ("", block.node))


def with_borrowed_label(block: IPAMBlock) -> IPAMBlock:
    """The block with the label ``projectcalico.org/borrowed`` if it has borrowed addresses, and without it if not."""
    labels = {key: value for key, value in block.meta.labels.items() if key != LABEL_BORROWED}
    if any(_borrows(block, owner) for owner in _owners(block)):
        labels[LABEL_BORROWED] = "true"
    if labels == block.meta.labels:
        return block
    return replace(block, meta=replace(block.meta, labels=labels))


def sealed(block: IPAMBlock) -> IPAMBlock:
    """The block as it is written: label right, sequence number one up."""
    return with_borrowed_label(replace(block, sequence_number=block.sequence_number + 1))


def block_problems(block: IPAMBlock) -> list[str]:
    """What is wrong with a block, in sentences; empty for every block that only these functions wrote."""
    found = []
    size = block.cidr.num_addresses
    if len(block.allocations) != size:
        return [f"allocations: found {len(block.allocations)} entries, expected {size}"]
    free = [o for o, index in enumerate(block.allocations) if index is None]
    if sorted(block.unallocated) != free:
        twice = sorted({o for o in block.unallocated if block.unallocated.count(o) > 1})
        off = sorted(set(block.unallocated).symmetric_difference(free))
        found.append(f"unallocated: ordinals {twice} are twice in it, ordinals {off} disagree with allocations")
    used = {index for index in block.allocations if index is not None}
    if used != set(range(len(block.attributes))):
        found.append(f"attributes: {len(block.attributes)} of them, but allocations refer to {sorted(used)}")
    if any(a == b for i, a in enumerate(block.attributes) for b in block.attributes[:i]):
        found.append("attributes: two are the same")
    if set(block.sequence_numbers) != set(range(size)) - set(free):
        found.append(
            f"sequenceNumberForAllocation: found ordinals {sorted(block.sequence_numbers)}, expected the held ones"
        )
    late = [o for o, n in block.sequence_numbers.items() if n > block.sequence_number]
    if late:
        found.append(f"sequenceNumberForAllocation: ordinals {late} exceed the block's {block.sequence_number}")
    return found
