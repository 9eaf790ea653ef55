"""plan: from Intent's destinations and what the kernel has to the routes that the kernel should have. Pure.

Two questions are answered here and nowhere else: by which device a gateway is reached (the underlay's routes say),
and which of a destination's candidates is taken (the first that may be installed afresh, can be resolved and carries,
or that the kernel has already, or had until something took it away).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from calico_py.dataplane.routes import OURS
from calico_py.model.bgp import LearnedRoutes
from calico_py.model.intent import (
    PROTO_BGP,
    Destination,
    Intent,
    RouteClass,
    RouteIntent,
)
from calico_py.model.kernel import (
    METRIC_IPV4,
    METRIC_IPV6,
    TABLE_MAIN,
    Link,
    NextHop,
    Route,
    RouteKey,
    RouteType,
)
from calico_py.model.net import Address, Network, network_at
from calico_py.steps import Steps, finish


@dataclass(frozen=True, slots=True)
class RoutePlan:
    """The routes to have, and why some are not to be had.

    Attributes:
        chosen: the candidate taken for each destination that has a route.
        waiting: what a destination waits for, in a sentence; also one that keeps an older way meanwhile.
        held: the way that each destination is on, also where it cannot be resolved for the moment: for the next plan.
    """

    desired: Mapping[RouteKey, Route]
    chosen: Mapping[Network, RouteIntent]
    waiting: Mapping[Network, str]
    held: Mapping[Network, RouteIntent] = field(default_factory=dict)


class UnresolvedError(Exception):
    """A route cannot be expressed in this kernel now; the message says why."""


def plan_routes(
    intent: Intent,
    links: Iterable[Link],
    routes: Iterable[Route],
    held: Mapping[Network, RouteIntent] = MappingProxyType({}),
) -> RoutePlan:
    """Choose and resolve a route for each destination.

    Args:
        intent: what the cluster asks for.
        links: all devices.
        routes: all routes of the kernel, ours and others'.
        held: the last plan's. A way that is only kept is put back by it when a person or a device that went down took
            it from the kernel, and follows when the way to its gateway changes; without it the kernel alone tells.
    """
    return finish(plan_steps(intent, links, routes, held))


def plan_steps(
    intent: Intent, links: Iterable[Link], routes: Iterable[Route], held: Mapping[Network, RouteIntent]
) -> Steps[RoutePlan]:
    """The same, with pauses."""
    routes = tuple(routes)
    underlay = Underlay(links, routes)
    installed = {route.key: route for route in routes if route.protocol in OURS}
    desired: dict[RouteKey, Route] = {}
    chosen: dict[Network, RouteIntent] = {}
    waiting: dict[Network, str] = {}
    still: dict[Network, RouteIntent] = {}
    for destination in intent.destinations.values():
        yield
        before = held.get(destination.dst)
        found, why = _choose(destination, underlay, installed, before)
        if why:
            waiting[destination.dst] = why
        if found is not None:
            way, route = found
            chosen[destination.dst] = way
            desired[route.key] = route
            still[destination.dst] = way
        elif before is not None and any(candidate.route == before for candidate in destination.candidates):
            still[destination.dst] = before
    return RoutePlan(desired, chosen, waiting, still)


def _choose(
    destination: Destination,
    underlay: "Underlay",
    installed: Mapping[RouteKey, Route],
    before: RouteIntent | None,
) -> tuple[tuple[RouteIntent, Route] | None, str]:
    why = destination.waiting
    taken_away: tuple[RouteIntent, Route] | None = None
    for candidate in destination.candidates:
        try:
            route = underlay.resolve(candidate.route)
        except UnresolvedError as error:
            if candidate.fresh:
                why = why or str(error)
            continue
        if installed.get(route.key) == route:
            return (candidate.route, route), why
        if candidate.fresh and (candidate.route == before or underlay.carries(candidate.route)):
            return (candidate.route, route), why
        if candidate.fresh:
            why = why or f"no tunnel engine is attached to {candidate.route.device} yet: start `calico-py tunnel`"
        if candidate.route == before:
            taken_away = candidate.route, route
    return taken_away, why or "no way to it"


class Underlay:
    """How gateways are reached: by the routes that are not ours."""

    def __init__(self, links: Iterable[Link], routes: Iterable[Route]) -> None:
        self._links = {link.name: link for link in links}
        self._by_length: dict[int, dict[int, dict[Network, Route]]] = {4: {}, 6: {}}
        for route in routes:
            if route.protocol in OURS or route.table != TABLE_MAIN or route.type != RouteType.UNICAST:
                continue
            same_length = self._by_length[route.dst.version].setdefault(route.dst.prefixlen, {})
            rival = same_length.get(route.dst)
            if rival is None or route.metric < rival.metric:
                same_length[route.dst] = route
        self._memo: dict[tuple[Address, bool], NextHop] = {}

    def resolve(self, intent: RouteIntent) -> Route:
        """The kernel's route for an intent.

        Raises:
            UnresolvedError: the device is missing, no route leads to any gateway, or the destination is a network that
                the node is connected to.
        """
        dst = intent.dst
        if intent.route_class == RouteClass.BGP:
            self._refuse_connected(dst)
        return Route(
            dst=dst,
            type=RouteType.BLACKHOLE if intent.route_class == RouteClass.BLACKHOLE else RouteType.UNICAST,
            next_hops=self._next_hops(intent),
            protocol=intent.protocol,
            metric=METRIC_IPV4 if dst.version == 4 else METRIC_IPV6,
        )

    def carries(self, intent: RouteIntent) -> bool:
        """Whether packets by that way go on: a TUN device without its engine swallows them.

        A route that is there already stays all the same, since the engine of a device that had one comes back.
        """
        link = self._links.get(intent.device)
        return link is None or link.kind != "tun" or link.running

    def _refuse_connected(self, dst: Network) -> None:
        """Ours would win over one with a metric, as NetworkManager and DHCP clients make them."""
        own = self._by_length[dst.version].get(dst.prefixlen, {}).get(dst)
        if own is not None and dst.prefixlen and own.next_hops and own.next_hops[0].gateway is None:
            names = {link.ifindex: name for name, link in self._links.items()}
            device = names.get(own.next_hops[0].ifindex, "a device of this node")
            what = f"{dst} is connected to {device}: what a peer announces does not take its place"
            raise UnresolvedError(f"{what}; give that device another network, or the pool")

    def _next_hops(self, intent: RouteIntent) -> tuple[NextHop, ...]:
        """Each once. One that cannot be reached is left out as long as another can (RFC 4271 9.1.2.1)."""
        found: set[NextHop] = set()
        problem: UnresolvedError | None = None
        for via in intent.via:
            try:
                found.add(self._next_hop(intent, via))
            except UnresolvedError as error:
                problem = error
        if problem is not None and not found:
            raise problem
        return tuple(sorted(found))

    def _next_hop(self, intent: RouteIntent, via: Address) -> NextHop:
        if intent.route_class == RouteClass.TUNNEL:
            link = self._links.get(intent.device)
            if link is None or not link.up:
                state = "does not exist" if link is None else "is down"
                raise UnresolvedError(f"device {intent.device} {state} (yet); the agent makes it and sets it up")
            return NextHop(link.ifindex, via, onlink=True)
        direct_only = intent.route_class == RouteClass.DIRECT
        key = (via, direct_only)
        if key not in self._memo:
            self._memo[key] = self._lookup(via, direct_only=direct_only)
        return self._memo[key]

    def _lookup(self, via: Address, *, direct_only: bool) -> NextHop:
        route = self._longest_match(via)
        if route is None:
            raise UnresolvedError(f"no route of this node leads to {via}: check the uplink's address and routes")
        hop = route.next_hops[0]
        if hop.gateway is None:
            return NextHop(hop.ifindex, via)
        if direct_only:
            what = f"{via} is reached through the router {hop.gateway}, not on a connected network"
            raise UnresolvedError(f"{what}: give the uplink its network back, or set ipipMode to Always")
        return NextHop(hop.ifindex, hop.gateway, hop.onlink)

    def _longest_match(self, address: Address) -> Route | None:
        lengths = self._by_length[address.version]
        for length in sorted(lengths, reverse=True):
            route = lengths[length].get(network_at(address, length))
            if route is not None and route.next_hops:
                return route
        return None


def sweep_rule(intent: Intent, learned: LearnedRoutes) -> Callable[[Route], bool]:
    """Which routes of ours may be removed when no destination wants them.

    Routes from the API at once (this is only asked after API in-sync). A route learned by BGP when the peer that is
    its gateway is in-sync; one through another gateway (a router between subnets) when all peers are.
    """
    peers = {peer.address for peer in intent.peers}
    all_in_sync = peers <= learned.in_sync

    def may_sweep(route: Route) -> bool:
        if route.protocol != PROTO_BGP or all_in_sync:
            return True
        gateways = {hop.gateway for hop in route.next_hops}
        return bool(gateways) and gateways <= learned.in_sync

    return may_sweep
