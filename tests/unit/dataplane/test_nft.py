"""The nftables table as text, and when it is written. What it does to packets is in tests/netns."""

import errno
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from calico_py.dataplane.nft import NftReconciler, render_rules
from calico_py.model.intent import Firewall
from calico_py.model.kernel import Delete, KernelEvent, NftTable, Put
from tests.fakes.kernel import FakeKernel

POOL4, POOL6 = IPv4Network("10.244.0.0/16"), IPv6Network("fd00:10:244::/48")
FIREWALL = Firewall(
    nodes=frozenset({IPv4Address("192.168.1.12"), IPv4Address("192.168.1.2"), IPv6Address("fd01::11")}),
    receive_ipip=True,
    pools=frozenset({POOL4, IPv4Network("10.64.0.0/16"), POOL6}),
    masquerade=frozenset({POOL4}),
    tunnel_address=IPv4Address("10.244.1.1"),
    own=frozenset({IPv6Address("fd01::11"), IPv4Address("192.168.1.2")}),
    uplinks=frozenset({"eth1", "eth0"}),
    service_mark=0x4000,
)

GOLDEN = """\
\tset nodes4 {
\t\ttype ipv4_addr
\t\telements = { 192.168.1.2, 192.168.1.12 }
\t}
\tset nodes6 {
\t\ttype ipv6_addr
\t\telements = { fd01::11 }
\t}
\tset pools4 {
\t\ttype ipv4_addr
\t\tflags interval
\t\tauto-merge
\t\telements = { 10.64.0.0/16, 10.244.0.0/16 }
\t}
\tset pools6 {
\t\ttype ipv6_addr
\t\tflags interval
\t\tauto-merge
\t\telements = { fd00:10:244::/48 }
\t}
\tset masquerade4 {
\t\ttype ipv4_addr
\t\tflags interval
\t\tauto-merge
\t\telements = { 10.244.0.0/16 }
\t}
\tset masquerade6 {
\t\ttype ipv6_addr
\t\tflags interval
\t\tauto-merge
\t}
\tset uplinks {
\t\ttype ifname
\t\telements = { "eth0", "eth1" }
\t}
\tchain prerouting {
\t\ttype filter hook prerouting priority raw; policy accept;
\t\tiifname "cali*" meta l4proto 4 counter drop comment "IPIP from a pod"
\t}
\tchain input {
\t\ttype filter hook input priority filter; policy accept;
\t\tmeta l4proto 4 jump tunnel
\t}
\tchain tunnel {
\t\tip saddr @nodes4 return
\t\tip6 saddr @nodes6 return
\t\tcounter drop comment "IPIP from a stranger"
\t}
\tchain postrouting {
\t\ttype nat hook postrouting priority srcnat; policy accept;
\t\tiifname "tunl0" return
\t\tip saddr @masquerade4 ip daddr != @pools4 counter masquerade fully-random comment "natOutgoing"
\t\tip6 saddr @masquerade6 ip6 daddr != @pools6 counter masquerade fully-random comment "natOutgoing"
\t}
\tchain lasting {
\t\ttype nat hook postrouting priority srcnat - 1; policy accept;
\t\tmeta mark & 0x00004000 != 0 jump services
\t\toifname "tunl0" ip saddr @nodes4 counter snat ip to 10.244.1.1 fully-random comment "own address"
\t}
\tchain services {
\t\toifname "tunl0" ip daddr @pools4 UNMARK snat ip to 10.244.1.1 fully-random comment "Service, tunnel"
\t\toifname @uplinks ip daddr @pools4 UNMARK snat ip to 192.168.1.2 fully-random comment "Service, uplink"
\t\toifname @uplinks ip6 daddr @pools6 UNMARK snat ip6 to fd01::11 fully-random comment "Service, uplink"
\t}""".replace("UNMARK", "meta mark set meta mark & 0xffffbfff counter")


def test_the_whole_text() -> None:
    table = render_rules(FIREWALL)
    assert (table.family, table.name, table.rules) == ("inet", "calico-py", GOLDEN)


def test_without_a_receiver_no_node_is_let_in() -> None:
    rules = render_rules(Firewall(nodes=FIREWALL.nodes, receive_ipip=False)).rules
    assert "return" not in rules.split("chain tunnel")[1].split("}")[0]


def test_without_a_mark_what_kube_proxy_masquerades_is_left_to_it() -> None:
    assert "jump services" not in render_rules(replace(FIREWALL, service_mark=0)).rules


def test_the_digest_is_that_of_the_rules() -> None:
    same = replace(FIREWALL, nodes=frozenset(sorted(FIREWALL.nodes, key=str)))
    assert render_rules(same).digest == render_rules(FIREWALL).digest
    assert render_rules(Firewall()).digest != render_rules(FIREWALL).digest


async def test_the_table_is_written_when_it_differs_and_only_then() -> None:
    kernel = FakeKernel()
    reconciler = NftReconciler(kernel)
    for _ in range(2):
        assert await reconciler.apply(FIREWALL) == ""
    again = NftReconciler(kernel)
    assert await again.apply(FIREWALL) == ""
    assert kernel.sent == [Put(render_rules(FIREWALL))]
    assert await again.apply(Firewall()) == ""
    assert [table.digest for table in await kernel.dump(NftTable)] == [render_rules(Firewall()).digest]


async def test_a_table_that_is_gone_is_written_again() -> None:
    kernel = FakeKernel()
    reconciler = NftReconciler(kernel)
    await reconciler.apply(FIREWALL)
    await kernel.send([Delete(render_rules(FIREWALL))])
    assert reconciler.on_event(KernelEvent(NftTable, removed=True, object=NftTable("inet", "calico-py")))
    assert not reconciler.on_event(KernelEvent(NftTable, object=NftTable("ip", "kube-proxy")))
    await reconciler.apply(FIREWALL)
    assert len(await kernel.dump(NftTable)) == 1


async def test_a_refusal_is_told_and_tried_again() -> None:
    kernel = FakeKernel()
    kernel.fail_next(errno.EPERM)
    reconciler = NftReconciler(kernel)
    assert "NET_ADMIN" in await reconciler.apply(FIREWALL)
    assert await reconciler.apply(FIREWALL) == ""
