"""RouteReconciler: the routes to other nodes' blocks, and the blackholes of this node's own.

What is ours after a restart with no memory: routes of table main with protocol 80 (from the API) or 81 (from BGP).
Whatever has another protocol, or is in another table, is not touched; where such a route holds a key that we need,
ours is refused with a sentence, and waits until it is gone.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

from calico_py.dataplane import refusals
from calico_py.dataplane.delta import DeltaTracker
from calico_py.model.intent import PROTO_API, PROTO_BGP
from calico_py.model.kernel import (
    TABLE_MAIN,
    Addr,
    Change,
    Delete,
    Kernel,
    KernelError,
    KernelEvent,
    Link,
    Put,
    Route,
    RouteKey,
)

OURS = frozenset({PROTO_API, PROTO_BGP})

_SHOWN = 5  # sentences in the log for one apply

_log = logging.getLogger(__name__)


def is_ours(route: Route) -> bool:
    """Whether the route is one that calico-py made."""
    return route.protocol in OURS and route.table == TABLE_MAIN


class RouteReconciler:
    """Makes the kernel's routes those that are desired.

    Handlers and set_desired only remember; apply alone writes. One task at a time may be in apply or resync, others
    may call the handlers meanwhile: what is sent counts as done at once, so that an event which contradicts it is
    never taken for older than it is.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._tracker: DeltaTracker[RouteKey, Route] = DeltaTracker()
        self._devices: set[int] = set()  # by which routes of ours go, or have gone since the kernel was last read
        self._foreign: dict[RouteKey, Route] = {}
        self._surplus: list[Route] = []  # further routes of ours on a key that has one (NLM_F_APPEND)
        self._failures: dict[RouteKey, str] = {}
        self._may_sweep: Callable[[Route], bool] = lambda _: False
        self._stale = True
        self._reading = False

    @property
    def installed(self) -> Mapping[RouteKey, Route]:
        """Routes of ours in the kernel, as far as is known."""
        return self._tracker.actual

    @property
    def failures(self) -> Mapping[RouteKey, str]:
        """Why a desired route is not there or an unwanted one still is, by the last apply."""
        return self._failures

    @property
    def dirty(self) -> bool:
        """Whether apply has anything to do, failures included."""
        return self._stale or bool(self._tracker.puts) or bool(self._sweepable())

    def set_desired(self, desired: Mapping[RouteKey, Route], may_sweep: Callable[[Route], bool]) -> None:
        """What should be.

        Args:
            desired: all of it; protocols 80 and 81 in table main, next hops sorted.
            may_sweep: whether a route of ours that is not desired may go yet (its source is in-sync).
        """
        assert all(is_ours(route) for route in desired.values()), "a desired route must have our mark"
        self._tracker.set_desired(desired)
        self._may_sweep = may_sweep

    async def resync(self) -> None:
        """Read the kernel's routes; what changes meanwhile is read again by the next apply."""
        self._stale = False
        self._reading = True
        try:
            self._take(await self._kernel.dump(Route))
        except BaseException:
            self._stale = True
            raise
        finally:
            self._reading = False

    def _take(self, routes: Iterable[Route]) -> None:
        ours: dict[RouteKey, Route] = {}
        foreign: dict[RouteKey, Route] = {}
        surplus: list[Route] = []
        for route in routes:
            if route.table != TABLE_MAIN:
                continue
            key = route.key
            if route.protocol not in OURS:
                foreign.setdefault(key, route)
            elif key in ours:
                surplus.append(route)
            else:
                ours[key] = route
        self._tracker.set_actual(ours)
        self._devices = {hop.ifindex for route in ours.values() for hop in route.next_hops}
        self._foreign, self._surplus = foreign, surplus

    async def apply(self) -> Mapping[RouteKey, str]:
        """Write what differs, reading the kernel first if that was never done or events were lost.

        Returns:
            for each route that could not be set or removed a sentence; they stay pending and block no others.
        """
        if self._stale:
            await self.resync()
        occupied = {route: self._foreign[key] for key, route in self._tracker.puts.items() if key in self._foreign}
        failures = await self._put([route for route in self._tracker.puts.values() if route not in occupied])
        failures.update(await self._sweep())
        failures.update(await self._explain(occupied))
        self._log(sentence for key, sentence in failures.items() if self._failures.get(key) != sentence)
        self._failures = failures
        return failures

    def on_event(self, event: KernelEvent) -> bool:
        """Note what changed; True if apply has something to do because of it."""
        match event.object:
            case None:
                self._stale |= event.kind is None
                return self._stale
            case Route() as route:
                return self._on_route(route, removed=event.removed)
            case Link() as link if event.removed or not link.up:
                return self._forget(link.ifindex)
            case Addr() as addr if event.removed:
                return self._forget(addr.ifindex)
            case Link() | Addr():
                return bool(self._failures)  # what was refused may be possible now
            case _:
                return False

    def _on_route(self, route: Route, *, removed: bool) -> bool:
        if route.table != TABLE_MAIN:
            return False
        key = route.key
        # A dump that is under way may have passed the place before or after this change.
        self._stale |= self._reading and (route.protocol in OURS or key in self._tracker.desired)
        if route.protocol in OURS:
            if removed:
                self._tracker.gone(key)  # or one of several next hops, or one of several routes: written again
            else:
                self._note(key, route)
                self._stale |= key in self._foreign  # replaced, or beside it: an event does not say
            return self._stale or key in self._tracker.puts or key in self._tracker.deletes
        if removed:
            self._foreign.pop(key, None)
        else:
            self._foreign[key] = route
            self._stale |= key in self._tracker.actual
        return self._stale or key in self._tracker.puts

    def _forget(self, ifindex: int) -> bool:
        """Routes of a device that went down, or lost an address, may have vanished without an event (see monitor).

        Most such devices are pods', by which no route of ours goes: that must not take a look at each route.
        """
        self._stale |= self._reading
        lost = [
            key
            for key, route in (self._tracker.actual.items() if ifindex in self._devices else ())
            if key in self._tracker.desired and any(hop.ifindex == ifindex for hop in route.next_hops)
        ]
        for key in lost:
            self._tracker.gone(key)
        blocking = any(
            key in self._foreign and any(hop.ifindex == ifindex for hop in self._foreign[key].next_hops)
            for key in self._tracker.puts
        )
        self._stale |= blocking
        return self._stale or bool(lost)

    def _note(self, key: RouteKey, route: Route) -> None:
        self._tracker.seen(key, route)
        self._devices.update(hop.ifindex for hop in route.next_hops)

    async def _explain(self, occupied: Mapping[Route, Route]) -> dict[RouteKey, str]:
        """Why routes are not written whose key a foreign one holds."""
        devices = {link.ifindex: link.name for link in await self._kernel.dump(Link)} if occupied else {}
        return {
            route.key: f"cannot set {refusals.describe(route, devices)}: {refusals.describe(foreign, devices)}, which"
            " calico-py did not make, has the same destination and metric; remove it, or give it another metric"
            for route, foreign in occupied.items()
        }

    def _log(self, sentences: Iterable[str]) -> None:
        """A device that is down refuses thousands for one cause."""
        for sentence in (shown := list(sentences))[:_SHOWN]:
            _log.warning("%s", sentence)
        if len(shown) > _SHOWN:
            _log.warning("and %d more routes; `calico-py status` names them all", len(shown) - _SHOWN)

    async def _put(self, routes: Sequence[Route]) -> dict[RouteKey, str]:
        before = {route.key: self._tracker.actual.get(route.key) for route in routes}
        for route in routes:
            self._note(route.key, route)
        failures = {}
        changes: list[Change] = [Put(route) for route in routes]
        for route, error in zip(routes, await self._send(changes), strict=True):
            if error is None:
                continue
            failures[route.key] = str(error)
            if self._tracker.actual.get(route.key) is route:
                previous = before[route.key]
                if previous is None:
                    self._tracker.gone(route.key)
                else:
                    self._note(route.key, previous)
        return failures

    async def _sweep(self) -> dict[RouteKey, str]:
        routes = self._sweepable()
        for route in routes:
            if self._tracker.deletes.get(route.key) is route:
                self._tracker.gone(route.key)
        self._surplus = [route for route in self._surplus if route not in routes]
        failures = {}
        changes: list[Change] = [Delete(route) for route in routes]
        for route, error in zip(routes, await self._send(changes), strict=True):
            if error is not None:
                failures[route.key] = str(error)
                if route.key not in self._tracker.actual:
                    self._note(route.key, route)
        return failures

    def _sweepable(self) -> list[Route]:
        return [route for route in (*self._tracker.deletes.values(), *self._surplus) if self._may_sweep(route)]

    async def _send(self, changes: Sequence[Change]) -> list[KernelError | None]:
        return await self._kernel.send(changes) if changes else []
