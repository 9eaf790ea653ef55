"""IPIPReconciler on the fake kernel, with ipip and without."""

import errno
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface

import pytest

from calico_py.dataplane.ipip import Engine, IPIPReconciler
from calico_py.model.intent import IPIPTunnel
from calico_py.model.kernel import Addr, Delete, KernelEvent, KernelObject, Link, Put
from tests.fakes.kernel import FakeKernel

ADDRESS = IPv4Address("10.244.1.0")
TUNNEL = IPIPTunnel("tunl0", ADDRESS, IPv4Address("192.168.1.11"), 1480)
ALIAS = "calico-py ipip local 192.168.1.11"


@pytest.fixture(params=[True, False], ids=["ipip", "no ipip"])
def kernel(request: pytest.FixtureRequest) -> FakeKernel:
    return FakeKernel(ipip=request.param)


async def put(kernel: FakeKernel, *objects: KernelObject) -> None:
    assert set(await kernel.send([Put(obj) for obj in objects])) == {None}


async def tunl0(kernel: FakeKernel) -> Link:
    (found,) = [link for link in await kernel.dump(Link) if link.name == "tunl0"]
    return found


async def addresses(kernel: FakeKernel) -> set[str]:
    ifindex = (await tunl0(kernel)).ifindex
    return {f"{a.interface} {a.label}".strip() for a in await kernel.dump(Addr) if a.ifindex == ifindex}


async def test_the_kernels_engine_is_taken_where_it_can_be_had() -> None:
    kernel = FakeKernel(ipip=True)
    status = await IPIPReconciler(kernel).apply(TUNNEL)
    link = await tunl0(kernel)
    assert (link.kind, link.mtu, link.up) == ("ipip", 1480, True)
    assert await addresses(kernel) == {"10.244.1.0/32 tunl0:calico-py"}
    assert status.engine == Engine.KERNEL
    assert status.reason == "the kernel has ipip"
    assert (status.ifindex, status.up, status.running, status.address) == (link.ifindex, True, True, ADDRESS)
    assert status.ready


async def test_a_tun_device_is_made_where_it_cannot() -> None:
    kernel = FakeKernel(ipip=False)
    reconciler = IPIPReconciler(kernel)
    status = await reconciler.apply(TUNNEL)
    link = await tunl0(kernel)
    assert (link.kind, link.mtu, link.up, link.alias) == ("tun", 1480, True, ALIAS)
    assert await addresses(kernel) == {"10.244.1.0/32 tunl0:calico-py"}
    assert (status.engine, status.reason) == (
        Engine.USERSPACE,
        "the kernel has no ipip, neither built in nor as a module",
    )
    assert not status.ready, "the engine is not attached"
    kernel.set_carrier("tunl0", running=True)
    assert reconciler.on_event(KernelEvent(Link, object=await tunl0(kernel)))
    assert (await reconciler.apply(TUNNEL)).ready


async def test_the_userspace_engine_can_be_asked_for() -> None:
    kernel = FakeKernel(ipip=True)
    status = await IPIPReconciler(kernel, allow_kernel=False).apply(TUNNEL)
    assert (status.engine, status.reason) == (Engine.USERSPACE, "userspace engine by configuration")


async def test_nothing_is_written_twice_nor_by_a_restart(kernel: FakeKernel) -> None:
    first = IPIPReconciler(kernel)
    before = await first.apply(TUNNEL)
    kernel.sent.clear()
    await first.resync()
    assert await first.apply(TUNNEL) == before
    after = await IPIPReconciler(kernel).apply(TUNNEL)
    assert replace(after, reason="") == replace(before, reason="")
    assert kernel.sent == []


async def test_ipip_off_leaves_device_and_address(kernel: FakeKernel) -> None:
    """Connections of the host may still use the address; a restarted agent leaves it too."""
    reconciler = IPIPReconciler(kernel)
    on = await reconciler.apply(TUNNEL)
    kernel.sent.clear()
    for each in (reconciler, IPIPReconciler(kernel)):
        off = await each.apply(None)
        assert (off.engine, off.ifindex, off.address) == (on.engine, on.ifindex, ADDRESS)
    assert kernel.sent == []


@pytest.mark.parametrize("tunnel", [None, replace(TUNNEL, address=None)], ids=["off", "on"])
async def test_an_address_that_is_the_node_s_no_more_is_taken_off(
    kernel: FakeKernel, tunnel: IPIPTunnel | None
) -> None:
    reconciler = IPIPReconciler(kernel)
    await reconciler.apply(TUNNEL)
    await put(kernel, Addr((await tunl0(kernel)).ifindex, IPv4Interface("10.9.9.9/32")))
    for each in (reconciler, IPIPReconciler(kernel)):
        status = await each.apply(tunnel, address_gone=True)
        assert status.address is None
        assert await addresses(kernel) == {"10.9.9.9/32"}
    assert (await reconciler.apply(TUNNEL)).address == ADDRESS


async def test_nothing_is_made_while_ipip_is_off(kernel: FakeKernel) -> None:
    assert (await IPIPReconciler(kernel).apply(None)).engine == Engine.NONE
    assert kernel.sent == []


async def test_a_tunnel_without_an_address_yet_keeps_the_old_one(kernel: FakeKernel) -> None:
    await IPIPReconciler(kernel).apply(TUNNEL)
    status = await IPIPReconciler(kernel).apply(replace(TUNNEL, address=None))
    assert not status.ready
    assert await addresses(kernel) == {"10.244.1.0/32 tunl0:calico-py"}


