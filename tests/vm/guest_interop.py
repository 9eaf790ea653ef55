"""One node with the kernel's tunl0, one with the engine: run in a guest whose kernel has ipip, see test_vm_ipip.

Once the module is loaded, every namespace has a tunl0 of the kernel's, which can be renamed but not deleted, and
answers each packet that is for none of its devices with port unreachable, although the engine has got it. The
kernel's ipip on the other node passes such errors on to the pod (net/ipv4/ipip.c, ipip_err).
"""

import os
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

from tests.netns.tunnel_nodes import Cluster, cluster

pytestmark = pytest.mark.root

ECHO = "ICMP echo request"


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Node 1: the kernel's. Node 2: the engine's. One for all tests, since building it takes longer than they do."""
    subprocess.run(["modprobe", "ipip"], check=True)
    with cluster(tmp_path_factory.mktemp("mixed")) as made:
        kernel, engine = made.nodes
        kernel.ip("addr", "add", f"{kernel.tunnel}/32", "dev", "tunl0")
        kernel.ip("link", "set", "tunl0", "up")
        kernel.sysctl("ipv4/conf/tunl0/rp_filter", "2")
        engine.ip("link", "set", "tunl0", "name", "kernels")
        engine.make_tunnel()
        engine.start_engine()
        kernel.route(engine)
        engine.route(kernel)
        yield made
        assert engine.counters()["drops"] == {}


def test_both_ways_and_on_the_wire(mixed: Cluster) -> None:
    kernel, engine = mixed.nodes
    with kernel.capture("ip proto 4") as lines:
        assert kernel.ping(engine.pod, "-W", "5") == 3
        assert engine.ping(kernel.pod, "-W", "5") == 3
    text = "\n".join(lines)
    assert text.count("proto IPIP (4), length 104") == 12
    assert f"{kernel.address} > {engine.address}: IP" in text
    assert f"{engine.address} > {kernel.address}: IP" in text
    assert text.count(f"{kernel.pod} > {engine.pod}: {ECHO}") == 3
    assert text.count(f"{engine.pod} > {kernel.pod}: {ECHO}") == 3


def test_hosts_large_packets_and_fragments(mixed: Cluster) -> None:
    kernel, engine = mixed.nodes
    for one, other in ((kernel, engine), (engine, kernel)):
        assert one.ping(other.pod, "-W", "5", pod=False) == 3
        assert one.ping(other.pod, "-W", "5", "-M", "do", "-s", "1452") == 3
        assert one.ping(other.pod, "-W", "5", "-M", "dont", "-s", "9000") == 3


def test_tcp_streams_arrive_whole(mixed: Cluster) -> None:
    """Within one machine the kernel's ipip hands over segments uncut and checksums unfinished."""
    kernel, engine = mixed.nodes
    before = engine.counters()["received"]
    for one, other in ((kernel, engine), (engine, kernel)):
        sent = os.urandom(2_000_000)
        assert one.transfer(other, sent) == sent
    after = engine.counters()["received"]
    mean = (after["bytes"] - before["bytes"]) / (after["packets"] - before["packets"])
    assert mean > 1480, "no segment was uncut"  # acknowledgements included


def test_both_mark_packets_alike(mixed: Cluster) -> None:
    """DF and ECN of the outer header; the kernel's tunl0 (tos 0) does not copy DSCP, ttl inherits: see docs."""
    kernel, engine = mixed.nodes
    for one, other in ((kernel, engine), (engine, kernel)):
        with one.capture(f"ip proto 4 and src {one.address}") as lines:
            assert one.ping(other.pod, "-W", "5", "-M", "do", "-Q", "2", count=1) == 1
            assert one.ping(other.pod, "-W", "5", "-M", "dont", "-Q", "1", count=1) == 1
        text = "\n".join(lines)
        assert "ECT(0), ttl" in text
        assert "flags [DF], proto IPIP" in text
        assert "flags [none], proto IPIP" in text


def test_moving_routes_loses_nothing(mixed: Cluster) -> None:
    kernel, engine = mixed.nodes
    kernel.ping(engine.pod, "-W", "5")
    flows = (kernel.flow(engine, rate=100, seconds=8), engine.flow(kernel, rate=100, seconds=8))

    def move() -> None:
        for device in ("eth0", "tunl0") * 3:
            kernel.route(engine, device)
            time.sleep(0.5)
            engine.route(kernel, device)
            time.sleep(0.5)

    worker = threading.Thread(target=move)
    worker.start()
    lost = [flow.finish().lost for flow in flows]
    worker.join()
    assert lost == [0, 0]
