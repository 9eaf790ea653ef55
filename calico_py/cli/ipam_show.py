"""The rows of `calico-py ipam show`. Pure."""

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from ipaddress import collapse_addresses
from typing import Any

from calico_py.cli.ipam_output import share
from calico_py.cli.ipam_reading import Rules
from calico_py.ipam.census import AddressUse, use_of_addresses, use_of_pools
from calico_py.ipam.choice import pool_of
from calico_py.ipam.rules import block_limit_of, cooldown_of, may_press
from calico_py.model.blocks import IPAMBlock
from calico_py.model.net import Network, parse_address
from calico_py.model.pools import IPPool

_PARTS = ("in_use", "warm", "free")  # of size


def pool_rows(
    blocks: Sequence[IPAMBlock], pools: Sequence[IPPool], reserved: Collection[Network]
) -> list[dict[str, Any]]:
    """Each pool: its size, and what of it is in use, warm, cooling down, reserved though nobody has it, and free."""
    taken = [parse_address(use.address, field="") for use in use_of_addresses(blocks, pools)]
    rows = []
    for use, pool in zip(use_of_pools(blocks, pools), sorted(pools, key=lambda each: each.name), strict=True):
        kept = _within(pool.cidr, reserved)
        held_back = sum(cidr.num_addresses - sum(address in cidr for address in taken) for cidr in kept)
        row = dataclasses.asdict(use)
        free = row.pop("free") - held_back
        rows.append({**row, "reserved": held_back, "free": free})
    return rows


def _within(cidr: Network, reserved: Iterable[Network]) -> list[Network]:
    """The parts of a network that are reserved, none twice."""
    near = [each for each in reserved if each.version == cidr.version and each.overlaps(cidr)]
    inner: list[Any] = [each if each.prefixlen >= cidr.prefixlen else cidr for each in near]
    return list(collapse_addresses(inner))


def borrowed_rows(blocks: Iterable[IPAMBlock], uses: Iterable[AddressUse]) -> list[dict[str, Any]]:
    """Each address that is used on another node than its block's."""
    owners = {str(block.cidr): block.node or "nobody" for block in blocks}
    return [
        {
            "address": use.address,
            "block": use.block,
            "block's node": owners[use.block],
            "used on": use.node,
            "owner": use.owner,
        }
        for use in uses
        if use.state != "cooling down" and use.node not in ("", owners[use.block])
    ]


def configuration_rows(rules: Rules) -> list[dict[str, Any]]:
    """The settings, and what each comes to where it is absent."""
    config = rules.config
    cooldown = f"{cooldown_of(config).total_seconds():g} s"
    if may_press(config):
        cooldown += " (the default), less where no other address is left"
    limit = f"{block_limit_of(config)} blocks of a family"
    return [
        {"setting": "strictAffinity", "value": config.strict_affinity, "means": _strict(config.strict_affinity)},
        {
            "setting": "autoAllocateBlocks",
            "value": config.auto_allocate_blocks,
            "means": "a node claims blocks as it needs them" if config.auto_allocate_blocks else "no block is claimed",
        },
        {"setting": "maxBlocksPerHost", "value": config.max_blocks_per_host, "means": f"a node claims at most {limit}"},
        {
            "setting": "ipCooldownSeconds",
            "value": "absent" if config.ip_cooldown_seconds is None else config.ip_cooldown_seconds,
            "means": f"an address rests for {cooldown}",
        },
        {
            "setting": "leakGracePeriod",
            "value": f"{rules.grace.total_seconds():g} s",
            "means": "what looks leaked for so long is freed" if rules.grace else "nothing leaked is freed",
        },
    ]


def _strict(strict: bool) -> str:
    return "a node never borrows" if strict else "a node whose blocks are full and that can claim none borrows"


def used_parts(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same rows for people: numbers of addresses with their part of the whole."""
    return [
        {key: share(value, row["size"]) if key in _PARTS and "size" in row else value for key, value in row.items()}
        for row in rows
    ]


def who_has(text: str, uses: Iterable[AddressUse], pools: Iterable[IPPool]) -> str:
    """Who has an address, as a sentence."""
    use = next((each for each in uses if each.address == text), None)
    if use is None:
        pool = pool_of(pools, parse_address(text, field=""))
        return f"{text} is free in pool {pool.name}: nobody has it" if pool is not None else f"{text} is in no pool"
    whose = f" by {use.owner}" if use.owner else ""
    node = f" on node {use.node}" if use.node else ""
    handle = f", handle {use.handle}" if use.handle else ""
    since = f", since {use.since}" if use.since else ""
    return f"{use.address} is {use.state}{whose}{node} (pool {use.pool or 'none'}, block {use.block}{handle}{since})"
