"""The order in which a node looks through the blocks of a pool. Pure.

Each node starts elsewhere, so that nodes that look at the same time seldom want the same block, and always walks the
same way, so that its own tries meet. No node needs to know another's way: Calico's differs, and the two live together.
"""

import hashlib
import ipaddress
from collections.abc import Iterator

from calico_py.model.net import Network
from calico_py.model.pools import IPPool


def block_count(pool: IPPool) -> int:
    """How many blocks the pool has."""
    return 1 << max(0, pool.block_size - pool.cidr.prefixlen)


def walk_blocks(pool: IPPool, node: str) -> Iterator[Network]:
    """Every block of the pool once, from a place that the node's name decides around to the one before it."""
    count = block_count(pool)
    width = pool.cidr.max_prefixlen - pool.block_size
    base = int(pool.cidr.network_address)
    of = ipaddress.IPv4Network if pool.cidr.version == 4 else ipaddress.IPv6Network
    digest = hashlib.sha256(f"{node} {pool.cidr}".encode()).digest()
    start = int.from_bytes(digest[:16]) % count
    for step in range(count):
        yield of((base + ((start + step) % count << width), pool.block_size))
