"""What the userspace tunnel does to packets, seen from the pods and on the wire."""

import errno
import os
import re
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from calico_py.dataplane.tunnel import packets
from tests.netns.tunnel_nodes import Cluster, Node, cluster, eventually

pytestmark = pytest.mark.root

IP_MTU_DISCOVER, IP_PMTUDISC_DONT, IP_PMTUDISC_DO, IP_MTU, IP_RECVERR = 10, 0, 2, 14, 11


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Cluster]:
    with cluster(tmp_path) as made:
        made.tunnel()
        yield made


def test_pods_and_hosts_reach_each_other(two: Cluster) -> None:
    one, other = two.nodes
    assert one.ping(other.pod) == 3
    assert other.ping(one.pod) == 3
    assert one.ping(other.pod, pod=False) == 3
    assert one.ping(other.tunnel) == 3


def test_three_nodes_all_pairs(tmp_path: Path) -> None:
    with cluster(tmp_path, 3) as three:
        three.tunnel()
        pairs = [(one, other) for one in three.nodes for other in three.nodes if one is not other]
        assert [one.ping(other.pod, count=2) for one, other in pairs] == [2] * 6


def test_wire_carries_protocol_4_between_the_nodes(two: Cluster) -> None:
    one, other = two.nodes
    with one.capture("ip proto 4") as lines:
        assert one.ping(other.pod, count=1) == 1
    text = "\n".join(lines)
    outer = re.search(r"IP \(tos 0x0, ttl (\d+), .*flags \[DF\], proto IPIP \(4\), length 104\)", text)
    assert outer is not None, text
    assert outer[1] == "64"
    assert f"{one.address} > {other.address}: IP (tos 0x0, ttl 63" in text
    assert f"{one.pod} > {other.pod}: ICMP echo request" in text
    assert f"{other.pod} > {one.pod}: ICMP echo reply" in text


def test_dont_fragment_follows_the_inner_packet(two: Cluster) -> None:
    one, other = two.nodes
    with one.capture(f"ip proto 4 and src {one.address}") as lines:
        assert one.ping(other.pod, "-M", "dont", count=1) == 1
    assert "flags [none], proto IPIP" in "\n".join(lines)


@pytest.mark.parametrize("size", [1, 100, 1452])
def test_sizes_up_to_the_full_mtu(two: Cluster, size: int) -> None:
    one, other = two.nodes
    assert one.ping(other.pod, "-M", "do", "-s", str(size)) == 3


def test_fragments_of_a_large_datagram(two: Cluster) -> None:
    one, other = two.nodes
    assert one.ping(other.pod, "-M", "dont", "-s", "9000") == 3


