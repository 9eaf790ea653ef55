"""Which changes of the kernel call for a pass: all that may move the way to another node, and no pod's."""

from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from calico_py.dataplane.converge import Dataplane
from calico_py.model.intent import PROTO_API, PROTO_BOOT
from calico_py.model.kernel import KernelEvent, Link, NextHop, Route
from tests.fakes.kernel import FakeKernel

PROTO_KERNEL, PROTO_ZEBRA, TABLE_LOCAL = 2, 11, 255
ROUTER = NextHop(2, ip_address("10.0.0.1"))
ROUTER6 = NextHop(2, ip_address("fe80::1"))
NODE, NODE6 = ip_network("192.168.7.12/32"), ip_network("fd00::12/128")
POD, POD6 = ip_network("10.244.1.5/32"), ip_network("fd10::5/128")

UNDERLAY = [
    Route(NODE, next_hops=(ROUTER,), protocol=PROTO_ZEBRA),
    Route(NODE6, next_hops=(ROUTER6,), protocol=PROTO_ZEBRA, metric=20),
    Route(NODE, next_hops=(ROUTER,), protocol=PROTO_BOOT),
    Route(ip_network("10.0.0.1/32"), next_hops=(NextHop(2),), protocol=16, link_scope=True),
    Route(ip_network("0.0.0.0/0"), next_hops=(ROUTER,), protocol=PROTO_BOOT),
]
OF_NO_CONCERN = [
    Route(POD, next_hops=(NextHop(9),), protocol=PROTO_BOOT, link_scope=True),
    Route(POD6, next_hops=(NextHop(9),), protocol=PROTO_BOOT, metric=1024),
    Route(ip_network("fe80::/64"), next_hops=(NextHop(9),), protocol=PROTO_KERNEL, metric=256),
    Route(ip_network("ff00::/8"), next_hops=(NextHop(9),), protocol=PROTO_KERNEL, table=TABLE_LOCAL, metric=256),
    Route(ip_network("fd00::5/128"), next_hops=(NextHop(9),), protocol=PROTO_KERNEL, table=TABLE_LOCAL),
]


@pytest.mark.parametrize("removed", [False, True])
async def test_a_host_route_to_a_node_is_underlay_and_a_pods_is_not(tmp_path: Path, *, removed: bool) -> None:
    """Nodes whose addresses are host routes of a routing daemon, or whose router is one, as in some clouds."""
    dataplane = Dataplane(FakeKernel(), state_dir=tmp_path)
    await dataplane.resync()
    for route in UNDERLAY:
        assert dataplane.on_event(KernelEvent(Route, removed, route)), route
    for route in OF_NO_CONCERN:
        assert not dataplane.on_event(KernelEvent(Route, removed, route)), route
    assert not dataplane.on_event(KernelEvent(Link, removed, Link("cali123", 9, up=True)))


async def test_what_we_write_ourselves_calls_for_no_further_pass(tmp_path: Path) -> None:
    dataplane = Dataplane(FakeKernel(), state_dir=tmp_path)
    await dataplane.resync()
    block = Route(ip_network("10.244.2.0/26"), next_hops=(ROUTER,), protocol=PROTO_API)
    assert dataplane.on_event(KernelEvent(Route, False, block)), "nobody wants it: it is to be swept"
    assert not dataplane.on_event(KernelEvent(Route, True, block))
