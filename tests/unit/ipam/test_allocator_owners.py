"""Who holds what: release, lookup, hand-over, tunnels, explicit addresses and the reconciliation after a restart."""

import asyncio
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from calico_py.ipam.reconcile import Living
from calico_py.ipam.requests import AddressTakenError, AssignRequest, ExhaustedError, PoolError, Release, Tunnel
from calico_py.model.kinds import BLOCK_AFFINITIES, IPAM_BLOCKS, IPAM_HANDLES
from calico_py.model.pools import AllowedUse, EncapMode
from tests.fakes.ipam import IPAMCluster, config, pool, problems, workload
from tests.fakes.slow import SlowStore


def handle(container: str) -> str:
    return f"k8s-pod-network.{container}"


async def test_a_handle_that_was_never_written_is_released_after_a_restart() -> None:
    """The agent died between the write of the block and that of the handle; one address is borrowed."""
    cluster = IPAMCluster([pool("10.0.0.0/31", 31), pool("fd00::/64")])
    await cluster.node("node0").assign(workload("other"))

    def fault(_when: str, verb: str, kind: str, _name: str) -> None:
        if (verb, kind) == ("create", "IPAMHandle"):
            raise RuntimeError("killed")

    dying = cluster.node("node1", cluster.store.with_fault(fault))
    got = await dying.assign(workload("c", 4, 6))
    await dying.drain()
    assert handle("c") not in await cluster.handles()
    restarted = cluster.node("node1")
    assert [a.address for a in await restarted.lookup(handle("c"))] == [a.address for a in got]
    assert await cluster.node("node1").release_handle(handle("c")) == 2
    assert len(await cluster.held()) == 1


async def test_a_handle_is_released_once() -> None:
    cluster = IPAMCluster([pool("10.0.0.0/24")])
    allocator = cluster.node("node1")
    await allocator.assign(workload("c"))
    assert await allocator.release_handle(handle("c")) == 1
    await allocator.drain()
    assert await allocator.release_handle(handle("c")) == 0
    assert await allocator.release_handle("never-heard-of") == 0
    assert not await cluster.handles()


async def test_of_the_blocks_that_lend_only_those_are_kept_in_which_the_node_has_something() -> None:
    cluster = IPAMCluster([pool("10.0.0.0/24", 28)])
    lender, borrower, other = cluster.node("node2"), cluster.node("node1"), cluster.node("node3")
    first, second = ip_network("10.0.0.0/28"), ip_network("10.0.0.16/28")
    for block in (first, second):
        await lender.assign(workload(f"owner-{block[0]}", requested=(block[0],)))
    (mine,) = await borrower.assign(workload("mine", requested=(first[1],)))
    await other.assign(workload("others", requested=(second[1],)))
    await borrower.drain()
    restarted = cluster.node("node1")
    await restarted.release_handle("k8s-pod-network.nobody")
    assert not restarted.writer.known
    await restarted.lookup("k8s-pod-network.mine")
    await restarted.release_handle("k8s-pod-network.nobody")
    assert (await restarted.lookup("k8s-pod-network.mine"))[0].address == mine.address
    await borrower.release_handle("k8s-pod-network.nobody")
    assert set(borrower.writer.known) == {first}
    await other.drain()
    await other.reconcile(Living(containers=["others"]))
    await other.drain()
    assert set(other.writer.known) == {second}


async def test_blocks_that_are_forgotten_amid_a_release_hide_no_address_of_it() -> None:
    """The leader forgets other nodes' blocks at the end of each collection, whatever goes on beside it."""
    cluster = IPAMCluster([pool("10.0.0.0/24", 28)])
    lender = cluster.node("node2")
    borrowed = [ip_address("10.0.0.1"), ip_address("10.0.0.17"), ip_address("10.0.0.33")]
    for address in borrowed:
        await lender.assign(workload(f"owner-{address}", requested=(address - 1,)))
    before = cluster.node("node1")
    await before.assign(workload("c1", requested=tuple(borrowed)))
    await before.drain()

    def forget(when: str, verb: str, kind: str, name: str) -> None:
        if (when, verb, kind, name) == ("before", "get", "IPAMBlock", "10-0-0-32-28"):
            allocator.forget_foreign_blocks()

    allocator = cluster.node("node1", cluster.store.with_fault(forget))
    assert await allocator.release_handle("k8s-pod-network.c1") == 3
    assert not set(borrowed) & (await cluster.held()).keys()


