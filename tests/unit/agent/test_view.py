"""What the view makes of objects that say less than they did."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from ipaddress import IPv4Interface, IPv4Network, ip_network
from typing import Any

import pytest

from calico_py.agent import view as view_module
from calico_py.agent.view import ClusterView
from calico_py.model.blocks import Attribute, IPAMBlock
from calico_py.model.kinds import IP_POOLS, IPAM_BLOCKS, NODES
from calico_py.model.meta import Meta
from calico_py.model.names import NODE_IPV4_ADDRESS, NODE_IPV4_IPIP_TUNNEL, NODE_SENDING
from calico_py.model.net import InvalidError
from calico_py.model.nodes import Node
from calico_py.model.pools import IPPool
from calico_py.model.store import UnavailableError
from calico_py.routing.pools import Pools, select_pools
from tests.fakes.running import running
from tests.fakes.store import MemoryStore
from tests.fakes.waiting import until

ADDRESS = "192.168.1.12/24"


@contextlib.asynccontextmanager
async def viewing(store: MemoryStore) -> AsyncIterator[ClusterView]:
    annotations = {NODE_IPV4_ADDRESS: ADDRESS, NODE_IPV4_IPIP_TUNNEL: "10.244.2.1"}
    await store.create(NODES, Node(Meta("node2", annotations=annotations)))
    view = ClusterView(store, "node1", lambda: None)
    async with running(view.run()):
        await view.wait_in_sync()
        assert view.state().nodes["node2"].ipv4 == IPv4Interface(ADDRESS)
        yield view


async def annotate(store: MemoryStore, view: ClusterView, key: str, value: str | None) -> Node:
    """The node as the state has it, once the watch has told of the change."""
    await store.patch(NODES, "node2", {"metadata": {"annotations": {key: value}}})
    await until(lambda: view.nodes.objects["node2"].meta.annotations.get(key) == value)
    return view.state().nodes["node2"]


async def test_an_address_that_someone_removes_or_breaks_is_as_last_said() -> None:
    store = MemoryStore()
    async with viewing(store) as view:
        for broken in (None, "nonsense"):
            assert (await annotate(store, view, NODE_IPV4_ADDRESS, broken)).ipv4 == IPv4Interface(ADDRESS)
            assert view.state().nodes["node2"].ipv4 == IPv4Interface(ADDRESS), "and stays so"
        moved = "192.168.1.99/24"
        assert (await annotate(store, view, NODE_IPV4_ADDRESS, moved)).ipv4 == IPv4Interface(moved)


async def test_a_node_that_took_back_all_that_it_said_has_no_address() -> None:
    """`calico-py node --cleanup`: the others' routes, sessions and filters are to forget it, though the Node stays."""
    store = MemoryStore()
    async with viewing(store) as view:
        assert (await annotate(store, view, NODE_SENDING, "{}")).sending == {}
        gone = dict.fromkeys((NODE_IPV4_ADDRESS, NODE_IPV4_IPIP_TUNNEL, NODE_SENDING))
        await store.patch(NODES, "node2", {"metadata": {"annotations": gone}})
        await until(lambda: not view.nodes.objects["node2"].meta.annotations)
        assert view.state().nodes["node2"].ipv4 is None


async def test_a_receiver_that_is_withdrawn_is_withdrawn() -> None:
    store = MemoryStore()
    async with viewing(store) as view:
        assert (await annotate(store, view, NODE_IPV4_IPIP_TUNNEL, None)).ipip_tunnel is None


async def test_another_node_of_the_same_name_inherits_nothing() -> None:
    store = MemoryStore()
    async with viewing(store) as view:
        await store.delete(NODES, "node2")
        await store.create(NODES, Node(Meta("node2")))
        await until(lambda: "node2" in view.nodes.objects and view.nodes.objects["node2"].ipv4 is None)
        assert view.state().nodes["node2"].ipv4 is None


def _block(node: str, handles: dict[int, str]) -> IPAMBlock:
    """node1's block, with addresses of these nodes by ordinal."""
    nodes = sorted(set(handles.values()))
    allocations = tuple(nodes.index(handles[n]) if n in handles else None for n in range(64))
    return IPAMBlock(
        Meta("10-65-0-0-26"),
        cidr=IPv4Network("10.65.0.0/26"),
        affinity=f"host:{node}",
        allocations=allocations,
        attributes=tuple(Attribute(f"handle-{name}", {"node": name}) for name in nodes),
        unallocated=tuple(n for n in range(64) if n not in handles),
    )


