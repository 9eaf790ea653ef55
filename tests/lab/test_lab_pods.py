"""Pods of the product in a lab of two subnets and both families, by the kernel's own word."""

import json
import subprocess
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from calico_py.lab import flows, lifecycle, objects, pods, readiness
from calico_py.lab.commands import LabError, run
from calico_py.lab.live import LiveLab
from calico_py.lab.observations import capture, take_picture
from calico_py.lab.pings import ping
from calico_py.lab.topology import LabSpec
from calico_py.model.pools import EncapMode
from tests.lab.labs import calico_py, unique_name

pytestmark = pytest.mark.root

POOLS = ("10.250.0.0/16", "fd00:10:250::/48")


@pytest.fixture(scope="module")
def lab() -> Iterator[LiveLab]:
    spec = LabSpec(unique_name(), nodes=3, subnets=2, pools=POOLS, ipip=EncapMode.CROSS_SUBNET)
    try:
        lifecycle.start(spec, lambda _: None)
        found = LiveLab(spec.name)
        readiness.wait_until_ready(found, within=60)
        for place, name in zip(found.topology.nodes, ("one", "two", "three"), strict=True):
            record = pods.add(found, name, place.name)
            assert pods.wait_until_routed(found, record, within=20) == []
        yield found
    finally:
        lifecycle.down(spec.name, reaped=False)


def _pod_object(lab: LiveLab, name: str) -> dict[str, Any]:
    found = lab.api().get(f"{objects.PODS}/{name}")
    assert isinstance(found, dict)
    return found


def test_a_pod_has_addresses_of_the_pools_and_its_object_says_so(lab: LiveLab) -> None:
    addresses = lab.pod("one").addresses
    assert sorted(address.version for address in addresses) == [4, 6]
    for address in addresses:
        assert any(str(address).startswith(start) for start in ("10.250.", "fd00:10:250:"))
    found = _pod_object(lab, "one")
    assert found["spec"]["nodeName"] == "node1"
    assert found["status"]["phase"] == "Running"
    assert [entry["ip"] for entry in found["status"]["podIPs"]] == [str(address) for address in addresses]
    kernel = lab.endpoint("pod/one").run(["ip", "-br", "address", "show", "eth0"]).stdout
    assert all(f"{address}/" in kernel for address in addresses)


@pytest.mark.parametrize(
    ("source", "target", "family"),
    [
        ("pod/one", "pod/two", "-4"),
        ("pod/one", "pod/three", "-4"),
        ("pod/three", "pod/two", "-4"),
        ("pod/one", "pod/two", "-6"),  # IPv6 has no IPIP: between subnets it would be the routers' to know the pods
    ],
)
def test_pods_reach_each_other(lab: LiveLab, source: str, target: str, family: str) -> None:
    done = calico_py("lab", "ping", source, target, family, "-c", "3", "-o", "json", "--name", lab.state.name)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["received"] == 3


@pytest.mark.parametrize(("source", "target"), [("node1", "pod/three"), ("pod/three", "node1"), ("node1", "pod/one")])
def test_nodes_and_pods_reach_each_other(lab: LiveLab, source: str, target: str) -> None:
    assert ping(lab.endpoint(source), lab.target(target), count=2).ok


def test_crosssubnet_is_direct_to_the_neighbour_and_in_ipip_to_the_stranger(lab: LiveLab) -> None:
    one = lab.endpoint("pod/one")
    netns = lab.topology.nodes[0].netns
    for target, expression, outer in (
        ("pod/two", "icmp and net 10.250.0.0/16", "10.250."),
        ("pod/three", "ip proto 4", "192.168.50.11 > 192.168.51.13: IP 10.250."),
    ):
        address = lab.target(target, 4)
        lines = capture(netns, "eth0", expression, 2, lambda address=address: ping(one, address, count=3))  # type: ignore[misc]
        assert any(outer in line for line in lines), lines


