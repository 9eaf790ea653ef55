"""The whole cluster's side of `calico-py status`: each node and each pool, as the API has them, and what is wrong."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from calico_py.cli.ipam_output import echo_data, echo_tables, is_text
from calico_py.cli.ipam_reading import read_cluster, read_rules, run_with_store
from calico_py.cli.ipam_show import pool_rows, used_parts
from calico_py.ipam.audit import Cluster
from calico_py.ipam.census import use_of_blocks
from calico_py.ipam.rules import config_problems
from calico_py.model.kinds import NODES
from calico_py.model.net import FAMILIES
from calico_py.model.nodes import Node
from calico_py.model.pools import EncapMode, IPPool
from calico_py.model.store import Store

_Row = Mapping[str, str | int]
_MODES = {"IPIP": "IPIP", "VXLAN": "VXLAN", "None": "direct"}  # by the annotation's word


def show_cluster(kubeconfig: str | None, output: str) -> int:
    """Ask the API and print; the exit status, 1 where something is wrong.

    Raises:
        UnreachableError: the API cannot be asked.
    """
    found = run_with_store(kubeconfig, _read)
    if is_text(output):
        rows = {title: some for title, some in found.items() if title != "problems"}
        echo_tables({title: used_parts(some) for title, some in rows.items()}, hidden=("size",))
        echo_tables({"problems": found["problems"]})
    else:
        echo_data(found, output)
    return 1 if found["problems"] else 0


async def _read(store: Store) -> Mapping[str, Sequence[_Row]]:
    nodes = (await store.list(NODES)).items
    rules = await read_rules(store)
    cluster = await read_cluster(store)
    found = describe(nodes, cluster)
    blocks = [block for block in cluster.view.blocks if not block.deleted]
    by_name = {row["name"]: row for row in pool_rows(blocks, cluster.pools, rules.reserved)}
    pools = [{**row, "free": by_name[row["pool"]]["free"]} for row in found["pools"]]
    settings = [_problem("IPAMConfiguration", "default", message) for message in config_problems(rules.config)]
    return {**found, "pools": pools, "problems": [*found["problems"], *settings]}


def describe(nodes: Sequence[Node], cluster: Cluster) -> Mapping[str, Sequence[_Row]]:
    """Rows of the tables."""
    standing = [block for block in cluster.view.blocks if not block.deleted]
    blocks = use_of_blocks(standing, cluster.pools)
    uses = {row["name"]: row for row in pool_rows(standing, cluster.pools, ())}

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
        use = uses[pool.name]
        senders: dict[str, int] = {}
        for node in nodes:
            if node.sending and pool.name in node.sending:
                mode = _mode_sent(node, pool)
                senders[mode] = senders.get(mode, 0) + 1
        return {
            "pool": pool.name,
            "CIDR": str(pool.cidr),
            "mode": _mode(pool),
            "nodes send by": _join(f"{mode}: {count}" for mode, count in sorted(senders.items())),
            "size": use["size"],
            "blocks": use["blocks"],
            "in use": use["in_use"],
            "free": use["free"],
        }

    return {
        "nodes": [node_row(node) for node in sorted(nodes, key=lambda node: node.name)],
        "pools": [pool_row(pool) for pool in sorted(cluster.pools, key=lambda pool: pool.name)],
        "problems": [*_problems_of_nodes(nodes, cluster.pools), *_invalid(cluster)],
    }


def _problems_of_nodes(nodes: Sequence[Node], pools: Sequence[IPPool]) -> Iterator[_Row]:
    """What keeps nodes from each other, as far as the API knows it; an agent knows more of its own node."""
    tunnelled = [pool.name for pool in pools if pool.ipip_mode != EncapMode.NEVER and not pool.disabled]
    for node in nodes:
        if node.ipv4 is None and node.ipv6 is None:
            yield _problem("Node", node.name, "has no address: is the agent running there? see its log")
        elif tunnelled and node.ipv4 is not None and node.ipip_tunnel is None:
            yield _problem(
                "Node",
                node.name,
                f"does not receive by IPIP, which pool {tunnelled[0]} wants: run `calico-py status` on it",
            )
        for sentence in node.invalid:
            yield _problem("Node", node.name, sentence)
    for pool in pools:
        late = [node.name for node in nodes if pool.ipip_mode == EncapMode.NEVER and _mode_sent(node, pool) == "IPIP"]
        if late:
            yield _problem(
                "IPPool",
                pool.name,
                f"wants no IPIP, and {_some(late)} still sends by it: a change of mode is going on, or it waits for "
                "BGP: run `calico-py status` there",
            )


def _invalid(cluster: Cluster) -> Iterator[_Row]:
    for kind, name, why in cluster.invalid:
        yield _problem(kind, name, f"cannot be read and is not used: {why}; mend or delete it")


def _problem(kind: str, name: str, message: str) -> _Row:
    return {"object": f"{kind} {name}", "what": message}


def _some(names: Sequence[str]) -> str:
    return f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else names[0]


def _sends(node: Node) -> str:
    """By pool, or in one word where it is the same for all."""
    if node.sending is None:
        return "does not say"
    modes = {pool: _MODES.get(sending.mode, sending.mode) for pool, sending in sorted(node.sending.items())}
    if len(set(modes.values())) == 1:
        return next(iter(modes.values()))
    return _join(f"{pool}: {mode}" for pool, mode in modes.items())


def _mode_sent(node: Node, pool: IPPool) -> str:
    sending = (node.sending or {}).get(pool.name)
    return _MODES.get(sending.mode, sending.mode) if sending is not None else ""


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