async def test_only_what_routing_reads_of_a_block_is_a_change_of_routes() -> None:
    """Pods come and go by the hundred; an address that another node borrows has a route of its own."""
    store, calls = MemoryStore(), []
    view = ClusterView(store, "node1", lambda: calls.append("all"), on_blocks=lambda: calls.append("blocks"))
    task = asyncio.create_task(view.run())
    await view.wait_in_sync()
    calls.clear()
    try:
        block = await store.create(IPAM_BLOCKS, _block("node1", {}))
        await until(lambda: calls[-2:] == ["blocks", "all"])
        calls.clear()
        for handles, told in (
            ({0: "node1"}, ["blocks"]),
            ({0: "node1", 1: "node1"}, ["blocks"]),
            ({0: "node1", 1: "node2"}, ["blocks", "all"]),
            ({0: "node1"}, ["blocks", "all"]),
            ({}, ["blocks"]),
        ):
            block = await store.update(IPAM_BLOCKS, replace(_block("node1", handles), meta=block.meta))
            await until(lambda told=told: calls[-len(told) :] == told)  # type: ignore[misc]  # bound at once
            await asyncio.sleep(0.02)
            assert calls == told
            calls.clear()
            assert view.blocks()[block.cidr].allocations == block.allocations, "but what is known is current"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_the_usable_pools_follow_every_change_of_pools_and_are_worked_out_once_for_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = MemoryStore()
    looks: list[None] = []

    def counted(pools: Iterable[IPPool]) -> Pools:
        looks.append(None)
        return select_pools(pools)

    monkeypatch.setattr(view_module, "select_pools", counted)
    a, b = (IPPool(Meta(name), ip_network(f"10.{number}.0.0/16")) for number, name in enumerate("ab"))
    async with viewing(store) as view:
        assert view.usable_pools() == ()
        await store.create(IP_POOLS, a)
        await store.create(IP_POOLS, b)
        await until(lambda: [pool.name for pool in view.usable_pools()] == ["a", "b"])
        looks.clear()
        for _ in range(10):
            view.usable_pools()
        assert not looks
        await store.patch(IP_POOLS, "b", {"spec": {"disabled": True}})
        await until(lambda: [pool.disabled for pool in view.usable_pools()] == [False, True])
        await store.delete(IP_POOLS, "a")
        await until(lambda: [pool.name for pool in view.usable_pools()] == ["b"])
        assert len(looks) == 2


async def test_an_api_that_is_away_is_one_trouble(caplog: pytest.LogCaptureFixture) -> None:
    """However much is watched: a line at its beginning, one at its end."""
    caplog.set_level(logging.INFO)
    away = True

    def fault(when: str, _verb: str, _kind: str, _name: str) -> None:
        if away and when == "before":
            raise UnavailableError("away")

    view = ClusterView(MemoryStore().with_fault(fault), "node1", lambda: None)
    async with running(view.run()):
        await until(lambda: all(watch.last_error for watch in view.reflectors()))
        away = False
        await view.wait_in_sync()
    began, ended = caplog.messages
    assert "are not known yet: away" in began
    assert ended.startswith("over after")


async def test_an_objects_uid_is_known_though_the_object_cannot_be_used() -> None:
    """`kubectl describe` asks for Events by it."""
    store, name = MemoryStore(), "10-0-0-0-30"
    free: Any = {"allocations": (None,) * 4, "attributes": (), "unallocated": (0, 1, 2, 3)}
    block = IPAMBlock(Meta(name), cidr=IPv4Network("10.0.0.0/30"), affinity="host:node1", **free)
    async with viewing(store) as view:
        uid = (await store.create(IPAM_BLOCKS, block)).meta.uid
        await until(lambda: name in view.own_blocks.objects)
        assert view.uid("IPAMBlock", name) == uid
        with pytest.raises(InvalidError):
            await store.patch(IPAM_BLOCKS, name, {"spec": {"allocations": [None]}})
        await until(lambda: name in view.own_blocks.invalid)
        assert view.uid("IPAMBlock", name) == uid
        assert view.uid("IPAMBlock", "other") == ""
