"""The lines that decide a route: for one prefix, by which ways it may be reached, best first, and what is missing.

The table that this follows is Calico 3.33's split (docs/architecture.md): tunnels and CrossSubnet's direct routes
come from the API; a pool without encapsulation is BGP's, or the API's where ``programClusterRoutes`` says so.
A way that may not be installed afresh is still kept where the kernel has it: so a mode change is make-before-break.
"""

from dataclasses import dataclass

from calico_py.model.bgp import LearnedRoute
from calico_py.model.intent import Candidate, Destination, RouteClass, RouteIntent
from calico_py.model.names import IPIP_DEVICE, NODE_IPV4_IPIP_TUNNEL
from calico_py.model.net import Address, Interface, Network, family
from calico_py.model.nodes import Node
from calico_py.model.pools import EncapMode, IPPool


@dataclass(frozen=True, slots=True)
class Programmers:
    """Who programs routes without encapsulation (``programClusterRoutes`` of both objects)."""

    api: bool
    bgp: bool


def decide_destination(
    prefix: Network,
    *,
    pool: IPPool | None,
    me: Node,
    remote: Node | None,
    remote_name: str,
    learned: LearnedRoute | None,
    programmers: Programmers,
) -> Destination:
    """The ways from this node to a prefix that another node holds.

    A prefix outside every pool (its pool was deleted, its pods live on) counts as one of mode Never.
    """
    ways, waiting = _ways(
        prefix, pool=pool, me=me, remote=remote, remote_name=remote_name, learned=learned, programmers=programmers
    )
    return Destination(prefix, ways, waiting, pool=pool.name if pool else "", node=remote_name)


def _ways(
    prefix: Network,
    *,
    pool: IPPool | None,
    me: Node,
    remote: Node | None,
    remote_name: str,
    learned: LearnedRoute | None,
    programmers: Programmers,
) -> tuple[tuple[Candidate, ...], str]:
    bgp = bgp_route(learned) if learned is not None else None
    far = remote.address(family(prefix)) if remote is not None else None
    if remote is None or far is None:
        missing = "has no Node object" if remote is None else f"has not published its IPv{prefix.version} address"
        if bgp is not None and _bgp_decides(pool, programmers):
            return (Candidate(bgp),), ""
        return (), f"node {remote_name} {missing}: its calico-py agent writes it; is it running?"
    direct = RouteIntent(prefix, RouteClass.DIRECT, (far.ip,))
    tunnel = RouteIntent(prefix, RouteClass.TUNNEL, (far.ip,), IPIP_DEVICE)
    near = same_subnet(me.address(family(prefix)), far.ip)
    if pool is not None and pool.vxlan_mode != EncapMode.NEVER:
        why = f"IPPool {pool.name}: spec.vxlanMode {pool.vxlan_mode} has no data plane in this version; use ipipMode"
        return _kept(tunnel, direct, bgp), why
    if pool is not None and _tunnels(pool, near=near):
        ready = remote.ipip_tunnel is not None
        lacks = f"node {remote_name} has no IPIP receiver yet (annotation {NODE_IPV4_IPIP_TUNNEL})"
        waiting = "" if ready else f"{lacks}: its own `calico-py status` says why"
        return (Candidate(tunnel, fresh=ready), *_kept(bgp, direct)), waiting
    crosses = pool is not None and pool.ipip_mode == EncapMode.CROSS_SUBNET
    if crosses or programmers.api:
        if near:
            return (Candidate(direct), *_kept(tunnel, bgp)), ""
        why = (
            f"node {remote_name} ({far}) is not on this node's subnet, and routes from the API without encapsulation "
            "need one: set ipipMode CrossSubnet, or let BGP program them"
        )
        return _kept(tunnel, bgp), why
    if not programmers.bgp:
        nobody = "programClusterRoutes leaves routes without encapsulation to nobody: see the problem of that name"
        return _kept(tunnel, direct, bgp), nobody
    if bgp is not None:
        return (Candidate(bgp), *_kept(tunnel, direct)), ""
    missing = f"waiting for BGP: no peer has announced {prefix} of node {remote_name}"
    return _kept(tunnel, direct), f"{missing}; see why its session is not up, or what it announces (`calico-py bgp`)"


def bgp_route(learned: LearnedRoute) -> RouteIntent:
    """The route that BGP's decision asks for."""
    return RouteIntent(learned.nlri, RouteClass.BGP, learned.next_hops)


def installs_learned(pool: IPPool | None, programmers: Programmers) -> bool:
    """Whether a prefix that BGP announces and the API does not name is installed: not inside an API-fed pool."""
    return pool is None or _bgp_decides(pool, programmers)


def same_subnet(own: Interface | None, other: Address) -> bool:
    """Whether the other address lies in the subnet of this node's own."""
    return own is not None and own.version == other.version and other in own.network


def _bgp_decides(pool: IPPool | None, programmers: Programmers) -> bool:
    return programmers.bgp and not programmers.api and (pool is None or not pool.tunnels)


def _tunnels(pool: IPPool, *, near: bool) -> bool:
    return pool.ipip_mode == EncapMode.ALWAYS or (pool.ipip_mode == EncapMode.CROSS_SUBNET and not near)


def _kept(*routes: RouteIntent | None) -> tuple[Candidate, ...]:
    return tuple(Candidate(route, fresh=False) for route in routes if route is not None)
