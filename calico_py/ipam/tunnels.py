"""The address of a node's tunnel device: which pools may give it, whether what it has is right, and a new one."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from calico_py.ipam.choice import pool_of, selects_node
from calico_py.ipam.facts import Facts
from calico_py.ipam.requests import Assigned, AssignRequest, Release, Released, Tunnel
from calico_py.model.net import Address
from calico_py.model.pools import AllowedUse, IPPool


def tunnel_pools(pools: Sequence[IPPool], tunnel: Tunnel, labels: Mapping[str, str]) -> list[IPPool]:
    """The pools whose traffic goes through the tunnel and that may give this node an address for it, by name."""
    return sorted(
        (
            pool
            for pool in pools
            if tunnel.served_by(pool)
            and not pool.disabled
            and AllowedUse.TUNNEL in pool.allowed_uses
            and pool.assignment_mode == "Automatic"
            and selects_node(pool, labels)
        ),
        key=lambda pool: pool.name,
    )


def keep_tunnel_address(found: Sequence[Assigned], pools: Sequence[IPPool]) -> Assigned | None:
    """Of the addresses that the device's handle holds the one that stays: the lowest that lies in one of the pools."""
    right = [a for a in found if pool_of(pools, a.address) is not None]
    return min(right, key=lambda a: int(a.address), default=None)


class Addresses(Protocol):
    """An allocator as far as a tunnel needs it."""

    async def lookup(self, handle_id: str) -> tuple[Assigned, ...]:
        """See Allocator."""
        ...

    async def assign(self, request: AssignRequest) -> tuple[Assigned, ...]:
        """See Allocator."""
        ...

    async def release(self, releases: Iterable[Release]) -> Released:
        """See Allocator."""
        ...

    async def release_handle(self, handle_id: str) -> int:
        """See Allocator."""
        ...


class TunnelAddresses:
    """Those of one node, one at a time."""

    def __init__(self, facts: Facts, allocator: Addresses) -> None:
        self._facts = facts
        self._allocator = allocator
        self._tunnelling = asyncio.Lock()

    async def ensure(self, tunnel: Tunnel) -> Address | None:
        """The address of this node's tunnel device: what it has if a pool of the tunnel contains that, or a new one.

        None where no pool of that tunnel selects the node; an address that it had is released then. What another owner
        holds is never touched.

        Raises:
            IPAMError: the pools have none left. StoreError: the API failed.
        """
        async with self._tunnelling:
            handle_id, pools = (
                tunnel.handle(self._facts.node),
                tunnel_pools(self._facts.pools(), tunnel, self._facts.labels()),
            )
            found = await self._allocator.lookup(handle_id)
            kept = keep_tunnel_address(found, pools)
            if kept is None and pools:
                request = AssignRequest(
                    handle_id,
                    {"type": str(tunnel)},
                    families=(tunnel.family,),
                    pools=tuple(pool.name for pool in pools),
                    use=AllowedUse.TUNNEL,
                )
                kept = (await self._allocator.assign(request))[0]
            await self._allocator.release(
                [Release(a.address, handle_id, a.sequence, a.block) for a in found if a != kept]
            )
            return kept.address if kept else None

    async def release(self, tunnel: Tunnel) -> int:
        """Release the address of this node's tunnel device; none is success."""
        async with self._tunnelling:
            return await self._allocator.release_handle(tunnel.handle(self._facts.node))
