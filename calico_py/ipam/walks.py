"""The order in which a node looks through the blocks of a pool. Pure.

Each node starts elsewhere, so that nodes that look at the same time seldom want the same block, and always walks the
same way, so that its own tries meet. No node needs to know another's way: Calico's differs, and the two live together.
"""

import hashlib
import ipaddress
from collections.abc import Iterable, Iterator
from typing import Any, cast

from calico_py.model.net import Network, contains, network_at
from calico_py.model.pools import IPPool


def block_count(pool: IPPool) -> int:
    """How many blocks the pool has."""
    return 1 << max(0, pool.block_size - pool.cidr.prefixlen)


def walk_blocks(pool: IPPool, node: str, closed: Iterable[Network] = ()) -> Iterator[Network]:
    """Every block of the pool once, from a place that the node's name decides around to the one before it.

    Blocks that lie wholly in what is closed are left out, a range of them in one step: half of an IPv6 pool would be
    more than anybody can walk.
    """
    count = block_count(pool)
    width = pool.cidr.max_prefixlen - pool.block_size
    base = int(pool.cidr.network_address)
    of = ipaddress.IPv4Network if pool.cidr.version == 4 else ipaddress.IPv6Network
    digest = hashlib.sha256(f"{node} {pool.cidr}".encode()).digest()
    start = int.from_bytes(digest[:16]) % count
    left_out = [cidr for cidr in merge_networks(closed) if _overlaps(cidr, pool) and cidr.prefixlen <= pool.block_size]
    step = 0
    while step < count:
        index = (start + step) % count
        block = of((base + (index << width), pool.block_size))
        around = next((cidr for cidr in left_out if contains(cidr, block)), None)
        if around is None:
            yield block
            step += 1
        else:
            end = (int(around.broadcast_address) - base >> width) + 1
            step += min(end, count) - index


def occupied(taken: Iterable[Network], pool: IPPool) -> tuple[set[Network], list[Network]]:
    """Which blocks of the pool touch blocks that exist: of its own size or around smaller ones; and wider ones as such.

    A pool that was deleted and made again may have another block size than the blocks that pods still use.
    """
    used: set[Network] = set()
    wider: list[Network] = []
    for cidr in taken:
        if cidr.prefixlen == pool.block_size:
            used.add(cidr)
        elif cidr.version == pool.cidr.version and cidr.prefixlen > pool.block_size:
            used.add(network_at(cidr.network_address, pool.block_size))
        elif cidr.version == pool.cidr.version:
            wider.append(cidr)
    return used, wider


def merge_networks(some: Iterable[Network]) -> list[Network]:
    """The fewest networks with the same addresses: a network is wholly among them if one of these contains it."""
    networks = list(some)
    merged: list[Network] = []
    for version in (4, 6):
        merged += ipaddress.collapse_addresses(cast("Any", [each for each in networks if each.version == version]))
    return merged


def _overlaps(cidr: Network, pool: IPPool) -> bool:
    return contains(cidr, pool.cidr) or contains(pool.cidr, cidr)
