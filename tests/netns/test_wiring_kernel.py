"""A pod's interface as ip(8), /proc/sys and packets see it."""

import asyncio
import errno
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from ipaddress import ip_interface
from pathlib import Path

import pytest

from calico_py.dataplane import wiring_codec as codec
from calico_py.dataplane.transact import transact
from calico_py.dataplane.wiring import DYING_PREFIX, NetlinkPodWiring
from calico_py.model.names import workload_ifname
from calico_py.model.wiring import PodLink, WiringError
from tests.netns.namespaces import Namespace, host_namespace

pytestmark = pytest.mark.root


@pytest.fixture
def host() -> Iterator[Namespace]:
    with host_namespace() as namespace:
        yield namespace


@pytest.fixture
def wiring(host: Namespace) -> Iterator[NetlinkPodWiring]:
    del host
    real = NetlinkPodWiring()
    yield real
    real.close()


@pytest.fixture
def new_pod() -> Iterator[Callable[[], Namespace]]:
    made: list[Namespace] = []

    def make() -> Namespace:
        made.append(Namespace())
        return made[-1]

    yield make
    for pod in made:
        pod.close()


def _link(number: int = 1, *, families: tuple[int, ...] = (4, 6)) -> PodLink:
    addresses = {4: ip_interface(f"10.65.0.{number}/32"), 6: ip_interface(f"fd65::{number}/128")}
    return PodLink(
        namespace="default",
        pod=f"pod{number}",
        container_id=f"container{number}",
        ifname="eth0",
        host_ifname=workload_ifname("default", f"pod{number}"),
        addresses=tuple(addresses[family] for family in families),
        mtu=1450,
    )


async def test_the_hosts_end_is_calicos(
    host: Namespace, wiring: NetlinkPodWiring, new_pod: Callable[[], Namespace]
) -> None:
    link = replace(_link(), pod="podA", host_ifname=workload_ifname("default", "podA"))
    await wiring.wire(link, new_pod().descriptor)
    (device,) = host.ip("link", "show", "cali7f94ce7c295")
    assert device["address"] == "ee:ee:ee:ee:ee:ee"
    assert device["mtu"] == 1450
    assert device["ifalias"] == "calico-py pod container1 10.65.0.1 fd65::1"
    assert {"UP", "LOWER_UP"} <= set(device["flags"])
    (route,) = host.ip("-d", "route", "show", "10.65.0.1")
    expected = {"dst": "10.65.0.1", "dev": "cali7f94ce7c295", "protocol": "boot", "scope": "link", "type": "unicast"}
    assert {key: route.get(key) for key in expected} == expected
    (route6,) = host.ip("-6", "-d", "route", "show", "fd65::1")
    assert (route6["dev"], route6["protocol"], route6["metric"]) == ("cali7f94ce7c295", "boot", 1024)


async def test_the_hosts_settings_are_calicos(
    host: Namespace, wiring: NetlinkPodWiring, new_pod: Callable[[], Namespace]
) -> None:
    host.run("sysctl", "-qw", "net.ipv4.conf.default.rp_filter=2", "net.ipv6.conf.default.forwarding=0")
    link = _link()
    await wiring.wire(link, new_pod().descriptor)
    expected = {
        "ipv4/conf/{}/proxy_arp": "1",
        "ipv4/neigh/{}/proxy_delay": "0",
        "ipv4/conf/{}/forwarding": "1",
        "ipv4/conf/{}/route_localnet": "1",
        "ipv4/conf/{}/rp_filter": "2",
        "ipv6/conf/{}/accept_ra": "0",
        "ipv6/conf/{}/forwarding": "1",
        "ipv6/conf/{}/proxy_ndp": "1",
    }
    assert {name: host.setting("net/" + name.format(link.host_ifname)) for name in expected} == expected


async def test_the_pods_end_is_calicos(wiring: NetlinkPodWiring, new_pod: Callable[[], Namespace]) -> None:
    pod = new_pod()
    await wiring.wire(_link(), pod.descriptor)
    (device,) = pod.ip("address", "show", "eth0")
    addresses = {(info["local"], info["prefixlen"]) for info in device["addr_info"] if info["scope"] == "global"}
    assert addresses == {("10.65.0.1", 32), ("fd65::1", 128)}
    routes = {(route["dst"], route.get("gateway"), route.get("scope")) for route in pod.ip("route")}
    assert routes == {("default", "169.254.1.1", None), ("169.254.1.1", None, "link")}
    (default,) = pod.ip("-6", "route", "show", "default")
    assert default["gateway"] == "fe80::ecee:eeff:feee:eeee"
    neighbours = {(each["dst"], each["lladdr"], tuple(each["state"])) for each in pod.ip("neighbour")}
    mac = "ee:ee:ee:ee:ee:ee"
    assert neighbours == {
        ("169.254.1.1", mac, ("PERMANENT",)),
        ("fe80::ecee:eeff:feee:eeee", mac, ("PERMANENT",)),
    }
    assert "UP" in pod.ip("link", "show", "lo")[0]["flags"]
    assert pod.setting("net/ipv4/conf/eth0/forwarding") == "0"


