"""What someone does to the host's side of pods' interfaces is undone at once, and only that."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from ipaddress import ip_interface

import pytest

from calico_py.dataplane import wiring_repair
from calico_py.dataplane.wiring import NetlinkPodWiring
from calico_py.dataplane.wiring_plan import HOST_LINK_LOCAL, Owner, parse_alias, render_alias
from calico_py.model.names import workload_ifname
from calico_py.model.wiring import PodLink, WiringError
from tests.netns.namespaces import Namespace, host_namespace

pytestmark = pytest.mark.root

NewPod = Callable[[], Namespace]

DAMAGE = {
    "one route": ["ip route del 10.65.0.1"],
    "one route of IPv6": ["ip -6 route del fd65::1"],
    "routes by protocol": ["ip route flush proto boot", "ip -6 route flush proto boot"],
    "table main": ["ip route flush table main", "ip -6 route flush table main"],
    "down": ["ip link set {} down"],
    "address of IPv6": ["ip -6 address flush dev {}"],
    "down and up": ["ip link set {} down", "ip link set {} up"],
    "an address that comes and goes": ["ip address add 192.0.2.9/32 dev {}", "ip address del 192.0.2.9/32 dev {}"],
}


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
def new_pod() -> Iterator[NewPod]:
    made: list[Namespace] = []

    def make() -> Namespace:
        made.append(Namespace())
        return made[-1]

    yield make
    for pod in made:
        pod.close()


@contextlib.asynccontextmanager
async def running(wiring: NetlinkPodWiring) -> AsyncIterator[None]:
    task = asyncio.create_task(wiring.run())
    await asyncio.sleep(0.05)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def link_of(number: int = 1) -> PodLink:
    return PodLink(
        namespace="default",
        pod=f"pod{number}",
        container_id=f"container{number}",
        ifname="eth0",
        host_ifname=workload_ifname("default", f"pod{number}"),
        addresses=(ip_interface(f"10.65.0.{number}/32"), ip_interface(f"fd65::{number}/128")),
        mtu=1450,
    )


def routed(host: Namespace, link: PodLink) -> bool:
    """Routes of both families, and the address without which the host asks for no pod's MAC."""
    return bool(
        host.ip("route", "show", str(link.addresses[0].ip), "dev", link.host_ifname)
        and host.ip("-6", "route", "show", str(link.addresses[1].ip), "dev", link.host_ifname)
        and host.ip("-6", "address", "show", "dev", link.host_ifname, "to", str(HOST_LINK_LOCAL.ip))
    )


async def eventually(check: Callable[[], bool]) -> None:
    for _ in range(50):
        if check():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("not so within 1 s")


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
@pytest.mark.parametrize("restarted", [False, True])
async def test_damage_is_undone_within_a_second(
    host: Namespace, wiring: NetlinkPodWiring, new_pod: NewPod, damage: list[str], *, restarted: bool
) -> None:
    """By the agent that wired the pod, and by one that knows of it from the device alone."""
    link, pod = link_of(), new_pod()
    await wiring.wire(link, pod.descriptor)
    keeper = NetlinkPodWiring() if restarted else wiring
    async with running(keeper):
        for command in damage:
            host.run(*command.format(link.host_ifname).split())
        await eventually(lambda: routed(host, link))
        assert await wiring.check(link, pod.descriptor) == []
    if restarted:
        keeper.close()


async def test_without_the_keeper_it_stays(host: Namespace, wiring: NetlinkPodWiring, new_pod: NewPod) -> None:
    link = link_of()
    await wiring.wire(link, new_pod().descriptor)
    host.run("ip", "route", "flush", "table", "main")
    await asyncio.sleep(0.3)
    assert not routed(host, link)


