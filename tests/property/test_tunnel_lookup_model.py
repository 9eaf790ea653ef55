"""The tunnel's table of routes against a list that is searched from end to end."""

from ipaddress import IPv4Address, IPv4Network

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from calico_py.dataplane.tunnel.lookup import LINGER, RouteTable
from calico_py.model.kernel import TABLE_MAIN, RouteKey

# Few bits, so that prefixes nest and addresses hit.
networks = st.builds(
    lambda bits, length: IPv4Network((0x0A000000 | bits << 20 & 0x00F00000, length), strict=False),
    st.integers(0, 15),
    st.sampled_from([0, 8, 9, 10, 11, 12]),
)
keys = st.builds(RouteKey, st.sampled_from([TABLE_MAIN, 100, 300]), networks, st.sampled_from([0, 10]))
gateways = st.integers(1, 5).map(lambda number: IPv4Address(f"192.168.1.{number}"))
PROBES = [IPv4Address(0x0A000000 | bits << 20 | 1) for bits in range(16)] + [IPv4Address("11.0.0.1")]


class TableMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.table = RouteTable()
        self.now = 0.0
        self.present: dict[RouteKey, IPv4Address] = {}
        self.gone: dict[IPv4Network, tuple[IPv4Address, float]] = {}

    def _remove(self, key: RouteKey) -> None:
        gateway = self.present.pop(key)
        assert isinstance(key.dst, IPv4Network)
        if all(other.dst != key.dst for other in self.present):
            self.gone[key.dst] = (gateway, self.now + LINGER)

    def _put(self, key: RouteKey, gateway: IPv4Address) -> None:
        assert isinstance(key.dst, IPv4Network)
        self.present[key] = gateway
        self.gone.pop(key.dst, None)

    @rule(key=keys, gateway=gateways)
    def put(self, key: RouteKey, gateway: IPv4Address) -> None:
        self.table.put(key, gateway)
        self._put(key, gateway)

    @rule(key=keys)
    def remove(self, key: RouteKey) -> None:
        assert self.table.remove(key, self.now) == (key in self.present)
        if key in self.present:
            self._remove(key)

    @rule(actual=st.dictionaries(keys, gateways, max_size=6))
    def replace(self, actual: dict[RouteKey, IPv4Address]) -> None:
        self.table.replace(actual, self.now)
        for key in [key for key in self.present if key not in actual]:
            self._remove(key)
        for key, gateway in actual.items():
            self._put(key, gateway)

    @rule(seconds=st.sampled_from([0.5, LINGER, 10.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.table.expire(self.now)

    @invariant()
    def finds_what_a_search_finds(self) -> None:
        assert len(self.table) == len(self.present)
        for probe in PROBES:
            assert self.table.find(int(probe), self.now) == self._search(probe)

    def _search(self, probe: IPv4Address) -> IPv4Address | None:
        found = [key for key in self.present if probe in key.dst]
        if found:
            best = min(found, key=lambda key: (-key.dst.prefixlen, key.table != TABLE_MAIN, key.table, key.metric))
            return self.present[best]
        gone = [
            (network.prefixlen, gateway)
            for network, (gateway, until) in self.gone.items()
            if probe in network and until > self.now
        ]
        return max(gone)[1] if gone else None


TestTable = TableMachine.TestCase