@pytest.mark.parametrize(("target", "size"), [("192.0.2.1", "1422"), ("2001:db8::1", "1402")])
async def test_the_first_packet_from_the_pod_is_answered_at_full_mtu(
    wiring: NetlinkPodWiring, new_pod: Callable[[], Namespace], target: str, size: str
) -> None:
    """No waiting for duplicate address detection, ARP or NDP: the very first of three packets counts."""
    pod = new_pod()
    await wiring.wire(_link(), pod.descriptor)
    done = await asyncio.to_thread(pod.run, "ping", "-M", "do", "-s", size, "-c", "1", "-W", "1", target, check=False)
    assert " 0% packet loss" in done.stdout, done.stdout


async def test_the_host_asks_for_no_pods_mac(
    host: Namespace, wiring: NetlinkPodWiring, new_pod: Callable[[], Namespace]
) -> None:
    """Its entries are not permanent, so that they follow a pod that changes its MAC."""
    link = _link()
    _, inside_pod = await wiring.wire(link, new_pod().descriptor)
    found = {(each["dst"], each["lladdr"], tuple(each["state"])) for each in host.ip("neighbour")}
    assert found == {(str(address.ip), inside_pod.mac, ("STALE",)) for address in link.addresses}


async def test_the_hosts_first_packet_arrives(wiring: NetlinkPodWiring, new_pod: Callable[[], Namespace]) -> None:
    """Without a look at the new device the kernel drops it, on a busy machine, until linkwatch has had its turn."""
    for number in range(1, 30):
        link, pod = _link(number, families=(4,)), new_pod()
        with pod.entered():
            receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with receiver, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            receiver.bind(("", 5000))
            receiver.settimeout(0.5)
            await wiring.wire(link, pod.descriptor)
            sender.sendto(b"first", (str(link.addresses[0].ip), 5000))
            assert receiver.recv(8) == b"first"


@pytest.mark.parametrize("target", ["10.65.0.2", "fd65::2"])
async def test_pods_of_a_node_reach_each_other_at_once(
    wiring: NetlinkPodWiring, new_pod: Callable[[], Namespace], target: str
) -> None:
    pods = [new_pod(), new_pod()]
    for number, pod in enumerate(pods, start=1):
        await wiring.wire(_link(number), pod.descriptor)
    done = await asyncio.to_thread(pods[0].run, "ping", "-c", "1", "-W", "1", target, check=False)
    assert " 0% packet loss" in done.stdout, done.stdout


async def test_ipv6_serves_in_a_namespace_that_had_it_disabled(
    wiring: NetlinkPodWiring, new_pod: Callable[[], Namespace]
) -> None:
    pod = new_pod()
    pod.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
    link = _link()
    await wiring.wire(link, pod.descriptor)
    assert await wiring.check(link, pod.descriptor) == []


async def test_a_pod_without_ipv6_gets_none(wiring: NetlinkPodWiring, new_pod: Callable[[], Namespace]) -> None:
    pod, link = new_pod(), _link(families=(4,))
    await wiring.wire(link, pod.descriptor)
    assert pod.ip("-6", "route", "show", "default") == []
    assert await wiring.check(link, pod.descriptor) == []


async def test_a_pod_without_ipv4_gets_none(wiring: NetlinkPodWiring, new_pod: Callable[[], Namespace]) -> None:
    pod, link = new_pod(), _link(families=(6,))
    await wiring.wire(link, pod.descriptor)
    assert pod.ip("route") == []
    assert await wiring.check(link, pod.descriptor) == []


async def test_unwire_takes_the_routes_at_once_and_the_device_behind(
    host: Namespace, wiring: NetlinkPodWiring, new_pod: Callable[[], Namespace]
) -> None:
    link = _link()
    await wiring.wire(link, new_pod().descriptor)
    await wiring.unwire(link.host_ifname, link.container_id)
    assert host.ip("route", "show", "10.65.0.1") == []
    assert host.ip("-6", "route", "show", "fd65::1") == []
    names = [device["ifname"] for device in host.ip("link")]
    assert link.host_ifname not in names
    assert any(name.startswith(DYING_PREFIX) for name in names)
    await wiring.drain()
    assert [device["ifname"] for device in host.ip("link")] == ["lo"]


