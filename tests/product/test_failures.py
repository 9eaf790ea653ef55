"""Failures of the whole: agents killed amid ADDs, two nodes with one address, bad pools."""

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from calico_py.lab import agents, pods
from calico_py.lab.commands import LabError
from calico_py.lab.processes import find_by_environment
from tests.product.cluster import POOL, Cluster, cluster, eventually

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def made() -> Iterator[Cluster]:
    with cluster() as up:
        yield up


def allocations(made: Cluster) -> Counter[str]:
    """Addresses that pods hold by the API's blocks, each as often as it is held."""
    blocks = json.loads(made.kubectl("get", "ipamblocks", "-o", "json"))["items"]
    found: Counter[str] = Counter()
    for block in blocks:
        base, _ = block["spec"]["cidr"].split("/")
        first, last = base.rsplit(".", 1)
        for ordinal, index in enumerate(block["spec"]["allocations"]):
            owner = block["spec"]["attributes"][index] if index is not None else {}
            if "pod" in owner.get("secondary", {}) and not owner.get("releasedAt"):
                found[f"{first}.{int(last) + ordinal}"] += 1
    return found


def test_agents_killed_amid_adds_give_no_address_twice_and_leak_none(made: Cluster) -> None:
    """20 pods come and go on one node while its agent is killed again and again, at random times."""
    dice = random.Random(20261124)
    living: dict[str, str] = {}
    failed: list[str] = []

    def churn(number: int) -> None:
        name = f"c{number}"
        for _ in range(3):
            try:
                record = pods.add(made.lab, name, "node1")
            except LabError as error:
                failed.append(str(error))
                continue
            living[name] = str(record.addresses[0])
            if _ < 2:
                living.pop(name)
                pods.delete(made.lab, name)

    with ThreadPoolExecutor(8) as runtimes:
        churning = [runtimes.submit(churn, number) for number in range(20)]
        while not all(task.done() for task in churning):
            time.sleep(dice.uniform(0.05, 0.5))
            for pid in find_by_environment(f"LAB_PROCESS={made.lab.state.name}/node1-agent")[:1]:
                os.kill(pid, signal.SIGKILL)
        for task in churning:
            task.result()
    expected = Counter([*living.values(), *(str(made.lab.endpoint(f"pod/p{n}").address(4)) for n in (1, 2, 3))])
    assert max(expected.values()) == 1, "no address twice"
    agents.change(made.lab, "node1", "restart")
    eventually("blocks hold the living pods' addresses and no others", lambda: allocations(made) == expected, within=30)
    for name in living:
        assert made.lab.endpoint(f"pod/{name}").run(["ping", "-c1", "-W2", "192.168.50.11"]).returncode == 0
        pods.delete(made.lab, name)


def test_a_pool_that_overlaps_is_left_unused_and_named(made: Cluster) -> None:
    manifest = {
        "apiVersion": "projectcalico.org/v3",
        "kind": "IPPool",
        "metadata": {"name": "overlapping"},
        "spec": {"cidr": "10.244.128.0/17"},
    }
    made.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
    eventually("status names it", lambda: "overlaps with IPPool" in json.dumps(made.status()["problems"]))
    made.kubectl("delete", "ippool", "overlapping")
    eventually("and forgets it", lambda: not made.status()["problems"])


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"cidr": "10.99.0.0/27"}, "spec"),
        ({"cidr": "10.99.0.0/16", "ipipMode": "Sometimes"}, "ipipMode"),
        ({"cidr": "10.99.0.1/16"}, "cidr"),
        ({"cidr": "10.99.0.0/16", "ipipMode": "Always", "vxlanMode": "Always"}, "vxlanMode"),
        ({"cidr": "fd00:99::/64", "ipipMode": "Always"}, "ipipMode"),
    ],
)
def test_a_bad_pool_is_refused_with_a_sentence(made: Cluster, spec: dict[str, str], said: str) -> None:
    manifest = {"apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": "bad"}, "spec": spec}
    with pytest.raises(AssertionError, match=said):
        made.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))


def test_a_misspelt_environment_ends_the_agent_with_what_is_allowed(made: Cluster) -> None:
    command = made.lab.endpoint("node1").run(["env", "CALICO_IPV4POOL_IPIP=Allways", "calico-py", "node"])
    assert command.returncode != 0
    for word in ("CALICO_IPV4POOL_IPIP", "Allways", "Always", "CrossSubnet", "Never"):
        assert word in command.stderr


def test_two_nodes_with_one_address_are_named(made: Cluster) -> None:
    agents.change(made.lab, "node3", "restart", env={"IP": "192.168.50.12/24"})
    try:
        eventually("status of either names it", lambda: "192.168.50.12" in json.dumps(made.status("node2")["problems"]))
    finally:
        agents.change(made.lab, "node3", "restart", env={"IP": "autodetect"})
    eventually("mended", lambda: not made.status("node2")["problems"])


def test_the_environment_changes_its_own_pool_and_never_back_from_an_older_template(made: Cluster) -> None:
    def mode() -> str:
        return made.kubectl("get", "ippool", POOL, "-o", "jsonpath={.spec.ipipMode}")

    assert mode() == "Always"
    agents.change(made.lab, "node1", "restart", env={"CALICO_IPV4POOL_IPIP": "Never"}, generation=2)
    eventually("the new template's agent changes it", lambda: mode() == "Never")
    agents.change(made.lab, "node2", "restart", generation=1)
    eventually("node2 is ready", lambda: not made.status("node2")["not_ready"])
    assert mode() == "Never", "an old template's agent that restarts does not change it back"
    made.apply_mode("CrossSubnet")
    agents.change(made.lab, "node1", "restart", env={"CALICO_IPV4POOL_IPIP": "Always"}, generation=3)
    eventually("the person's edit wins, and status says so", lambda: POOL in json.dumps(made.status()["environment"]))
    assert mode() == "CrossSubnet"
