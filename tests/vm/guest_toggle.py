"""The toggle with the kernel's ipip: a pool's mode changes under traffic, and not one packet is lost.

Run in a guest whose kernel has ipip, see test_vm_ipip. Three nodes on one switch, on each the agent's own loop; at each
change all nodes are deaf, and hear of it, and of what the others say, one after the other.
"""

import contextlib
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from calico_py.agent.receiver import Phase
from calico_py.dataplane.ipip import Engine
from calico_py.model.pools import EncapMode
from tests.netns.flows import Account
from tests.netns.tunnel_nodes import Cluster, Node, cluster, eventually
from tests.vm.agents import NodeAgent, agents
from tests.vm.traffic import RATE, Traffic, Way

pytestmark = pytest.mark.root

SMALL, FULL = 64, 1480 - 28  # bytes of payload; a pod's MTU less IPv4 and UDP
ALWAYS, CROSS_SUBNET, NEVER = EncapMode.ALWAYS, EncapMode.CROSS_SUBNET, EncapMode.NEVER
MODES = (NEVER, ALWAYS, CROSS_SUBNET, NEVER, CROSS_SUBNET, ALWAYS)
ORDERS = tuple(itertools.permutations(range(3)))  # as many as modes: each change in another order
ROUTE = {ALWAYS: "dev tunl0 proto 80 onlink", CROSS_SUBNET: "dev eth0 proto 80", NEVER: "dev eth0 proto 81"}
PATIENCE = 60.0  # seconds; a guest without KVM beside other work is slow
SHORT_LINGER = 3.0  # seconds; more than a node is deaf, as the real one is more than a watch hangs


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Nodes whose administrators have rp_filter strict."""
    with cluster(tmp_path_factory.mktemp("toggle"), size=3) as made:
        for node in made.nodes:
            node.sysctl("ipv4/conf/eth0/rp_filter", "1")
        yield made


def routes_are(nodes: Sequence[Node], mode: EncapMode) -> bool:
    """Whether each node has that mode's route to each other's block."""
    for node in nodes:
        lines = {line.strip() for line in node.ip("route").splitlines()}
        for other in nodes:
            if other is not node and f"{other.block} via {other.address} {ROUTE[mode]}" not in lines:
                return False
    return True


def assert_wire(node: Node, mode: EncapMode) -> None:
    """Of what passes the node's uplink for pods either all or nothing is in protocol 4."""
    with node.capture("ip proto 4 or net 10.244.0.0/16") as lines:
        time.sleep(0.3)
    outer = [line for line in lines if line.startswith("IP ")]
    assert len(outer) >= RATE / 10, lines
    tunnelled = ["proto IPIP (4)" in line for line in outer]
    assert all(tunnelled) if mode == ALWAYS else not any(tunnelled), (mode, outer)


def ways(nodes: Sequence[Node], made: Sequence[NodeAgent]) -> list[Way]:
    """Pods to pods both ways, a host to a pod, a pod to the address of a host's tunnel, of two sizes."""
    pairs = [(nodes[0], nodes[1], SMALL), (nodes[2], nodes[0], FULL), (nodes[1], nodes[2], SMALL)]
    pairs += [(nodes[1], nodes[0], FULL), (nodes[0], nodes[2], SMALL), (nodes[2], nodes[1], FULL)]
    flows = [Way(f"pod{a.number}-pod{b.number}", a.pod_namespace, b.pod_namespace, b.pod, size) for a, b, size in pairs]
    for source, target, size in ((0, 1, FULL), (2, 0, SMALL)):
        a, b = nodes[source], nodes[target]
        flows.append(Way(f"host{a.number}-pod{b.number}", a.namespace, b.pod_namespace, b.pod, size))
        flows.append(Way(f"pod{b.number}-host{a.number}", b.pod_namespace, a.namespace, made[source].tunnel, size))
    return flows


