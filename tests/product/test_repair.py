"""What someone breaks by hand is back within a second, and what is restarted or killed loses nothing."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from calico_py.lab import agents
from calico_py.lab.live import Endpoint
from tests.product.cluster import BGP, TUNNEL, Cluster, cluster, eventually

pytestmark = [pytest.mark.root, pytest.mark.alone, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def made() -> Iterator[Cluster]:
    with cluster() as up:
        yield up


def node(made: Cluster, name: str = "node1") -> Endpoint:
    return made.lab.endpoint(name)


def ip(made: Cluster, *words: str, where: str = "node1") -> str:
    done = node(made, where).run(["ip", *words])
    assert done.returncode == 0, done.stderr
    return done.stdout


def pings(made: Cluster, source: str = "pod/p1", target: str = "pod/p2") -> bool:
    address = str(made.lab.endpoint(target).address(4))
    return made.lab.endpoint(source).run(["ping", "-c1", "-W1", address]).returncode == 0


def established(made: Cluster, where: str = "node1") -> bool:
    """Whether all BGP sessions of a node are up, by its own status."""
    return all(peer["state"] == "Established" for peer in made.status(where)["bgp"]["peers"])


def strangers_dropped(made: Cluster, where: str) -> int:
    """The counter of the rule that drops IPIP from a stranger."""
    rules = node(made, where).run(["nft", "list", "chain", "inet", "calico-py", "tunnel"]).stdout
    return int(re.findall(r"counter packets (\d+)", rules)[-1])


def test_flushed_routes_are_back_within_a_second(made: Cluster) -> None:
    made.wait_for(TUNNEL)
    ip(made, "route", "flush", "proto", "80")
    eventually("routes are back", lambda: len(made.routes("node1")) == 2, within=1.0)
    assert "blackhole" in ip(made, "route", "show", "proto", "80")


def test_an_address_taken_off_tunl0_is_back(made: Cluster) -> None:
    made.wait_for(TUNNEL)
    before = ip(made, "-4", "-o", "addr", "show", "tunl0").split()[3]
    ip(made, "addr", "flush", "dev", "tunl0")
    eventually("the address is back", lambda: before in ip(made, "-4", "addr", "show", "tunl0"), within=1.0)
    made.wait_for(TUNNEL)
    assert pings(made)


def test_tunl0_set_down_is_up_again_with_its_routes(made: Cluster) -> None:
    made.wait_for(TUNNEL)
    ip(made, "link", "set", "tunl0", "down")
    eventually("routes are back", lambda: len(made.routes("node1")) == 2, within=1.0)
    eventually("pods talk", lambda: pings(made), within=5.0)


def test_tunl0_deleted_is_made_again_with_its_routes(made: Cluster) -> None:
    made.wait_for(TUNNEL)
    ip(made, "link", "delete", "tunl0")
    eventually("routes are back", lambda: len(made.routes("node1")) == 2, within=2.0)
    eventually("the engine is attached again and pods talk", lambda: pings(made), within=5.0)
    eventually("and the other way", lambda: pings(made, "pod/p2", "pod/p1"), within=5.0)


def test_an_agent_restart_loses_nothing(made: Cluster) -> None:
    made.wait_for(TUNNEL)
    with made.flow("pod/p1", "pod/p2") as flow:
        agents.change(made.lab, "node1", "restart")
        agents.kill(made.lab, "node2", "agent")
        eventually(
            "the agents are ready", lambda: not any(made.status(name)["not_ready"] for name in ("node1", "node2"))
        )
        time.sleep(1)
        result = flow.stop()
    assert result.lost == 0, result


def test_a_killed_bgp_speaker_loses_nothing(made: Cluster) -> None:
    made.apply_mode("Never")
    made.wait_for(BGP)
    with made.flow("pod/p1", "pod/p2") as flow:
        for process in ("exabgp", "bridge"):
            eventually("sessions are up", lambda: established(made), within=30.0)
            agents.kill(made.lab, "node1", process)
            eventually("sessions are lost", lambda: not established(made))
        eventually("sessions are up again", lambda: established(made), within=30.0)
        time.sleep(1)
        made.wait_for(BGP)
        result = flow.stop()
    made.apply_mode("Always")
    made.wait_for(TUNNEL)
    assert result.lost == 0, result


def test_a_killed_engine_leaves_the_routes_and_heals(made: Cluster) -> None:
    made.wait_for(TUNNEL)
    agents.kill(made.lab, "node1", "tunnel")
    assert len(made.routes("node1")) == 2
    eventually("pods talk again", lambda: pings(made), within=5.0)
    made.wait_for(TUNNEL)


def test_protocol_4_from_a_stranger_is_dropped(made: Cluster) -> None:
    """A host of the same network that is no node sends a well-formed IPIP packet to a node, for a pod behind it."""
    made.wait_for(TUNNEL)
    target = made.lab.endpoint("pod/p2").address(4)
    send = f"""
import socket, struct
address = socket.inet_aton("{target}")
head = bytes.fromhex("4500001c00004000401100000af40101") + address
total = sum(struct.unpack("!10H", head))
checksum = 0xffff - (total & 0xffff) - (total >> 16)
inner = head[:10] + struct.pack("!H", checksum) + head[12:] + struct.pack("!HHHH", 7777, 7777, 8, 0)
socket.socket(socket.AF_INET, socket.SOCK_RAW, 4).sendto(inner, ("192.168.50.12", 0))
"""
    router = f"{made.lab.state.name}-router1"
    watch = made.lab.endpoint("pod/p2").popen(
        ["timeout", "2", "tcpdump", "-lnni", "eth0", "udp port 7777"], stdout=subprocess.PIPE
    )
    time.sleep(0.5)
    before = strangers_dropped(made, "node2")
    subprocess.run(["ip", "netns", "exec", router, sys.executable, "-c", send], check=True)
    subprocess.run(["ip", "netns", "exec", f"{made.lab.state.name}-node1", sys.executable, "-c", send], check=True)
    seen, _ = watch.communicate()
    assert strangers_dropped(made, "node2") == before + 1
    assert seen.count("10.244.1.1.7777") == 1, "the node's own packet, and not the stranger's"
