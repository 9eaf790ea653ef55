"""What /liveness, /readiness and `calico-py status` name where a node's kernel, disk or programs are the cause."""

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from calico_py.lab import agents
from tests.product.causes import (
    V3,
    all_well,
    annotate,
    applied,
    frozen,
    patch_pool,
    ready,
    restarted,
    run,
    told,
    waits,
)
from tests.product.cluster import BGP, Cluster, cluster, eventually

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), Path("/nonexistent"))


@pytest.fixture(scope="module")
def lab() -> Iterator[Cluster]:
    with cluster() as up:
        yield up


@pytest.fixture
def made(lab: Cluster) -> Cluster:
    """All well, by the tunnel."""
    all_well(lab)
    return lab


def says(made: Cluster, words: str, *, node: str = "node1") -> None:
    """What /readiness answers comes to contain these words."""
    eventually(f"readiness of {node}: {words}", lambda: words in ready(made, node), last=lambda: ready(made, node))


def waits_for(made: Cluster, words: str, *, node: str = "node1") -> None:
    """What a route of the node waits for comes to contain these words."""
    eventually(f"routes of {node}: {words}", lambda: words in waits(made, node), last=lambda: waits(made, node))


def alive(made: Cluster) -> str:
    """The body of node1's /liveness."""
    return made.lab.endpoint("node1").run(["curl", "-s", "http://127.0.0.1:9099/liveness"]).stdout


def address(made: Cluster, node: str) -> str:
    """The node's IPv4 address."""
    return str(made.lab.topology.node(node).ipv4.ip)


@contextlib.contextmanager
def by_other_program(made: Cluster, name: str, script: str) -> Iterator[None]:
    """On node1 a shell script in the place of a program; $0.real is the program."""
    where = run(made, "node1", "sh", "-c", f"readlink -f $(command -v {name})").strip()
    run(made, "node1", "cp", where, f"/run/{name}.real")
    prepare = f"cat > /run/{name} && chmod 755 /run/{name} && mount --bind /run/{name} {where}"
    done = made.lab.endpoint("node1").run(["sh", "-c", prepare], stdin=f"#!/bin/sh\n{script}\n")
    assert done.returncode == 0, done.stderr
    try:
        yield
    finally:
        run(made, "node1", "umount", where)


@contextlib.contextmanager
def disk_that_hangs(made: Cluster) -> Iterator[None]:
    """A file system on /run/disk of node1 that takes no write: whoever writes waits, and no signal reaches it."""
    run(made, "node1", "sh", "-c", "truncate -s 4M /run/disk.img && mkfs.ext4 -q /run/disk.img && mkdir -p /run/disk")
    run(made, "node1", "mount", "-o", "loop", "/run/disk.img", "/run/disk")
    try:
        run(made, "node1", "fsfreeze", "-f", "/run/disk")
        try:
            yield
        finally:
            run(made, "node1", "fsfreeze", "-u", "/run/disk")
    finally:
        run(made, "node1", "umount", "-l", "/run/disk")


@contextlib.contextmanager
def settable_clock(made: Cluster) -> Iterator[Any]:
    """An agent on node1 whose clocks, the steady one too, can be put forward; gives the call that does it."""
    ahead = 0

    def forward(seconds: int) -> None:
        nonlocal ahead
        ahead += seconds
        run(made, "node1", "sh", "-c", f"echo +{ahead} > /run/clock.new && mv /run/clock.new /run/clock")

    forward(0)
    faketime = {"LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": "/run/clock", "FAKETIME_NO_CACHE": "1"}
    with restarted(made, "node1", dict.fromkeys(faketime, ""), **faketime):
        eventually("the agent is ready", lambda: ready(made, "node1") == "ready\n", last=lambda: ready(made, "node1"))
        yield forward


@pytest.mark.skipif(not FAKETIME.exists(), reason="libfaketime is not installed (Debian: libfaketime)")
def test_an_nft_that_does_not_end_and_one_that_cannot_be_ended(made: Cluster) -> None:
    """Two minutes and more go by on the agent's clock only; all else is as it would be."""
    with settable_clock(made) as forward:

        def later() -> str:
            """What readiness says half a minute later."""
            forward(31)
            return ready(made, "node1")

        with by_other_program(made, "nft", "exec sleep 1000"):
            run(made, "node1", "/run/nft.real", "delete", "table", "inet", "calico-py")
            said = "cannot set nftables table inet calico-py: nft -f - did not end within 30 s and was killed"
            eventually("it is killed", lambda: said in later(), last=lambda: ready(made, "node1"))
            eventually("and the pass ends", lambda: alive(made) == "alive\n", last=lambda: alive(made))
        eventually("all well", lambda: later() == "ready\n", last=lambda: ready(made, "node1"))
        with by_other_program(made, "nft", ': > /run/disk/file; exec /run/nft.real "$@"'), disk_that_hangs(made):
            run(made, "node1", "/run/nft.real", "delete", "table", "inet", "calico-py")
            stuck = re.compile(r"^D.*/nft ", re.MULTILINE)
            eventually("it waits", lambda: stuck.search(run(made, "node1", "ps", "-eo", "stat,args")))
            assert alive(made) == "alive\n"
            forward(400)
            said = "a pass over this node's kernel has not ended for 4"
            eventually("not alive", lambda: said in alive(made), last=lambda: alive(made))
            says(made, said)
        eventually("alive again", lambda: alive(made) == "alive\n", last=lambda: alive(made))
    eventually("all well", lambda: ready(made, "node1") == "ready\n", last=lambda: ready(made, "node1"))