async def test_what_was_damaged_before_the_start_is_repaired_at_the_start(
    host: Namespace, wiring: NetlinkPodWiring, new_pod: NewPod
) -> None:
    links = [link_of(number) for number in (1, 2, 3)]
    for link in links:
        await wiring.wire(link, new_pod().descriptor)
    host.run("ip", "route", "flush", "table", "main")
    host.run("ip", "link", "set", links[1].host_ifname, "down")
    fresh = NetlinkPodWiring()
    async with running(fresh):
        await eventually(lambda: all(routed(host, link) for link in links))
    fresh.close()


async def test_what_no_event_tells_is_found_by_the_resync(
    host: Namespace, wiring: NetlinkPodWiring, new_pod: NewPod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wiring_repair, "RESYNC", 0.1)
    monkeypatch.setattr(wiring_repair, "_GROUPS", ())
    link = link_of()
    await wiring.wire(link, new_pod().descriptor)
    async with running(wiring):
        host.run("ip", "route", "flush", "table", "main")
        await eventually(lambda: routed(host, link))


async def test_a_hundred_flushes_and_pods_that_come_and_go(
    host: Namespace, wiring: NetlinkPodWiring, new_pod: NewPod
) -> None:
    """In the end those that live are routed, and no route of the others is left."""
    links = [link_of(number) for number in range(1, 21)]
    async with running(wiring):
        for turn in range(100):
            link = links[turn % 20]
            await wiring.wire(link, new_pod().descriptor)
            host.run("ip", "route", "flush", "table", "main")
            if turn % 20 >= 5 or turn < 80:
                await wiring.unwire(link.host_ifname, link.container_id)
        await eventually(lambda: all(routed(host, link) for link in links[:5]))
        assert len(host.ip("route")) == 5
        await wiring.drain()


async def test_routes_of_others_are_not_ours_to_keep(
    host: Namespace, wiring: NetlinkPodWiring, new_pod: NewPod
) -> None:
    link = link_of()
    await wiring.wire(link, new_pod().descriptor)
    host.run("ip", "route", "add", "10.99.0.1", "dev", link.host_ifname)
    async with running(wiring):
        host.run("ip", "route", "del", "10.99.0.1")
        await asyncio.sleep(0.2)
        assert host.ip("route", "show", "10.99.0.1") == []


async def test_a_pods_namespace_that_vanishes_is_forgotten(host: Namespace, wiring: NetlinkPodWiring) -> None:
    link, pod = link_of(), Namespace()
    await wiring.wire(link, pod.descriptor)
    async with running(wiring):
        pod.close()
        await eventually(lambda: len(host.ip("link")) == 1)
        await asyncio.sleep(0.1)
        wiring._routes.restore_all()
    assert wiring._routes._pods == {}


async def test_more_addresses_than_the_alias_holds_are_refused(
    host: Namespace, wiring: NetlinkPodWiring, new_pod: NewPod
) -> None:
    link = link_of()
    many = PodLink(
        **{name: getattr(link, name) for name in ("namespace", "pod", "container_id", "ifname", "host_ifname", "mtu")},
        addresses=tuple(
            ip_interface(f"fd65:1234:1234:1234:1234:1234:1234:{number:x}/128") for number in range(4096, 4104)
        ),
    )
    with pytest.raises(WiringError, match="255"):
        await wiring.wire(many, new_pod().descriptor)
    assert len(host.ip("link")) == 1


def test_an_alias_says_whose_it_is_and_what_is_routed_to_it() -> None:
    link = link_of()
    assert render_alias(link) == "calico-py pod container1 10.65.0.1 fd65::1"
    assert parse_alias(render_alias(link)) == Owner("container1", link.addresses)


@pytest.mark.parametrize("alias", ["", "calico-py", "calico-py ipip local 192.0.2.1", "something else"])
def test_an_alias_that_is_not_ours(alias: str) -> None:
    assert parse_alias(alias) is None


def test_an_alias_that_was_edited_still_says_whose_it_is() -> None:
    assert parse_alias("calico-py pod container1 10.65.0.") == Owner("container1")
