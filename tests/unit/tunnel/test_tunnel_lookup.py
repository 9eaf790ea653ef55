"""The table of routes: which node is behind an address, also just after a change."""

from ipaddress import IPv4Address, IPv4Network

from calico_py.dataplane.tunnel.lookup import LINGER, RouteTable
from calico_py.model.kernel import TABLE_MAIN, RouteKey

ONE, TWO, THREE = (IPv4Address(f"192.168.1.{number}") for number in (1, 2, 3))


def key(prefix: str, table: int = TABLE_MAIN, metric: int = 0) -> RouteKey:
    return RouteKey(table, IPv4Network(prefix), metric)


def find(table: RouteTable, address: str, now: float = 0) -> IPv4Address | None:
    return table.find(int(IPv4Address(address)), now)


def test_empty() -> None:
    assert find(RouteTable(), "10.0.0.1") is None


def test_longest_prefix_first() -> None:
    table = RouteTable()
    table.put(key("0.0.0.0/0"), ONE)
    table.put(key("10.244.0.0/16"), TWO)
    table.put(key("10.244.1.5/32"), THREE)
    assert find(table, "8.8.8.8") == ONE
    assert find(table, "10.244.1.4") == TWO
    assert find(table, "10.244.1.5") == THREE
    table.remove(key("10.244.1.5/32"), 0)
    assert find(table, "10.244.1.5") == TWO


def test_table_main_then_the_lowest_metric() -> None:
    table = RouteTable()
    table.put(key("10.0.0.0/26", table=100), ONE)
    assert find(table, "10.0.0.1") == ONE
    table.put(key("10.0.0.0/26", metric=20), TWO)
    assert find(table, "10.0.0.1") == TWO
    table.put(key("10.0.0.0/26", metric=10), THREE)
    assert find(table, "10.0.0.1") == THREE
    table.remove(key("10.0.0.0/26", metric=10), 0)
    assert find(table, "10.0.0.1") == TWO


def test_removed_route_lingers_for_packets_under_way() -> None:
    table = RouteTable()
    table.put(key("10.0.0.0/26"), ONE)
    assert table.remove(key("10.0.0.0/26"), now=100)
    assert len(table) == 0
    assert find(table, "10.0.0.1", 100) == ONE
    assert find(table, "10.0.0.64", 100) is None
    assert find(table, "10.0.0.1", 100 + LINGER) is None
    assert not table.expire(100 + LINGER - 0.01)
    assert table.expire(100 + LINGER)
    assert not table.expire(100 + LINGER)


def test_present_route_wins_over_a_longer_removed_one() -> None:
    table = RouteTable()
    table.put(key("10.0.0.5/32"), ONE)
    table.put(key("10.0.0.0/26"), TWO)
    table.remove(key("10.0.0.5/32"), now=0)
    assert find(table, "10.0.0.5") == TWO


def test_route_that_came_back_forgets_what_it_was() -> None:
    table = RouteTable()
    table.put(key("10.0.0.0/26"), ONE)
    table.remove(key("10.0.0.0/26"), now=0)
    table.put(key("10.0.0.0/26"), TWO)
    table.expire(LINGER)
    assert find(table, "10.0.0.1") == TWO


def test_removing_what_is_not_there() -> None:
    table = RouteTable()
    table.put(key("10.0.0.0/26"), ONE)
    assert not table.remove(key("10.0.0.0/26", metric=5), 0)
    assert not table.remove(key("10.0.0.64/26"), 0)
    assert find(table, "10.0.0.1") == ONE


def test_replacing_all() -> None:
    table = RouteTable()
    table.put(key("10.0.0.0/26"), ONE)
    table.put(key("10.0.0.64/26"), ONE)
    table.replace({key("10.0.0.64/26"): TWO, key("10.0.0.128/26"): THREE}, now=0)
    assert len(table) == 2
    assert find(table, "10.0.0.65") == TWO
    assert find(table, "10.0.0.129") == THREE
    assert find(table, "10.0.0.1") == ONE  # lingers
    assert find(table, "10.0.0.1", LINGER) is None
