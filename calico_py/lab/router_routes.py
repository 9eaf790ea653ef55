"""What a lab's routers know of pods' blocks.

Nothing in a lab of one subnet, where a node without a route must not be helped by its gateway; nothing of IPv4 in one
that began with a tunnel, so that between subnets only encapsulated packets arrive. Else the way to each block, as
after peering them with the nodes: IPv6, which IPIP does not carry, and IPv4 in a lab that began with mode Never.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from calico_py.lab.commands import run
from calico_py.lab.topology import NodePlace, RouterPlace, Topology
from calico_py.model.net import Address, Network
from calico_py.model.pools import EncapMode


@dataclass(frozen=True, slots=True)
class RouterRoute:
    """A route of a router's namespace."""

    netns: str
    dst: Network
    via: Address


def compute_router_routes(topology: Topology, blocks: Mapping[Network, str]) -> frozenset[RouterRoute]:
    """The routes of all routers to the blocks that they know, given the node of each block. Pure."""
    if len(topology.routers) == 1:
        return frozenset()
    places = {place.name: place for place in topology.nodes}
    known = {
        block: places[node]
        for block, node in blocks.items()
        if node in places and (block.version == 6 or topology.spec.ipip == EncapMode.NEVER)
    }
    return frozenset(
        RouterRoute(router.netns, block, _next_hop(topology, router, place, block.version))
        for router in topology.routers
        for block, place in known.items()
    )


def _next_hop(topology: Topology, router: RouterPlace, place: NodePlace, version: int) -> Address:
    """The node itself on the router's own subnet, else the router of the node's."""
    if place.subnet == router.subnet:
        return place.ipv4.ip if version == 4 else place.ipv6.ip
    other = topology.routers[place.subnet - 1]
    return other.core4.ip if version == 4 else other.core6.ip


def apply_router_routes(wanted: frozenset[RouterRoute], present: frozenset[RouterRoute]) -> None:
    """Set what is missing and remove what nobody wants any more.

    Raises:
        LabError: ip(8) refused.
    """
    lines: dict[str, list[str]] = {}
    kept = {(route.netns, route.dst) for route in wanted}
    for route in present - wanted:
        if (route.netns, route.dst) not in kept:
            lines.setdefault(route.netns, []).append(f"route delete {route.dst}")
    for route in wanted - present:
        lines.setdefault(route.netns, []).append(f"route replace {route.dst} via {route.via}")
    for netns, batch in lines.items():
        run(["ip", "-n", netns, "-batch", "-"], stdin="".join(f"{line}\n" for line in sorted(batch)))
