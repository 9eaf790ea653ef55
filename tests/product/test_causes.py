"""What /readiness and `calico-py status` name as the cause of a trouble, each made by a real node, kernel or object.

Causes that the kernel or a program of the node has are in test_kernel_causes.py, those of BGP sessions in tests/bgp,
those of addresses in tests/cni.
"""

import json
from collections.abc import Iterator

import pytest

from calico_py.lab import agents, environments, objects
from tests.product.causes import (
    V3,
    all_well,
    annotate,
    applied,
    frozen,
    patch_pool,
    programmed,
    ready,
    restarted,
    run,
    stopped,
    told,
    waits,
)
from tests.product.cluster import TUNNEL, Cluster, cluster, eventually

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def lab_of_two_subnets() -> Iterator[Cluster]:
    with cluster(subnets=2) as up:
        yield up


@pytest.fixture
def made(lab_of_two_subnets: Cluster) -> Cluster:
    """All well, by the tunnel."""
    all_well(lab_of_two_subnets)
    return lab_of_two_subnets


def test_no_pool_selects_the_nodes(made: Cluster) -> None:
    patch_pool(made, nodeSelector="has(nothing)")
    try:
        eventually("no pool", lambda: "no IPPool serves this node" in ready(made, "node1"))
        eventually(
            "no address of tunl0",
            lambda: "no pool with ipipMode selects this node" in ready(made, "node1"),
            last=lambda: ready(made, "node1"),
        )
        eventually("no receiver", lambda: "has no IPIP receiver yet" in waits(made, "node1"))
    finally:
        patch_pool(made, nodeSelector="all()")


def test_a_node_is_deleted_and_comes_back(made: Cluster) -> None:
    before = json.loads(made.kubectl("get", "node", "node3", "-o", "json"))
    meta = {key: before["metadata"][key] for key in ("name", "labels", "annotations")}
    made.kubectl("delete", "node", "node3")
    try:
        eventually("its own", lambda: "Node node3 does not exist any more" in ready(made, "node3"))
        eventually("others", lambda: "node node3 has no Node object" in waits(made, "node1"))
    finally:
        again = {"apiVersion": "v1", "kind": "Node", "metadata": meta}
        made.kubectl("create", "-f", "-", stdin=json.dumps(again))
        status = json.dumps(objects.node_status(made.lab.topology.node("node3")))
        made.kubectl("patch", "node", "node3", "--subresource=status", "--type=merge", "-p", status)


def test_a_node_that_says_no_address(made: Cluster) -> None:
    with stopped(made, "node3"):
        annotate(made, "node3", "projectcalico.org/IPv4Address-")
        agents.change(made.lab, "node1", "restart")
        eventually("named", lambda: "node node3 has not published its IPv4 address" in waits(made, "node1"))


def test_an_annotation_that_cannot_be_read(made: Cluster) -> None:
    annotate(made, "node2", "projectcalico.org/ASNumber=many")
    try:
        where = "Node node2: metadata.annotations[projectcalico.org/ASNumber]"
        eventually("named", lambda: where in told(made, "node1", "problems"))
    finally:
        annotate(made, "node2", "projectcalico.org/ASNumber-")


def test_claims_that_contradict_or_cannot_be_read(made: Cluster) -> None:
    claims = json.loads(made.kubectl("get", "blockaffinities", "-o", "json"))["items"]
    (cidr,) = [claim["spec"]["cidr"] for claim in claims if claim["spec"]["node"] == "node1"]
    spec = {"state": "confirmed", "node": "node2", "type": "host", "deleted": False}
    second = {"apiVersion": V3, "kind": "BlockAffinity", "metadata": {"name": "second"}, "spec": spec | {"cidr": cidr}}
    with applied(made, second):
        eventually("both", lambda: f"block {cidr} is claimed by node2 and by node1" in told(made, "node3", "problems"))
    hostly = {"apiVersion": V3, "kind": "BlockAffinity", "metadata": {"name": "hostly"}}
    with applied(made, hostly | {"spec": spec | {"cidr": "10.99.0.1/26"}}):
        eventually("unread", lambda: "BlockAffinity hostly is not used" in told(made, "node3", "problems"))


def test_pools_that_nobody_or_everybody_programs(made: Cluster) -> None:
    patch_pool(made, ipipMode="Never", vxlanMode="Always")
    try:
        eventually("VXLAN", lambda: "spec.vxlanMode Always has no data plane" in waits(made, "node1"))
        patch_pool(made, vxlanMode="Never")
        with applied(made, *programmed("Disabled", "Disabled")):
            eventually("nobody", lambda: "left to nobody" in told(made, "node1", "problems"))
            eventually("routes", lambda: "leaves routes without encapsulation to nobody" in waits(made, "node1"))
        with applied(made, *programmed("Enabled", "Enabled")):
            eventually("both", lambda: "left to both sides" in told(made, "node1", "problems"))
            eventually("far", lambda: "is not on this node's subnet" in waits(made, "node1"))
    finally:
        patch_pool(made, ipipMode="Always", vxlanMode="Never")


