"""The whole cluster's side of `calico-py status`: each node and each pool, as the API has them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

from calico_py.cli.ipam import read_cluster, run_with_store
from calico_py.ipam.audit import Cluster
from calico_py.ipam.census import use_of_blocks, use_of_pools
from calico_py.model.kinds import NODES
from calico_py.model.net import FAMILIES
from calico_py.model.nodes import Node
from calico_py.model.pools import EncapMode, IPPool
from calico_py.model.store import Store

_Row = Mapping[str, str | int]


def show_cluster(kubeconfig: str | None, output: str) -> None:
    """Ask the API and print.

    Raises:
        click.ClickException: the API cannot be asked.
    """
    found = run_with_store(kubeconfig, _read)
    if output == "json":
        click.echo(json.dumps(found, indent=2))
        return
    console = Console(soft_wrap=False)
    for title, rows in found.items():
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
        for column in rows[0] if rows else ("none",):
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(str(value) for value in row.values()))
        console.print(table)


async def _read(store: Store) -> Mapping[str, Sequence[_Row]]:
    nodes = (await store.list(NODES)).items
    return describe(nodes, await read_cluster(store))


def describe(nodes: Sequence[Node], cluster: Cluster) -> Mapping[str, Sequence[_Row]]:
    """Rows of the two tables."""
    blocks = use_of_blocks([block for block in cluster.view.blocks if not block.deleted], cluster.pools)

    def node_row(node: Node) -> _Row:
        mine = [block for block in blocks if block.node == node.name]
        return {
            "node": node.name,
            "address": _join(node.address(of) for of in FAMILIES) or "none yet",
            "receives": "IPIP" if node.ipip_tunnel is not None else "",
            "sends": _sends(node),
            "blocks": len(mine),
            "in use": sum(block.in_use for block in mine),
            "warm": sum(block.warm for block in mine),
        }

    def pool_row(pool: IPPool) -> _Row:
        (use,) = use_of_pools([b for b in cluster.view.blocks if not b.deleted], [pool])
        senders: dict[str, int] = {}
        for node in nodes:
            if node.sending and pool.name in node.sending:
                mode = node.sending[pool.name].mode
                senders[mode] = senders.get(mode, 0) + 1
        return {
            "pool": pool.name,
            "CIDR": str(pool.cidr),
            "mode": _mode(pool),
            "nodes send by": _join(f"{mode}: {count}" for mode, count in sorted(senders.items())),
            "blocks": use.blocks,
            "in use": use.in_use,
            "free": use.free,
        }

    return {
        "nodes": [node_row(node) for node in sorted(nodes, key=lambda node: node.name)],
        "pools": [pool_row(pool) for pool in sorted(cluster.pools, key=lambda pool: pool.name)],
    }


def _sends(node: Node) -> str:
    if node.sending is None:
        return "does not say"
    return _join(f"{pool}: {sending.mode}" for pool, sending in sorted(node.sending.items()))


def _mode(pool: IPPool) -> str:
    if pool.ipip_mode != EncapMode.NEVER:
        mode = f"IPIP {pool.ipip_mode}"
    elif pool.vxlan_mode != EncapMode.NEVER:
        mode = f"VXLAN {pool.vxlan_mode}"
    else:
        mode = "direct"
    return f"{mode}, disabled" if pool.disabled else mode


def _join(parts: Any) -> str:
    return ", ".join(str(part) for part in parts if part is not None)
