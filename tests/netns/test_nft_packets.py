"""What the nftables table does to packets: IPIP from nodes, strangers and pods; natOutgoing.

Three namespaces: a pod behind ``cali0``, the node, and a neighbour that has the addresses of another node, of a
stranger, and of a host far away.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_network

import pytest

from calico_py.dataplane.netlink import LinuxKernel
from calico_py.dataplane.nft import NftReconciler
from calico_py.model.intent import Firewall
from calico_py.model.net import Network
from tests.netns.namespaces import Namespace

pytestmark = pytest.mark.root

NODE, NODE6 = "192.168.1.11", "fd01::11"
PEER, STRANGER, FAR, FAR6 = "192.168.1.12", "192.168.1.66", "203.0.113.9", "2001:db8::9"
POD, POD6 = "10.244.1.7", "fd00:10:244::7"
REMOTE_POD, REMOTE_POD6 = "10.244.2.5", "fd00:10:244::2:5"
OUTSIDER = "172.30.0.5"  # a source in no pool
PORT = 7000
WAIT = 0.3  # seconds until a packet counts as lost

POOLS: frozenset[Network] = frozenset({ip_network("10.244.0.0/16"), ip_network("fd00:10:244::/48")})
FIREWALL = Firewall(
    nodes=frozenset(map(ip_address, (NODE, NODE6, PEER))),
    receive_ipip=True,
    pools=POOLS,
    masquerade=POOLS,
    tunnel_address=IPv4Address("10.244.1.1"),
)
FROM_POD, FROM_STRANGER = "IPIP from a pod", "IPIP from a stranger"

NODE_SCRIPT = f"""
    sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
    ip link set lo up; ip link set cali0 up; ip link set eth0 up
    ip addr add {NODE}/24 dev eth0; ip addr add {NODE6}/64 dev eth0 nodad
    ip route add {POD} dev cali0; ip route add {OUTSIDER} dev cali0; ip -6 route add {POD6} dev cali0
    ip route add {FAR} via {PEER}; ip -6 route add {FAR6} via fd01::12
    ip route add 10.244.2.0/26 via {PEER}; ip -6 route add {REMOTE_POD6} via fd01::12
    ip addr add 169.254.1.1/32 dev cali0; ip addr add fe80::1/64 dev cali0 nodad
"""
POD_SCRIPT = f"""
    ip link set lo up; ip link set eth0 up
    ip addr add {POD}/32 dev eth0; ip addr add {OUTSIDER}/32 dev eth0
    ip addr add {POD6}/128 dev eth0 nodad
    ip route add 169.254.1.1 dev eth0; ip route add default via 169.254.1.1
    ip -6 route add default via fe80::1 dev eth0
"""
PEER_SCRIPT = f"""
    ip link set lo up; ip link set eth0 up
    ip addr add {PEER}/24 dev eth0; ip addr add {STRANGER}/24 dev eth0; ip addr add fd01::12/64 dev eth0 nodad
    for address in {FAR} {REMOTE_POD}; do ip addr add $address/32 dev eth0; done
    for address in {FAR6} {REMOTE_POD6}; do ip addr add $address/128 dev eth0 nodad; done
"""

TUNNEL_SCRIPT = f"""
    ip link set eth0 down; ip link set eth0 name tunl0; ip addr flush dev tunl0; ip link set tunl0 up
    ip addr add {NODE}/32 dev lo; ip addr add 10.244.1.1/32 dev tunl0
    ip route add 10.244.2.0/26 via {PEER} dev tunl0 onlink
"""


class Wires:
    """The three namespaces and the table of the middle one."""

    def __init__(self, pod: Namespace, node: Namespace, peer: Namespace, kernel: LinuxKernel) -> None:
        self.pod, self.node, self.peer, self.kernel = pod, node, peer, kernel
        self.nft = NftReconciler(kernel)

    def dropped(self, comment: str) -> int:
        """Packets that the rule with that comment has dropped."""
        (line,) = [line for line in self.table().splitlines() if comment in line]
        return int(line.split("packets ")[1].split()[0])

    def table(self) -> str:
        """As nft prints it."""
        return self.node.run("nft", "list", "table", "inet", "calico-py").stdout


@pytest.fixture
async def wires() -> AsyncIterator[Wires]:
    with ExitStack() as stack:
        pod, node, peer = Namespace(), Namespace(), Namespace()
        for namespace in (pod, node, peer):
            stack.callback(namespace.close)
            # A link-local address on probation (RFC 4862 5.4) cannot ask for a neighbour for a second or two.
            namespace.run("sysctl", "-qw", "net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0")
        for ifname, other in (("cali0", pod), ("eth0", peer)):
            node.run("ip", "link", "add", ifname, "type", "veth", "peer", "name", "eth0", "netns", other.path)
        for namespace, script in ((node, NODE_SCRIPT), (pod, POD_SCRIPT), (peer, PEER_SCRIPT)):
            namespace.run("sh", "-ec", script)
        stack.enter_context(node.entered())
        async with LinuxKernel() as kernel:
            yield Wires(pod, node, peer, kernel)


@contextmanager
def opened(namespace: Namespace, family: int, kind: int, protocol: int = 0) -> Iterator[socket.socket]:
    with namespace.entered():
        sock = socket.socket(family, kind, protocol)
    with sock:
        sock.settimeout(WAIT)
        yield sock


def receives_ipip(at: Namespace, sender: Namespace, source: str, destination: str) -> bool:
    """Whether a packet of protocol 4 arrives; a raw socket is what the userspace engine reads."""
    payload = os.urandom(16)
    with (
        opened(at, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IPIP) as receiver,
        opened(sender, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IPIP) as sending,
    ):
        sending.bind((source, 0))
        sending.sendto(payload, (destination, 0))
        try:
            data, came_from = receiver.recvfrom(2048)
        except TimeoutError:
            return False
        assert data.endswith(payload)
        assert came_from[0] == source
        return True


def source_seen(wires: Wires, source: str, destination: str, sender: Namespace | None = None) -> str | None:
    """The source that the neighbour sees of a datagram, a pod's if nobody else is named; None if none arrives."""
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    with (
        opened(wires.peer, family, socket.SOCK_DGRAM) as receiver,
        opened(sender or wires.pod, family, socket.SOCK_DGRAM) as sending,
    ):
        receiver.bind((destination, PORT))
        sending.bind((source, 0))
        sending.sendto(b"hello", (destination, PORT))
        try:
            return str(receiver.recvfrom(2048)[1][0])
        except TimeoutError:
            return None


