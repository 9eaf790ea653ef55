"""Connections to Services, through kube-proxy itself, outlive all changes of the pool's mode.

Each begins in one mode and lives through the others: from outside to a NodePort, from a node's host and from a pod to
a Service and to a pod, from a pod to outside. Datagrams and TCP, 100 questions a second each; none may be lost, stall,
or be heard from another source than before.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from calico_py.lab import agents
from calico_py.lab.commands import run
from calico_py.lab.topology import ApiServer
from calico_py.model.pools import EncapMode
from tests.echoes import Asking, Echoes, How, Start, asking, serving
from tests.lab.labs import NEEDS_KUBE
from tests.product.cluster import API, BGP, TUNNEL, Cluster, cluster, eventually
from tests.product.services import OUTSIDER, PORT, Service, kube_proxy, make_service, outsider

pytestmark = [pytest.mark.root, pytest.mark.alone, *NEEDS_KUBE]

AFTER = 0.7  # seconds of traffic after a change is done
DROP_PODS = """table ip underlay {
    chain forward { type filter hook forward priority 0; oifname "core0" ip saddr 10.244.0.0/16 drop; }
}
"""
HOW: tuple[How, How] = ("udp", "tcp")


@dataclass
class Talk:
    """Conversations of node1, its pod p1 and a machine outside, by what they are."""

    made: Cluster
    outside: Start
    services: tuple[Service, ...]
    stack: contextlib.ExitStack
    running: dict[str, Asking] = field(default_factory=dict)

    def begin(self, when: str) -> None:
        """One of each kind."""
        host, pod = self.made.lab.endpoint("node1"), self.made.lab.endpoint("pod/p1")
        address = str(host.address(4))
        for how in HOW:
            for service in self.services:
                far = str(self.made.lab.endpoint(service.pod).address(4))
                for what, start, to, port in (
                    ("outside to NodePort", self.outside, address, service.node_port),
                    ("host to Service", host.popen, service.address, PORT),
                    ("host to pod", host.popen, far, PORT),
                    ("pod to Service", pod.popen, service.address, PORT),
                ):
                    self._ask(f"{when}: {what} of {service.pod}, {how}", start, how, to, port)
            self._ask(f"{when}: pod to outside, {how}", pod.popen, how, OUTSIDER, PORT)

    def _ask(self, what: str, start: Start, how: How, to: str, port: int) -> None:
        self.running[what] = self.stack.enter_context(asking(start, how, to, port))

    def stop(self) -> dict[str, Echoes]:
        """End all; what came of each."""
        return {what: each.stop() for what, each in self.running.items()}


@contextlib.contextmanager
def talk(made: Cluster, proxy: str, *targets: str) -> Iterator[Talk]:
    """Services of these pods, kube-proxy of that mode, and servers in the pods and outside; no conversation yet."""
    services = tuple(make_service(made, pod) for pod in targets)
    with contextlib.ExitStack() as stack:
        stack.enter_context(kube_proxy(made, proxy, services))
        outside = stack.enter_context(outsider(made))
        for start in (outside, *(made.lab.endpoint(pod).popen for pod in targets)):
            stack.enter_context(serving(start, PORT))
        before = {pod: made.tcp_timeouts(pod) for pod in targets}
        yield Talk(made, outside, services, stack)
        assert {pod: made.tcp_timeouts(pod) for pod in targets} == before


def failed(results: dict[str, Echoes]) -> dict[str, Echoes]:
    """Those that lost something, stalled, or changed."""
    return {what: echoes for what, echoes in results.items() if not echoes.whole}


def tunnel_address(made: Cluster, node: str) -> str:
    """Of tunl0."""
    (line,) = made.lab.endpoint(node).run(["ip", "-brief", "-4", "address", "show", "dev", "tunl0"]).stdout.splitlines()
    return line.split()[2].removesuffix("/32")


@pytest.fixture(scope="module")
def one_subnet() -> Iterator[Cluster]:
    with cluster(api=ApiServer.KUBE) as made:
        yield made


@pytest.mark.parametrize("proxy", ["iptables", "nftables"])
def test_always_and_never(one_subnet: Cluster, proxy: str) -> None:
    """Their sources are those that masquerade would give: tunl0's address in one mode, the uplink's in the other."""
    one_subnet.wait_for(TUNNEL)
    with talk(one_subnet, proxy, "pod/p2") as conversations:
        conversations.begin("Always")
        for mode, way in (("Never", BGP), ("Always", TUNNEL)) * 2:
            time.sleep(AFTER)
            one_subnet.apply_mode(mode)
            one_subnet.wait_for(way)
            if "Never: pod to outside, udp" not in conversations.running:
                conversations.begin("Never")
        time.sleep(AFTER)
        results = conversations.stop()
    assert not failed(results)
    begun_with = {mode: results[f"{mode}: outside to NodePort of pod/p2, tcp"] for mode in ("Always", "Never")}
    sources = {mode: echoes.sources[0].split()[0] for mode, echoes in begun_with.items()}
    assert sources == {"Always": tunnel_address(one_subnet, "node1"), "Never": "192.168.50.11"}


def test_left_to_kube_proxy_they_end(one_subnet: Cluster) -> None:
    """The control."""
    one_subnet.wait_for(TUNNEL)
    agents.change(one_subnet.lab, "node1", "restart", env={"CALICO_PY_MASQUERADE_BIT": "none"})
    try:
        eventually("node1 translates nothing", lambda: "jump services" not in rules(one_subnet, "node1"))
        with talk(one_subnet, "iptables", "pod/p2") as conversations:
            conversations.begin("Always")
            time.sleep(AFTER)
            one_subnet.apply_mode("Never")
            one_subnet.wait_for(BGP)
            time.sleep(AFTER)
            results = conversations.stop()
    finally:
        one_subnet.apply_mode("Always")
        agents.change(one_subnet.lab, "node1", "restart", env={"CALICO_PY_MASQUERADE_BIT": ""})
        eventually("node1 translates again", lambda: "jump services" in rules(one_subnet, "node1"))
    assert set(failed(results)) == {f"Always: outside to NodePort of pod/p2, {how}" for how in HOW}
    assert results["Always: outside to NodePort of pod/p2, tcp"].broken


def rules(made: Cluster, node: str) -> str:
    """The node's table of calico-py."""
    return made.lab.endpoint(node).run(["nft", "list", "table", "inet", "calico-py"]).stdout


