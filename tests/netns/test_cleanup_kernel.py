"""Cleanup leaves a node's kernel as it was before, whatever others had there."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Network, ip_interface, ip_network
from pathlib import Path

import pytest

from calico_py.dataplane.cleanup import cleanup
from calico_py.dataplane.ipip import IPIPReconciler
from calico_py.dataplane.netlink import LinuxKernel
from calico_py.dataplane.nft import NftReconciler
from calico_py.dataplane.routes import RouteReconciler
from calico_py.dataplane.sysctls import SysctlKeeper, wanted_settings
from calico_py.dataplane.wiring import NetlinkPodWiring
from calico_py.model.intent import Firewall, IPIPTunnel
from calico_py.model.kernel import Addr, NextHop, Route, RouteType
from calico_py.model.names import workload_ifname
from calico_py.model.wiring import PodLink
from tests.netns.namespaces import Namespace

pytestmark = pytest.mark.root

# What others have on the node: hardware, a VPN's TUN device, routes, a table, settings; also what looks like ours.
OTHERS = """
    ip link set lo up
    ip link add eth0 type veth peer name far; ip link set eth0 up; ip link set far up
    ip addr add 192.168.1.11/24 dev eth0; ip addr add fd01::11/64 dev eth0 nodad
    ip tuntap add vpn0 mode tun; ip link set vpn0 up alias "calico-py is not my owner"
    ip addr add 172.16.0.1/32 dev vpn0
    ip link add cali-mine type veth peer name other; ip link set cali-mine alias mine
    ip route add default via 192.168.1.1; ip route add 10.9.0.0/16 via 192.168.1.9 proto bird
    ip route add 10.9.9.0/24 via 192.168.1.9 proto 80 table 1000; ip -6 route add blackhole fd09::/64
    nft 'add table inet others; add chain inet others input { type filter hook input priority 0; }'
    nft 'add table ip calico-py'
    sysctl -qw net.ipv4.conf.eth0.rp_filter=1 net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0
"""
COUNTERS = re.compile(r"packets \d+ bytes \d+|valid_lft \S+|preferred_lft \S+|expires \S+|numtxqueues.*|qdisc \S+")


@dataclass(frozen=True, slots=True)
class Rig:
    namespace: Namespace
    pod: Namespace
    kernel: LinuxKernel
    folder: Path

    @property
    def keeper(self) -> SysctlKeeper:
        return SysctlKeeper(self.kernel, self.folder / "sysctls.json")

    def picture(self) -> str:
        """All that there is, without what changes by itself."""
        commands = (
            "ip -d link; ip -d addr; ip -d route show table all; ip -6 -d route show table all;"
            " ip neigh show nud permanent; nft list ruleset;"
            " sysctl -a 2>/dev/null | grep -E 'forward|rp_filter|accept_|proxy_'"
        )
        return COUNTERS.sub("-", self.namespace.run("sh", "-c", commands).stdout)

    async def make_everything(self) -> None:
        """All that an agent makes."""
        settings = wanted_settings(uplinks=["eth0"], tunnels=["tunl0"], ipv6=True)
        assert await self.keeper.apply(settings) == {}
        nodes = frozenset({IPv4Address("192.168.1.12")})
        pools = frozenset({ip_network("10.244.0.0/16")})
        assert await NftReconciler(self.kernel).apply(Firewall(nodes, True, pools, pools)) == ""
        tunnel = IPIPTunnel("tunl0", IPv4Address("10.244.1.0"), IPv4Address("192.168.1.11"), 1480)
        status = await IPIPReconciler(self.kernel, allow_kernel=False).apply(tunnel)
        assert status.problem == ""
        assert await self.keeper.apply(settings) == {}
        hop = NextHop(status.ifindex, IPv4Address("192.168.1.12"), onlink=True)
        wanted = [
            Route(IPv4Network("10.244.2.0/26"), next_hops=(hop,), protocol=80),
            Route(IPv4Network("10.244.1.0/26"), RouteType.BLACKHOLE, protocol=80),
            Route(IPv6Network("fd00:1::/64"), RouteType.BLACKHOLE, protocol=81, metric=1024),
        ]
        routes = RouteReconciler(self.kernel)
        routes.set_desired({route.key: route for route in wanted}, lambda _: True)
        assert await routes.apply() == {}
        wiring = NetlinkPodWiring()
        try:
            await wiring.wire(self._pod(), self.pod.descriptor)
        finally:
            wiring.close()

    def _pod(self) -> PodLink:
        return PodLink(
            namespace="default",
            pod="web",
            container_id="c0ffee",
            ifname="eth0",
            host_ifname=workload_ifname("default", "web"),
            addresses=(ip_interface("10.244.1.7/32"), ip_interface("fd00:10:244::7/128")),
            mtu=1450,
        )

    async def clean(self) -> list[str]:
        return await cleanup(self.kernel, self.keeper, [self.folder, self.folder / "never made"])


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    namespace, pod = Namespace(), Namespace()
    try:
        namespace.run("sysctl", "-qw", "net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0")
        namespace.run("sh", "-ec", OTHERS)
        with namespace.entered():
            async with LinuxKernel() as kernel:
                yield Rig(namespace, pod, kernel, tmp_path / "state")
    finally:
        namespace.close()
        pod.close()


async def test_everything_goes_and_nothing_else(rig: Rig) -> None:
    before = rig.picture()
    await rig.make_everything()
    during = rig.picture()
    for sign in ("tunl0", "calico-py pod c0ffee", "proto 80", "proto 81", "table inet calico-py", "rp_filter = 2"):
        assert sign in during
        assert sign not in before or sign == "proto 80"
    assert await rig.clean() == []
    assert rig.picture().splitlines() == before.splitlines()
    assert not rig.folder.exists()


async def test_cleanup_of_a_clean_node_does_nothing(rig: Rig) -> None:
    before = rig.picture()
    for _ in range(2):
        assert await rig.clean() == []
    assert rig.picture().splitlines() == before.splitlines()


async def test_an_address_of_others_does_not_keep_our_tunnel(rig: Rig) -> None:
    """The TUN device is ours and goes, with all that is on it."""
    await rig.make_everything()
    rig.namespace.run("ip", "addr", "add", "172.16.5.5/32", "dev", "tunl0")
    assert await rig.clean() == []
    assert "tunl0" not in rig.picture()


async def test_what_cannot_be_removed_is_told_and_the_rest_goes(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    before = rig.picture()
    await rig.make_everything()
    with monkeypatch.context() as blind:
        blind.setenv("PATH", "")
        (problem,) = await rig.clean()
    assert "cannot remove nftables table inet calico-py" in problem
    assert "install the package nftables" in problem
    assert "table inet calico-py" in rig.picture()
    assert "dev tunl0" not in rig.picture()
    assert await rig.clean() == []
    assert rig.picture().splitlines() == before.splitlines()


async def test_an_address_label_alone_marks_ours(rig: Rig) -> None:
    rig.namespace.run("ip", "addr", "add", "172.16.0.9/32", "dev", "vpn0", "label", "vpn0:mine")
    before = rig.picture()
    assert await rig.clean() == []
    assert rig.picture() == before
    assert IPv4Interface("172.16.0.9/32") in [addr.interface for addr in await _addresses(rig)]


async def _addresses(rig: Rig) -> list[Addr]:
    return await rig.kernel.dump(Addr)
