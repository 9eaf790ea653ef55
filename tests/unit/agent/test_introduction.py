"""The two objects that Calico's tools look for."""

from typing import Any

from calico_py.agent.cluster.introduction import introduce_cluster
from calico_py.model.cluster_information import CLUSTER_INFORMATIONS, ClusterInformation
from calico_py.model.controllers import KUBE_CONTROLLERS_CONFIGURATIONS
from calico_py.model.meta import Meta
from calico_py.model.store import ForbiddenError
from tests.fakes.store import MemoryStore


async def test_they_are_made_where_they_are_missing() -> None:
    store = MemoryStore()
    await introduce_cluster(store, guid="a" * 32)
    found = await store.get(CLUSTER_INFORMATIONS, "default")
    assert (found.guid, found.ready) == ("a" * 32, True)
    assert await store.get(KUBE_CONTROLLERS_CONFIGURATIONS, "default")


async def test_those_that_are_there_stay_as_they_are() -> None:
    """A migration holds all writers off by datastoreReady; the GUID is the cluster's for ever."""
    store = MemoryStore()
    await store.create(CLUSTER_INFORMATIONS, ClusterInformation(Meta("default"), "b" * 32, ready=False))
    await introduce_cluster(store, guid="a" * 32)
    found = await store.get(CLUSTER_INFORMATIONS, "default")
    assert (found.guid, found.ready) == ("b" * 32, False)


async def test_an_agent_without_the_right_goes_on() -> None:
    def forbid(when: str, verb: str, kind: str, name: str) -> None:
        del when, verb, name
        if kind == "ClusterInformation":
            raise ForbiddenError("forbidden")

    store: Any = MemoryStore(fault=forbid)
    await introduce_cluster(store, guid="a" * 32)
    assert await store.get(KUBE_CONTROLLERS_CONFIGURATIONS, "default")
