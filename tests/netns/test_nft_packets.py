"""What the nftables table does to packets: IPIP from nodes, strangers and pods; natOutgoing."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from tests.netns.namespaces import Namespace
from tests.netns.wires import (
    FAR,
    FAR6,
    FIREWALL,
    NODE,
    NODE6,
    OUTSIDER,
    PEER,
    POD,
    POD6,
    PORT,
    REMOTE_POD,
    REMOTE_POD6,
    STRANGER,
    WAIT,
    Wires,
    opened,
    source_seen,
    wired,
)

pytestmark = pytest.mark.root

FROM_POD, FROM_STRANGER = "IPIP from a pod", "IPIP from a stranger"

TUNNEL_SCRIPT = f"""
    ip link set eth0 down; ip link set eth0 name tunl0; ip addr flush dev tunl0; ip link set tunl0 up
    ip addr add {NODE}/32 dev lo; ip addr add 10.244.1.1/32 dev tunl0
    ip route add 10.244.2.0/26 via {PEER} dev tunl0 onlink
"""


def tunnel(wires: Wires) -> None:
    """The node's uplink is called tunl0, and the two know each other's MAC: to ask again takes a second."""
    wires.node.run("sh", "-ec", TUNNEL_SCRIPT)
    wires.peer.run("ip", "route", "add", "10.244.1.0/26", "via", NODE)
    wires.node.run("ping", "-n", "-c", "1", "-W", "5", REMOTE_POD)


@pytest.fixture
async def wires() -> AsyncIterator[Wires]:
    async with wired() as made:
        yield made


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
    assert wires.counted(FROM_STRANGER) == 1


async def test_without_a_receiver_nobody_may(wires: Wires) -> None:
    assert await wires.nft.apply(replace(FIREWALL, receive_ipip=False)) == ""
    assert not receives_ipip(wires.node, wires.peer, PEER, NODE)
    assert wires.counted(FROM_STRANGER) == 1
    assert await wires.nft.apply(FIREWALL) == ""
    assert receives_ipip(wires.node, wires.peer, PEER, NODE)


@pytest.mark.parametrize("source", [POD, PEER], ids=["its own source", "a node's source"])
async def test_pods_may_send_ipip_to_nobody(wires: Wires, source: str) -> None:
    assert await wires.nft.apply(FIREWALL) == ""
    if source == PEER:
        wires.pod.run("ip", "addr", "add", f"{PEER}/32", "dev", "eth0")
    assert not receives_ipip(wires.node, wires.pod, source, NODE)
    assert not receives_ipip(wires.peer, wires.pod, source, STRANGER)
    assert wires.counted(FROM_POD) == 2
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
    tunnel(wires)
    sender = wires.pod if source == POD else wires.node
    assert source_seen(wires, source, REMOTE_POD, sender) == source, "the control: without the table"
    assert await wires.nft.apply(FIREWALL) == ""
    assert source_seen(wires, source, REMOTE_POD, sender) == seen


async def test_what_the_node_sent_into_the_tunnel_goes_on_when_the_mode_changes(wires: Wires) -> None:
    """The kernel ends a masqueraded connection whose device changes (nf_nat_oif_changed); this one is none."""
    tunnel(wires)
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
