"""The lab's wires, by the kernel's own word."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from calico_py.lab import flows, namespaces
from calico_py.lab.commands import LabError, run
from calico_py.lab.live import LiveLab
from calico_py.lab.pings import ping
from calico_py.lab.processes import command_line
from calico_py.lab.readiness import find_break, find_routes
from calico_py.model.net import parse_network
from tests.lab.labs import calico_py, command, stub_lab

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def lab() -> Iterator[LiveLab]:
    with stub_lab(nodes=3, subnets=2) as found:
        yield found


@pytest.mark.parametrize("family", ["-4", "-6"])
@pytest.mark.parametrize(("source", "target"), [("node1", "node2"), ("node1", "node3"), ("node3", "node2")])
def test_every_node_reaches_every_other(lab: LiveLab, source: str, target: str, family: str) -> None:
    done = calico_py("lab", "ping", source, target, family, "-c", "2", "-o", "json", "--name", lab.state.name)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert (found["sent"], found["received"]) == (2, 2)
    assert (":" in found["address"]) == (family == "-6")


def test_a_ping_that_is_not_answered_exits_1(lab: LiveLab) -> None:
    done = calico_py("lab", "ping", "node1", "192.168.50.99", "-c", "1", "-o", "json", "--name", lab.state.name)
    assert done.returncode == 1
    assert json.loads(done.stdout)["lost"] == 1


def test_a_packet_between_subnets_takes_two_routers(lab: LiveLab) -> None:
    output = lab.endpoint("node1").run(["ping", "-n", "-c", "1", "192.168.51.13"]).stdout
    assert "ttl=62" in output
    assert "ttl=64" in lab.endpoint("node1").run(["ping", "-n", "-c", "1", "192.168.50.12"]).stdout


def test_uplinks_have_the_strict_filter_and_no_forwarding_and_the_usual_mtu(lab: LiveLab) -> None:
    for place in lab.topology.nodes:
        with namespaces.inside(namespaces.named(place.netns)):
            assert Path("/proc/sys/net/ipv4/conf/eth0/rp_filter").read_text().strip() == "1"
            assert Path("/proc/sys/net/ipv4/ip_forward").read_text().strip() == "0"
        links = json.loads(run(["ip", "-n", place.netns, "-j", "link", "show", "eth0"]))
        assert links[0]["mtu"] == 1500


def test_the_strict_filter_is_at_work(lab: LiveLab) -> None:
    """What arrives by the uplink from an address that is routed elsewhere is dropped: agents must mend that."""
    node = lab.topology.nodes[0].netns
    run(["ip", "-n", node, "link", "add", "other", "type", "veth", "peer", "name", "other2"])
    try:
        run(["ip", "-n", node, "link", "set", "other", "up"])
        assert ping(lab.endpoint("node2"), lab.target("node1"), count=1).ok
        run(["ip", "-n", node, "route", "add", "192.168.50.12/32", "dev", "other"])
        run(["ip", "-n", node, "route", "add", "192.168.50.12/32", "dev", "eth0", "metric", "9"])
        assert not ping(lab.endpoint("node2"), lab.target("node1"), count=1).ok
    finally:
        run(["ip", "-n", node, "link", "delete", "other"])
        run(["ip", "-n", node, "route", "flush", "192.168.50.12/32"])


def test_exec_runs_in_the_nodes_own_world(lab: LiveLab) -> None:
    script = "hostname; cat /proc/self/comm; ls /sys/class/net; ls -A /var/lib/cni; echo $NODENAME; touch /run/x"
    done = calico_py("lab", "exec", "--name", lab.state.name, "node3", "--", "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.split()
    assert lines[0] == "node3"
    assert "eth0" in lines
    assert lines[-1] == "node3"
    assert not Path("/run/x").exists()
    assert lab.endpoint("node1").run(["ls", "/run/x"]).returncode != 0


def test_exec_passes_on_exit_code_and_input(lab: LiveLab) -> None:
    argv = command("lab", "exec", "--name", lab.state.name, "node1", "--", "sh", "-c", "cat; exit 7")
    done = subprocess.run(argv, input="given", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (7, "given")


def test_what_exec_started_ends_with_it(lab: LiveLab) -> None:
    netns = namespaces.named(lab.topology.nodes[0].netns)
    before = set(namespaces.list_processes(netns))
    with lab.endpoint("node1").popen(["sleep", "86411"]) as started:
        deadline = time.monotonic() + 5
        while not any(command_line(pid) == ["sleep", "86411"] for pid in namespaces.list_processes(netns)):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        started.kill()
    deadline = time.monotonic() + 5
    while set(namespaces.list_processes(netns)) - before:
        assert time.monotonic() < deadline, "the command goes on without whoever started it"
        time.sleep(0.01)


def test_named_namespaces_work_with_ip_netns(lab: LiveLab) -> None:
    output = run(["ip", "netns", "exec", lab.topology.nodes[2].netns, "ip", "-br", "address"])
    assert "192.168.51.13/24" in output


def test_a_machine_that_joins_does_not_change_the_addresses_of_the_others(lab: LiveLab) -> None:
    """Of the lowest MAC: a bridge without one of its own would take it, and lose who knows its old one."""
    for netns, bridge in ((lab.topology.core, "core0"), (lab.topology.routers[0].netns, "lan0")):
        ip = ["ip", "-n", netns, "link"]
        before = run([*ip, "show", bridge])
        run([*ip, "add", "guest", "address", "02:00:00:00:00:01", "type", "veth", "peer", "name", "guests"])
        try:
            run([*ip, "set", "guest", "master", bridge, "up"])
            assert run([*ip, "show", bridge]) == before
        finally:
            run([*ip, "del", "guest"])


def test_nodes_reach_the_api_server_over_the_labs_own_network(lab: LiveLab) -> None:
    script = "import os,yaml,urllib.request as u;"
    script += "s=yaml.safe_load(open(os.environ['KUBECONFIG']))['clusters'][0]['cluster']['server'];"
    script += "print(s, u.urlopen(s+'/api/v1/nodes').status)"
    done = lab.endpoint("node3").run([sys.executable, "-c", script])
    assert done.stdout.split() == ["http://192.168.49.1:6443", "200"], done.stderr


def test_the_default_route_is_no_route_to_a_block(lab: LiveLab) -> None:
    netns = lab.topology.nodes[0].netns
    block, other = parse_network("10.244.5.0/26", field="x"), parse_network("10.244.6.0/26", field="x")
    assert find_routes(netns, [block]) == {}
    run(["ip", "-n", netns, "route", "add", str(block), "via", "192.168.50.12"])
    run(["ip", "-n", netns, "route", "add", "blackhole", str(other)])
    try:
        assert find_routes(netns, [block, block.network_address, other]) == {
            block: "eth0",
            block.network_address: "eth0",
        }
    finally:
        run(["ip", "-n", netns, "route", "delete", str(block)])
        run(["ip", "-n", netns, "route", "delete", "blackhole", str(other)])


@pytest.mark.parametrize(
    ("dst", "gateway"), [("10.244.5.0/26", "192.168.50.1"), ("fd00:5::/122", "fd00:192:168:50::1")]
)
def test_a_way_that_ends_at_a_router_is_a_break(lab: LiveLab, dst: str, gateway: str) -> None:
    """Between subnets without a tunnel every router on the way must know the block."""
    place, owners = lab.topology.nodes[0], {parse_network(dst, field="x"): "node3"}
    first, second = (router.netns for router in lab.topology.routers)
    assert find_break(lab.topology, place, owners) == f"no working route to {dst}"
    run(["ip", "-n", place.netns, "route", "add", dst, "via", gateway])
    run(["ip", "-n", first, "route", "add", dst, "dev", "core0"])
    try:
        assert f"routed to {dst} without a tunnel, which {second} has no route to" in find_break(
            lab.topology, place, owners
        )
        run(["ip", "-n", second, "route", "add", dst, "dev", "lan0"])
        assert find_break(lab.topology, place, owners) == ""
        assert find_break(lab.topology, lab.topology.nodes[2], owners) == "", "the node's own block"
        run(["ip", "-n", first, "route", "delete", dst])
        assert first in find_break(lab.topology, place, owners)
    finally:
        for netns in (place.netns, second):
            run(["ip", "-n", netns, "route", "delete", dst])


def test_a_tunnel_without_carrier_is_no_way(lab: LiveLab) -> None:
    netns = lab.topology.nodes[0].netns
    block = parse_network("10.244.5.0/26", field="x")
    run(["ip", "-n", netns, "tuntap", "add", "tunl0", "mode", "tun"])
    try:
        run(["ip", "-n", netns, "link", "set", "tunl0", "up"])
        run(["ip", "-n", netns, "route", "add", str(block), "via", "192.168.50.12", "dev", "tunl0", "onlink"])
        assert find_routes(netns, [block]) == {}
    finally:
        run(["ip", "-n", netns, "link", "delete", "tunl0"])


@pytest.mark.parametrize("family", [4, 6])
def test_a_flow_between_nodes_loses_nothing(lab: LiveLab, family: int) -> None:
    result = flows.run(lab.endpoint("node1"), lab.endpoint("node3"), 1.0, family=family)
    assert result.lost == 0, result.to_json()
    assert 900 < result.there.sent < 1300
    assert 900 < result.back.sent < 1300


def test_a_pod_that_is_not_there_is_told(lab: LiveLab) -> None:
    with pytest.raises(LabError, match="pod nobody: not found"):
        lab.endpoint("pod/nobody")


def test_a_flow_command_tells_and_exits(lab: LiveLab) -> None:
    done = calico_py("lab", "flow", "node1", "node2", "--seconds", "0.5", "--name", lab.state.name)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "lost: 0"
