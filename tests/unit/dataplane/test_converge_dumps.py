"""What a pass over the kernel costs when nothing is to be done: with 200 devices a dump of them takes 3 ms."""

from collections import Counter
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

from calico_py.dataplane.converge import Dataplane, read_devices
from calico_py.model.bgp import LearnedRoutes
from calico_py.model.intent import Candidate, Destination, Firewall, Intent, IPIPTunnel, RouteClass, RouteIntent
from calico_py.model.kernel import Addr, Link, Put, Route
from tests.fakes.kernel import FakeKernel

OWN = ip_address("192.168.1.11")


async def test_a_pass_reads_each_kind_once(tmp_path: Path) -> None:
    dumps: Counter[object] = Counter()

    def count(when: str, verb: str, what: object) -> None:
        if (when, verb) == ("before", "dump"):
            dumps[what] += 1

    kernel = FakeKernel(fault=count)
    eth0 = kernel.add_device("eth0")
    await kernel.send([Put(Link("eth0", eth0, up=True)), Put(Addr(eth0, ip_interface("192.168.1.11/24")))])
    tunnel = IPIPTunnel("tunl0", ip_address("10.244.1.1"), OWN, 1480)  # type: ignore[arg-type]  # IPv4
    intent = Intent(ipip=tunnel, firewall=Firewall(receive_ipip=True))
    dataplane = Dataplane(kernel, state_dir=tmp_path)
    for _ in range(3):
        applied = await dataplane.apply(intent, LearnedRoutes(), frozenset({OWN}))
        assert not applied.problems
    dumps.clear()
    await dataplane.apply(intent, LearnedRoutes(), frozenset({OWN}))
    assert dumps == {Link: 1, Addr: 1, Route: 1}
    devices = await read_devices(kernel)
    dumps.clear()
    await dataplane.apply(intent, LearnedRoutes(), frozenset({OWN}), devices)
    assert dumps == {Route: 1}


async def test_a_tunnel_device_that_was_just_made_is_seen(tmp_path: Path) -> None:
    """By a pass that was given the devices of before."""
    kernel = FakeKernel(ipip=True)
    eth0 = kernel.add_device("eth0")
    await kernel.send([Put(Link("eth0", eth0, up=True)), Put(Addr(eth0, ip_interface("192.168.1.11/24")))])
    devices = await read_devices(kernel)
    far = RouteIntent(ip_network("10.244.2.0/26"), RouteClass.TUNNEL, (ip_address("192.168.1.12"),), "tunl0")
    tunnel = IPIPTunnel("tunl0", ip_address("10.244.1.1"), OWN, 1480)  # type: ignore[arg-type]  # IPv4
    intent = Intent(ipip=tunnel, destinations={far.dst: Destination(far.dst, (Candidate(far),))})
    dataplane = Dataplane(kernel, state_dir=tmp_path)
    applied = await dataplane.apply(intent, LearnedRoutes(), frozenset({OWN}), devices)
    assert applied.plan.chosen == {far.dst: far}
