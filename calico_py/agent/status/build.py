"""build_status: from what the agent knows to what it says of itself. Pure."""

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from calico_py.agent.addresses import Choice
from calico_py.agent.configuration.config import AgentConfig
from calico_py.agent.mtu import MtuChoice
from calico_py.agent.receiver import Receiver
from calico_py.agent.status.shape import (
    AddressStatus,
    ApiStatus,
    BgpStatus,
    BlockStatus,
    MtuStatus,
    PathStatus,
    PeerStatus,
    PoolStatus,
    ProblemStatus,
    RoutesStatus,
    RouteStatus,
    SettingStatus,
    Status,
    TunnelStatus,
    WatchStatus,
)
from calico_py.agent.view import Watched
from calico_py.dataplane.converge import Applied
from calico_py.dataplane.sysctls import Touched
from calico_py.model.bgp import LearnedRoute, Peer, Session, SessionState
from calico_py.model.blocks import IPAMBlock
from calico_py.model.cluster import ClusterState
from calico_py.model.intent import Destination, Intent, Problem, RouteIntent
from calico_py.model.kernel import Route
from calico_py.model.net import FAMILIES, Address, Family, Network
from calico_py.model.nodes import Sending
from calico_py.routing.pools import select_pools


@dataclass(frozen=True, slots=True)
class StatusInputs:
    """What build_status looks at.

    Attributes:
        now, started: Unix times, seconds.
        applied: what the last apply found; None before the first.
        sessions: by the peer's address, ``since`` as Unix time.
        in_sync_peers: whose views are complete.
        differences: pools that differ from the environment.
        problems: all others, of objects; failures: sentences of no object.
        devices: names by ifindex, for the routes.
    """

    config: AgentConfig
    version: str
    now: float
    started: float
    server: str
    watched: Sequence[Watched]
    state: ClusterState
    intent: Intent
    applied: Applied | None
    choices: Mapping[Family, Choice]
    receiver: Receiver
    senders: frozenset[str]
    mtu: MtuChoice
    uplinks: Mapping[Family, int] = field(default_factory=dict)
    sessions: Mapping[Address, Session] = field(default_factory=dict)
    in_sync_peers: frozenset[Address] = frozenset()
    as_number: int = 0
    router_id: str = ""
    learned: int = 0
    learned_routes: Mapping[Network, LearnedRoute] = field(default_factory=dict)
    speaker_problem: str = ""
    leader: str = ""
    not_ready: Sequence[str] = ()
    differences: Sequence[Problem] = ()
    problems: Sequence[Problem] = ()
    failures: Sequence[str] = ()
    touched: Sequence[Touched] = ()
    devices: Mapping[int, str] = field(default_factory=dict)


def build_status(inputs: StatusInputs) -> Status:
    """The status of this node now."""
    config = inputs.config
    problems = [_problem(problem) for problem in inputs.problems]
    problems += [ProblemStatus("", "", "", failure) for failure in inputs.failures]
    without_effect = dict(config.ignored or {})
    without_effect |= dict.fromkeys(_ignored_fields(inputs.state, config.node), "calico-py does not act on it")
    return Status(
        node=config.node,
        version=inputs.version,
        started=_stamp(inputs.started),
        now=_stamp(inputs.now),
        not_ready=list(inputs.not_ready),
        leader=inputs.leader,
        addresses=[_address(family, inputs.choices.get(family)) for family in FAMILIES],
        api=ApiStatus(
            inputs.server,
            bool(inputs.watched) and all(watch.in_sync for watch in inputs.watched),
            [WatchStatus(watch.plural, watch.in_sync, watch.objects, watch.error) for watch in inputs.watched],
        ),
        pools=list(_pools(inputs)),
        blocks=list(_blocks(inputs)),
        tunnel=_tunnel(inputs),
        mtu=MtuStatus(inputs.mtu.mtu, inputs.mtu.reason, {f"IPv{fam}": mtu for fam, mtu in inputs.uplinks.items()}),
        bgp=_bgp(inputs),
        routes=_routes(inputs),
        problems=problems,
        environment=[*(problem.message for problem in inputs.differences), *config.warnings],
        settings_touched=[SettingStatus(found.name, found.original, found.given) for found in inputs.touched],
        without_effect=without_effect,
    )


