"""Lists of kinds that have an object for each pod or block of the cluster come in pages, all others at once."""

from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from calico_py.agent.cluster.pods import Pods
from calico_py.kube.client import KubeStore
from calico_py.kube.transport import Request, Transport
from calico_py.model.kinds import IP_POOLS, IPAM_BLOCKS, IPAM_HANDLES, PAGE_SIZE
from calico_py.model.store import GoneError, Json, Kind


@dataclass
class Server:
    """Answers lists as the API server does, of names alone.

    Attributes:
        names: of all objects. expire: continuations that are too old, one after another.
        asked: the query of each request.
    """

    names: list[str]
    expire: int = 0
    asked: list[dict[str, str]] = field(default_factory=list)

    async def request(self, request: Request) -> Json:
        self.asked.append(dict(request.query))
        start, limit = int(request.query.get("continue", "0")), int(request.query.get("limit", "0"))
        if start and self.expire:
            self.expire -= 1
            raise GoneError("too old")
        end = start + limit if limit else len(self.names)
        found = [{"metadata": {"name": name, "namespace": "default"}} for name in self.names[start:end]]
        meta = {"resourceVersion": "7"} | ({"continue": str(end)} if end < len(self.names) else {})
        return {"items": found, "metadata": meta}

    @property
    def store(self) -> KubeStore:
        return KubeStore(cast("Transport", self))


@pytest.mark.parametrize("kind", [IPAM_BLOCKS, IPAM_HANDLES])
async def test_what_grows_with_pods_is_listed_in_pages(kind: Kind[Any]) -> None:
    server = Server([f"n{number}" for number in range(2 * kind.page_size + 1)])
    listing = await server.store.list(kind)
    assert len(listing.items) + len(listing.invalid) == len(server.names)
    assert [asked["limit"] for asked in server.asked] == [str(kind.page_size)] * 3
    assert 0 < kind.page_size <= PAGE_SIZE


async def test_the_leader_reads_the_pods_of_the_cluster_in_pages() -> None:
    server = Server([f"n{number}" for number in range(2 * PAGE_SIZE + 1)])
    found = await Pods(server.store).list()
    assert {name for _, name in found} == set(server.names)
    assert len(server.asked) == 3
    assert all(asked["limit"] == str(PAGE_SIZE) for asked in server.asked)


async def test_a_list_that_every_node_asks_for_comes_from_the_cache_of_the_server() -> None:
    """With a limit it would come from etcd."""
    server = Server(["a"])
    await server.store.list(IP_POOLS)
    await server.store.list(IPAM_BLOCKS, fields="spec.affinity=host:node1")
    await server.store.list(IPAM_BLOCKS, labels="projectcalico.org/borrowed=true")
    assert all("limit" not in asked for asked in server.asked)


async def test_a_list_whose_pages_expire_begins_anew() -> None:
    server = Server([f"n{number}" for number in range(PAGE_SIZE + 1)], expire=2)
    listing = await server.store.list(IPAM_HANDLES)
    assert len(listing.items) + len(listing.invalid) == len(server.names)
    server.expire = 3
    with pytest.raises(GoneError):
        await server.store.list(IPAM_HANDLES)
