"""What the table does to packets that kube-proxy has marked for masquerade: another device ends them no more.

A client behind ``cali0`` sends to NODE_PORT, which is turned to a pod of the neighbour's. ``tunl0``, ``eth0`` and
``eth1`` all lead there; a change of the pool's mode is a change of the route. The rules are as kube-proxy's two back
ends write them.
"""

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Address, ip_address

import pytest

from calico_py.model.net import Family
from tests.netns import wires as given
from tests.netns.wires import NODE, NODE6, OUTSIDER, PEER, PORT, REMOTE_POD, REMOTE_POD6, Wires, opened, wired

pytestmark = pytest.mark.root

TUNNEL = "10.244.1.1"
PEER6, OUTSIDER6 = "fd01::12", "2001:db8:1::5"
NODE_PORT, OTHER_PORT = 30001, 30002  # the second leads to a host outside of all pools
MARK = 0x4000
FIREWALL = replace(
    given.FIREWALL,
    tunnel_address=IPv4Address(TUNNEL),
    own=frozenset(map(ip_address, (NODE, NODE6))),
    uplinks=frozenset({"eth0"}),
    service_mark=MARK,
)

# The last chain counts what is still marked when all have translated.
NODE_SCRIPT = f"""
    for name in tunl0 eth1; do
        ip link add $name type veth peer name $name netns $peer
        ip link set $name up; nsenter --net=$peer ip link set $name up
    done
    ip address add {TUNNEL}/32 dev tunl0; ip -6 route add {OUTSIDER6} dev cali0
    nft add table inet seen
    nft "add chain inet seen after {{ type filter hook postrouting priority 150; }}"
    nft add rule inet seen after meta mark and {MARK} != 0 counter
"""
PEER_SCRIPT = f"""
    ip route add {TUNNEL} via {NODE}
    for name in eth0 eth1; do ip address add fe80::12/64 dev $name nodad; done
"""


def iptables(family: Family, pod: str, other: str) -> str:
    """kube-proxy's rules by iptables, for sh(1)."""
    run = f"ip{'' if family == 4 else '6'}tables -t nat"
    return f"""
        {run} -N MARK-MASQ; {run} -A MARK-MASQ -j MARK --or-mark {MARK}
        {run} -N SERVICES; {run} -A PREROUTING -j SERVICES; {run} -A OUTPUT -j SERVICES
        {run} -A SERVICES -p udp -m multiport --dports {NODE_PORT},{OTHER_PORT} -j MARK-MASQ
        {run} -A SERVICES -p udp --dport {NODE_PORT} -j DNAT --to {pod}
        {run} -A SERVICES -p udp --dport {OTHER_PORT} -j DNAT --to {other}
        {run} -N MASQ; {run} -A POSTROUTING -j MASQ
        {run} -A MASQ -m mark ! --mark {MARK}/{MARK} -j RETURN
        {run} -A MASQ -j MARK --xor-mark {MARK}
        {run} -A MASQ -j MASQUERADE --random-fully
    """


def nftables(family: Family, pod: str, other: str) -> str:
    """kube-proxy's rules by nftables, for sh(1)."""
    return f"""nft 'table {"ip" if family == 4 else "ip6"} kube-proxy {{
        chain services {{
            udp dport {NODE_PORT} mark set mark or {MARK} dnat to {pod}
            udp dport {OTHER_PORT} mark set mark or {MARK} dnat to {other}
        }}
        chain prerouting {{ type nat hook prerouting priority -100; jump services; }}
        chain output {{ type nat hook output priority -100; jump services; }}
        chain postrouting {{
            type nat hook postrouting priority 100;
            mark and {MARK} == 0 return
            mark set mark xor {MARK}
            masquerade fully-random
        }}
    }}'"""


@pytest.fixture(params=[iptables, nftables])
async def wires(request: pytest.FixtureRequest) -> AsyncIterator[Wires]:
    async with wired() as made:
        made.node.run("env", f"peer={made.peer.path}", "sh", "-ec", NODE_SCRIPT)
        made.peer.run("sh", "-ec", PEER_SCRIPT)
        made.pod.run("ip", "address", "add", f"{OUTSIDER6}/128", "dev", "eth0", "nodad")
        for rules in (
            request.param(4, f"{REMOTE_POD}:{PORT}", f"{PEER}:{PORT}"),
            request.param(6, f"[{REMOTE_POD6}]:{PORT}", f"[{PEER6}]:{PORT}"),
        ):
            made.node.run("sh", "-ec", rules)
        yield made


class Client:
    """Datagrams of one client to one server."""

    def __init__(self, wires: Wires, sending: socket.socket, receiver: socket.socket, to: tuple[str, int]) -> None:
        self.wires, self._sending, self._receiver, self._to = wires, sending, receiver, to

    def by(self, device: str) -> tuple[str, int] | None:
        """Whom the server hears when the way to it leads through that device; None if nothing comes."""
        if self._receiver.family == socket.AF_INET:
            route = ["route", "replace", "10.244.2.0/26", "via", PEER, "dev", device, "onlink"]
        else:
            route = ["-6", "route", "replace", REMOTE_POD6, "via", "fe80::12", "dev", device]
        self.wires.node.run("ip", *route)
        try:
            self._sending.sendto(b"hello", self._to)
            host, port, *_ = self._receiver.recvfrom(100)[1]
        except (TimeoutError, PermissionError):  # the latter where the sender's own kernel drops it
            return None
        return str(host), int(port)


