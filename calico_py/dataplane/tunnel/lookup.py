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

from calico_py.model.kernel import TABLE_MAIN, RouteKey

LINGER = 2.0  # seconds: a full queue of the device is drained in well under one

_Prefix = tuple[int, int]  # network address as a number, length


class RouteTable:
    """Longest-prefix match of destinations to the addresses of the nodes behind them.

    Of several routes to one prefix that of table main counts, then the lowest table, then the lowest metric:
    policy rules are not looked at.
    """

    def __init__(self) -> None:
        self._routes: dict[_Prefix, dict[RouteKey, IPv4Address]] = {}
        self._lingering: dict[_Prefix, tuple[IPv4Address, float]] = {}
        self._count: Counter[int] = Counter()  # prefixes by length
        self._masks: list[tuple[int, int]] = []  # (length, mask), longest first

    def __len__(self) -> int:
        return sum(len(routes) for routes in self._routes.values())

    def put(self, route: RouteKey, gateway: IPv4Address) -> None:
        """A route came or changed."""
        prefix = _prefix(route)
        routes = self._routes.get(prefix)
        if routes is None:
            routes = self._routes[prefix] = {}
            self._lingering.pop(prefix, None)
            self._count_prefix(prefix[1], 1)
        routes[route] = gateway

    def remove(self, route: RouteKey, now: float) -> bool:
        """A route is gone, or leaves by another device now.

        Args:
            route: its key.
            now: monotonic time, seconds.

        Returns:
            Whether the table had it.
        """
        prefix = _prefix(route)
        routes = self._routes.get(prefix, {})
        gateway = routes.pop(route, None)
        if gateway is None:
            return False
        if not routes:
            del self._routes[prefix]
            self._lingering[prefix] = (gateway, now + LINGER)
            self._count_prefix(prefix[1], -1)
        return True

    def replace(self, actual: Mapping[RouteKey, IPv4Address], now: float) -> None:
        """The table as it was just read from the kernel, whole."""
        for route in [route for routes in self._routes.values() for route in routes if route not in actual]:
            self.remove(route, now)
        for route, gateway in actual.items():
            self.put(route, gateway)

    def find(self, destination: int, now: float) -> IPv4Address | None:
        """The outer destination for an inner one, None if no route leads there."""
        for length, mask in self._masks:
            routes = self._routes.get((destination & mask, length))
            if routes:
                return routes[min(routes, key=_preference)]
        return self._find_lingering(destination, now)

    def expire(self, now: float) -> bool:
        """Forget removed routes whose time is over; whether there were any."""
        over = [prefix for prefix, (_, until) in self._lingering.items() if until <= now]
        for prefix in over:
            del self._lingering[prefix]
        return bool(over)

    def _find_lingering(self, destination: int, now: float) -> IPv4Address | None:
        found = [
            (length, gateway)
            for (network, length), (gateway, until) in self._lingering.items()
            if until > now and destination & _mask(length) == network
        ]
        return max(found)[1] if found else None

    def _count_prefix(self, length: int, change: int) -> None:
        self._count[length] += change
        if self._count[length] == max(change, 0):  # the first of its length, or the last one gone
            lengths = sorted((length for length, count in self._count.items() if count), reverse=True)
            self._masks = [(length, _mask(length)) for length in lengths]


def _prefix(route: RouteKey) -> _Prefix:
    return int(route.dst.network_address), route.dst.prefixlen


def _preference(route: RouteKey) -> tuple[bool, int, int]:
    return route.table != TABLE_MAIN, route.table, route.metric


def _mask(length: int) -> int:
    return 0xFFFFFFFF << (32 - length) & 0xFFFFFFFF
