"""An unmodified calicoctl on data that real agents wrote: it reads, shows and checks them, and may release an address.

``make test-calicoctl CALICOCTL=/path/to/calicoctl`` runs this with a calicoctl of Calico 3.32 or newer, which can work
on the CRDs of projectcalico.org/v3 themselves. No package brings one, so it is not part of ``make test``.
"""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from calico_py.lab import pods
from calico_py.lab.live import LiveLab
from tests.lab.labs import kube_lab

PROGRAM = os.environ.get("CALICOCTL") or shutil.which("calicoctl") or ""

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not PROGRAM, reason="no calicoctl: name one by CALICOCTL"),
]

POOLS = ("10.244.0.0/16", "fd00:10:244::/56")
WARM = re.compile(r"^  (\S+) leaked; attrs Main:calico-py-warm-(node\d) ")


@dataclass(frozen=True, slots=True)
class Calicoctl:
    """The program, told where the API server is and that its v3 CRDs are the store."""

    kubeconfig: Path

    def __call__(self, *arguments: str) -> str:
        """What it prints; it must exit with 0."""
        store = {"DATASTORE_TYPE": "kubernetes", "CALICO_API_GROUP": "projectcalico.org/v3"}
        done = subprocess.run(
            [PROGRAM, *arguments],
            env={"PATH": os.environ["PATH"], "KUBECONFIG": str(self.kubeconfig), **store},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, f"calicoctl {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def lab() -> Iterator[LiveLab]:
    with kube_lab(pools=POOLS) as found:
        for name in ("a", "b", "c"):
            pods.add(found, name)
        yield found


@pytest.fixture(scope="module")
def calicoctl(lab: LiveLab) -> Calicoctl:
    return Calicoctl(lab.state.kubeconfig)


def _ours(lab: LiveLab, *arguments: str) -> Any:
    """What calico-py says, as JSON."""
    done = lab.endpoint("node1").run(["calico-py", *arguments, "-o", "json"])
    return json.loads(done.stdout)


def _until(what: Callable[[], bool], within: float = 15.0) -> None:
    deadline = time.monotonic() + within
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def _addresses(lab: LiveLab) -> dict[str, str]:
    """Whose each address is; warm ones are nobody's."""
    return {each["address"]: each["owner"] for each in _ours(lab, "ipam", "show", "--addresses")["addresses"]}


def test_it_gets_pools_and_nodes(lab: LiveLab, calicoctl: Calicoctl) -> None:
    found = yaml.safe_load(calicoctl("get", "ippools", "-o", "yaml"))["items"]
    assert [(pool["spec"]["cidr"], pool["spec"]["ipipMode"]) for pool in found] == [
        (POOLS[0], "Always"),
        (POOLS[1], "Never"),
    ]
    nodes = yaml.safe_load(calicoctl("get", "nodes", "-o", "yaml"))["items"]
    addresses = [node["spec"]["bgp"]["ipv4Address"] for node in nodes]
    assert addresses == [str(place.ipv4) for place in lab.topology.nodes]
    tunnels = {node["spec"]["bgp"]["ipv4IPIPTunnelAddr"] for node in nodes}
    assert tunnels == {address for address, owner in _addresses(lab).items() if owner == "ipipTunnelAddress"}
    workloads = calicoctl("get", "workloadendpoints", "--all-namespaces")
    assert all(str(address) in workloads for record in lab.pods() for address in record.addresses)


def test_it_shows_pools_blocks_and_addresses(lab: LiveLab, calicoctl: Calicoctl) -> None:
    shown = calicoctl("ipam", "show", "--show-blocks")
    for block in _ours(lab, "ipam", "show", "--blocks")["blocks"]:
        (line,) = (line for line in shown.splitlines() if block["cidr"] in line)
        used = block["in_use"] + block["warm"]
        assert re.search(rf"\| +{block['size']} \| +{used} \(.*\| +{block['size'] - used} \(", line), line
    assert "| StrictAffinity " in calicoctl("ipam", "show", "--show-configuration")
    record = lab.pod("a")
    told = calicoctl("ipam", "show", f"--ip={record.addresses[0]}")
    assert "is in use" in told
    assert f"pod: {record.name}" in told


def test_its_check_finds_the_warm_addresses_and_nothing_else(lab: LiveLab, calicoctl: Calicoctl) -> None:
    told = calicoctl("ipam", "check", "--show-problem-ips")
    warm = {match[1] for line in told.splitlines() if (match := WARM.match(line))}
    assert warm == {address for address, owner in _addresses(lab).items() if not owner}
    (problems,) = re.findall(r"Check complete; found (\d+) problems", told)
    assert int(problems) == len(warm) > 0


def test_an_address_that_it_releases_is_the_pods_again(lab: LiveLab, calicoctl: Calicoctl) -> None:
    record = lab.pod("a")
    address = str(record.addresses[0])
    calicoctl("ipam", "release", f"--ip={address}")
    _until(lambda: _addresses(lab).get(address) == "default/a")
    _until(lambda: _ours(lab, "ipam", "check") == [])
    assert int(re.findall(r"found (\d+) problems", calicoctl("ipam", "check"))[0]) == len(
        [owner for owner in _addresses(lab).values() if not owner]
    )


def test_a_warm_address_that_it_releases_is_not_given_twice(lab: LiveLab, calicoctl: Calicoctl) -> None:
    warm = next(address for address, owner in _addresses(lab).items() if not owner and ":" not in address)
    calicoctl("ipam", "release", f"--ip={warm}")
    for number in range(12):
        pods.add(lab, f"more{number}")
    held = [str(address) for record in lab.pods() for address in record.addresses]
    assert len(held) == len(set(held))
    _until(lambda: _ours(lab, "ipam", "check") == [])


def test_what_it_lowers_and_lifts_is_obeyed(lab: LiveLab, calicoctl: Calicoctl) -> None:
    calicoctl("ipam", "configure", "--strictaffinity=true")
    assert "| StrictAffinity               | true" in calicoctl("ipam", "show", "--show-configuration")
    (found,) = lab.api().list("/apis/projectcalico.org/v3/ipamconfigurations")
    assert found["spec"]["strictAffinity"] is True
    pods.add(lab, "strict")