async def test_a_handle_without_addresses_goes_at_the_next_release() -> None:
    """The agent died between the release in the block and the deletion of the handle; the runtime repeats its DEL."""
    cluster = IPAMCluster([pool("10.0.0.0/24")])

    def fault(_when: str, verb: str, kind: str, _name: str) -> None:
        if (verb, kind) == ("delete", "IPAMHandle"):
            raise RuntimeError("killed")

    dying = cluster.node("node1", cluster.store.with_fault(fault))
    await dying.assign(workload("c"))
    await dying.drain()
    await dying.release_handle(handle("c"))
    await dying.drain()
    assert handle("c") in await cluster.handles()
    restarted = cluster.node("node1")
    assert await restarted.release_handle(handle("c")) == 0
    await restarted.drain()
    assert not await cluster.handles()


async def test_a_release_says_what_became_of_each_address() -> None:
    cluster = IPAMCluster([pool("10.0.0.0/24")])
    allocator = cluster.node("node1")
    (one,), (two,), (three,) = [await allocator.assign(workload(c)) for c in ("c1", "c2", "c3")]
    free = next(a for a in one.block if a not in {one.address, two.address, three.address})
    nowhere = ip_address("192.0.2.1")
    done = await allocator.release(
        [
            Release(one.address, one.handle_id, one.sequence),
            Release(one.address),
            Release(two.address, handle("c1")),
            Release(three.address, three.handle_id, three.sequence - 1),
            Release(free),
            Release(nowhere),
        ]
    )
    assert done.released == (one.address,)
    assert set(done.unallocated) == {free, nowhere}
    assert "held by k8s-pod-network.c2" in done.refused[two.address]
    assert "allocated anew" in done.refused[three.address]


async def test_an_address_that_was_given_anew_is_not_released_by_its_old_owner() -> None:
    cluster = IPAMCluster([pool("10.0.0.0/32", 32)])
    allocator = cluster.node("node1")
    (old,) = await allocator.assign(workload("c"))
    await allocator.release_handle(handle("c"))
    (new,) = await allocator.assign(workload("c"))
    assert (new.address, new.handle_id) == (old.address, old.handle_id)
    assert new.sequence > old.sequence
    done = await allocator.release([Release(old.address, old.handle_id, old.sequence)])
    assert old.address in done.refused
    assert len(await cluster.held()) == 1


async def test_a_block_that_is_nobodys_goes_with_its_last_address() -> None:
    cluster = IPAMCluster([pool("10.0.0.0/26")])
    allocator = cluster.node("node1")
    (got,) = await allocator.assign(workload("c"))
    await allocator.drain()
    (block,) = await cluster.blocks()
    for affinity in await cluster.affinities():
        await cluster.store.delete(BLOCK_AFFINITIES, affinity.meta.name)
    await cluster.store.update(IPAM_BLOCKS, replace(block, affinity=None))
    restarted = cluster.node("node1")
    await restarted.release([Release(got.address, got.handle_id, got.sequence)])
    assert not await cluster.blocks()


async def test_a_warm_address_changes_hands_in_one_write() -> None:
    cluster = IPAMCluster([pool("10.0.0.0/26")])
    store = SlowStore(cluster.store)
    allocator = cluster.node("node1", store)
    warm = await allocator.assign(AssignRequest("calico-py-warm-node1", families=(4, 4)))
    await allocator.drain()
    store.calls.clear()
    pod = await allocator.hand_over(warm[0], handle("c"), {"namespace": "default", "pod": "web"})
    assert store.calls["update", "IPAMBlock"] == 1
    allocator.write_handle("calico-py-warm-node1")
    await allocator.drain()
    assert pod.address == warm[0].address
    assert pod.sequence > warm[0].sequence
    handles = await cluster.handles()
    assert handles[handle("c")].blocks == handles["calico-py-warm-node1"].blocks == {pod.block: 1}
    with pytest.raises(AddressTakenError, match="no longer of calico-py-warm-node1"):
        await allocator.hand_over(warm[0], handle("d"), {})