def test_a_node_that_says_another_nodes_address(made: Cluster) -> None:
    """The way to it would lead to this node itself, which the kernel refuses."""
    mine = address(made, "node1")
    notes = {"projectcalico.org/IPv4Address": f"{mine}/24", "projectcalico.org/IPv4IPIPTunnelAddr": "10.244.250.1"}
    ghost = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "ghost", "annotations": notes}}
    spec = {"cidr": "10.244.250.0/26", "node": "ghost", "state": "confirmed", "type": "host", "deleted": False}
    claim = {"apiVersion": V3, "kind": "BlockAffinity", "metadata": {"name": "ghost"}, "spec": spec}
    with applied(made, ghost, claim):
        says(made, f"found {mine}, which Node ghost has too; expected an address of this node alone")
        waits_for(made, f"cannot set route 10.244.250.0/26 via {mine} dev tunl0 onlink proto 80: invalid argument")
        waits_for(made, "the gateway is an address of this node itself, or a rule of `ip rule` forbids the way to it")
        event = "jsonpath={.items[?(@.reason=='DuplicateAddress')].message}"
        eventually("an Event", lambda: mine in made.kubectl("get", "events", "-o", event))


def test_a_rule_that_forbids_the_way(made: Cluster) -> None:
    run(made, "node1", "ip", "rule", "add", "to", address(made, "node2"), "prohibit", "pref", "10")
    try:
        patch_pool(made, ipipMode="CrossSubnet")
        waits_for(
            made, "permission denied (Nexthop has invalid gateway); the gateway is an address of this node itself"
        )
    finally:
        run(made, "node1", "ip", "rule", "del", "pref", "10")
        patch_pool(made, ipipMode="Always")


def test_settings_that_are_read_only(made: Cluster) -> None:
    setting = "net.ipv4.conf.eth0.rp_filter"
    with frozen(made, "node1"):
        run(made, "node1", "sysctl", "-qw", f"{setting}=1")
        run(made, "node1", "mount", "--bind", "/proc/sys", "/proc/sys")
        run(made, "node1", "mount", "-o", "remount,bind,ro", "/proc/sys")
    try:
        patch_pool(made, natOutgoing=False)
        says(made, "cannot set setting net/ipv4/conf/eth0/rp_filter = 2: read-only file system; mount the host's")
    finally:
        run(made, "node1", "umount", "/proc/sys")
        patch_pool(made, natOutgoing=True)


def test_a_network_of_the_node_that_a_peer_announces(made: Cluster) -> None:
    patch_pool(made, ipipMode="Never")
    try:
        made.wait_for(BGP)
        block = next(iter(made.routes("node1")))
        run(made, "node1", "ip", "link", "add", "mine", "type", "veth", "peer", "name", "other")
        for name in ("mine", "other"):
            run(made, "node1", "ip", "link", "set", name, "up")
        run(made, "node1", "ip", "address", "add", block, "dev", "mine", "noprefixroute")
        run(made, "node1", "ip", "route", "add", block, "dev", "mine", "metric", "50")
        waits_for(made, f"{block} is connected to mine: what a peer announces does not take its place")
    finally:
        made.lab.endpoint("node1").run(["ip", "link", "del", "mine"])
        patch_pool(made, ipipMode="Always")


def test_a_device_that_cannot_be_made(made: Cluster) -> None:
    run(made, "node1", "mount", "-t", "tmpfs", "none", "/dev/net")
    try:
        run(made, "node1", "ip", "link", "del", "tunl0")
        says(made, "cannot set device tunl0 of kind tun: no such file or directory (there is no /dev/net/tun: load the")
    finally:
        run(made, "node1", "umount", "/dev/net")