async def test_without_the_table_everything_passes(wires: Wires) -> None:
    """The control: what the tests below miss is dropped by the table and by nothing else."""
    assert receives_ipip(wires.node, wires.peer, PEER, NODE)
    assert receives_ipip(wires.node, wires.peer, STRANGER, NODE)
    assert receives_ipip(wires.node, wires.pod, POD, NODE)
    assert receives_ipip(wires.peer, wires.pod, POD, PEER)
    assert source_seen(wires, POD, FAR) == POD
    assert source_seen(wires, POD6, FAR6) == POD6


async def test_nodes_alone_may_send_ipip(wires: Wires) -> None:
    assert await wires.nft.apply(FIREWALL) == ""
    assert receives_ipip(wires.node, wires.peer, PEER, NODE)
    assert not receives_ipip(wires.node, wires.peer, STRANGER, NODE)
    assert wires.dropped(FROM_STRANGER) == 1


async def test_without_a_receiver_nobody_may(wires: Wires) -> None:
    assert await wires.nft.apply(replace(FIREWALL, receive_ipip=False)) == ""
    assert not receives_ipip(wires.node, wires.peer, PEER, NODE)
    assert wires.dropped(FROM_STRANGER) == 1
    assert await wires.nft.apply(FIREWALL) == ""
    assert receives_ipip(wires.node, wires.peer, PEER, NODE)


@pytest.mark.parametrize("source", [POD, PEER], ids=["its own source", "a node's source"])
async def test_pods_may_send_ipip_to_nobody(wires: Wires, source: str) -> None:
    assert await wires.nft.apply(FIREWALL) == ""
    if source == PEER:
        wires.pod.run("ip", "addr", "add", f"{PEER}/32", "dev", "eth0")
    assert not receives_ipip(wires.node, wires.pod, source, NODE)
    assert not receives_ipip(wires.peer, wires.pod, source, STRANGER)
    assert wires.dropped(FROM_POD) == 2
    assert source_seen(wires, POD, REMOTE_POD) == POD, "its other traffic passes"


async def test_a_node_that_leaves_is_a_stranger(wires: Wires) -> None:
    assert await wires.nft.apply(FIREWALL) == ""
    assert receives_ipip(wires.node, wires.peer, PEER, NODE)
    assert await wires.nft.apply(replace(FIREWALL, nodes=FIREWALL.nodes - {IPv4Address(PEER)})) == ""
    assert not receives_ipip(wires.node, wires.peer, PEER, NODE)


@pytest.mark.parametrize(
    ("source", "destination", "seen"),
    [
        pytest.param(POD, FAR, NODE, id="out of all pools"),
        pytest.param(POD, PEER, NODE, id="another node"),
        pytest.param(POD, REMOTE_POD, POD, id="a pod elsewhere"),
        pytest.param(OUTSIDER, FAR, OUTSIDER, id="a source in no pool"),
        pytest.param(POD6, FAR6, NODE6, id="IPv6, out of all pools"),
        pytest.param(POD6, REMOTE_POD6, POD6, id="IPv6, a pod elsewhere"),
    ],
)
async def test_nat_outgoing(wires: Wires, source: str, destination: str, seen: str) -> None:
    assert await wires.nft.apply(FIREWALL) == ""
    assert source_seen(wires, source, destination) == seen


async def test_a_pool_without_nat_outgoing_keeps_its_sources(wires: Wires) -> None:
    assert await wires.nft.apply(replace(FIREWALL, masquerade=frozenset())) == ""
    assert source_seen(wires, POD, FAR) == POD
    assert source_seen(wires, POD6, FAR6) == POD6