async def test_a_pod_gets_the_address_that_it_asks_for_and_no_second_pod_does() -> None:
    cluster = IPAMCluster([pool("192.168.123.0/24")])
    wanted = ip_address("192.168.123.123")
    allocator = cluster.node("node1")
    (got,) = await allocator.assign(workload("c1", requested=(wanted,)))
    assert got.address == wanted
    assert [b.node for b in await cluster.blocks()] == ["node1"], "a block that nobody had becomes the node's"
    with pytest.raises(AddressTakenError, match=r"192.168.123.123 is already assigned, to handle k8s-pod-network.c1"):
        await allocator.assign(workload("c2", requested=(wanted,)))
    await allocator.release_handle(handle("c1"))
    assert (await allocator.assign(workload("c2", requested=(wanted,))))[0].address == wanted


async def test_what_others_gave_back_since_a_block_was_full_is_borrowed() -> None:
    """Another node's block is not watched, and what is known of it is old."""
    cluster = IPAMCluster([pool("10.0.0.0/29", 29)])
    owner, borrower = cluster.node("node1"), cluster.node("node2")
    for number in range(4):
        await owner.assign(workload(f"a{number}"))
        await borrower.assign(workload(f"b{number}"))
    with pytest.raises(ExhaustedError):
        await borrower.assign(workload("late"))
    await owner.release_handle("k8s-pod-network.a0")
    await owner.release_handle("k8s-pod-network.a1")
    assert len({(await borrower.assign(workload(f"late{number}")))[0].address for number in range(2)}) == 2
    with pytest.raises(ExhaustedError):
        await borrower.assign(workload("later"))


@pytest.mark.parametrize("strict", [False, True])
async def test_an_address_that_was_taken_a_moment_ago_is_given_once_it_is_free(*, strict: bool) -> None:
    """A pod with an address of its own that moves: blocks of other nodes are not watched."""
    cluster = IPAMCluster([pool("10.0.0.0/24")], config(strict_affinity=strict))
    before, after = cluster.node("node1"), cluster.node("node2")
    (got,) = await before.assign(workload("c1"))
    for _ in range(2):
        with pytest.raises(AddressTakenError):
            await after.assign(workload("c2", requested=(got.address,)))
    await before.release_handle("k8s-pod-network.c1")
    if strict:
        assert await before.release_block((await cluster.blocks())[0])
    (found,) = await after.assign(workload("c2", requested=(got.address,)))
    assert found.address == got.address


async def test_an_address_in_another_nodes_block_is_borrowed_unless_affinity_is_strict() -> None:
    cluster = IPAMCluster([pool("10.0.0.0/26")])
    await cluster.node("node1").assign(workload("c1"))
    allocator = cluster.node("node2")
    (got,) = await allocator.assign(workload("c2", requested=(ip_address("10.0.0.9"),)))
    assert got.block == ip_network("10.0.0.0/26")
    cluster.config = config(strict_affinity=True)
    with pytest.raises(AddressTakenError, match="is of host:node1, not of node2, and strictAffinity is true"):
        await allocator.assign(workload("c3", requested=(ip_address("10.0.0.10"),)))


@pytest.mark.parametrize(
    ("address", "reason"),
    [("192.0.2.1", "not in a configured pool"), ("10.0.1.1", "allowedUses has Tunnel, not Workload")],
)
async def test_an_address_that_no_pool_gives_is_refused(address: str, reason: str) -> None:
    tunnels = pool("10.0.1.0/24", name="tunnels", allowed_uses=(AllowedUse.TUNNEL,))
    cluster = IPAMCluster([pool("10.0.0.0/24"), tunnels])
    with pytest.raises(PoolError, match=reason):
        await cluster.node("node1").assign(workload("c", requested=(ip_address(address),)))


IPIP = pool("10.0.0.0/24", name="ipip", ipip_mode=EncapMode.ALWAYS)
VXLAN6 = pool("fd00::/64", name="vxlan6", vxlan_mode=EncapMode.CROSS_SUBNET)


