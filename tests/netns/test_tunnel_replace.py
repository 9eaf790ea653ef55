"""Routes that move between the tunnel and the uplink under traffic; each claim with a control that loses."""

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from calico_py.dataplane.tunnel.forwarder import BATCH
from calico_py.dataplane.tunnel.lookup import LINGER
from calico_py.dataplane.tunnel.rtnl import Rtnl
from tests.netns.tunnel_nodes import Cluster, cluster, inside

pytestmark = [pytest.mark.root, pytest.mark.alone]  # it counts packets, and needs both processors


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


def _under_flows(two: Cluster, act: Callable[[], None], *, rate: int = 1000, seconds: float = 3) -> tuple[int, int]:
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
    assert _under_flows(two, lambda: _toggle(two, skew=0, times=20), rate=3000) == (0, 0)


def test_packets_in_the_queue_find_their_node(two: Cluster) -> None:
    """Their route leaves the tunnel while they wait for an engine that gets no processor."""
    one, other = two.nodes
    assert one.engine is not None
    with one.socket(socket.SOCK_DGRAM) as sock, other.socket(socket.SOCK_DGRAM) as sink:
        sink.bind((other.pod, 9000))
        one.engine.send_signal(signal.SIGSTOP)
        for number in range(3 * BATCH):
            sock.sendto(bytes((number,)), (other.pod, 9000))
        one.route(other, "eth0")
        one.engine.send_signal(signal.SIGCONT)
        assert [sink.recv(10)[0] for _ in range(3 * BATCH)] == list(range(3 * BATCH))
    assert one.counters()["drops"] == {}


def test_route_beside_another_of_the_same_key(two: Cluster) -> None:
    """`ip route append` makes two of one key; the kernel uses the first, and tells what looks like a replacement."""
    one, other = two.nodes
    one.ip("route", "append", other.block, "via", other.address, "dev", "eth0")
    time.sleep(LINGER + 1.5)
    with one.capture("ip proto 4") as lines:
        assert one.ping(other.pod) == 3
    assert f"{one.address} > {other.address}" in "\n".join(lines)


def test_what_the_kernel_says_of_one_destination(two: Cluster) -> None:
    one, other = two.nodes
    one.ip("route", "add", "unreachable", "10.66.0.0/16")
    one.ip("route", "add", "10.244.9.0/26", "nexthop", "via", other.address, "dev", "tunl0", "onlink")
    with inside(one.namespace):
        asked = Rtnl()
    ifindex = int(one.ip("-o", "link", "show", "tunl0").split(":")[0])
    answers = {
        other.pod: IPv4Address(other.address),
        "10.244.9.1": IPv4Address(other.address),
        "192.168.1.7": None,
        "10.66.0.1": None,
        one.tunnel: None,
    }
    try:
        assert {address: asked.gateway(IPv4Address(address).packed, ifindex) for address in answers} == answers
    finally:
        asked.close()


def test_control_strict_reverse_path_filter_loses(two: Cluster) -> None:
    for node in two.nodes:
        for device in ("eth0", "tunl0"):
            node.sysctl(f"ipv4/conf/{device}/rp_filter", "1")
    assert sum(_under_flows(two, lambda: _toggle(two, skew=0.1, times=2), seconds=1)) > 100


def test_control_deleted_route_loses(two: Cluster) -> None:
    one, other = two.nodes

    def act() -> None:
        one.ip("route", "del", other.block)
        time.sleep(0.05)
        one.route(other)

    there, back = _under_flows(two, act, seconds=1)
    assert there >= 40
    assert back == 0


def test_ten_thousand_packets_a_second_each_way(two: Cluster) -> None:
    """Both engines and both programs on two processors; the engines lose nothing."""
    assert _under_flows(two, lambda: None, rate=10_000, seconds=3) == (0, 0)
    for node in two.nodes:
        counted = node.counters()
        assert counted["drops"] == {}
        assert counted["sent"]["packets"] >= 30_000