def test_no_address_for_the_tunnel(made: Cluster) -> None:
    """All that the pool has left is reserved, and what tunl0 had somebody has released."""
    reservation = {"apiVersion": V3, "kind": "IPReservation", "metadata": {"name": "all"}}
    spec = {"reservedCIDRs": ["10.244.0.0/16"]}
    mine = made.status("node3")["tunnel"]["address"]
    agents.change(made.lab, "node3", "stop", only="agent")
    try:
        with applied(made, {**reservation, "spec": spec}):
            run(made, "node3", "calico-py", "ipam", "release", "--force", mine)
            annotate(made, "node3", "projectcalico.org/IPv4IPIPTunnelAddr-")
            agents.change(made.lab, "node3", "start", only="agent")
            says(made, "tunl0 has no address: ", node="node3")
            says(made, "No IPs available in pools: [10.244.0.0/16] (", node="node3")
    finally:
        agents.change(made.lab, "node3", "start", only="agent")


def test_the_condition_of_a_node_after_a_boot(made: Cluster) -> None:
    """No pool serves it, and the scheduler is told so for as long."""

    def condition() -> str:
        path = "jsonpath={.status.conditions[?(@.type=='NetworkUnavailable')]}"
        return made.kubectl("get", "node", "node3", "-o", path)

    agents.change(made.lab, "node3", "stop", only="agent")
    run(made, "node3", "rm", "/run/calico-py/ready")
    patch_pool(made, nodeSelector="has(nothing)")
    try:
        agents.change(made.lab, "node3", "start", only="agent")
        eventually("why", lambda: "no IPPool serves this node: create one" in condition(), last=condition)
        assert '"status":"True"' in condition()
        assert "CalicoPyIsStarting" in condition()
    finally:
        patch_pool(made, nodeSelector="all()")
    eventually("up", lambda: "CalicoPyIsUp" in condition(), last=condition)


def test_no_tunnel_engine(made: Cluster) -> None:
    agents.change(made.lab, "node1", "stop", only="tunnel")
    try:
        says(made, "no tunnel engine is attached to tunl0, and what other nodes send to it is lost: start `calico-py")
    finally:
        agents.change(made.lab, "node1", "start", only="tunnel")


def test_annotations_that_cannot_be_written(made: Cluster) -> None:
    """The API server is away just when this node has something new to say of itself."""
    port = made.status("node1")["api"]["server"].rpartition(":")[2]
    chain = f"chain c {{ type filter hook output priority 0; tcp dport {port} reject with tcp reset; }};"
    blocks = list(made.routes("node1"))
    gateway = run(made, "node1", "ip", "route", "show", "default").split()[2]
    try:
        assert made.lab.endpoint("node1").run(["nft", "-f", "-"], stdin=f"table inet t {{ {chain} }}").returncode == 0
        for block in blocks:
            run(made, "node1", "ip", "route", "replace", block, "via", gateway, "proto", "static")
        says(made, "Node node1: its annotations could not be written: patch Node node1: the API server at http")
    finally:
        run(made, "node1", "nft", "delete", "table", "inet", "t")
        for block in blocks:
            made.lab.endpoint("node1").run(["ip", "route", "del", block, "proto", "static"])


def test_a_kind_that_the_server_does_not_know(made: Cluster) -> None:
    crd = "ipreservations.projectcalico.org"
    manifest = json.loads(made.kubectl("get", "crd", crd, "-o", "json"))
    made.kubectl("delete", "crd", crd)
    try:
        agents.change(made.lab, "node1", "restart")
        says(made, f"the API server does not know {crd}: apply calico-py's CustomResourceDefinitions (kubectl apply -k")
    finally:
        meta = {key: manifest["metadata"].get(key, {}) for key in ("name", "annotations")}
        made.kubectl("create", "-f", "-", stdin=json.dumps({**manifest, "metadata": meta}))


def test_why_the_mtu(made: Cluster) -> None:
    run(made, "node1", "ip", "link", "set", "eth0", "mtu", "1400")
    try:
        said = "the uplink's 1400 less VXLAN over IPv4, to which a pool could be switched"
        eventually("the device's", lambda: said in told(made, "node1", "mtu"), last=lambda: told(made, "node1", "mtu"))
        with restarted(made, "node1", {"CALICO_PY_MTU": ""}, CALICO_PY_MTU="1390"):
            said = "CALICO_PY_MTU sets it, more than the 1380 that fit: the uplink's 1400 less IPIP over IPv4"
            eventually("ours", lambda: said in told(made, "node1", "mtu"), last=lambda: told(made, "node1", "mtu"))
    finally:
        run(made, "node1", "ip", "link", "set", "eth0", "mtu", "1500")