async def test_run_removes_what_dies_and_what_an_earlier_run_left(
    host: Namespace, wiring: NetlinkPodWiring, new_pod: Callable[[], Namespace]
) -> None:
    left, later = _link(1), _link(2)
    for link in (left, later):
        await wiring.wire(link, new_pod().descriptor)
    await wiring.unwire(left.host_ifname, left.container_id)
    fresh = NetlinkPodWiring()
    task = asyncio.create_task(fresh.run())
    await _eventually(lambda: len(host.ip("link")) == 2)
    await fresh.unwire(later.host_ifname, later.container_id)
    await _eventually(lambda: len(host.ip("link")) == 1)
    task.cancel()
    fresh.close()


async def test_a_foreign_device_of_the_same_name_is_replaced(
    host: Namespace, wiring: NetlinkPodWiring, new_pod: Callable[[], Namespace]
) -> None:
    """As Calico's plugin left it, without an alias of ours."""
    link, pod = _link(), new_pod()
    host.run("ip", "link", "add", link.host_ifname, "type", "veth", "peer", "name", "other")
    await wiring.wire(link, pod.descriptor)
    assert await wiring.check(link, pod.descriptor) == []


async def test_unwire_leaves_a_foreign_device(host: Namespace, wiring: NetlinkPodWiring) -> None:
    link = _link()
    host.run("ip", "link", "add", link.host_ifname, "type", "veth", "peer", "name", "other")
    await wiring.unwire(link.host_ifname, link.container_id)
    assert link.host_ifname in [device["ifname"] for device in host.ip("link")]


async def test_a_pods_namespace_that_vanished_is_no_hindrance(
    host: Namespace, wiring: NetlinkPodWiring, new_pod: Callable[[], Namespace]
) -> None:
    link, pod = _link(), Namespace()
    await wiring.wire(link, pod.descriptor)
    pod.close()
    await _eventually(lambda: len(host.ip("link")) == 1)
    await wiring.unwire(link.host_ifname, link.container_id)
    await wiring.wire(link, new_pod().descriptor)


async def test_the_nodes_own_namespace_is_no_pods(host: Namespace, wiring: NetlinkPodWiring) -> None:
    before = host.ip("route")
    with pytest.raises(WiringError, match="the node's own"):
        await wiring.wire(_link(), host.descriptor)
    assert [device["ifname"] for device in host.ip("link")] == ["lo"]
    assert host.ip("route") == before


async def test_the_kernels_refusal_is_told_and_nothing_is_left(
    host: Namespace, wiring: NetlinkPodWiring, new_pod: Callable[[], Namespace]
) -> None:
    with pytest.raises(WiringError, match="mtu 70000: the kernel refused"):
        await wiring.wire(replace(_link(), mtu=70000), new_pod().descriptor)
    assert [device["ifname"] for device in host.ip("link")] == ["lo"]


async def test_a_setting_that_cannot_be_written_is_told_and_nothing_is_left(
    host: Namespace, wiring: NetlinkPodWiring, new_pod: Callable[[], Namespace], tmp_path: Path
) -> None:
    (tmp_path / "net/ipv6/conf/default").mkdir(parents=True)
    (tmp_path / "net/ipv6/conf/default/disable_ipv6").write_text("0\n")
    blind = NetlinkPodWiring(proc_sys=tmp_path)
    with pytest.raises(WiringError, match="net/ipv6/conf/cali"):
        await blind.wire(_link(), new_pod().descriptor)
    blind.close()
    await wiring.drain()
    assert [device["ifname"] for device in host.ip("link")] == ["lo"]