async def test_a_tunnel_keeps_its_address_over_restarts() -> None:
    cluster = IPAMCluster([IPIP, VXLAN6])
    first = await cluster.node("node1").ensure_tunnel_address(Tunnel.IPIP)
    assert first is not None
    assert await cluster.node("node1").ensure_tunnel_address(Tunnel.IPIP) == first
    allocator = cluster.node("node1")
    sixth = await allocator.ensure_tunnel_address(Tunnel.VXLAN_V6)
    await allocator.drain()
    held = await cluster.held()
    assert {a.handle for a in held.values()} == {"ipip-tunnel-addr-node1", "vxlan-v6-tunnel-addr-node1"}
    assert sixth is not None
    assert held[sixth].attribute.secondary["type"] == "vxlanV6TunnelAddress"
    assert held[first].attribute.secondary["type"] == "ipipTunnelAddress"


async def test_no_pool_of_that_tunnel_means_no_address() -> None:
    cluster = IPAMCluster([pool("10.0.0.0/24"), VXLAN6])
    allocator = cluster.node("node1")
    assert await allocator.ensure_tunnel_address(Tunnel.IPIP) is None
    assert not await cluster.held()


@pytest.mark.parametrize(
    "change",
    [
        {"ipip_mode": EncapMode.NEVER},
        {"disabled": True},
        {"node_selector": "has(absent)"},
        {"allowed_uses": (AllowedUse.WORKLOAD,)},
    ],
)
async def test_a_pool_that_serves_the_tunnel_no_more_takes_its_address_back(change: dict[str, object]) -> None:
    cluster = IPAMCluster([IPIP])
    allocator = cluster.node("node1")
    await allocator.ensure_tunnel_address(Tunnel.IPIP)
    cluster.pools = [replace(IPIP, **change)]  # type: ignore[arg-type]  # fields of IPPool
    assert await allocator.ensure_tunnel_address(Tunnel.IPIP) is None
    assert not await cluster.held()
    other = pool("10.1.0.0/24", name="other", ipip_mode=EncapMode.CROSS_SUBNET)
    cluster.pools.append(other)
    address = await allocator.ensure_tunnel_address(Tunnel.IPIP)
    assert address in other.cidr


async def test_a_tunnel_that_is_off_gives_its_address_back() -> None:
    cluster = IPAMCluster([IPIP])
    allocator = cluster.node("node1")
    await allocator.ensure_tunnel_address(Tunnel.IPIP)
    assert await allocator.release_tunnel_address(Tunnel.IPIP) == 1
    assert await allocator.release_tunnel_address(Tunnel.IPIP) == 0
    await allocator.drain()
    assert not await cluster.handles()


async def test_a_restarted_agent_releases_what_no_living_container_holds() -> None:
    cluster = IPAMCluster([replace(IPIP, cidr=ip_network("10.0.0.0/30"), block_size=30), pool("fd00::/64")])
    await cluster.node("node0").assign(workload("elsewhere"))
    before = cluster.node("node1")
    alive = await before.assign(workload("alive", 4, 6))
    await before.assign(workload("dead", 4, 6))
    routed = await before.assign(workload("routed", 6))
    await before.ensure_tunnel_address(Tunnel.IPIP)
    await before.assign(
        AssignRequest("k8s-pod-network.default-vm", {"pod": "p", "namespace": "n", "vmi-name": "vm"}, (6,))
    )
    await before.drain()
    after = cluster.node("node1")
    report = await after.reconcile(Living({"alive"}, addresses={routed[0].address}))
    assert len(report.released.released) == 2
    assert report.kept == 5
    assert {a.handle for a in (await cluster.held()).values()} == {
        handle("elsewhere"),
        handle("alive"),
        handle("routed"),
        handle("default-vm"),
        "ipip-tunnel-addr-node1",
    }
    assert {a.address for a in alive} <= set(await cluster.held())
    await after.drain()
    assert handle("dead") not in await cluster.handles()


async def test_a_reconciliation_spares_what_an_add_in_progress_has_just_got() -> None:
    cluster = IPAMCluster([pool("10.0.0.0/26")])
    allocator = cluster.node("node1")
    await allocator.assign(workload("starting"))
    assert (await allocator.reconcile(Living(()))).released.released == ()
    cluster.advance(301)
    assert len((await allocator.reconcile(Living(()))).released.released) == 1