def test_a_capture_that_sees_nothing_says_so(lab: LiveLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("calico_py.lab.observations._CAPTURE_WITHIN", 0.5)
    with pytest.raises(LabError, match="no 1 packets of `ip proto 89`"):
        capture(lab.topology.nodes[0].netns, "eth0", "ip proto 89", 1, lambda: None)


def test_a_flow_between_pods_of_two_subnets(lab: LiveLab) -> None:
    result = flows.run(lab.endpoint("pod/one"), lab.endpoint("pod/three"), 2.0, family=4)
    assert result.lost == 0, result.to_json()
    assert result.there.sent > 1500


def test_ipv6_pods_of_two_subnets_reach_each_other(lab: LiveLab) -> None:
    """IPIP does not carry IPv6: by BGP's routes, and by routers that know its blocks."""
    assert ping(lab.endpoint("pod/one"), lab.target("pod/three", 6), count=2).ok
    result = flows.run(lab.endpoint("pod/three"), lab.endpoint("pod/two"), 1.0, family=6)
    assert result.lost == 0, result.to_json()


def test_a_pod_comes_and_goes(lab: LiveLab) -> None:
    name = lab.state.name
    added = calico_py("lab", "pod", "add", "guest", "--node", "node2", "--name", name)
    assert added.returncode == 0, added.stderr
    told = json.loads(added.stdout)
    assert (told["pod"], told["node"]) == ("guest", "node2")
    assert [ip_address(address).version for address in told["addresses"]] == [4, 6]
    again = calico_py("lab", "pod", "add", "guest", "--name", name)
    assert again.returncode == 1
    assert "calico-py lab pod del guest" in again.stderr
    assert ping(lab.endpoint("pod/one"), ip_address(told["addresses"][0]), count=1).ok
    netns = lab.node("node2").pod_netns("guest")
    with lab.endpoint("pod/guest").popen(["sleep", "86400"]) as inside:
        removed = calico_py("lab", "pod", "del", "guest", "--name", name)
        assert removed.returncode == 0, removed.stderr
        assert inside.wait(5) != 0
    assert not netns.exists()
    assert "guest" not in [pod.name for pod in lab.pods()]
    assert told["addresses"][0] not in run(["ip", "-n", lab.topology.nodes[1].netns, "route"])
    gone = calico_py("lab", "pod", "del", "guest", "--name", name)
    assert gone.returncode == 1
    assert "guest" in gone.stderr


def test_a_pod_without_a_wish_goes_where_the_fewest_are(lab: LiveLab) -> None:
    pods.add(lab, "extra", "node1")
    try:
        record = pods.add(lab, "anywhere")
        assert record.node != "node1"
        pods.delete(lab, "anywhere")
    finally:
        pods.delete(lab, "extra")


def test_a_plugin_that_fails_leaves_no_pod(lab: LiveLab) -> None:
    root = lab.node("node3").root
    conflist = root / "etc/cni/net.d/00-broken.conflist"
    plugin = root / "opt/cni/bin/broken"
    plugin.write_text(
        '#!/bin/sh\necho \'{"cniVersion":"1.0.0","code":11,"msg":"out of luck","details":"today"}\'; exit 1\n'
    )
    plugin.chmod(0o755)
    conflist.write_text(json.dumps({"cniVersion": "1.0.0", "name": "x", "plugins": [{"type": "broken"}]}))
    try:
        told = calico_py("lab", "pod", "add", "unlucky", "--node", "node3", "--name", lab.state.name)
    finally:
        conflist.unlink()
        plugin.unlink()
    assert told.returncode == 1
    assert "/opt/cni/bin/broken ADD of pod unlucky: out of luck today (code 11)" in told.stderr
    assert "unlucky" not in [pod.name for pod in lab.pods()]
    assert not lab.node("node3").pod_netns("unlucky").exists()
    assert calico_py("lab", "pod", "add", "unlucky", "--node", "node3", "--name", lab.state.name).returncode == 0
    pods.delete(lab, "unlucky")


def test_a_chain_passes_the_result_on_and_back(lab: LiveLab) -> None:
    """The second plugin of a list gets the first one's result at ADD, and at DEL the whole network's."""
    root = lab.node("node3").root
    original = json.loads(next((root / "etc/cni/net.d").glob("*.conflist")).read_text())
    conflist = root / "etc/cni/net.d/00-chain.conflist"
    plugin = root / "opt/cni/bin/witness"
    script = "#!/usr/bin/python3\nimport json,os,sys\nc=json.load(sys.stdin)\n"
    script += "open('/run/witness','a').write(json.dumps([os.environ['CNI_COMMAND'],c])+'\\n')\n"
    script += "if os.environ['CNI_COMMAND']=='ADD': print(json.dumps(c['prevResult']))\n"
    plugin.write_text(script)
    plugin.chmod(0o755)
    original["plugins"].append({"type": "witness", "note": "kept"})
    conflist.write_text(json.dumps(original))
    try:
        record = pods.add(lab, "chained", "node3")
        conflist.unlink()
        pods.delete(lab, "chained")
    finally:
        conflist.unlink(missing_ok=True)
        plugin.unlink()
    (added, first), (deleted, second) = [json.loads(line) for line in (root / "run/witness").read_text().splitlines()]
    assert (added, deleted) == ("ADD", "DEL")
    assert first["note"] == "kept"
    assert first["name"] == original["name"]
    assert [entry["address"].split("/")[0] for entry in first["prevResult"]["ips"]] == [
        str(a) for a in record.addresses
    ]
    assert second["prevResult"] == first["prevResult"]


def test_cni_tells_enough_to_call_the_plugin_oneself(lab: LiveLab) -> None:
    described = json.loads(calico_py("lab", "cni", "node1", "--name", lab.state.name).stdout)
    enter, executable = described["enter"], described["executable"]
    version = subprocess.run(
        [*enter, "env", "CNI_COMMAND=VERSION", executable],
        input=json.dumps({"cniVersion": "1.0.0"}),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "1.0.0" in json.loads(version.stdout)["supportedVersions"]
    subprocess.run([*enter, "ip", "netns", "add", "mine"], check=True)
    variables = {
        **described["environment"],
        "CNI_NETNS": f"{described['directories']['netns']}/mine",
        "CNI_CONTAINERID": "c" * 64,
        "CNI_ARGS": "K8S_POD_NAMESPACE=default;K8S_POD_NAME=mine",
    }
    conflist = described["conflist"]
    config = {**conflist["plugins"][0], "name": conflist["name"], "cniVersion": conflist["cniVersion"]}
    try:
        for verb in ("ADD", "DEL"):
            pairs = [f"{key}={value}" for key, value in {**variables, "CNI_COMMAND": verb}.items()]
            argv = [*enter, "env", *pairs, executable]
            done = subprocess.run(argv, input=json.dumps(config), capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            if verb == "ADD":
                assert len(json.loads(done.stdout)["ips"]) == 2
    finally:
        subprocess.run([*enter, "ip", "netns", "delete", "mine"], check=True)


def test_the_picture_shows_what_there_is(lab: LiveLab) -> None:
    picture = take_picture(lab, "x")
    assert [[pod.name for pod in node.pods] for node in picture.nodes] == [["one"], ["two"], ["three"]]
    ways = {link.ends: link.kind for link in picture.links if link.kind != "session"}
    assert ways == {("node1", "node2"): "direct", ("node1", "node3"): "tunnel", ("node2", "node3"): "tunnel"}
    deadline = time.monotonic() + 20
    while not all(link.up for link in take_picture(lab, "x").links if link.kind == "session"):
        assert time.monotonic() < deadline, take_picture(lab, "x").links
        time.sleep(0.2)
    assert {link.ends for link in take_picture(lab, "x").links if link.kind == "session"} == set(ways)


def test_status_lists_the_pods(lab: LiveLab) -> None:
    told = json.loads(calico_py("lab", "status", "-o", "json", "--name", lab.state.name).stdout)
    assert [list(node["pods"]) for node in told["nodes"]] == [["one"], ["two"], ["three"]]
    assert all(node["ready"] for node in told["nodes"])
    assert Path(told["kubeconfig"]).exists()


def test_pools_beyond_the_first_are_objects_beside_the_environments() -> None:
    spec = LabSpec(unique_name(), nodes=1, pools=("10.250.0.0/16", "10.251.0.0/16"), ipip=EncapMode.NEVER)
    try:
        lifecycle.start(spec, lambda _: None)
        lab = LiveLab(spec.name)
        readiness.wait_until_ready(lab, within=60)
        found = {item["spec"]["cidr"]: item for item in lab.api().list(objects.POOLS)}
    finally:
        lifecycle.down(spec.name, reaped=False)
    assert set(found) == set(spec.pools)
    assert found["10.250.0.0/16"]["metadata"]["name"] == "default-ipv4-ippool"
    assert found["10.251.0.0/16"]["spec"]["ipipMode"] == "Never"
