"""A foreign writer drops the label by which nodes find a block that lends an address: packets to it go on.

Flows from every node's host and pods run to the pod that has borrowed. The leader restores the label; stopped, it does
not, and the label stays away until it goes on.
"""

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

import pytest

from calico_py.lab import agents, flows, pods
from calico_py.lab.flows import FlowResult, RunningFlow, stop_all
from calico_py.model.names import LABEL_BORROWED
from tests.product.cluster import BGP, NODES, TUNNEL, Cluster, cluster, eventually, lost

pytestmark = [pytest.mark.root, pytest.mark.alone, pytest.mark.timeout(300)]

POD = "borrower"
AWAY = 4.0  # seconds without the label
RATE = 250  # datagrams a second, of each flow each way


@dataclass(frozen=True)
class Lent:
    """Who lends what to whom, and who leads."""

    made: Cluster
    leader: str
    lender: str
    borrower: str
    block: str
    address: str

    def read(self) -> dict[str, Any]:
        """The block as the API server has it."""
        found: dict[str, Any] = json.loads(self.made.kubectl("get", "ipamblock", self.block, "-o", "json"))
        return found

    def is_labelled(self) -> bool:
        """Whether other nodes can find it."""
        return bool(self.read()["metadata"].get("labels", {}).get(LABEL_BORROWED) == "true")

    def drop_label(self) -> None:
        """As a write of a client does that knows nothing of it."""
        self.made.kubectl("label", "ipamblock", self.block, f"{LABEL_BORROWED}-")

    def say_owner(self, node: str) -> None:
        """Write whose address it is said to be into the block."""
        spec = self.read()["spec"]
        index = spec["allocations"][list(map(str, ip_network(spec["cidr"]))).index(self.address)]
        where = f"/spec/attributes/{index}/secondary/node"
        patch = json.dumps([{"op": "replace", "path": where, "value": node}])
        self.made.kubectl("patch", "ipamblock", self.block, "--type=json", "-p", patch)

    @contextlib.contextmanager
    def traffic(self) -> Iterator[dict[str, FlowResult]]:
        """Flows from everywhere to the pod; the results are there after the block."""
        results: dict[str, FlowResult] = {}
        lab = self.made.lab
        sources = [*NODES, *(f"pod/p{number}" for number in range(1, len(NODES) + 1))]
        with contextlib.ExitStack() as stack:
            running: dict[str, RunningFlow] = {
                source: stack.enter_context(
                    flows.running_flow(lab.endpoint(source), lab.endpoint(f"pod/{POD}"), rate=RATE, port=7800 + number)
                )
                for number, source in enumerate(sources)
            }
            yield results
            time.sleep(0.5)
            results.update(zip(running, stop_all(list(running.values())), strict=True))


@pytest.fixture(scope="module")
def made() -> Iterator[Cluster]:
    with cluster() as up:
        yield up


@pytest.fixture(scope="module")
def lent(made: Cluster) -> Lent:
    lease = json.loads(made.kubectl("get", "lease", "calico-py-leader", "-n", "kube-system", "-o", "json"))
    leader = lease["spec"]["holderIdentity"]
    lender, borrower = (node for node in NODES if node != leader)
    blocks = json.loads(made.kubectl("get", "ipamblocks", "-o", "json"))["items"]
    (block,) = (item for item in blocks if item["spec"].get("affinity") == f"host:{lender}")
    address = str(ip_network(block["spec"]["cidr"])[block["spec"]["unallocated"][-1]])
    pods.add(made.lab, POD, borrower, {"cni.projectcalico.org/ipAddrs": json.dumps([address])})
    assert str(made.lab.endpoint(f"pod/{POD}").address(4)) == address
    return Lent(made, leader, lender, borrower, block["metadata"]["name"], address)


@pytest.fixture(params=["Always", "Never"])
def ready(request: pytest.FixtureRequest, made: Cluster, lent: Lent) -> Lent:
    """In a mode, everything as it should be."""
    made.apply_mode(request.param)
    made.wait_for(TUNNEL if request.param == "Always" else BGP)
    eventually("the label stands", lent.is_labelled)
    device, protocol = TUNNEL if request.param == "Always" else BGP
    lender = made.lab.endpoint(lent.lender)

    def routed() -> bool:
        return f"dev {device} proto {protocol}" in lender.run(["ip", "route", "show", f"{lent.address}/32"]).stdout

    eventually("the lender's route to what it lent", routed)
    return lent


def test_the_label_is_away_for_seconds_and_the_borrowers_agent_starts_meanwhile(ready: Lent) -> None:
    leader = ready.made.agents()[ready.leader]
    with ready.traffic() as results:
        os.kill(leader, signal.SIGSTOP)
        try:
            ready.drop_label()
            time.sleep(AWAY / 2)
            agents.kill(ready.made.lab, ready.borrower, "agent")
            time.sleep(AWAY / 2)
            eventually("the agent is ready", lambda: not ready.made.status(ready.borrower)["not_ready"])
            time.sleep(1)
            assert not ready.is_labelled()
        finally:
            os.kill(leader, signal.SIGCONT)
        eventually("the label is back", ready.is_labelled)
    assert not lost(results)


def test_a_writer_that_drops_it_again_and_again(ready: Lent) -> None:
    end, dropped = time.monotonic() + AWAY, 0
    with ready.traffic() as results:
        while time.monotonic() < end:
            if ready.is_labelled():
                ready.drop_label()
                dropped += 1
        eventually("the label is back", ready.is_labelled)
    assert not lost(results)
    assert dropped > 3


def test_these_flows_do_notice_an_address_that_is_taken_away(ready: Lent) -> None:
    """Negative control: the block says that the address is the lender's own, and the label goes with that."""
    with ready.traffic() as results:
        ready.say_owner(ready.lender)
        eventually("the label is off", lambda: not ready.is_labelled())
        time.sleep(1)
        ready.say_owner(ready.borrower)
        eventually("the label is back", ready.is_labelled)
    assert ready.lender in lost(results)
    ping = ["ping", "-n", "-c1", "-W1", ready.address]
    for node in NODES:
        endpoint = ready.made.lab.endpoint(node)
        eventually(f"{node} reaches it again", lambda endpoint=endpoint: not endpoint.run(ping).returncode)  # type: ignore[misc]