def test_an_address_that_a_person_sets_and_no_device_has(made: Cluster) -> None:
    before = json.loads(made.kubectl("get", "node", "node3", "-o", "json"))["metadata"]["annotations"]
    with restarted(made, "node3", {"IP": "autodetect"}, IP="192.168.50.99"):
        said = "IP sets it; no device of this host has it"
        eventually("named", lambda: said in told(made, "node3", "addresses"))
    annotate(made, "node3", f"projectcalico.org/IPv4Address={before['projectcalico.org/IPv4Address']}")


def test_an_address_that_is_kept(made: Cluster) -> None:
    """Because the annotation has it, though another would be chosen now; and though the host has it no more."""
    mine = address(made, "node3")
    gateway = run(made, "node3", "ip", "route", "show", "default").split()[2]

    def why() -> str:
        return told(made, "node3", "addresses")

    run(made, "node3", "ip", "link", "add", "extra0", "type", "veth", "peer", "name", "extra1")
    try:
        for name in ("extra0", "extra1"):
            run(made, "node3", "ip", "link", "set", name, "up")
        run(made, "node3", "ip", "address", "add", "10.55.0.1/24", "dev", "extra0")
        method = "interface=extra0,eth0"
        with restarted(made, "node3", {"IP_AUTODETECTION_METHOD": ""}, IP_AUTODETECTION_METHOD=method):
            said = "kept: this node's annotation has it and eth0 still does; chosen anew it would be 10.55.0.1/24"
            eventually("kept", lambda: said in why(), last=why)
        eventually("as before", lambda: ready(made, "node3") == "ready\n", last=lambda: ready(made, "node3"))
        run(made, "node3", "ip", "link", "del", "extra0")
        run(made, "node3", "ip", "address", "del", f"{mine}/24", "dev", "eth0")
        said = "kept from this node's annotation, though the host does not have it"
        eventually("kept", lambda: said in why(), last=why)
    finally:
        made.lab.endpoint("node3").run(["ip", "link", "del", "extra0"])
        run(made, "node3", "ip", "address", "replace", f"{mine}/24", "dev", "eth0")
        run(made, "node3", "ip", "route", "replace", "default", "via", gateway)


def test_what_is_wrong_with_pools_and_settings_is_a_condition_or_an_event(made: Cluster) -> None:
    def condition(pool: str) -> str:
        return made.kubectl("get", "ippool", pool, "-o", "jsonpath={.status.conditions[?(@.type=='Allocatable')]}")

    def pool(name: str, **spec: object) -> dict[str, Any]:
        return {"apiVersion": V3, "kind": "IPPool", "metadata": {"name": name}, "spec": spec}

    off, twice = pool("off", cidr="10.98.0.0/16", disabled=True), pool("twice", cidr="10.244.128.0/17")
    leaving = pool("leaving", cidr="10.97.0.0/16")
    leaving["metadata"]["finalizers"] = ["example.com/kept"]
    grace = {"controllers": {"node": {"leakGracePeriod": "soon"}}}
    settings = {"apiVersion": V3, "kind": "KubeControllersConfiguration", "metadata": {"name": "default"}}
    made.kubectl("delete", "kubecontrollersconfiguration", "default")
    with applied(made, off, twice, {**settings, "spec": grace}):
        eventually("disabled", lambda: "IPPool off: spec.disabled is true" in condition("off"))
        eventually("overlapping", lambda: "twice is not used; delete it or give it a network" in condition("twice"))
        made.kubectl("apply", "-f", "-", stdin=json.dumps(leaving))
        made.kubectl("delete", "ippool", "leaving", "--wait=false")
        eventually("leaving", lambda: "IPPool leaving is being deleted" in condition("leaving"))
        made.kubectl("patch", "ippool", "leaving", "--type=merge", "-p", '{"metadata":{"finalizers":null}}')

        def events() -> str:
            return made.kubectl("get", "events", "-o", "jsonpath={range .items[*]}{.reason}: {.message} | {end}")

        expected = "KubeControllersConfiguration default: spec.controllers.node.leakGracePeriod: found 'soon', expected"
        eventually("an Event of the setting", lambda: f"Invalid: {expected}" in events(), last=events)
        eventually("an Event of the pool", lambda: "CIDROverlap: IPPool twice: spec.cidr" in events(), last=events)


def test_a_route_that_waits_for_long_is_an_event(made: Cluster) -> None:
    agents.change(made.lab, "node3", "stop", only="agent")
    annotate(made, "node3", "projectcalico.org/IPv4IPIPTunnelAddr-")
    try:

        def events() -> str:
            only = "jsonpath={.items[?(@.reason=='RouteWaiting')].message}"
            return made.kubectl("get", "events", "-o", only)

        said = "Node node1: node node3 has no IPIP receiver yet (annotation projectcalico.org/IPv4IPIPTunnelAddr)"
        eventually("an Event", lambda: said in events(), last=events)
    finally:
        agents.change(made.lab, "node3", "start", only="agent")
