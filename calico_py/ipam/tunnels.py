"""Which pools may give a node's tunnel device its address, and whether one that it has is still right. Pure."""

from collections.abc import Mapping, Sequence

from calico_py.ipam.choice import pool_of, selects_node
from calico_py.ipam.requests import Assigned, Tunnel
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