async def test_a_reconciliation_writes_the_handles_that_a_crash_left_out() -> None:
    cluster = IPAMCluster([pool("10.0.0.0/26")])

    def fault(_when: str, verb: str, kind: str, _name: str) -> None:
        if (verb, kind) == ("create", "IPAMHandle"):
            raise RuntimeError("killed")

    dying = cluster.node("node1", cluster.store.with_fault(fault))
    (got,) = await dying.assign(workload("c"))
    await dying.drain()
    allocator = cluster.node("node1")
    await allocator.reconcile(Living({"c"}))
    await allocator.drain()
    found = await cluster.store.get(IPAM_HANDLES, handle("c"))
    assert found.blocks == {got.block: 1}


async def test_a_reconciliation_sees_a_block_that_is_just_being_read_again() -> None:
    """As after a write that failed, of an ADD meanwhile."""
    cluster = IPAMCluster([pool("10.0.0.0/26"), pool("fd00::/122")])

    def handles_are_away(_when: str, _verb: str, kind: str, _name: str) -> None:
        if kind == "IPAMHandle":
            raise RuntimeError("killed")

    dying = cluster.node("node1", cluster.store.with_fault(handles_are_away))
    four, six = await dying.assign(workload("lives", 4, 6))
    await dying.assign(workload("dead", 6))
    await dying.drain()

    def forget(_when: str, verb: str, kind: str, _name: str) -> None:
        if (verb, kind) == ("list", "IPAMBlock"):
            allocator.writer.known.pop(six.block, None)

    allocator = cluster.node("node1", cluster.store.with_fault(forget))
    report = await allocator.reconcile(Living({"lives"}))
    await allocator.drain()
    assert len(report.released.released) == 1
    assert (await cluster.store.get(IPAM_HANDLES, handle("lives"))).blocks == {four.block: 1, six.block: 1}


@pytest.mark.parametrize("operation", ["release_handle", "hand_over"])
async def test_what_a_cancelled_caller_began_is_done_to_its_end(operation: str) -> None:
    for turns in range(60):
        cluster = IPAMCluster([pool("10.0.0.0/26")])
        allocator = cluster.node("node1", SlowStore(cluster.store, lambda: 2))
        (got,) = await allocator.assign(workload("c1"))
        await allocator.drain()
        work = asyncio.ensure_future(
            allocator.release_handle(got.handle_id)
            if operation == "release_handle"
            else allocator.hand_over(got, handle("c2"), {"pod": "other", "namespace": "default"})
        )
        for _ in range(turns):
            await asyncio.sleep(0)
        done = work.done()
        work.cancel()
        await asyncio.wait([work])
        await allocator.drain()
        allocator.write_handle(got.handle_id)
        await allocator.drain()
        assert await problems(cluster) == []
        if done:
            break
    assert turns > 3


async def test_the_error_names_the_pools_that_were_tried_and_those_that_were_not() -> None:
    full = pool("10.0.0.0/32", 32, name="full")
    cluster = IPAMCluster([full, pool("10.1.0.0/24", name="other", node_selector="has(gpu)")])
    allocator = cluster.node("node1")
    await allocator.assign(workload("c1"))
    with pytest.raises(ExhaustedError) as caught:
        await allocator.assign(workload("c2"))
    text = str(caught.value)
    assert "no IPv4 address for node node1 in pools full (10.0.0.0/32)" in text
    assert "No IPs available in pools: [10.0.0.0/32] (full: 1 of 1 in use; create another IPPool" in text
    assert "IPPool other was not tried: spec.nodeSelector 'has(gpu)' does not match" in text


async def test_the_error_says_what_holds_a_pools_addresses() -> None:
    cluster = IPAMCluster([pool("10.0.0.0/30", 30, name="small")], config(ip_cooldown_seconds=30))
    cluster.reserved = [ip_network("10.0.0.3/32")]
    allocator = cluster.node("node1")
    await allocator.assign(workload("c1"))
    await allocator.assign(replace(workload("c0"), handle_id="calico-py-warm-node1"))
    await allocator.assign(workload("c2"))
    await allocator.release_handle("k8s-pod-network.c2")
    with pytest.raises(ExhaustedError) as caught:
        await allocator.assign(workload("c3"))
    cooling = "1 cool down (spec.ipCooldownSeconds of IPAMConfiguration default)"
    warm = "1 are kept ready by nodes (CALICO_PY_WARM_ADDRESSES)"
    assert (
        f"(small: 1 of 4 in use and {cooling} and {warm} and IPReservations keep some back; create another IPPool"
        in str(caught.value)
    )
