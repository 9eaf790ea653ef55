"""One suite for every Store: in memory, and over HTTP to the embedded API server and to a real kube-apiserver."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator
from ipaddress import IPv4Interface, ip_network
from typing import Any, cast

import pytest

from calico_py.kube.client import KubeStore, connect
from calico_py.kube.lease import Lease, lease_kind
from calico_py.kube.reflector import Reflector
from calico_py.model.blocks import AffinityState, BlockAffinity, IPAMBlock
from calico_py.model.codec import decode_meta
from calico_py.model.kinds import BLOCK_AFFINITIES, IP_POOLS, IPAM_BLOCKS, NODES
from calico_py.model.meta import Meta
from calico_py.model.names import (
    LABEL_HOSTNAME_HASH,
    NODE_IPV4_ADDRESS,
    affinity_labels,
    affinity_name,
    block_name,
    hostname_hash,
)
from calico_py.model.net import InvalidError, parse_interface
from calico_py.model.nodes import Node
from calico_py.model.pools import EncapMode, IPPool
from calico_py.model.store import (
    ConflictError,
    EventType,
    ExistsError,
    ForbiddenError,
    GoneError,
    Json,
    Kind,
    NotFoundError,
    RefusedError,
    Store,
    UnavailableError,
    WatchEvent,
)
from tests.contract.servers import ApiUnderTest
from tests.fakes.store import MemoryStore

LEASES = lease_kind("default")


def pool(name: str = "a", cidr: str = "10.244.0.0/16", mode: EncapMode = EncapMode.NEVER) -> IPPool:
    return IPPool(Meta(name), ip_network(cidr), ipip_mode=mode)


def claim(node: str, cidr: str) -> BlockAffinity:
    network = ip_network(cidr)
    meta = Meta(affinity_name(node, network), labels=affinity_labels(node, network))
    return BlockAffinity(meta, network, node, AffinityState.CONFIRMED)


def block(node: str, cidr: str) -> IPAMBlock:
    network = ip_network(cidr)
    size = network.num_addresses
    return IPAMBlock(Meta(block_name(network)), network, f"host:{node}", (None,) * size, tuple(range(size)))


class Watch:
    """A watch that runs beside a test; bookmarks are passed over."""

    def __init__(self, events: Any) -> None:
        self._events = events

    async def next(self) -> WatchEvent[Any]:
        async with asyncio.timeout(10):
            async for event in self._events:
                if event.type != EventType.BOOKMARK:
                    return cast("WatchEvent[Any]", event)
        raise AssertionError("the watch ended")

    async def silent(self, seconds: float = 0.3) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self.next()
        except TimeoutError:
            return True
        return False


@contextlib.asynccontextmanager
async def watching(store: Store, kind: Kind[Any], version: str = "", **selectors: str) -> AsyncIterator[Watch]:
    version = version or (await store.list(kind, **selectors)).resource_version
    events = store.watch(kind, resource_version=version, **selectors)
    async with contextlib.aclosing(cast("Any", events)):
        yield Watch(events)


class StoreContract:
    """What every Store does."""

    async def test_create_answers_what_get_and_list_find(self, store: Store) -> None:
        made = await store.create(IP_POOLS, pool(mode=EncapMode.ALWAYS))
        assert made.meta.uid
        assert made.meta.resource_version
        assert made.ipip_mode == EncapMode.ALWAYS
        assert await store.get(IP_POOLS, "a") == made
        listing = await store.list(IP_POOLS)
        assert list(listing.items) == [made]
        assert int(listing.resource_version) >= int(made.meta.resource_version)

    async def test_a_name_is_taken_once(self, store: Store) -> None:
        await store.create(IP_POOLS, pool())
        with pytest.raises(ExistsError, match="a"):
            await store.create(IP_POOLS, pool())

    async def test_what_is_not_there_is_not_found(self, store: Store) -> None:
        with pytest.raises(NotFoundError):
            await store.get(IP_POOLS, "a")
        with pytest.raises(NotFoundError):
            await store.patch(IP_POOLS, "a", {"spec": {"natOutgoing": True}})
        with pytest.raises(NotFoundError):
            await store.delete(IP_POOLS, "a")

    async def test_update_is_compare_and_swap(self, store: Store) -> None:
        first = await store.create(IP_POOLS, pool())
        second = await store.update(IP_POOLS, dataclasses.replace(first, nat_outgoing=True))
        assert second.meta.resource_version != first.meta.resource_version
        with pytest.raises(ConflictError):
            await store.update(IP_POOLS, dataclasses.replace(first, nat_outgoing=False))
        assert (await store.get(IP_POOLS, "a")).nat_outgoing

    async def test_of_two_updates_at_once_one_fails(self, store: Store) -> None:
        made = await store.create(IP_POOLS, pool())
        answers = await asyncio.gather(
            *(store.update(IP_POOLS, dataclasses.replace(made, ipip_mode=mode)) for mode in ("Always", "CrossSubnet")),  # type: ignore[arg-type]  # values of a StrEnum
            return_exceptions=True,
        )
        assert sorted(type(answer).__name__ for answer in answers) == ["ConflictError", "IPPool"]

    async def test_update_of_what_was_deleted_fails(self, store: Store) -> None:
        made = await store.create(IP_POOLS, pool())
        await store.delete(IP_POOLS, "a")
        with pytest.raises((NotFoundError, ConflictError)):
            await store.update(IP_POOLS, made)

    async def test_an_update_that_changes_nothing_keeps_the_version(self, store: Store) -> None:
        made = await store.create(IP_POOLS, pool())
        assert await store.update(IP_POOLS, made) == made

    async def test_patch_merges_and_removes(self, store: Store) -> None:
        await store.create(NODES, Node(Meta("node1")))
        note = {NODE_IPV4_ADDRESS: "192.168.1.11/24", "other": "kept"}
        await store.patch(NODES, "node1", {"metadata": {"annotations": note}})
        found = await store.get(NODES, "node1")
        assert found.ipv4 == IPv4Interface("192.168.1.11/24")
        found = await store.patch(NODES, "node1", {"metadata": {"annotations": {NODE_IPV4_ADDRESS: None}}})
        assert found.ipv4 is None
        assert found.meta.annotations["other"] == "kept"

    async def test_a_patch_with_a_version_is_conditional(self, store: Store) -> None:
        first = await store.create(IP_POOLS, pool())
        await store.patch(IP_POOLS, "a", {"spec": {"natOutgoing": True}})
        stale = {"metadata": {"resourceVersion": first.meta.resource_version}, "spec": {"natOutgoing": False}}
        with pytest.raises(ConflictError):
            await store.patch(IP_POOLS, "a", stale)
        assert (await store.get(IP_POOLS, "a")).nat_outgoing

    async def test_status_is_patched_apart(self, store: Store) -> None:
        await store.create(IP_POOLS, pool())
        condition = {
            "type": "Allocatable",
            "status": "True",
            "reason": "OK",
            "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        patch = {"spec": {"natOutgoing": True}, "status": {"conditions": [condition]}}
        after = await store.patch(IP_POOLS, "a", patch, subresource="status")
        assert not after.nat_outgoing

    async def test_delete_heeds_its_preconditions(self, store: Store) -> None:
        first = await store.create(IP_POOLS, pool())
        second = await store.update(IP_POOLS, dataclasses.replace(first, nat_outgoing=True))
        with pytest.raises(ConflictError):
            await store.delete(IP_POOLS, "a", uid=first.meta.uid, resource_version=first.meta.resource_version)
        with pytest.raises(ConflictError):
            await store.delete(IP_POOLS, "a", uid="00000000-0000-4000-8000-000000000000")
        await store.delete(IP_POOLS, "a", uid=second.meta.uid, resource_version=second.meta.resource_version)
        with pytest.raises(NotFoundError):
            await store.get(IP_POOLS, "a")

    async def test_a_namesake_has_another_uid(self, store: Store) -> None:
        first = await store.create(IP_POOLS, pool())
        await store.delete(IP_POOLS, "a")
        second = await store.create(IP_POOLS, pool())
        assert second.meta.uid != first.meta.uid

    async def test_what_the_schema_forbids_is_refused_with_the_field(self, store: Store) -> None:
        made = await store.create(IP_POOLS, pool())
        for field, value in (("ipipMode", "Sometimes"), ("blockSize", 33), ("cidr", 7)):
            with pytest.raises(RefusedError, match=field):
                await store.patch(IP_POOLS, "a", {"spec": {field: value}})
        assert await store.get(IP_POOLS, "a") == made

    async def test_labels_select(self, store: Store) -> None:
        for node, cidr in (("node1", "10.244.1.0/26"), ("node2", "10.244.2.0/26"), ("node2", "10.244.3.0/26")):
            await store.create(BLOCK_AFFINITIES, claim(node, cidr))
        mine = await store.list(BLOCK_AFFINITIES, labels=f"{LABEL_HOSTNAME_HASH}={hostname_hash('node2')}")
        assert [str(found.cidr) for found in mine.items] == ["10.244.2.0/26", "10.244.3.0/26"]

    async def test_fields_select(self, store: Store) -> None:
        for node, cidr in (("node1", "10.244.1.0/26"), ("node2", "10.244.2.0/26")):
            await store.create(IPAM_BLOCKS, block(node, cidr))
        mine = await store.list(IPAM_BLOCKS, fields="spec.affinity=host:node2")
        assert [found.node for found in mine.items] == ["node2"]
        named = await store.list(IPAM_BLOCKS, fields="metadata.name=10-244-1-0-26")
        assert [found.node for found in named.items] == ["node1"]

    async def test_a_kind_of_one_namespace(self, store: Store) -> None:
        made = await store.create(LEASES, Lease(Meta("l1", namespace="default"), holder="node1"))
        assert await store.get(LEASES, "l1", namespace="default") == made
        assert made in (await store.list(LEASES)).items
        assert not (await store.list(lease_kind("kube-public"))).items
        await store.delete(LEASES, "l1", namespace="default")

    async def test_a_watch_tells_what_follows_the_list(self, store: Store) -> None:
        await store.create(IP_POOLS, pool("before"))
        async with watching(store, IP_POOLS) as watch:
            made = await store.create(IP_POOLS, pool("a", "10.1.0.0/16"))
            event = await watch.next()
            assert (event.type, event.name, event.object) == (EventType.ADDED, "a", made)
            assert event.resource_version == made.meta.resource_version
            changed = await store.update(IP_POOLS, dataclasses.replace(made, nat_outgoing=True))
            event = await watch.next()
            assert (event.type, event.object) == (EventType.MODIFIED, changed)
            await store.delete(IP_POOLS, "a")
            event = await watch.next()
            assert (event.type, event.name) == (EventType.DELETED, "a")
            assert int(event.resource_version) > int(changed.meta.resource_version)

    async def test_a_watch_goes_on_from_the_version_of_an_event(self, store: Store) -> None:
        await store.create(IP_POOLS, pool("a"))
        async with watching(store, IP_POOLS) as watch:
            await store.create(IP_POOLS, pool("b", "10.1.0.0/16"))
            seen = await watch.next()
        await store.create(IP_POOLS, pool("c", "10.2.0.0/16"))
        async with watching(store, IP_POOLS, seen.resource_version) as watch:
            assert (await watch.next()).name == "c"
            assert await watch.silent()

    async def test_a_watch_with_a_selector_tells_of_those_alone(self, store: Store) -> None:
        async with watching(store, IPAM_BLOCKS, fields="spec.affinity=host:node1") as watch:
            await store.create(IPAM_BLOCKS, block("node2", "10.244.2.0/26"))
            mine = await store.create(IPAM_BLOCKS, block("node1", "10.244.1.0/26"))
            event = await watch.next()
            assert (event.type, event.object) == (EventType.ADDED, mine)
            await store.update(IPAM_BLOCKS, dataclasses.replace(mine, affinity=None))
            event = await watch.next()
            assert (event.type, event.name) == (EventType.DELETED, "10-244-1-0-26"), "it left the selection"

    async def test_metadata_alone_is_watched_and_followed(self, store: Store) -> None:
        async with watching(store, NODES) as watch:
            await store.create(NODES, Node(Meta("node1")))
            assert (await watch.next()).object is not None
            await store.patch(NODES, "node1", {"metadata": {"annotations": {NODE_IPV4_ADDRESS: "10.0.0.1/24"}}})
            event = await watch.next()
            assert event.object is not None
            assert event.object.ipv4 == IPv4Interface("10.0.0.1/24")

    async def test_what_the_codec_refuses_is_told_as_invalid(self, store: Store) -> None:
        def decode(obj: Json) -> Node:
            parse_interface(decode_meta(obj).annotations.get(NODE_IPV4_ADDRESS, "10.0.0.1/24"), field="IPv4Address")
            return NODES.decode(obj)

        strict = dataclasses.replace(NODES, decode=decode)
        uid = (await store.create(NODES, Node(Meta("node1")))).meta.uid
        await store.create(NODES, Node(Meta("node2")))
        async with watching(store, strict) as watch:
            with pytest.raises(InvalidError, match="IPv4Address"):
                await store.patch(strict, "node1", {"metadata": {"annotations": {NODE_IPV4_ADDRESS: "nonsense"}}})
            event = await watch.next()
            assert (event.name, event.object) == ("node1", None)
            assert event.invalid is not None
            assert event.invalid.uid == uid
        listing = await store.list(strict)
        assert [node.name for node in listing.items] == ["node2"]
        assert [(invalid.name, invalid.error.uid) for invalid in listing.invalid] == [("node1", uid)]

    async def test_a_reflector_follows_two_hundred_writes(self, store: Store) -> None:
        reflector = Reflector(store, BLOCK_AFFINITIES, lambda: None)
        task = asyncio.create_task(reflector.run())
        try:
            await reflector.wait_in_sync()
            made = [await store.create(BLOCK_AFFINITIES, claim("node1", f"10.244.{n}.0/26")) for n in range(100)]
            for found in made[:50]:
                await store.delete(BLOCK_AFFINITIES, found.meta.name)
            for found in made[50:]:
                await store.update(BLOCK_AFFINITIES, dataclasses.replace(found, state=AffinityState.PENDING))
            async with asyncio.timeout(10):
                while {found.state for found in reflector.objects.values()} != {AffinityState.PENDING}:  # noqa: ASYNC110 - polls what tells nobody
                    await asyncio.sleep(0.02)
            assert len(reflector.objects) == 50
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


class TestMemoryStore(StoreContract):
    """In this process."""

    @pytest.fixture
    def store(self) -> Store:
        return MemoryStore()

    async def test_a_version_that_is_too_old_is_gone(self) -> None:
        store = MemoryStore()
        await store.create(IP_POOLS, pool())
        with pytest.raises(GoneError):
            async with watching(store, IP_POOLS, "0") as watch:
                await watch.next()


class TestKubeStore(StoreContract):
    """Over HTTP, to each server."""

    @pytest.fixture
    async def store(self, api_server: ApiUnderTest) -> AsyncIterator[KubeStore]:
        async with connect(str(api_server.kubeconfig)) as store:
            yield store

    async def test_pages_make_one_list(self, api_server: ApiUnderTest) -> None:
        async with connect(str(api_server.kubeconfig), page_size=2) as store:
            for number in range(5):
                await store.create(IP_POOLS, pool(f"p{number}", f"10.{number}.0.0/16"))
            assert [found.name for found in (await store.list(IP_POOLS)).items] == [f"p{n}" for n in range(5)]

    async def test_a_kind_that_the_server_does_not_know_is_not_found(self, store: Store) -> None:
        unknown = dataclasses.replace(IP_POOLS, plural="nosuchthings")
        with pytest.raises(NotFoundError):
            await store.list(unknown)

    async def test_a_field_by_which_the_server_cannot_select_is_refused(self, store: Store) -> None:
        """By this an agent tells that the CRD of blocks is Calico's."""
        with pytest.raises(RefusedError, match=r"field label not supported: spec\.cidr") as caught:
            await store.list(IPAM_BLOCKS, fields="spec.cidr=10.0.0.0/26")
        assert not isinstance(caught.value, ForbiddenError)

    async def test_the_first_event_of_a_watch_says_that_it_has_begun(self, store: KubeStore) -> None:
        version = (await store.list(IP_POOLS)).resource_version
        async with contextlib.aclosing(store.watch(IP_POOLS, resource_version=version)) as events:
            first = await anext(events)
        assert (first.type, first.resource_version) == (EventType.BOOKMARK, version)

    async def test_whole_objects_are_not_sent_where_metadata_is_enough(self, api_server: ApiUnderTest) -> None:
        seen: list[Json] = []

        def decode(obj: Json) -> Node:
            seen.append(obj)
            return NODES.decode(obj)

        spy = dataclasses.replace(NODES, decode=decode)
        async with connect(str(api_server.kubeconfig)) as store:
            await store.create(NODES, Node(Meta("node1")))
            await store.list(spy)
            async with watching(store, spy) as watch:
                await store.patch(NODES, "node1", {"metadata": {"labels": {"a": "b"}}})
                await watch.next()
        assert len(seen) == 3
        assert all("status" not in obj and "spec" not in obj for obj in seen)


async def test_a_server_that_is_away_is_unavailable_with_the_cause(tmp_path: Any) -> None:
    config = tmp_path / "kubeconfig"
    config.write_text(
        "{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c}}], "
        "clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]}"
    )
    async with connect(str(config)) as store:
        with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:1 cannot be reached: Connection refused"):
            await store.list(IP_POOLS)
        with pytest.raises(UnavailableError, match="refused"):
            async with watching(store, IP_POOLS, "1") as watch:
                await watch.next()
