"""What the view makes of objects that say less than they did."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from ipaddress import IPv4Interface

from calico_py.agent.view import ClusterView
from calico_py.model.kinds import NODES
from calico_py.model.meta import Meta
from calico_py.model.names import NODE_IPV4_ADDRESS, NODE_IPV4_IPIP_TUNNEL
from calico_py.model.nodes import Node
from tests.fakes.store import MemoryStore
from tests.fakes.waiting import until

ADDRESS = "192.168.1.12/24"


@contextlib.asynccontextmanager
async def viewing(store: MemoryStore) -> AsyncIterator[ClusterView]:
    annotations = {NODE_IPV4_ADDRESS: ADDRESS, NODE_IPV4_IPIP_TUNNEL: "10.244.2.1"}
    await store.create(NODES, Node(Meta("node2", annotations=annotations)))
    view = ClusterView(store, "node1", lambda: None)
    task = asyncio.create_task(view.run())
    await view.wait_in_sync()
    assert view.state().nodes["node2"].ipv4 == IPv4Interface(ADDRESS)
    try:
        yield view
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


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
