"""BGP as the cluster wants it: the sessions of this node and what it announces."""

import hashlib
from collections.abc import Iterable
from ipaddress import IPv4Address

from calico_py.model.bgp import DEFAULT_AS, DEFAULT_PORT, Advertisement, Peer
from calico_py.model.cluster import ClusterState
from calico_py.model.net import FAMILIES
from calico_py.model.nodes import Node
from calico_py.routing.holders import Holder
from calico_py.routing.pools import Pools
from calico_py.steps import Steps, finish


def as_number(state: ClusterState, node: Node) -> int:
    """The node's own AS: its annotation, then BGPConfiguration node.NAME, then the default one."""
    config = state.node_bgp.get(node.name, state.bgp)
    return node.as_number or config.as_number or state.bgp.as_number or DEFAULT_AS


def listen_port(state: ClusterState, node: Node) -> int:
    """Where the node listens: BGPConfiguration node.NAME, then the default one."""
    config = state.node_bgp.get(node.name, state.bgp)
    return config.listen_port or state.bgp.listen_port or DEFAULT_PORT


def router_id(node: Node, setting: str = "") -> str:
    """What a person set, else the IPv4 address, else the first four bytes of sha256 of the name (Calico's ``hash``)."""
    if setting not in ("", "hash"):
        return setting
    if node.ipv4 is not None and setting != "hash":
        return str(node.ipv4.ip)
    return str(IPv4Address(hashlib.sha256(node.name.encode()).digest()[:4]))


def compute_peers(state: ClusterState, me: Node, own_router_id: str = "") -> frozenset[Peer]:
    """The full mesh: one session for each other node and family that both have.

    Both sides connect (docs/decisions.md). Of nodes with one address the first by name counts, this one before all.
    """
    return finish(peer_steps(state, me, own_router_id))


def peer_steps(state: ClusterState, me: Node, own_router_id: str = "") -> Steps[frozenset[Peer]]:
    """The same, with pauses."""
    if not state.bgp.mesh_enabled or me.rr_cluster_id:
        return frozenset()
    peers = set()
    taken = {address.ip for address in map(me.address, FAMILIES) if address is not None}
    for node in sorted(state.nodes.values(), key=lambda node: node.name):
        yield
        if node.name == me.name or node.rr_cluster_id:
            continue
        for fam in FAMILIES:
            own, other = me.address(fam), node.address(fam)
            if own is None or other is None or other.ip in taken:
                continue
            taken.add(other.ip)
            peers.add(
                Peer(
                    name="Mesh_" + str(other.ip).replace(".", "_").replace(":", "_"),
                    address=other.ip,
                    local_address=own.ip,
                    local_as=as_number(state, me),
                    peer_as=as_number(state, node),
                    router_id=router_id(me, own_router_id),
                    port=listen_port(state, node),
                    listen_port=listen_port(state, me),
                )
            )
    return frozenset(peers)


def compute_advertisements(holders: Iterable[Holder], pools: Pools, me: Node) -> frozenset[Advertisement]:
    """The prefixes that this node holds, in every mode, except of pools that forbid export."""
    out = set()
    for holder in holders:
        if holder.node != me.name:
            continue
        pool = pools.find(holder.prefix)
        if pool is None or not pool.disable_bgp_export:
            out.add(Advertisement(holder.prefix))
    return frozenset(out)
