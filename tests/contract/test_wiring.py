"""One suite for every PodWiring: the fake of the unit tests and the kernel."""

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_interface

import pytest

from calico_py.dataplane.wiring import NetlinkPodWiring
from calico_py.model.names import workload_ifname
from calico_py.model.wiring import HOST_MAC, Attachment, NamespaceError, PodLink, PodWiring, WiringError
from tests.fakes.wiring import FakePodWiring
from tests.netns.namespaces import Namespace, host_namespace


@pytest.fixture(params=["fake", pytest.param("netlink", marks=pytest.mark.root)])
def wiring(request: pytest.FixtureRequest) -> Iterator[PodWiring]:
    if request.param == "fake":
        yield FakePodWiring()
        return
    with host_namespace():
        real = NetlinkPodWiring()
        yield real
        real.close()


@pytest.fixture
def netns(wiring: PodWiring, request: pytest.FixtureRequest) -> Iterator[Callable[[], int]]:
    """Makes pods' namespaces; for the fake a file of its own serves."""
    made: list[int] = []

    def make() -> int:
        if isinstance(wiring, FakePodWiring):
            path = request.getfixturevalue("tmp_path") / str(len(made))
            path.touch()
            made.append(os.open(path, os.O_RDONLY))
        else:
            made.append(Namespace().descriptor)
        return made[-1]

    yield make
    for descriptor in made:
        os.close(descriptor)


_numbers = itertools.count(1)


def _link(pod: str = "web", container_id: str = "") -> PodLink:
    number = next(_numbers)
    return PodLink(
        namespace="default",
        pod=pod,
        container_id=container_id or f"container{number}",
        ifname="eth0",
        host_ifname=workload_ifname("default", pod),
        addresses=(ip_interface(f"10.65.{number // 250}.{number % 250}/32"), ip_interface(f"fd65::{number:x}/128")),
        mtu=1450,
    )


async def test_wire_tells_both_ends_the_hosts_first(wiring: PodWiring, netns: Callable[[], int]) -> None:
    link = replace(_link(), mac="02:01:02:03:04:05")
    host, pod = await wiring.wire(link, netns())
    assert (host.name, host.mac, host.mtu, host.in_pod) == (link.host_ifname, HOST_MAC, 1450, False)
    assert (pod.name, pod.mac, pod.mtu, pod.in_pod) == ("eth0", "02:01:02:03:04:05", 1450, True)


async def test_check_finds_nothing_wrong_after_wire(wiring: PodWiring, netns: Callable[[], int]) -> None:
    link, descriptor = _link(), netns()
    await wiring.wire(link, descriptor)
    assert await wiring.check(link, descriptor) == []


async def test_check_finds_another_container_address_and_mtu(wiring: PodWiring, netns: Callable[[], int]) -> None:
    link, descriptor = _link(), netns()
    await wiring.wire(link, descriptor)
    other = replace(link, container_id="other", mtu=1400, addresses=(ip_interface("10.65.1.1/32"),))
    found = "; ".join(await wiring.check(other, descriptor))
    assert "other" in found or link.container_id in found
    assert "10.65.1.1" in found
    assert "1400" in found


async def test_check_finds_nothing_where_nothing_was_wired(wiring: PodWiring, netns: Callable[[], int]) -> None:
    assert await wiring.check(_link(), netns()) != []


async def test_containers_are_listed_with_their_devices(wiring: PodWiring, netns: Callable[[], int]) -> None:
    links = [_link("one"), _link("two")]
    for link in links:
        await wiring.wire(link, netns())
    assert await wiring.list_containers() == {link.container_id: Attachment(link.host_ifname) for link in links}


async def test_interface_and_network_of_other_names_are_listed(wiring: PodWiring, netns: Callable[[], int]) -> None:
    link, place = replace(_link(), ifname="net1", network="storage"), netns()
    await wiring.wire(link, place)
    assert await wiring.list_containers() == {link.container_id: Attachment(link.host_ifname, "net1", "storage")}
    assert await wiring.check(link, place) == []


