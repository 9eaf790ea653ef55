"""The routes of the tunnel's device as a longest-prefix match: from inner to outer destination. Pure.

The kernel has chosen the device already; this table repeats the rest of its choice. Two things happen around a
change of routes, and both would lose packets if the table were only what the kernel has now:
- packets wait in the device's queue while their route is replaced by one that leaves elsewhere. A removed route
  therefore lingers, and answers where no present one does;
- the kernel uses a new route microseconds before it tells of it. So a miss here is not final: the engine asks.
"""

from collections import Counter
from collections.abc import Mapping
from ipaddress import IPv4Address
from typing import NamedTuple

from calico_py.model.kernel import TABLE_MAIN

LINGER = 2.0  # seconds: a full queue of the device is drained in well under one


class Prefix(NamedTuple):
    """An IPv4 destination: network address and length, as numbers."""

    network: int
    length: int


class RouteId(NamedTuple):
    """What the kernel tells routes of one prefix apart by, in the order in which they are preferred here.

    Policy rules are not looked at: table main comes first, then the others by number.
    """

    not_main: bool
    table: int
    metric: int
    tos: int

    @classmethod
    def of(cls, table: int, metric: int, tos: int) -> "RouteId":
        """The key of a route in that table."""
        return cls(table != TABLE_MAIN, table, metric, tos)


class RouteTable:
    """Longest-prefix match of destinations to the addresses of the nodes behind them."""

    def __init__(self) -> None:
        self._routes: dict[Prefix, dict[RouteId, IPv4Address]] = {}
        self._lingering: dict[Prefix, tuple[IPv4Address, float]] = {}
        self._count: Counter[int] = Counter()  # prefixes by length
        self._masks: list[tuple[int, int]] = []  # (length, mask), longest first

    def __len__(self) -> int:
        return sum(len(routes) for routes in self._routes.values())

    def put(self, prefix: Prefix, route: RouteId, gateway: IPv4Address) -> None:
        """A route came or changed."""
        routes = self._routes.get(prefix)
        if routes is None:
            routes = self._routes[prefix] = {}
            self._lingering.pop(prefix, None)
            self._count_prefix(prefix.length, 1)
        routes[route] = gateway

    def remove(self, prefix: Prefix, route: RouteId, now: float) -> bool:
        """A route is gone, or leaves by another device now.

        Args:
            prefix: its destination.
            route: its key.
            now: monotonic time, seconds.

        Returns:
            Whether the table had it.
        """
        routes = self._routes.get(prefix, {})
        gateway = routes.pop(route, None)
        if gateway is None:
            return False
        if not routes:
            del self._routes[prefix]
            self._lingering[prefix] = (gateway, now + LINGER)
            self._count_prefix(prefix.length, -1)
        return True

    def replace(self, actual: Mapping[tuple[Prefix, RouteId], IPv4Address], now: float) -> None:
        """The table as it was just read from the kernel, whole."""
        for prefix, route in [(prefix, route) for prefix, routes in self._routes.items() for route in routes]:
            if (prefix, route) not in actual:
                self.remove(prefix, route, now)
        for (prefix, route), gateway in actual.items():
            self.put(prefix, route, gateway)

    def find(self, destination: int, now: float) -> IPv4Address | None:
        """The outer destination for an inner one, None if no route leads there."""
        for length, mask in self._masks:
            routes = self._routes.get(Prefix(destination & mask, length))
            if routes:
                return routes[min(routes)]
        return self._find_lingering(destination, now)

    def expire(self, now: float) -> bool:
        """Forget removed routes whose time is over; whether there were any."""
        over = [prefix for prefix, (_, until) in self._lingering.items() if until <= now]
        for prefix in over:
            del self._lingering[prefix]
        return bool(over)

    def _find_lingering(self, destination: int, now: float) -> IPv4Address | None:
        found = [
            (prefix.length, gateway)
            for prefix, (gateway, until) in self._lingering.items()
            if until > now and destination & mask_of(prefix.length) == prefix.network
        ]
        return max(found)[1] if found else None

    def _count_prefix(self, length: int, change: int) -> None:
        self._count[length] += change
        if self._count[length] == max(change, 0):  # the first of its length, or the last one gone
            lengths = sorted((length for length, count in self._count.items() if count), reverse=True)
            self._masks = [(length, mask_of(length)) for length in lengths]


def mask_of(length: int) -> int:
    """The netmask of a prefix length, as a number."""
    return 0xFFFFFFFF << (32 - length) & 0xFFFFFFFF
