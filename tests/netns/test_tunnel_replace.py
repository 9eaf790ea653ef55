"""Routes that move between the tunnel and the uplink under traffic; each claim with a control that loses."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.netns.tunnel_nodes import Cluster, cluster

pytestmark = pytest.mark.root


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Cluster]:
    with cluster(tmp_path) as made:
        made.tunnel()
        one, other = made.nodes
        assert one.ping(other.pod) == 3  # neighbours are known from here on
        one.route(other, "eth0")
        assert one.ping(other.pod) == 3
        one.route(other)
        yield made


def _under_flows(two: Cluster, act: Callable[[], None], *, rate: int = 1000, seconds: float = 4) -> tuple[int, int]:
    """Packets lost each way while something is done."""
    one, other = two.nodes
    flows = (one.flow(other, rate=rate, seconds=seconds), other.flow(one, rate=rate, seconds=seconds))
    time.sleep(0.3)
    worker = threading.Thread(target=act)
    worker.start()
    there, back = (flow.finish() for flow in flows)
    worker.join()
    assert there.sent == back.sent == rate * seconds
    assert there.duplicates == back.duplicates == 0
    return there.lost, back.lost


def _toggle(two: Cluster, *, skew: float, times: int) -> None:
    one, other = two.nodes
    for device in ("eth0", "tunl0") * times:
        one.route(other, device)
        time.sleep(skew)
        other.route(one, device)
        time.sleep(0.05)


def test_moving_routes_loses_nothing(two: Cluster) -> None:
    assert _under_flows(two, lambda: _toggle(two, skew=0.1, times=8)) == (0, 0)
    for node in two.nodes:
        assert node.counters()["drops"] == {}


def test_moving_routes_at_full_speed_loses_nothing(two: Cluster) -> None:
    """Packets that are in the device's queue when their route leaves it still find their node."""
    assert _under_flows(two, lambda: _toggle(two, skew=0, times=25), rate=3000) == (0, 0)


def test_control_strict_reverse_path_filter_loses(two: Cluster) -> None:
    for node in two.nodes:
        for device in ("eth0", "tunl0"):
            node.sysctl(f"ipv4/conf/{device}/rp_filter", "1")
    assert sum(_under_flows(two, lambda: _toggle(two, skew=0.1, times=8))) > 100


def test_control_deleted_route_loses(two: Cluster) -> None:
    one, other = two.nodes

    def act() -> None:
        one.ip("route", "del", other.block)
        time.sleep(0.05)
        one.route(other)

    there, back = _under_flows(two, act)
    assert there >= 40
    assert back == 0


def test_ten_thousand_packets_a_second_each_way(two: Cluster) -> None:
    """Both engines and both programs on two processors; the engines lose nothing."""
    assert _under_flows(two, lambda: None, rate=10_000, seconds=3) == (0, 0)
    for node in two.nodes:
        counted = node.counters()
        assert counted["drops"] == {}
        assert counted["sent"]["packets"] >= 30_000