async def test_a_second_wire_of_a_container_fails_and_leaves_the_first(
    wiring: PodWiring, netns: Callable[[], int]
) -> None:
    link, descriptor = _link(), netns()
    await wiring.wire(link, descriptor)
    with pytest.raises(WiringError):
        await wiring.wire(link, descriptor)
    assert await wiring.check(link, descriptor) == []


async def test_a_new_container_of_a_pod_replaces_the_old_ones_device(
    wiring: PodWiring, netns: Callable[[], int]
) -> None:
    old, new, place = _link("web"), _link("web"), netns()
    await wiring.wire(old, netns())
    await wiring.wire(new, place)
    assert await wiring.list_containers() == {new.container_id: Attachment(new.host_ifname)}
    assert await wiring.check(new, place) == []


async def test_without_kubernetes_no_container_replaces_another(wiring: PodWiring, netns: Callable[[], int]) -> None:
    """The name of its device is the beginning of its id."""
    first, second = (
        replace(_link(container_id=f"cnitool-123{n}"), namespace="", host_ifname="calicnitool-123") for n in "ab"
    )
    place = netns()
    await wiring.wire(first, place)
    with pytest.raises(WiringError, match="with container cnitool-123a"):
        await wiring.wire(second, netns())
    assert await wiring.check(first, place) == []


async def test_unwire_of_an_old_container_leaves_the_new_ones_device(
    wiring: PodWiring, netns: Callable[[], int]
) -> None:
    old, new, place = _link("web"), _link("web"), netns()
    await wiring.wire(old, netns())
    await wiring.wire(new, place)
    await wiring.unwire(old.host_ifname, old.container_id)
    assert await wiring.check(new, place) == []


async def test_unwire_of_what_never_was_and_twice_succeeds(wiring: PodWiring, netns: Callable[[], int]) -> None:
    link = _link()
    await wiring.unwire(link.host_ifname, link.container_id)
    await wiring.wire(link, netns())
    await wiring.unwire(link.host_ifname, link.container_id)
    await wiring.unwire(link.host_ifname, link.container_id)
    assert await wiring.list_containers() == {}


@pytest.mark.parametrize("same_namespace", [False, True])
async def test_unwire_and_wire_of_one_pod_a_hundred_times_without_a_pause(
    wiring: PodWiring, netns: Callable[[], int], *, same_namespace: bool
) -> None:
    place = netns()
    for number in range(100):
        link = _link("web", f"c{number}")
        place = place if same_namespace else netns()
        await wiring.wire(link, place)
        assert await wiring.list_containers() == {link.container_id: Attachment(link.host_ifname)}
        await wiring.unwire(link.host_ifname, link.container_id)
    assert await wiring.list_containers() == {}


async def test_wire_fails_where_the_pod_has_such_an_interface_and_leaves_it(
    wiring: PodWiring, netns: Callable[[], int]
) -> None:
    first, second, place = _link("one"), _link("two"), netns()
    await wiring.wire(first, place)
    with pytest.raises(WiringError, match="eth0"):
        await wiring.wire(second, place)
    assert await wiring.check(first, place) == []
    assert await wiring.list_containers() == {first.container_id: Attachment(first.host_ifname)}


async def test_wire_that_fails_half_way_leaves_nothing(wiring: PodWiring, netns: Callable[[], int]) -> None:
    link, place = _link(), netns()
    with pytest.raises(WiringError, match="eth0"):
        await wiring.wire(replace(link, addresses=link.addresses * 2), place)
    assert await wiring.list_containers() == {}
    await wiring.wire(link, place)


async def test_wire_into_what_is_no_namespace_fails(wiring: PodWiring) -> None:
    reader, writer = os.pipe()
    try:
        with pytest.raises(NamespaceError, match="namespace"):
            await wiring.wire(_link(), reader)
    finally:
        os.close(reader)
        os.close(writer)
    assert await wiring.list_containers() == {}
