"""Three namespaces for the tests of the nftables table.

A pod behind ``cali0``, the node, and a neighbour that has the addresses of another node, of a stranger, of a pod of its
own, and of a host far away.
"""

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from ipaddress import IPv4Address, ip_address, ip_network

from calico_py.dataplane.netlink import LinuxKernel
from calico_py.dataplane.nft import NftReconciler
from calico_py.model.intent import Firewall
from calico_py.model.net import Network
from tests.netns.namespaces import Namespace

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


class Wires:
    """The three namespaces and the table of the middle one."""

    def __init__(self, pod: Namespace, node: Namespace, peer: Namespace, kernel: LinuxKernel) -> None:
        self.pod, self.node, self.peer, self.kernel = pod, node, peer, kernel
        self.nft = NftReconciler(kernel)

    def counted(self, comment: str) -> int:
        """Packets that the rules with that comment have counted."""
        lines = [line for line in self.table().splitlines() if comment in line]
        assert lines
        return sum(int(line.split("packets ")[1].split()[0]) for line in lines)

    def table(self) -> str:
        """As nft prints it."""
        return self.node.run("nft", "list", "table", "inet", "calico-py").stdout


@asynccontextmanager
async def wired() -> AsyncIterator[Wires]:
    """They exist, and the calling thread is in the node, while the block runs."""
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
    """A socket of that namespace."""
    with namespace.entered():
        sock = socket.socket(family, kind, protocol)
    with sock:
        sock.settimeout(WAIT)
        yield sock


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
