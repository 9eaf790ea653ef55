"""How the addresses of a cluster are used: pools, blocks, and who has which. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from calico_py.ipam.blocks import allocations
from calico_py.ipam.choice import pool_of
from calico_py.model.blocks import IPAMBlock
from calico_py.model.names import warm_handle
from calico_py.model.pools import IPPool


@dataclass(frozen=True, slots=True)
class PoolUse:
    """One pool.

    Attributes:
        size: addresses; blocks: that are claimed; in_use, warm, cooling: addresses.
        free: addresses that nobody has, in blocks or out of them.
    """

    name: str
    cidr: str
    block_size: int
    disabled: bool
    size: int
    blocks: int
    in_use: int
    warm: int
    cooling: int
    free: int


@dataclass(frozen=True, slots=True)
class BlockUse:
    """One block; ``borrowed``: addresses that other nodes use."""

    cidr: str
    pool: str
    node: str
    size: int
    in_use: int
    warm: int
    cooling: int
    borrowed: int
    free: int


@dataclass(frozen=True, slots=True)
class AddressUse:
    """One address that is not free.

    Attributes:
        state: in use, warm, or cooling down.
        owner: the pod, or what else the handle stands for.
    """

    address: str
    block: str
    pool: str
    state: str
    owner: str
    node: str
    handle: str
    since: str


def use_of_blocks(blocks: Iterable[IPAMBlock], pools: Sequence[IPPool]) -> list[BlockUse]:
    """Each block, by address."""
    found = []
    for block in sorted(blocks, key=lambda b: (b.cidr.version, int(b.cidr.network_address))):
        uses = [use.state for use in use_of_addresses([block], pools)]
        pool = pool_of(pools, block.cidr)
        lent = [a for a in allocations(block) if not a.cooling and a.node not in ("", block.node)]
        found.append(
            BlockUse(
                str(block.cidr),
                pool.name if pool is not None else "",
                block.node or "",
                len(block.allocations),
                uses.count("in use"),
                uses.count("warm"),
                uses.count("cooling down"),
                len(lent),
                len(block.allocations) - len(uses),
            )
        )
    return found


def use_of_pools(blocks: Iterable[IPAMBlock], pools: Sequence[IPPool]) -> list[PoolUse]:
    """Each pool, by name; blocks outside all pools are in none."""
    uses = use_of_blocks(blocks, pools)
    found = []
    for pool in sorted(pools, key=lambda p: p.name):
        mine = [use for use in uses if use.pool == pool.name]
        in_use, warm = sum(use.in_use for use in mine), sum(use.warm for use in mine)
        cooling, size = sum(use.cooling for use in mine), pool.cidr.num_addresses
        found.append(
            PoolUse(
                pool.name,
                str(pool.cidr),
                pool.block_size,
                pool.disabled,
                size,
                len(mine),
                in_use,
                warm,
                cooling,
                size - in_use - warm - cooling,
            )
        )
    return found


def use_of_addresses(blocks: Iterable[IPAMBlock], pools: Sequence[IPPool]) -> Iterator[AddressUse]:
    """Each address that is not free, in the order of the blocks."""
    for block in blocks:
        pool = pool_of(pools, block.cidr)
        for a in allocations(block):
            note = a.attribute.secondary
            warm = bool(a.node) and a.handle == warm_handle(a.node)
            owner = f"{note.get('namespace', '')}/{note['pod']}" if note.get("pod") else note.get("type", "")
            yield AddressUse(
                str(a.address),
                str(block.cidr),
                pool.name if pool is not None else "",
                "cooling down" if a.cooling else "warm" if warm else "in use",
                owner,
                a.node,
                a.handle,
                a.attribute.released_at or note.get("timestamp", ""),
            )
