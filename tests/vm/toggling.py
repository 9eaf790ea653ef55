"""Changes of a pool's mode under traffic: what runs, what is awaited, and what must hold, for guest_toggle."""

import contextlib
import itertools
import re
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from calico_py.model.pools import EncapMode
from tests.netns.flows import Account
from tests.netns.tunnel_nodes import Node, eventually
from tests.vm.agents import NodeAgent
from tests.vm.traffic import RATE, Traffic, Way

SMALL, FULL = 64, 1480 - 28  # bytes of payload; a pod's MTU less IPv4 and UDP
ALWAYS, CROSS_SUBNET, NEVER = EncapMode.ALWAYS, EncapMode.CROSS_SUBNET, EncapMode.NEVER
PATIENCE = 60.0  # seconds; a guest without KVM beside other work is slow
_TUNNEL = "dev tunl0 proto 80 onlink"
_UPLINK = {CROSS_SUBNET: "dev eth0 proto 80", NEVER: "dev eth0 proto 81"}
_NUMBER = re.compile(r"(?:192\.168\.\d+|10\.244)\.(\d+)")  # of the node, in its own address or its pods'


def tunnels(node: Node, other: Node, mode: EncapMode) -> bool:
    """Whether a node sends to another through the tunnel in that mode; subnets are /24."""
    near = node.address.rpartition(".")[0] == other.address.rpartition(".")[0]
    return mode == ALWAYS or (mode == CROSS_SUBNET and not near)


def routes_are(nodes: Sequence[Node], mode: EncapMode) -> bool:
    """Whether each node has that mode's route to each other's block."""
    for node in nodes:
        lines = {line.strip() for line in node.ip("route").splitlines()}
        for other in nodes:
            way = _TUNNEL if tunnels(node, other, mode) else _UPLINK[mode]
            if other is not node and f"{other.block} via {other.address} {way}" not in lines:
                return False
    return True


def assert_wire(node: Node, nodes: Sequence[Node], mode: EncapMode) -> None:
    """Of what passes between a node's uplink and another node all or nothing is in protocol 4."""
    wanted = {frozenset((node.number, o.number)): {tunnels(node, o, mode)} for o in nodes if o is not node}
    seen: dict[frozenset[int], set[bool]] = defaultdict(set)
    deadline = time.monotonic() + PATIENCE
    while not seen.keys() >= wanted.keys():
        assert time.monotonic() < deadline, seen
        with node.capture("ip proto 4 or net 10.244.0.0/16") as lines:
            time.sleep(0.3)
        for header, addresses in itertools.pairwise(lines):
            if header.startswith("IP "):
                ends = frozenset(map(int, _NUMBER.findall(addresses)))
                seen[ends].add("proto IPIP (4)" in header)
    assert seen == wanted, (mode, lines)


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
            lasted = time.monotonic() - running.began
            self.accounts = running.stop()
        finally:
            running.kill()
        bad = [f"{name}: {found}" for name, found in self.accounts.items() if found.lost or found.duplicates]
        assert not bad, "\n".join((*bad, *(f"{number:6} {what}" for number, what in self.diary)))
        assert min(found.sent for found in self.accounts.values()) > 0.9 * RATE * lasted

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
        assert_wire(next(self._captured), self.nodes, mode)

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
