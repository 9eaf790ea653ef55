"""The MTU function's table: policies, uplinks and pools of both families."""

from collections.abc import Mapping
from ipaddress import ip_network

import pytest

from calico_py.agent.configuration.spellings import MtuPolicy
from calico_py.agent.mtu import Encap, choose_pod_mtu, device_mtu, uplink_mtu
from calico_py.model.kernel import Link
from calico_py.model.meta import Meta
from calico_py.model.net import Family
from calico_py.model.pools import AllowedUse, EncapMode, IPPool


def v4(ipip: EncapMode = EncapMode.NEVER, vxlan: EncapMode = EncapMode.NEVER) -> IPPool:
    return IPPool(Meta("v4"), ip_network("10.244.0.0/16"), ipip_mode=ipip, vxlan_mode=vxlan)


V6 = IPPool(Meta("v6"), ip_network("fd00:10::/48"))
LB = IPPool(
    Meta("lb"), ip_network("10.1.0.0/24"), vxlan_mode=EncapMode.ALWAYS, allowed_uses=(AllowedUse.LOAD_BALANCER,)
)


@pytest.mark.parametrize(
    ("policy", "uplinks", "pools", "mtu"),
    [
        (MtuPolicy.AUTO, {4: 1500}, [], 1450),
        (MtuPolicy.AUTO, {4: 1500}, [v4()], 1450),
        (MtuPolicy.AUTO, {4: 1500}, [v4(EncapMode.ALWAYS)], 1450),
        (MtuPolicy.AUTO, {4: 9000, 6: 9000}, [v4()], 8950),
        (MtuPolicy.AUTO, {4: 1500, 6: 1500}, [v4(), V6], 1430),
        (MtuPolicy.AUTO, {4: 1500}, [v4(), V6], 1450),
        (MtuPolicy.AUTO, {4: 9000, 6: 1500}, [v4(), V6], 1430),
        (MtuPolicy.AUTO, {}, [], 1450),
        (MtuPolicy.AUTO, {6: 9000}, [V6], 8930),
        (MtuPolicy.AUTO, {6: 9000}, [], 1450),
        (MtuPolicy.IN_USE, {4: 1500}, [v4()], 1500),
        (MtuPolicy.IN_USE, {4: 1500}, [v4(EncapMode.CROSS_SUBNET)], 1480),
        (MtuPolicy.IN_USE, {4: 1500}, [v4(vxlan=EncapMode.ALWAYS)], 1450),
        (MtuPolicy.IN_USE, {4: 1500, 6: 1500}, [v4(EncapMode.ALWAYS), V6], 1480),
        (MtuPolicy.IN_USE, {4: 1500}, [v4(), LB], 1500),
        (1400, {4: 1500}, [v4()], 1400),
        (9000, {4: 1500}, [v4()], 9000),
    ],
)
def test_choice(policy: int | MtuPolicy, uplinks: Mapping[Family, int], pools: list[IPPool], mtu: int) -> None:
    assert choose_pod_mtu(policy, uplinks, pools).mtu == mtu


def test_the_reason_names_uplink_and_header() -> None:
    assert "1500" in choose_pod_mtu(MtuPolicy.AUTO, {4: 1500}, [v4()]).reason
    assert "could be switched" in choose_pod_mtu(MtuPolicy.AUTO, {4: 1500}, [v4()]).reason
    assert "less IPIP over IPv4" in choose_pod_mtu(MtuPolicy.IN_USE, {4: 1500}, [v4(EncapMode.ALWAYS)]).reason
    too_much = choose_pod_mtu(9000, {4: 1500}, [v4(EncapMode.ALWAYS)]).reason
    assert "more than the 1480 that fit" in too_much


def test_no_switch_of_mode_strands_a_pod_of_the_default() -> None:
    pod = choose_pod_mtu(MtuPolicy.AUTO, {4: 1500, 6: 1500}, [v4(), V6]).mtu
    for family in (4, 6):
        for encap in (Encap.NONE, Encap.IPIP, Encap.VXLAN):
            assert pod <= device_mtu(1500, encap, family)


def test_an_address_on_a_device_that_leads_nowhere_says_nothing_of_the_uplink() -> None:
    """Where nodes have their addresses on lo and announce them by a routing daemon; lo's MTU is 65536."""
    lo, dummy = Link("lo", 1, mtu=65536, up=True), Link("dummy0", 4, kind="dummy", mtu=1500, up=True)
    eth0, eth1 = Link("eth0", 2, mtu=9000, up=True), Link("eth1", 3, mtu=8000, up=True)
    down, pod = Link("eth2", 5, mtu=1280), Link("cali1", 6, kind="veth", mtu=1450, up=True)
    links = [lo, eth0, eth1, dummy, down, pod]
    assert uplink_mtu(eth0, links) == 9000
    assert uplink_mtu(lo, links) == uplink_mtu(dummy, links) == 8000
    assert uplink_mtu(lo, [lo, pod]) == 1500


def test_devices() -> None:
    assert device_mtu(1500, Encap.IPIP, 4) == 1480
    assert device_mtu(1500, Encap.VXLAN, 4) == 1450
    assert device_mtu(1500, Encap.VXLAN, 6) == 1430
    assert device_mtu(1500, Encap.UDP, 4) == 1472
