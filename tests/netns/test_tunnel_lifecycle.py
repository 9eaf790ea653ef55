"""The engine's comings and goings: nothing that it needs is its own, so nothing is lost with it but its packets."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.tunnel_nodes import ENGINE, Cluster, Node, cluster, eventually, inside

pytestmark = pytest.mark.root


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Cluster]:
    with cluster(tmp_path) as made:
        yield made


@pytest.fixture
def two(bare: Cluster) -> Cluster:
    bare.tunnel()
    return bare


def test_killed_and_restarted(two: Cluster) -> None:
    one, other = two.nodes
    routes = one.ip("route")
    assert one.stop_engine(signal.SIGKILL) == -signal.SIGKILL
    assert not one.attached()
    assert one.ping(other.pod, count=2) == 0
    before = one.ip("route").replace(" linkdown", "")
    assert before == routes
    one.start_engine()
    assert one.ip("route") == routes
    assert one.ping(other.pod) == 3


def test_stops_on_sigterm_and_leaves_the_device(two: Cluster) -> None:
    one, other = two.nodes
    assert one.ping(other.pod) == 3
    assert one.stop_engine(signal.SIGTERM) == 0
    assert "tunl0" in one.ip("link", "show", "tunl0")
    assert other.block in one.ip("route", "show", "dev", "tunl0")
    report = json.loads(one.report.read_text())
    assert report["sent"] == {"packets": 3, "bytes": 3 * 84}
    assert report["received"] == {"packets": 3, "bytes": 3 * 84}
    assert report["drops"] == {}
    assert report["endpoint"] == f"calico-py ipip local {one.address}"


def test_logs_its_counters_on_sigusr1(two: Cluster) -> None:
    one, _ = two.nodes
    assert one.engine is not None
    one.engine.send_signal(signal.SIGUSR1)
    eventually(lambda: "'sent'" in one.log.read_text())
    assert one.engine.poll() is None


def test_device_deleted_and_made_again(two: Cluster) -> None:
    one, other = two.nodes
    for _ in range(3):
        one.ip("link", "del", "tunl0")
        one.make_tunnel()
        one.route(other)
        eventually(one.attached)
        assert one.ping(other.pod) == 3
    assert one.engine is not None
    assert one.engine.poll() is None


def test_device_renamed_is_let_go(two: Cluster) -> None:
    one, other = two.nodes
    one.ip("link", "set", "tunl0", "down")
    one.ip("link", "set", "tunl0", "name", "stray0")
    eventually(lambda: not one.attached("stray0"))
    one.make_tunnel()
    one.route(other)
    eventually(one.attached)
    assert one.ping(other.pod) == 3


def test_device_down_and_up(two: Cluster) -> None:
    one, other = two.nodes
    one.ip("link", "set", "tunl0", "down")
    assert other.ping(one.pod, count=1) == 0
    one.ip("link", "set", "tunl0", "up")
    one.route(other)
    assert one.ping(other.pod) == 3


def test_waits_for_device_and_alias(bare: Cluster) -> None:
    one, _ = bare.nodes
    one.start_engine(wait=False)
    eventually(lambda: "there is no device tunl0 yet" in one.log.read_text(), within=20)
    one.ip("tuntap", "add", "tunl0", "mode", "tun")
    one.ip("link", "set", "tunl0", "up")
    eventually(lambda: "ifalias: found ''" in one.log.read_text())
    assert not one.attached()
    one.ip("link", "set", "tunl0", "alias", f"calico-py ipip local {one.address}")
    eventually(one.attached)


def test_follows_the_nodes_address(two: Cluster) -> None:
    one, other = two.nodes
    one.ip("addr", "add", "192.168.1.101/24", "dev", "eth0")
    one.ip("link", "set", "tunl0", "alias", "calico-py ipip local 192.168.1.101")
    eventually(lambda: "now calico-py ipip local 192.168.1.101" in one.log.read_text())
    with one.capture("ip proto 4") as lines:
        assert one.ping(other.pod) == 3
    text = "\n".join(lines)
    assert f"192.168.1.101 > {other.address}" in text
    assert f"{other.address} > {one.address}" in text  # the other side still sends to the old one


def test_new_route_is_effective_at_once(two: Cluster) -> None:
    one, other = two.nodes
    for number in range(50):
        one.ip("route", "del", other.block)
        one.route(other)
        assert one.ping(other.pod, count=1) == 1, f"after route {number}"
    assert one.counters()["drops"] == {}


def test_many_routes(two: Cluster) -> None:
    one, other = two.nodes
    blocks = [f"10.{245 + number // 1024}.{number // 4 % 256}.{number % 4 * 64}/26" for number in range(4000)]
    lines = [f"route add {block} via {other.address} dev tunl0 onlink" for block in blocks]
    subprocess.run([*one.enter, "ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)
    assert one.ping(other.pod) == 3
    assert one.counters()["routes"] == 4001


def test_news_that_were_lost_are_read_again(two: Cluster) -> None:
    """More changes than the socket holds, while the engine cannot read."""
    one, other = two.nodes
    assert one.engine is not None
    one.engine.send_signal(signal.SIGSTOP)
    noise = [
        f"route {verb} 10.99.{number // 256}.{number % 256}/32 dev eth0"
        for _ in range(2)
        for verb in ("add", "del")
        for number in range(5000)
    ]
    real = [f"route del {other.block}", f"route add 10.244.0.0/16 via {other.address} dev tunl0 onlink"]
    text = "\n".join([*noise, *real])
    subprocess.run([*one.enter, "ip", "-batch", "-"], input=text, text=True, check=True)
    with inside(one.namespace):
        lines = Path("/proc/thread-self/net/netlink").read_text().splitlines()
    dropped = sum(int(line.split()[8]) for line in lines[1:])
    one.engine.send_signal(signal.SIGCONT)
    assert dropped > 0, "the test did not fill the socket"
    assert one.ping(other.pod) == 3
    assert one.counters()["routes"] == 1


def _fails(one: Node, *enter: str) -> str:
    """What an engine says that ends at once with status 1."""
    command = [*one.enter, *enter, *ENGINE, "--report", str(one.report)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    return done.stderr


def test_second_engine_is_refused(two: Cluster) -> None:
    one, other = two.nodes
    said = _fails(one)
    assert "tunl0: another process is attached to it" in said
    assert one.ping(other.pod) == 3


def test_device_of_another_kind_is_refused(bare: Cluster) -> None:
    one, _ = bare.nodes
    one.ip("link", "add", "tunl0", "type", "veth")
    said = _fails(one)
    assert "tunl0: found a device of kind 'veth', expected 'tun'" in said


def test_tap_device_is_refused(bare: Cluster) -> None:
    one, _ = bare.nodes
    one.ip("tuntap", "add", "tunl0", "mode", "tap")
    one.ip("link", "set", "tunl0", "alias", f"calico-py ipip local {one.address}")
    said = _fails(one)
    assert "tunl0: the device is no single-queue TUN device" in said


def test_without_dev_net_tun(bare: Cluster) -> None:
    one, _ = bare.nodes
    one.make_tunnel()
    hidden = 'mount -t tmpfs none /dev/net && exec "$@"'
    said = _fails(one, "unshare", "-m", "sh", "-c", hidden, "sh")
    assert "/dev/net/tun: No such file or directory" in said


def _without(capability: str) -> tuple[str, ...]:
    return "setpriv", "--bounding-set", f"-{capability}", "--inh-caps", f"-{capability}"


def test_without_net_raw(bare: Cluster) -> None:
    one, _ = bare.nodes
    one.make_tunnel()
    assert "no permission; the process needs NET_RAW" in _fails(one, *_without("net_raw"))


def test_needs_no_net_admin(bare: Cluster) -> None:
    one, other = bare.nodes
    one.make_tunnel()
    one.route(other)
    one.start_engine(enter=_without("net_admin"))
    other.make_tunnel()
    other.route(one)
    other.start_engine()
    assert one.ping(other.pod) == 3


def test_device_with_an_owner(bare: Cluster) -> None:
    one, _ = bare.nodes
    one.make_tunnel()
    one.ip("link", "del", "tunl0")
    one.ip("tuntap", "add", "tunl0", "mode", "tun", "user", "12345")
    one.ip("link", "set", "tunl0", "alias", f"calico-py ipip local {one.address}")
    assert "the device has an owner" in _fails(one, *_without("net_admin"))


def test_report_that_is_no_file_is_refused(bare: Cluster) -> None:
    one, _ = bare.nodes
    os.mkfifo(one.report)
    command = [*one.enter, *ENGINE, "--report", str(one.report)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert "is no regular file" in done.stderr
    assert one.report.is_fifo()


def test_idle_engine_costs_nothing(two: Cluster) -> None:
    one, _ = two.nodes
    before = one.engine_seconds()
    time.sleep(3)
    assert one.engine_seconds() - before <= 0.02