def test_sender_learns_the_path_mtu(two: Cluster) -> None:
    one, other = two.nodes
    two.set_uplink_mtu(1300)
    with one.socket(socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        sock.connect((other.pod, 9000))
        sock.send(bytes(1400))
        eventually(lambda: sock.getsockopt(socket.IPPROTO_IP, IP_MTU) == 1280)
        with pytest.raises(OSError, match="too long") as raised:
            sock.send(bytes(1400))
    assert raised.value.errno == errno.EMSGSIZE
    assert one.counters()["icmp"] == {"fragmentation needed": 1}


def test_sender_learns_the_mtu_of_a_link_further_on(tmp_path: Path) -> None:
    with cluster(tmp_path, 3) as three:
        three.tunnel()
        one, other, router = three.nodes
        one.ip("route", "add", f"{other.address}/32", "via", router.address)
        router.ip("route", "add", f"{other.address}/32", "dev", "eth0", "mtu", "lock", "1300")
        with one.socket(socket.SOCK_DGRAM) as sock, other.socket(socket.SOCK_DGRAM) as sink:
            sink.bind((other.pod, 9000))
            sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
            sock.connect((other.pod, 9000))
            sock.send(bytes(1400))  # of this one the router tells the node
            time.sleep(0.1)
            sock.send(bytes(1400))  # and of this one the node the pod
            eventually(lambda: sock.getsockopt(socket.IPPROTO_IP, IP_MTU) == 1280)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.EMSGSIZE
            sock.send(bytes(1200))
            assert len(sink.recv(2000)) == 1200
        sent = os.urandom(1_000_000)
        assert one.transfer(other, sent) == sent


def test_host_learns_the_path_mtu(two: Cluster) -> None:
    one, other = two.nodes
    two.set_uplink_mtu(1300)
    with one.socket(socket.SOCK_DGRAM, pod=False) as sock:
        sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        sock.connect((other.pod, 9000))
        sock.send(bytes(1400))
        eventually(lambda: sock.getsockopt(socket.IPPROTO_IP, IP_MTU) == 1280)


def test_packets_that_may_be_fragmented_are(two: Cluster) -> None:
    one, other = two.nodes
    two.set_uplink_mtu(1300)
    with one.socket(socket.SOCK_DGRAM) as sock, other.socket(socket.SOCK_DGRAM) as sink:
        sink.bind((other.pod, 9000))
        sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
        sock.sendto(bytes(1400), (other.pod, 9000))
        assert len(sink.recv(2000)) == 1400
    assert one.counters()["drops"] == {}


def test_no_route_is_answered(two: Cluster) -> None:
    one, _ = two.nodes
    one.ip("route", "add", "10.244.77.0/26", "dev", "tunl0")  # no gateway: nobody behind it
    with one.socket(socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        sock.connect(("10.244.77.5", 9000))
        sock.send(b"x")
        with pytest.raises(OSError, match="unreachable") as raised:
            sock.recv(10)
    assert raised.value.errno == errno.ENETUNREACH
    assert one.counters()["drops"] == {"no route": 1}


def test_answers_are_limited(two: Cluster) -> None:
    one, _ = two.nodes
    one.ip("route", "add", "10.244.77.0/26", "dev", "tunl0")
    with one.socket(socket.SOCK_DGRAM) as sock:
        start = time.monotonic()
        for _ in range(400):
            sock.sendto(b"x", ("10.244.77.5", 9000))
    assert one.ping(two.nodes[1].pod) == 3  # behind them in the queue
    took = time.monotonic() - start
    counted = one.counters()
    assert counted["drops"] == {"no route": 400}
    assert 50 <= counted["icmp"]["net"] <= 50 + 1000 * took


def test_traffic_class_and_ecn_are_carried(two: Cluster) -> None:
    one, other = two.nodes
    with one.capture(f"ip proto 4 and src {one.address}") as lines:
        assert one.ping(other.pod, "-Q", "0xb9", count=1) == 1  # EF, ECT(1)
    assert "IP (tos 0xb9,ECT(1), ttl 64" in "\n".join(lines)


def _outer(source: str, destination: str, inner: bytes, tos: int = 0) -> bytes:
    return (
        struct.pack("!BBHHHBBH", 0x45, tos, 20 + len(inner), 0, 0, 64, 4, 0)
        + socket.inet_aton(source)
        + socket.inet_aton(destination)
        + inner
    )


def _datagram(source: str, destination: str, tos: int = 0) -> bytes:
    payload = struct.pack("!HHHH", 5000, 9000, 8 + 5, 0) + b"hello"
    header = struct.pack("!BBHHHBBH", 0x45, tos, 20 + len(payload), 0, 0, 64, 17, 0)
    header += socket.inet_aton(source) + socket.inet_aton(destination)
    total = sum(struct.unpack("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    return header[:10] + struct.pack("!H", ~total & 0xFFFF) + header[12:] + payload


@pytest.mark.parametrize(("outer", "inner", "arrives"), [(0, 2, 2), (3, 2, 3), (3, 1, 3), (1, 2, 1), (3, 0, None)])
def test_congestion_marks_of_the_underlay(two: Cluster, outer: int, inner: int, arrives: int | None) -> None:
    one, other = two.nodes
    with one.socket(socket.SOCK_RAW, socket.IPPROTO_RAW, pod=False) as sock, other.socket(socket.SOCK_DGRAM) as sink:
        sink.bind((other.pod, 9000))
        sink.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        sock.sendto(_outer(one.address, other.address, _datagram(one.pod, other.pod, inner), outer), (other.address, 0))
        if arrives is None:
            sink.settimeout(0.3)
            with pytest.raises(TimeoutError):
                sink.recv(100)
            assert other.counters()["drops"] == {"congestion marked, but not ECN capable": 1}
        else:
            data, ancillary, _, _ = sink.recvmsg(100, 100)
            assert data == b"hello"
            assert [value[0] for _, kind, value in ancillary if kind == socket.IP_TOS] == [arrives]


def test_garbage_from_a_node_is_counted_and_changes_nothing(two: Cluster) -> None:
    one, other = two.nodes
    good = _datagram(one.pod, other.pod)
    bad = [b"", b"\x45", bytes(40), b"\x60" + bytes(60), b"\x4f" + good[1:], good[:25], b"\xff" * 1400]
    with one.socket(socket.SOCK_RAW, socket.IPPROTO_RAW, pod=False) as sock:
        for inner in bad:
            sock.sendto(_outer(one.address, other.address, inner), (other.address, 0))
    assert other.ping(one.pod) == 3
    assert other.counters()["drops"] == {"malformed packet from a node": len(bad)}


def test_trailing_bytes_are_cut_off(two: Cluster) -> None:
    one, other = two.nodes
    with one.socket(socket.SOCK_RAW, socket.IPPROTO_RAW, pod=False) as sock, other.socket(socket.SOCK_DGRAM) as sink:
        sink.bind((other.pod, 9000))
        inner = _datagram(one.pod, other.pod) + b"ethernet padding"
        sock.sendto(_outer(one.address, other.address, inner), (other.address, 0))
        assert sink.recv(100) == b"hello"


def test_tcp_streams_arrive_whole(two: Cluster) -> None:
    one, other = two.nodes
    sent = os.urandom(5_000_000)
    assert one.transfer(other, sent) == sent
    two.set_uplink_mtu(1300)  # the stream has to learn it
    assert other.transfer(one, sent) == sent


def _unfinished(one: Node, other: Node, protocol: int, segment: bytes, checksum_at: int) -> bytes:
    """An IPv4 packet between pods whose transport checksum is that of the pseudo-header alone."""
    addresses = socket.inet_aton(one.pod) + socket.inet_aton(other.pod)
    total = sum(struct.unpack("!4H", addresses)) + protocol + len(segment)
    partial = struct.pack("!H", (total & 0xFFFF) + (total >> 16))
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 7, 0x4000, 64, protocol, 0) + addresses
    header = header[:10] + struct.pack("!H", packets.checksum(header)) + header[12:]
    return header + segment[:checksum_at] + partial + segment[checksum_at + 2 :]


def test_unfinished_checksum_is_completed(two: Cluster) -> None:
    """As of a packet from the kernel's ipip on the same machine."""
    one, other = two.nodes
    inner = _unfinished(one, other, 17, struct.pack("!HHHH", 5000, 9000, 13, 0) + b"hello", 6)
    with one.socket(socket.SOCK_RAW, socket.IPPROTO_RAW, pod=False) as sock, other.socket(socket.SOCK_DGRAM) as sink:
        sink.bind((other.pod, 9000))
        sock.sendto(_outer(one.address, other.address, inner), (other.address, 0))
        assert sink.recv(100) == b"hello"


def test_merged_segments_are_cut_again(two: Cluster) -> None:
    """As of a stream that the uplink's GRO merged: larger than any MTU behind the tunnel, and DF is set."""
    one, other = two.nodes
    two.set_uplink_mtu(9000)
    payload = os.urandom(8000)
    tcp = struct.pack("!HHIIBBHHH", 5000, 9000, 1000, 1, 0x50, 0x18, 1000, 0, 0) + payload
    inner = _unfinished(one, other, 6, tcp, 16)
    with (
        other.socket(socket.SOCK_RAW, socket.IPPROTO_TCP) as sink,
        one.socket(socket.SOCK_RAW, socket.IPPROTO_RAW, pod=False) as sock,
    ):
        sock.sendto(_outer(one.address, other.address, inner), (other.address, 0))
        received = b""
        while len(received) < len(payload):
            packet = sink.recv(65535)
            assert struct.unpack_from("!I", packet, 24)[0] == 1000 + len(received)
            received += packet[40:]
    assert received == payload


def test_route_to_a_node_through_the_tunnel_itself(two: Cluster) -> None:
    one, other = two.nodes
    one.ip("route", "add", f"{other.address}/32", "via", other.address, "dev", "tunl0", "onlink")
    assert one.ping(other.pod, count=2) == 0
    counted = one.counters()
    assert counted["drops"] == {"loop: the route to a node leads into the tunnel": 2}
    assert counted["sent"]["packets"] == 2


def test_ipv6_is_refused(two: Cluster) -> None:
    one, _ = two.nodes
    one.ip("addr", "add", "fd00::1/128", "dev", "tunl0", "nodad")
    one.ip("route", "add", "fd01::/64", "dev", "tunl0")
    assert one.ping("fd01::1", pod=False, count=2) == 0
    assert one.counters()["icmp"] == {"IPv6 no route": 2}


def test_longest_prefix_wins(tmp_path: Path) -> None:
    with cluster(tmp_path, 3) as three:
        three.tunnel()
        one, two, other = three.nodes
        one.ip("route", "replace", "10.244.0.0/16", "via", two.address, "dev", "tunl0", "onlink")
        assert one.ping(other.pod) == 3
        one.ip("route", "replace", other.pod, "via", two.address, "dev", "tunl0", "onlink")
        with two.capture(f"ip proto 4 and src {one.address}") as lines:
            one.ping(other.pod, count=1)
        assert f"{one.address} > {two.address}" in "\n".join(lines)


def test_udp_framing(tmp_path: Path) -> None:
    with cluster(tmp_path) as two:
        two.tunnel("flannel0", "udp")
        one, other = two.nodes
        with one.capture("udp port 8285") as lines:
            assert one.ping(other.pod) == 3
        assert f"{one.address}.8285 > {other.address}.8285: UDP, length 84" in "\n".join(lines)
        assert one.ping(other.pod, "-M", "dont", "-s", "9000") == 3
        two.set_uplink_mtu(1300)
        assert one.ping(other.pod, "-M", "dont", "-s", "1400") == 3
        with one.socket(socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
            sock.connect((other.pod, 9000))
            sock.send(bytes(1400))
            eventually(lambda: sock.getsockopt(socket.IPPROTO_IP, IP_MTU) == 1272)