def _ignored_fields(state: ClusterState, node: str) -> Iterator[str]:
    """Fields that configuration objects set for this node and that have no effect."""
    own = state.node_bgp.get(node)
    for found in (state.bgp, *([own] if own is not None else [])):
        name = "" if found is state.bgp else f" {found.meta.name}"
        yield from (f"BGPConfiguration{name} spec.{field}" for field in found.ignored)
    yield from (f"FelixConfiguration spec.{field}" for field in state.felix.ignored)


def _address(family: Family, choice: Choice | None) -> AddressStatus:
    if choice is None:
        return AddressStatus(family, "", "", "not looked up yet")
    return AddressStatus(family, str(choice.address or ""), choice.device, choice.reason)


def _pools(inputs: StatusInputs) -> Iterator[PoolStatus]:
    own = inputs.state.nodes.get(inputs.config.node)
    sending = (own.sending if own is not None else None) or {}
    for pool in sorted(inputs.state.pools.values(), key=lambda pool: pool.name):
        sent = sending.get(pool.name, Sending("", ""))
        yield PoolStatus(
            name=pool.name,
            cidr=str(pool.cidr),
            block_size=pool.block_size,
            ipip_mode=str(pool.ipip_mode),
            vxlan_mode=str(pool.vxlan_mode),
            nat_outgoing=pool.nat_outgoing,
            disabled=pool.disabled,
            used=pool.cidr in inputs.intent.firewall.pools,
            sending=sent.mode,
            since=sent.since,
        )


def _blocks(inputs: StatusInputs) -> Iterator[BlockStatus]:
    """The claims of this node, and blocks of others in which it has addresses."""
    own = inputs.config.node
    state = inputs.state
    pools = select_pools(state.pools.values())
    claimed: dict[Network, str] = {
        claim.cidr: str(claim.state) for claim in state.affinities.values() if claim.node == own and not claim.deleted
    }
    borrowed = {
        block.cidr: f"borrowed from {block.node or 'nobody'}"
        for block in state.blocks.values()
        if block.cidr not in claimed and any(attr.secondary.get("node") == own for attr in block.attributes)
    }
    for cidr, how in sorted((claimed | borrowed).items(), key=lambda item: (item[0].version, item[0])):
        pool = pools.find(cidr)
        yield BlockStatus(
            str(cidr),
            pool.name if pool is not None else "",
            how,
            cidr.num_addresses,
            _in_use(state.blocks.get(cidr), own, how),
        )


def _in_use(block: IPAMBlock | None, own: str, how: str) -> int:
    if block is None:
        return -1
    held = [block.attributes[index] for index in block.allocations if index is not None]
    return sum(1 for attr in held if not how.startswith("borrowed") or attr.secondary.get("node") == own)


def _tunnel(inputs: StatusInputs) -> TunnelStatus:
    ipip = inputs.applied.ipip if inputs.applied is not None else None
    own = inputs.state.nodes.get(inputs.config.node)
    wanted = inputs.intent.ipip
    return TunnelStatus(
        device=wanted.device if wanted is not None else "",
        engine=str(ipip.engine) if ipip is not None else "none",
        reason=ipip.reason if ipip is not None else "",
        address=str(wanted.address or "") if wanted is not None else "",
        up=ipip is not None and ipip.up,
        attached=ipip is not None and ipip.running,
        phase=str(inputs.receiver.phase),
        announced=own is not None and own.ipip_tunnel is not None,
        senders=sorted(inputs.senders),
        problem=ipip.problem if ipip is not None else "",
    )