@contextmanager
def client(wires: Wires, *, family: Family = 4, port: int = NODE_PORT, host: bool = False) -> Iterator[Client]:
    """A client outside (or the node's host itself) that sends to a port of the node."""
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    source, node, pod, other = (
        (OUTSIDER, NODE, REMOTE_POD, PEER) if family == 4 else (OUTSIDER6, NODE6, REMOTE_POD6, PEER6)
    )
    with (
        opened(wires.peer, kind, socket.SOCK_DGRAM) as receiver,
        opened(wires.node if host else wires.pod, kind, socket.SOCK_DGRAM) as sending,
    ):
        receiver.bind((pod if port == NODE_PORT else other, PORT))
        sending.bind(("" if host else source, 0))
        yield Client(wires, sending, receiver, (node, port))


def still_marked(wires: Wires) -> int:
    """Packets whose mark nobody has taken off."""
    return int(wires.node.run("nft", "list", "chain", "inet", "seen", "after").stdout.split("packets ")[1].split()[0])


@pytest.mark.parametrize("host", [False, True], ids=["outside", "host"])
@pytest.mark.parametrize("ways", [("tunl0", "eth0", "tunl0"), ("eth0", "tunl0", "eth0")], ids="-".join)
async def test_kube_proxy_alone_ends_it(wires: Wires, ways: tuple[str, ...], host: bool) -> None:
    """The control: the datagram after a change is lost, and the next has another source."""
    with client(wires, host=host) as flow:
        first = flow.by(ways[0])
        assert first is not None
        assert flow.by(ways[1]) is None
        assert flow.by(ways[1]) not in (None, first)


@pytest.mark.parametrize("host", [False, True], ids=["outside", "host"])
@pytest.mark.parametrize(
    ("ways", "source"),
    [
        pytest.param(("tunl0", "eth0", "tunl0"), TUNNEL, id="begun with Always"),
        pytest.param(("eth0", "tunl0", "eth0"), NODE, id="begun with Never"),
    ],
)
async def test_it_outlives_a_mode_change(wires: Wires, ways: tuple[str, ...], source: str, host: bool) -> None:
    """With the source that masquerade gave it by its first device, to the end."""
    assert await wires.nft.apply(FIREWALL) == ""
    with client(wires, host=host) as flow:
        heard = [flow.by(way) for way in ways]
    assert heard[0] is not None
    assert heard[0][0] == source
    assert heard == heard[:1] * 3
    assert still_marked(wires) == 0


async def test_it_outlives_our_own_table(wires: Wires) -> None:
    """What was decided is the connection's: another table, as of a new node or a new version, changes nothing."""
    assert await wires.nft.apply(FIREWALL) == ""
    with client(wires) as flow:
        first = flow.by("tunl0")
        assert first is not None
        assert await wires.nft.apply(replace(FIREWALL, tunnel_address=IPv4Address("10.244.1.2"))) == ""
        assert flow.by("eth0") == first


async def test_without_a_tunnel_address_the_node_s_own_is_taken(wires: Wires) -> None:
    """As in a pool that began with Never."""
    assert await wires.nft.apply(replace(FIREWALL, tunnel_address=None)) == ""
    with client(wires) as flow:
        first = flow.by("eth0")
        assert first is not None
        assert first[0] == NODE
        assert await wires.nft.apply(FIREWALL) == ""
        assert flow.by("tunl0") == first


async def test_ipv6_outlives_another_uplink(wires: Wires) -> None:
    assert await wires.nft.apply(FIREWALL) == ""
    with client(wires, family=6) as flow:
        first = flow.by("eth0")
        assert first is not None
        assert first[0] == NODE6
        assert flow.by("eth1") == first
    assert still_marked(wires) == 0


@pytest.mark.parametrize("family", [4, 6])
async def test_other_devices_are_left_to_kube_proxy(wires: Wires, family: Family) -> None:
    """Another network's, whose answers may need the address of that device."""
    address = ["192.168.9.1/24"] if family == 4 else ["fd09::1/64", "nodad"]
    wires.node.run("ip", "address", "add", *address, "dev", "eth1")
    assert await wires.nft.apply(FIREWALL) == ""
    with client(wires, family=family) as flow:
        heard = flow.by("eth1")
    assert heard is not None
    assert wires.counted("Service, uplink") == 0


@pytest.mark.parametrize("family", [4, 6])
async def test_what_goes_to_no_pod_is_left_to_kube_proxy(wires: Wires, family: Family) -> None:
    assert await wires.nft.apply(FIREWALL) == ""
    with client(wires, family=family, port=OTHER_PORT) as flow:
        heard = flow.by("eth0")
    assert heard is not None
    assert heard[0] == (NODE if family == 4 else NODE6)
    assert wires.counted("Service, uplink") == 0


async def test_what_is_not_marked_keeps_its_source(wires: Wires) -> None:
    """A client that knows the way to pods by itself."""
    assert await wires.nft.apply(FIREWALL) == ""
    assert given.source_seen(wires, OUTSIDER, REMOTE_POD) == OUTSIDER


@pytest.mark.parametrize("mark", [0, 0x10000], ids=["none", "another bit"])
async def test_without_its_mark_all_is_left_to_kube_proxy(wires: Wires, mark: int) -> None:
    assert await wires.nft.apply(replace(FIREWALL, service_mark=mark)) == ""
    with client(wires) as flow:
        assert flow.by("eth0") is not None
        assert flow.by("tunl0") is None