DAMAGE = {
    "host down": ("host", "ip link set {host} down", "found it down"),
    "host route": ("host", "ip route del 10.65.0.1", "found no route 10.65.0.1/32"),
    "host route of IPv6": ("host", "ip -6 route del fd65::1", "found no route fd65::1/128"),
    "host mtu": ("host", "ip link set {host} mtu 1400", "mtu: found 1400, expected 1450"),
    "host mac": ("host", "ip link set {host} address 02:00:00:00:00:01", "expected ee:ee:ee:ee:ee:ee"),
    "host alias": ("host", "ip link set {host} alias other", "found the alias 'other'"),
    "host proxy_arp": ("host", "sysctl -qw net.ipv4.conf.{host}.proxy_arp=0", "proxy_arp: found 0, expected 1"),
    "host forwarding": ("host", "sysctl -qw net.ipv4.conf.{host}.forwarding=0", "forwarding: found 0, expected 1"),
    "host route_localnet": ("host", "sysctl -qw net.ipv4.conf.{host}.route_localnet=0", "route_localnet: found 0"),
    "host proxy_ndp": ("host", "sysctl -qw net.ipv6.conf.{host}.proxy_ndp=0", "proxy_ndp of IPv6: found 0, expected 1"),
    "host IPv6": ("host", "sysctl -qw net.ipv6.conf.{host}.disable_ipv6=1", "disable_ipv6 of IPv6: found 1"),
    "host forwarding of IPv6": ("host", "sysctl -qw net.ipv6.conf.{host}.forwarding=0", "forwarding of IPv6: found 0"),
    "host accept_ra": ("host", "sysctl -qw net.ipv6.conf.{host}.accept_ra=2", "accept_ra of IPv6: found 2"),
    "host proxy_delay": (
        "host",
        "sysctl -qw net.ipv4.neigh.{host}.proxy_delay=100",
        "proxy_delay: found 1000, expected 0",
    ),
    "host address of IPv6": ("host", "ip -6 address flush dev {host}", "no address fe80::ecee:eeff:feee:eeee/64"),
    "host device": ("host", "ip link del {host}", "found none"),
    "pod address": ("pod", "ip address del 10.65.0.1/32 dev eth0", "found no address 10.65.0.1/32"),
    "pod address of IPv6": ("pod", "ip -6 address del fd65::1/128 dev eth0", "found no address fd65::1/128"),
    "pod default": ("pod", "ip route del default", "found no route 0.0.0.0/0 via 169.254.1.1"),
    "pod default of IPv6": ("pod", "ip -6 route del default", "found no route ::/0 via fe80::ecee:eeff:feee:eeee"),
    "pod neighbour": ("pod", "ip neighbour del 169.254.1.1 dev eth0", "found no permanent neighbour 169.254.1.1"),
    "pod down": ("pod", "ip link set eth0 down", "found it down"),
    "pod loopback": ("pod", "ip link set lo down", "lo: found it down"),
    "pod mtu": ("pod", "ip link set eth0 mtu 1300", "mtu: found 1300"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
async def test_check_names_what_differs(
    host: Namespace, wiring: NetlinkPodWiring, new_pod: Callable[[], Namespace], damage: tuple[str, str, str]
) -> None:
    where, command, expected = damage
    link, pod = _link(), new_pod()
    await wiring.wire(link, pod.descriptor)
    (host if where == "host" else pod).run(*command.format(host=link.host_ifname).split())
    assert expected in "; ".join(await wiring.check(link, pod.descriptor))


async def test_check_leaves_alone_what_others_add(
    host: Namespace, wiring: NetlinkPodWiring, new_pod: Callable[[], Namespace]
) -> None:
    link, pod = _link(), new_pod()
    await wiring.wire(link, pod.descriptor)
    pod.run("ip", "address", "add", "10.99.0.1/24", "dev", "eth0")
    pod.run("ip", "route", "add", "10.98.0.0/16", "via", "169.254.1.1")
    host.run("ip", "route", "add", "10.97.0.1/32", "dev", link.host_ifname)
    assert await wiring.check(link, pod.descriptor) == []


async def test_fifty_at_once_in_both_directions(
    host: Namespace, wiring: NetlinkPodWiring, new_pod: Callable[[], Namespace]
) -> None:
    links = [(_link(number), new_pod()) for number in range(1, 51)]
    await asyncio.gather(*(wiring.wire(link, pod.descriptor) for link, pod in links))
    assert len(await wiring.list_containers()) == 50
    await asyncio.gather(*(wiring.unwire(link.host_ifname, link.container_id) for link, _ in links))
    await wiring.drain()
    assert [device["ifname"] for device in host.ip("link")] == ["lo"]


def test_a_batch_tells_which_request_failed_and_goes_on(host: Namespace) -> None:
    del host
    wiring = NetlinkPodWiring()
    outcome = transact(wiring._host, [partial(codec.pack_up, 4711), partial(codec.pack_up, 1)])
    assert outcome.errno(0) == errno.ENODEV
    assert outcome.errno(1) == 0
    wiring.close()


async def _eventually(check: Callable[[], bool]) -> None:
    for _ in range(250):
        if check():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("not so within 5 s")