@dataclass(slots=True)
class Run:
    """Changes under traffic.

    Attributes:
        accounts: of the flows, after the block of ``traffic``.
        diary: what was done when, in numbers of packets, to be read beside those that are missing.
    """

    nodes: Sequence[Node]
    agents: Sequence[NodeAgent]
    accounts: dict[str, Account] = field(default_factory=dict)
    diary: list[tuple[int, str]] = field(default_factory=list)
    _began: float = 0.0
    _captured: Iterator[Node] = field(init=False)

    def __post_init__(self) -> None:
        self._captured = itertools.cycle(self.nodes)

    def begin(self) -> None:
        """Return once all tunnels are up and used."""
        eventually(lambda: all(agent.tunnel for agent in self.agents), within=PATIENCE)
        eventually(lambda: routes_are(self.nodes, ALWAYS), within=PATIENCE)

    @contextlib.contextmanager
    def traffic(self) -> Iterator[None]:
        """All flows run; afterwards none must have lost a packet, or got one twice."""
        running = Traffic(ways(self.nodes, self.agents))
        self._began = running.began
        try:
            time.sleep(0.5)
            yield
            self.accounts = running.stop()
        finally:
            running.kill()
        bad = [f"{name}: {found}" for name, found in self.accounts.items() if found.lost or found.duplicates]
        assert not bad, "\n".join((*bad, *(f"{number:6} {what}" for number, what in self.diary)))
        assert min(found.sent for found in self.accounts.values()) > RATE

    def note(self, what: str) -> None:
        """Into the diary."""
        self.diary.append((round((time.monotonic() - self._began) * RATE), what))

    def wait_for(self, mode: EncapMode) -> None:
        """Until all routes are that mode's, and all packets go by them."""
        deadline = time.monotonic() + PATIENCE
        while not routes_are(self.nodes, mode):
            assert time.monotonic() < deadline, "\n".join((mode, *(node.ip("route") for node in self.nodes)))
            time.sleep(0.2)
        self.note(f"routes of {mode}")
        assert_wire(next(self._captured), mode)

    def one_after_the_other(self, order: Sequence[int], gaps: Sequence[float]) -> None:
        """The nodes hear what they were told, with so many seconds in between."""
        for number, gap in zip(order, (*gaps, 0), strict=True):
            self.agents[number].hear()
            self.note(f"node{number + 1} hears")
            time.sleep(gap)

    def change(self, mode: EncapMode, order: Sequence[int], gaps: Sequence[float]) -> None:
        """The pool gets another mode."""
        self.note(f"{mode}")
        for agent in self.agents:
            agent.be_deaf()
            agent.tell(lambda heard: heard.set_mode(mode))
        self.one_after_the_other(order, gaps)

    def late_bgp(self, order: Sequence[int], *, before: EncapMode) -> None:
        """The pool goes to Never, of whose blocks BGP has no paths yet."""
        self.announce(announced=False)
        self.change(NEVER, order, (2.0, 0.5))
        time.sleep(0.5)
        assert routes_are(self.nodes, before), "no path, and yet the route has moved"
        self.announce(announced=True)
        self.wait_for(NEVER)

    def announce(self, *, announced: bool) -> None:
        """BGP has the paths to all blocks, or has not."""
        for agent in self.agents:
            agent.tell(lambda heard: heard.set_paths(announced=announced))


def test_with_sessions_that_are_up(three: Cluster, tmp_path: Path) -> None:
    with agents(three.nodes, tmp_path) as made:
        run = Run(three.nodes, made)
        run.begin()
        assert {agent.engine for agent in made} == {Engine.KERNEL}
        run.announce(announced=True)
        with run.traffic():
            for mode, order in zip(MODES, ORDERS, strict=True):
                run.change(mode, order, (0.5, 2.0))
                run.wait_for(mode)


def test_with_bgp_behind_and_receivers_that_close(
    three: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths come after the mode, until when the way before is kept; the last Never lasts until no receiver is open."""
    monkeypatch.setattr("calico_py.agent.receiver.LINGER", SHORT_LINGER)
    with agents(three.nodes, tmp_path) as made:
        run = Run(three.nodes, made)
        run.begin()
        with run.traffic():
            run.late_bgp(ORDERS[5], before=ALWAYS)
            run.change(CROSS_SUBNET, ORDERS[4], (2.0, 0.5))
            run.wait_for(CROSS_SUBNET)
            run.late_bgp(ORDERS[3], before=CROSS_SUBNET)
            eventually(lambda: all(agent.phase == Phase.DOWN for agent in made), within=PATIENCE)
            run.note("no receivers")
            run.change(ALWAYS, ORDERS[2], (2.0, 0.5))
            run.wait_for(ALWAYS)


def test_the_agents_set_reverse_path_filters(three: Cluster) -> None:
    for node in three.nodes:
        for device in ("eth0", "tunl0"):
            assert node.setting(f"ipv4/conf/{device}/rp_filter") == "2"


def test_control_a_deleted_route_loses(three: Cluster) -> None:
    """The agents have ended and their routes are there: a tenth of a second without one."""
    one, other, _ = three.nodes
    assert routes_are(three.nodes, ALWAYS)
    running = Traffic(
        [
            Way("there", one.pod_namespace, other.pod_namespace, other.pod, FULL),
            Way("back", other.pod_namespace, one.pod_namespace, one.pod, FULL),
        ]
    )
    try:
        time.sleep(0.5)
        one.ip("route", "del", other.block)
        time.sleep(0.1)
        one.route(other)
        time.sleep(0.5)
        accounts = running.stop()
    finally:
        running.kill()
    assert accounts["there"].lost >= RATE / 20
    assert accounts["back"].lost == 0