def test_a_pod_that_reaches_itself_by_a_service(one_subnet: Cluster) -> None:
    """kube-proxy masquerades it as well; its device is the pod's own, and stays."""
    one_subnet.wait_for(TUNNEL)
    with talk(one_subnet, "iptables", "pod/p1") as conversations:
        conversations.begin("Always")
        for mode, way in (("Never", BGP), ("Always", TUNNEL)):
            time.sleep(AFTER)
            one_subnet.apply_mode(mode)
            one_subnet.wait_for(way)
        time.sleep(AFTER)
        results = conversations.stop()
    assert not failed(results)


def in_turn(conversations: Talk, *changes: tuple[str, Callable[[], None]]) -> dict[str, Echoes]:
    """Change modes, each with what waits for it; in each mode that is new conversations begin."""
    made, seen = conversations.made, set[str]()
    for mode, wait in changes:
        made.apply_mode(mode)
        wait()
        if mode not in seen:
            seen.add(mode)
            conversations.begin(mode)
        time.sleep(AFTER)
    return conversations.stop()


def test_always_and_cross_subnet_on_two_subnets() -> None:
    """p2 is on node1's subnet, p3 on the other; the routers drop what a pod sends, as an underlay may."""
    with cluster(subnets=2, api=ApiServer.KUBE) as made:
        for router in made.lab.topology.routers:
            drop_pods(router.netns)

        def crossed() -> None:
            made.wait_for(TUNNEL, API, nodes=("node1", "node2"))
            made.wait_for(TUNNEL, nodes=("node3",))

        always = ("Always", lambda: made.wait_for(TUNNEL))
        cross = ("CrossSubnet", crossed)
        with talk(made, "iptables", "pod/p2", "pod/p3") as conversations:
            results = in_turn(conversations, always, cross, always, cross)
        assert not failed(results)


def drop_pods(router: str) -> None:
    """Let a router drop what it is to take from a pod to another subnet."""
    run(["ip", "netns", "exec", router, "nft", "-f", "-"], stdin=DROP_PODS)


def test_a_pool_that_began_with_never() -> None:
    """There is no tunnel's address yet; the routers between the two subnets know the blocks."""
    with cluster(subnets=2, ipip=EncapMode.NEVER, api=ApiServer.KUBE) as made:
        never = ("Never", lambda: made.wait_for(BGP))
        always = ("Always", lambda: made.wait_for(TUNNEL))
        never[1]()
        with talk(made, "iptables", "pod/p2", "pod/p3") as conversations:
            results = in_turn(conversations, never, always, never)
        assert not failed(results)