def test_the_way_to_a_gateway_is_missing(made: Cluster) -> None:
    patch_pool(made, ipipMode="Never")
    gateway = run(made, "node1", "ip", "route", "show", "default").split()[2]
    try:
        made.wait_for(("eth0", "81"))
        run(made, "node1", "ip", "route", "del", "default")
        eventually("no way", lambda: "no route of this node leads to" in waits(made, "node1"))
        run(made, "node1", "ip", "route", "add", "default", "via", gateway)
        made.wait_for(("eth0", "81"))
        patch_pool(made, ipipMode="CrossSubnet")
        made.wait_for(("eth0", "80"), TUNNEL, nodes=("node1",))
        connected = next(
            line for line in run(made, "node1", "ip", "route", "show", "dev", "eth0").splitlines() if "link src" in line
        ).split()
        run(made, "node1", "ip", "route", "del", connected[0], "dev", "eth0")
        eventually("a router", lambda: f"is reached through the router {gateway}" in waits(made, "node1"))
        run(made, "node1", "ip", "route", "add", connected[0], "dev", "eth0", *connected[1:])
    finally:
        made.lab.endpoint("node1").run(["ip", "route", "replace", "default", "via", gateway])
        patch_pool(made, ipipMode="Always")


def test_somebody_elses_route_in_our_place(made: Cluster) -> None:
    block = next(iter(made.routes("node1")))
    gateway = run(made, "node1", "ip", "route", "show", "default").split()[2]
    run(made, "node1", "ip", "route", "replace", block, "via", gateway, "proto", "static")
    try:
        eventually("named", lambda: "calico-py did not make" in waits(made, "node1"), last=lambda: waits(made, "node1"))
    finally:
        run(made, "node1", "ip", "route", "del", block, "proto", "static")


def test_somebody_elses_tunl0(made: Cluster) -> None:
    with frozen(made, "node1"):
        run(made, "node1", "ip", "link", "del", "tunl0")
        run(made, "node1", "ip", "link", "add", "tunl0", "type", "bridge")
    try:
        said = "device tunl0 is there and of kind bridge"
        eventually("its kind", lambda: said in ready(made, "node1"), last=lambda: ready(made, "node1"))
        assert said in told(made, "node1", "tunnel", "problem")
        eventually("routes", lambda: "device tunl0 is down" in waits(made, "node1"), last=lambda: waits(made, "node1"))
    finally:
        run(made, "node1", "ip", "link", "del", "tunl0")


def test_settings_whose_old_values_cannot_be_kept(made: Cluster) -> None:
    kept = "/var/lib/calico-py/sysctls.json"
    with frozen(made, "node1"):
        run(made, "node1", "mv", kept, "/run/sysctls.kept")
        run(made, "node1", "mkdir", "-p", f"{kept}/full")
        run(made, "node1", "sysctl", "-qw", "net.ipv4.conf.eth0.rp_filter=1")
    try:
        patch_pool(made, natOutgoing=False)
        said = "rp_filter is not set to 2"
        eventually("named", lambda: said in ready(made, "node1"), last=lambda: ready(made, "node1"))
    finally:
        run(made, "node1", "rm", "-r", kept)
        run(made, "node1", "mv", "/run/sysctls.kept", kept)
        patch_pool(made, natOutgoing=True)


def test_nft_cannot_be_run(made: Cluster) -> None:
    where = run(made, "node1", "sh", "-c", "command -v nft").strip()
    with frozen(made, "node1"):
        run(made, "node1", "nft", "delete", "table", "inet", "calico-py")
        run(made, "node1", "mount", "--bind", "/dev/null", where)
    try:
        eventually("named", lambda: "table inet calico-py" in ready(made, "node1"), last=lambda: ready(made, "node1"))
    finally:
        run(made, "node1", "umount", where)


@pytest.mark.parametrize(
    ("verdict", "cause"), [("reject with tcp reset", "cannot be reached: Connection refused"), ("drop", "in time")]
)
def test_the_api_server_is_away(made: Cluster, verdict: str, cause: str) -> None:
    server = made.status("node2")["api"]["server"].rpartition("/")[2]
    rule = f"tcp dport {server.rpartition(':')[2]} {verdict};"
    chain = f"chain c {{ type filter hook output priority 0; {rule} }};"
    assert made.lab.endpoint("node2").run(["nft", "-f", "-"], stdin=f"table inet block {{ {chain} }}").returncode == 0
    try:
        agents.change(made.lab, "node2", "restart")
        said = "not in sync with the API server yet"
        eventually("named", lambda: said in ready(made, "node2"), last=lambda: ready(made, "node2"))
        eventually("the cause", lambda: cause in ready(made, "node2"), last=lambda: ready(made, "node2"))
    finally:
        run(made, "node2", "nft", "delete", "table", "inet", "block")


def test_a_node_by_another_name(made: Cluster) -> None:
    normally = {"NODENAME": "node2", "CALICO_IPV4POOL_IPPI": ""}
    with restarted(made, "node2", normally, NODENAME="nobody", CALICO_IPV4POOL_IPPI="Always"):
        said = "Node nobody does not exist: set NODENAME"
        eventually("named", lambda: said in ready(made, "node2"), last=lambda: ready(made, "node2"))
        assert "CALICO_IPV4POOL_IPPI (environment) is no setting" in told(made, "node2", "environment")


def test_an_address_that_is_not_to_be_found(made: Cluster) -> None:
    agents.change(made.lab, "node2", "stop", only=environments.AGENT)
    annotate(made, "node2", "projectcalico.org/IPv4Address-", "projectcalico.org/IPv6Address-")
    wrong = {"IP_AUTODETECTION_METHOD": "interface=nothing.*", "IP6": "none"}
    agents.change(made.lab, "node2", "start", only=environments.AGENT, env=wrong)
    try:
        said = "this node has no address: interface=nothing.* finds no device with an IPv4 address"
        eventually("named", lambda: said in ready(made, "node2"), last=lambda: ready(made, "node2"))
    finally:
        normally = {"IP_AUTODETECTION_METHOD": "kubernetes-internal-ip", "IP6": "autodetect"}
        agents.change(made.lab, "node2", "restart", env=normally)