@pytest.mark.parametrize("restarted", [False, True])
async def test_another_address_replaces_ours_and_no_others(kernel: FakeKernel, restarted: bool) -> None:
    """The new one comes first: without any the routes of the device would go."""
    reconciler = IPIPReconciler(kernel)
    await reconciler.apply(TUNNEL)
    await put(kernel, Addr((await tunl0(kernel)).ifindex, IPv4Interface("172.16.0.1/32")))
    kernel.sent.clear()
    if restarted:
        reconciler = IPIPReconciler(kernel)
    status = await reconciler.apply(replace(TUNNEL, address=IPv4Address("10.244.2.0")))
    assert status.address == IPv4Address("10.244.2.0")
    assert await addresses(kernel) == {"10.244.2.0/32 tunl0:calico-py", "172.16.0.1/32"}
    assert [type(change) for change in kernel.sent] == [Put, Delete]


async def test_an_address_that_someone_else_set_is_kept_as_it_is(kernel: FakeKernel) -> None:
    """Calico's, of the node that is migrated, is the same address."""
    reconciler = IPIPReconciler(kernel)
    await reconciler.apply(replace(TUNNEL, address=None))
    await put(kernel, Addr((await tunl0(kernel)).ifindex, IPv4Interface("10.244.1.0/32")))
    await reconciler.apply(TUNNEL)
    assert await addresses(kernel) == {"10.244.1.0/32"}


async def test_our_address_is_known_without_its_label_too(kernel: FakeKernel) -> None:
    reconciler = IPIPReconciler(kernel)
    await reconciler.apply(TUNNEL)
    ifindex = (await tunl0(kernel)).ifindex
    await kernel.send([Delete(Addr(ifindex, IPv4Interface("10.244.1.0/32")))])
    await put(kernel, Addr(ifindex, IPv4Interface("10.244.1.0/32")))  # as the kernel leaves it after a rename
    await reconciler.apply(replace(TUNNEL, address=IPv4Address("10.244.2.0")))
    assert await addresses(kernel) == {"10.244.2.0/32 tunl0:calico-py"}


@pytest.mark.parametrize("hand", ["down", "mtu", "address", "rename"])
async def test_what_someone_changes_is_changed_back(kernel: FakeKernel, hand: str) -> None:
    reconciler = IPIPReconciler(kernel)
    await reconciler.apply(TUNNEL)
    before = await tunl0(kernel)
    events = kernel.events()
    if hand == "down":
        await put(kernel, Link("tunl0", up=False))
    elif hand == "mtu":
        await put(kernel, Link("tunl0", mtu=1300, up=True))
    elif hand == "rename":
        await put(kernel, Link("mine", before.ifindex, up=True))
    else:
        await kernel.send([Delete(Addr(before.ifindex, IPv4Interface("10.244.1.0/32")))])
    assert reconciler.on_event(await anext(events))
    status = await reconciler.apply(TUNNEL)
    assert status.problem == ""
    assert await tunl0(kernel) == before
    assert await addresses(kernel) == {"10.244.1.0/32 tunl0:calico-py"}


async def test_a_removed_tun_device_is_made_again() -> None:
    kernel = FakeKernel()
    reconciler = IPIPReconciler(kernel)
    before = await reconciler.apply(TUNNEL)
    events = kernel.events()
    await kernel.send([Delete(Link("tunl0"))])
    assert any([reconciler.on_event(await anext(events)) for _ in range(2)])
    after = await reconciler.apply(TUNNEL)
    assert after.ifindex not in (0, before.ifindex)
    assert await addresses(kernel) == {"10.244.1.0/32 tunl0:calico-py"}


async def test_a_new_address_of_the_node_reaches_the_engine() -> None:
    kernel = FakeKernel()
    reconciler = IPIPReconciler(kernel)
    await reconciler.apply(TUNNEL)
    await reconciler.apply(replace(TUNNEL, local=IPv4Address("192.168.1.99")))
    assert (await tunl0(kernel)).alias == "calico-py ipip local 192.168.1.99"


@pytest.mark.parametrize(("kind", "alias"), [("", ""), ("bridge", ""), ("tun", "vpn of mine")])
async def test_a_device_of_others_is_left_alone(kernel: FakeKernel, kind: str, alias: str) -> None:
    if kind == "tun":
        await put(kernel, Link("tunl0", kind="tun", alias=alias, up=True))
    else:
        kernel.add_device("tunl0", kind)
    before = await tunl0(kernel)
    kernel.sent.clear()
    reconciler = IPIPReconciler(kernel)
    status = await reconciler.apply(TUNNEL)
    assert "device tunl0 is there and of" in status.problem
    assert "ip link set tunl0 name" in status.problem
    assert not status.ready
    assert kernel.sent == []
    assert await tunl0(kernel) == before
    await kernel.send([Delete(Link("tunl0"))])
    assert (await reconciler.apply(TUNNEL)).problem == "", "a problem is tried again without an event"


@pytest.mark.parametrize("kind", [Link, Addr])
async def test_a_refusal_is_told_and_tried_again(kernel: FakeKernel, kind: type[KernelObject]) -> None:
    kernel.fail_next(errno.ENOMEM, kind=kind)
    reconciler = IPIPReconciler(kernel)
    status = await reconciler.apply(TUNNEL)
    assert "gives no more memory" in status.problem
    assert not status.ready
    assert (await reconciler.apply(TUNNEL)).problem == ""


async def test_events_of_other_devices_call_for_nothing(kernel: FakeKernel) -> None:
    reconciler = IPIPReconciler(kernel)
    await reconciler.apply(TUNNEL)
    assert not reconciler.on_event(KernelEvent(Link, object=Link("cali1", 77, up=True)))
    assert not reconciler.on_event(KernelEvent(Addr, object=Addr(77, IPv4Interface("10.244.1.0/32"))))
    assert not reconciler.on_event(KernelEvent(Link, object=await tunl0(kernel)))
    assert reconciler.on_event(KernelEvent(kind=None))