def _bgp(inputs: StatusInputs) -> BgpStatus:
    return BgpStatus(
        backend=str(inputs.config.backend),
        as_number=inputs.as_number,
        router_id=inputs.router_id,
        speaker_problem=inputs.speaker_problem if inputs.config.bgp else "",
        announced=_sorted_text(advertisement.nlri for advertisement in inputs.intent.advertisements),
        learned=inputs.learned,
        peers=[_peer(inputs, peer) for peer in sorted(inputs.intent.peers, key=lambda peer: peer.name)],
        paths=[_path(route) for route in sorted(inputs.learned_routes.values(), key=_by_prefix)],
    )


def _by_prefix(route: LearnedRoute) -> tuple[int, int, int]:
    return route.nlri.version, int(route.nlri.network_address), route.nlri.prefixlen


def _path(route: LearnedRoute) -> PathStatus:
    steps = (f"{{{' '.join(map(str, step))}}}" if isinstance(step, tuple) else str(step) for step in route.best.as_path)
    return PathStatus(
        prefix=str(route.nlri),
        next_hops=[str(hop) for hop in route.next_hops],
        peer=str(route.best.peer),
        as_path=" ".join(steps),
        reason=str(route.reason),
        stale=route.best.stale,
    )


def _peer(inputs: StatusInputs, peer: Peer) -> PeerStatus:
    session = inputs.sessions.get(peer.address)
    return PeerStatus(
        name=peer.name,
        address=str(peer.address),
        as_number=peer.peer_as,
        state=str(session.state if session is not None else SessionState.IDLE),
        since=_stamp(session.since) if session is not None and session.since else "",
        received=session.received if session is not None else 0,
        in_sync=peer.address in inputs.in_sync_peers,
        last_error=session.last_error if session is not None else "",
    )


def _routes(inputs: StatusInputs) -> RoutesStatus:
    applied = inputs.applied
    desired = {route.dst: route for route in applied.plan.desired.values()} if applied is not None else {}
    ordered = sorted(inputs.intent.destinations.values(), key=lambda found: (found.dst.version, found.dst))
    routes = [_route(inputs, destination, desired.get(destination.dst)) for destination in ordered]
    installed = sum(1 for route in routes if route.state == "installed")
    return RoutesStatus(len(desired), installed, routes)


def _route(inputs: StatusInputs, destination: Destination, desired: Route | None) -> RouteStatus:
    applied = inputs.applied
    chosen = applied.plan.chosen.get(destination.dst) if applied is not None else None
    waiting = applied.plan.waiting.get(destination.dst, "") if applied is not None else destination.waiting
    state = "none"
    if applied is not None and desired is not None:
        failure = applied.failures.get(desired.key, "")
        state = "installed" if applied.installed.get(desired.key) == desired else "failed" if failure else "pending"
        waiting = waiting or failure
    return RouteStatus(
        dst=str(destination.dst),
        pool=destination.pool,
        node=destination.node,
        way=str(chosen.route_class) if chosen is not None else "",
        via=_via(chosen, desired, inputs.devices) if chosen is not None else "",
        state=state,
        waiting=waiting,
    )


def _via(chosen: RouteIntent, desired: Route | None, devices: Mapping[int, str]) -> str:
    hops = desired.next_hops if desired is not None else ()
    texts = []
    for hop in hops:
        device = devices.get(hop.ifindex, chosen.device)
        texts.append(" ".join(part for part in (str(hop.gateway or ""), f"dev {device}" if device else "") if part))
    return ", ".join(texts or map(str, chosen.via))


def _problem(problem: Problem) -> ProblemStatus:
    return ProblemStatus(problem.kind, problem.name, problem.reason, problem.message)


def _sorted_text(networks: Iterable[Network]) -> list[str]:
    return [str(network) for network in sorted(networks, key=lambda found: (found.version, found))]


def _stamp(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
