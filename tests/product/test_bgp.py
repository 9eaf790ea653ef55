"""BGP on a running cluster, with a real BIRD beside the nodes: it plays a node of the mesh, as real Calico's would."""

import contextlib
import json
import subprocess
import tempfile
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest

from calico_py.lab import pods
from calico_py.lab.namespaces import named
from calico_py.model.pools import EncapMode
from tests.product.cluster import BGP, Cluster, cluster, eventually

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

ROUTER = "192.168.50.1"
INJECTED = "172.20.0.0/16"

BIRD = f"""
router id {ROUTER};
log stderr all;
protocol device {{ }}
protocol static injected {{ ipv4; route {INJECTED} blackhole; }}
template bgp mesh {{
  local {ROUTER} as 64512;
  ipv4 {{ import all; export where source = RTS_STATIC; next hop self; }};
  graceful restart on;
}}
""" + "".join(
    f"protocol bgp n{number} from mesh {{ neighbor 192.168.50.{number} as 64512; }}\n" for number in (11, 12, 13)
)


@pytest.fixture(scope="module")
def made() -> Iterator[Cluster]:
    with cluster(ipip=EncapMode.NEVER) as up:
        yield up


@contextlib.contextmanager
def bird(made: Cluster) -> Iterator[list[str]]:
    """A BIRD in the router's namespace, and a Node object for it; gives the command to ask it."""
    netns = named(f"{made.lab.state.name}-router1")
    with tempfile.TemporaryDirectory() as folder:
        config, control = Path(folder, "bird.conf"), Path(folder, "bird.ctl")
        config.write_text(BIRD)
        inside = ["nsenter", f"--net={netns}", "--"]
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": "router", "annotations": {"projectcalico.org/IPv4Address": f"{ROUTER}/24"}},
        }
        made.kubectl("create", "-f", "-", stdin=json.dumps(node))
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *inside, "bird", "-f", "-c", str(config), "-s", str(control)],
            stderr=subprocess.DEVNULL,
        )
        try:
            yield ["birdc", "-r", "-s", str(control)]
        finally:
            process.terminate()
            process.wait()
            made.kubectl("delete", "node", "router")


def birdc(ask: list[str], *words: str) -> str:
    return subprocess.run([*ask, *words], capture_output=True, text=True, check=False).stdout


def learned(made: Cluster, node: str) -> str:
    return made.lab.endpoint(node).run(["ip", "route", "show", "proto", "81"]).stdout


def test_a_router_in_the_mesh(made: Cluster) -> None:
    """What it injects and no API object names is installed; it has our blocks; when it goes, so do its routes."""
    with bird(made) as ask:
        for node in ("node1", "node2", "node3"):
            eventually(
                f"{node} has the router's prefix",
                lambda node=node: f"{INJECTED} via {ROUTER} dev eth0" in learned(made, node),  # type: ignore[misc]
                within=30,
            )
        blocks = json.loads(made.kubectl("get", "blockaffinities", "-o", "json"))["items"]
        eventually(
            "BIRD has every block",
            lambda: all(item["spec"]["cidr"] in birdc(ask, "show", "route") for item in blocks),
        )
        since = birdc(ask, "show", "protocols")
        pods.add(made.lab, "another", "node2")
        assert birdc(ask, "show", "protocols") == since, "a new pod resets no session"
        pods.delete(made.lab, "another")
    eventually("the prefix is gone with the router", lambda: INJECTED not in learned(made, "node1"))
    made.wait_for(BGP)


def test_without_bgp_a_new_block_of_a_never_pool_has_no_route(made: Cluster) -> None:
    """Port 179 is blocked at node3: status says what is missing; once it is open, the route comes."""
    made.wait_for(BGP)
    node = made.lab.endpoint("node3")
    drop = "tcp dport 179 drop; tcp sport 179 drop;"
    rules = "".join(f"chain {c} {{ type filter hook {c} priority 0; {drop} }}; " for c in ("input", "output"))
    assert node.run(["nft", "-f", "-"], stdin=f"table inet block {{ {rules} }}").returncode == 0
    manifest = {
        "apiVersion": "projectcalico.org/v3",
        "kind": "IPPool",
        "metadata": {"name": "second"},
        "spec": {"cidr": "10.245.0.0/16", "ipipMode": "Never"},
    }
    made.kubectl("patch", "ippool", "default-ipv4-ippool", "--type=merge", "-p", '{"spec": {"disabled": true}}')
    made.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
    record = pods.add(made.lab, "late", "node3")
    assert str(record.addresses[0]).startswith("10.245.")

    def route() -> dict[str, str] | None:
        routes = made.status("node1")["routes"]["routes"]
        return next((r for r in routes if record.addresses[0] in ip_network(r["dst"])), None)

    eventually("node1 knows of the block", route)
    found = route()
    assert found is not None
    assert found["state"] == "none"
    assert "waiting for BGP" in found["waiting"]
    assert found["dst"] not in learned(made, "node1")
    assert node.run(["nft", "delete", "table", "inet", "block"]).returncode == 0
    eventually("the route comes with the session", lambda: found["dst"] in learned(made, "node1"), within=60)