async def test_what_came_through_the_tunnel_keeps_its_source(wires: Wires) -> None:
    """The device that pods are behind is called tunl0 here: its name is what the rule looks at."""
    wires.node.run("ip", "link", "set", "cali0", "down")
    wires.node.run("ip", "link", "set", "cali0", "name", "tunl0")
    wires.node.run("sh", "-ec", f"ip link set tunl0 up; ip route add {POD} dev tunl0")
    assert await wires.nft.apply(FIREWALL) == ""
    assert source_seen(wires, POD, FAR) == POD


@pytest.mark.parametrize(
    ("source", "seen"), [(NODE, "10.244.1.1"), ("10.244.1.1", "10.244.1.1"), (POD, POD)], ids=["node", "tunl0", "pod"]
)
async def test_the_nodes_own_goes_into_the_tunnel_with_the_tunnels_address(
    wires: Wires, source: str, seen: str
) -> None:
    """Or the answer would come outside of the tunnel, where a network that knows only nodes drops it."""
    wires.node.run("sh", "-ec", TUNNEL_SCRIPT)
    wires.peer.run("sh", "-ec", f"ip route add 10.244.1.0/26 via {NODE}")
    sender = wires.pod if source == POD else wires.node
    assert source_seen(wires, source, REMOTE_POD, sender) == source, "the control: without the table"
    assert await wires.nft.apply(FIREWALL) == ""
    assert source_seen(wires, source, REMOTE_POD, sender) == seen


async def test_what_the_node_sent_into_the_tunnel_goes_on_when_the_mode_changes(wires: Wires) -> None:
    """The kernel ends a masqueraded connection whose device changes (nf_nat_oif_changed); this one is none."""
    wires.node.run("sh", "-ec", TUNNEL_SCRIPT)
    wires.peer.run("ip", "route", "add", "10.244.1.0/26", "via", NODE)
    wires.node.run(
        "sh", "-ec", f"ip link add eth1 type veth peer name eth1 netns {wires.peer.path}; ip link set eth1 up"
    )
    wires.peer.run("ip", "link", "set", "eth1", "up")
    assert await wires.nft.apply(FIREWALL) == ""
    with (
        opened(wires.peer, socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        opened(wires.node, socket.AF_INET, socket.SOCK_DGRAM) as sending,
    ):
        receiver.bind((REMOTE_POD, PORT))
        sending.bind((NODE, 0))
        sending.sendto(b"by the tunnel", (REMOTE_POD, PORT))
        _, before = receiver.recvfrom(100)
        wires.node.run("ip", "route", "replace", "10.244.2.0/26", "via", PEER, "dev", "eth1", "onlink")
        sending.sendto(b"by the uplink", (REMOTE_POD, PORT))
        data, after = receiver.recvfrom(100)
    assert (data, after) == (b"by the uplink", before)


@pytest.mark.parametrize(
    "command",
    [
        "flush ruleset",
        "delete table inet calico-py",
        "flush table inet calico-py",
        "flush chain inet calico-py tunnel",
        "insert rule inet calico-py tunnel accept",
        "delete table inet calico-py; add table inet calico-py; add chain inet calico-py mine",
    ],
)
async def test_what_someone_does_to_the_table_is_heard_and_undone(wires: Wires, command: str) -> None:
    assert await wires.nft.apply(FIREWALL) == ""
    before = wires.table()
    events = wires.kernel.events()
    wires.node.run("nft", command)
    while not wires.nft.on_event(await asyncio.wait_for(anext(events), 1)):
        pass
    assert await wires.nft.apply(FIREWALL) == ""
    assert wires.table() == before


async def test_our_own_writing_settles(wires: Wires) -> None:
    """Its echo calls for a reading, and that for nothing more."""
    events = wires.kernel.events()
    for _ in range(3):
        assert await wires.nft.apply(FIREWALL) == ""
        with suppress(TimeoutError):
            while True:
                wires.nft.on_event(await asyncio.wait_for(anext(events), WAIT))
    generation = wires.node.run("nft", "-a", "list", "ruleset").stdout
    assert await wires.nft.apply(FIREWALL) == ""
    assert wires.node.run("nft", "-a", "list", "ruleset").stdout == generation


async def test_tables_of_others_stay(wires: Wires) -> None:
    wires.node.run("nft", "add table ip others; add chain ip others mine")
    before = wires.node.run("nft", "list table ip others").stdout
    assert await wires.nft.apply(FIREWALL) == ""
    assert await wires.nft.apply(replace(FIREWALL, receive_ipip=False)) == ""
    assert wires.node.run("nft", "list table ip others").stdout == before


async def test_five_thousand_nodes(wires: Wires) -> None:
    many = frozenset(IPv4Address(0x0A00_0000 + n) for n in range(5000)) | FIREWALL.nodes
    assert await wires.nft.apply(replace(FIREWALL, nodes=many)) == ""
    assert receives_ipip(wires.node, wires.peer, PEER, NODE)
    assert not receives_ipip(wires.node, wires.peer, STRANGER, NODE)
