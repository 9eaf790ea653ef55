"""The shim, the server, the kernel and the real allocator over an API server in memory."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from calico_py.model.store import StoreError, UnavailableError
from tests.cni.conftest import Agent
from tests.cni.runtime import Runtime, config
from tests.fakes.ipam import IPAMCluster, pool, problems
from tests.netns.namespaces import Namespace

pytestmark = pytest.mark.root

NewPod = Callable[[], Namespace]


@pytest.fixture
def cluster() -> IPAMCluster:
    return IPAMCluster([pool("10.244.0.0/16"), pool("fd10::/64")])


@pytest.fixture
async def node(cluster: IPAMCluster, absent_agent: Agent) -> AsyncIterator[Agent]:
    allocator = cluster.node("node1")
    absent_agent.allocator = allocator
    async with absent_agent.serving():
        yield absent_agent
    await allocator.drain()


async def held(cluster: IPAMCluster) -> dict[str, str]:
    return {str(address): allocation.handle for address, allocation in (await cluster.held()).items()}


@pytest.mark.usefixtures("node")
async def test_fifty_pods_come_and_go(cluster: IPAMCluster, runtime: Runtime, new_pod: NewPod) -> None:
    added = await asyncio.gather(
        *(
            runtime.call("ADD", config(), netns=new_pod().path, pod=f"pod{number}", container_id=f"c{number}")
            for number in range(50)
        )
    )
    assert {answer.status for answer in added} == {0}
    addresses = {
        ip["address"].split("/")[0]: f"k8s-pod-network.c{number}"
        for number, answer in enumerate(added)
        for ip in answer.json["ips"]
    }
    assert len(addresses) == 100
    assert await held(cluster) == addresses
    allocation = next(iter((await cluster.held()).values()))
    assert allocation.attribute.secondary["namespace"] == "default"
    assert allocation.attribute.secondary["node"] == "node1"
    deleted = await asyncio.gather(
        *(runtime.call("DEL", config(), pod=f"pod{number}", container_id=f"c{number}") for number in range(50))
    )
    assert {answer.status for answer in deleted} == {0}
    assert await held(cluster) == {}


async def test_a_pool_that_is_full_is_told(
    node: Agent, cluster: IPAMCluster, runtime: Runtime, new_pod: NewPod
) -> None:
    node.families = (4,)
    cluster.pools = [pool("10.244.0.0/29", 29)]
    for number in range(8):
        answer = await runtime.call("ADD", config(), netns=new_pod().path, pod=f"p{number}", container_id=f"c{number}")
        assert answer.status == 0, answer.stdout
    refused = await runtime.call("ADD", config(), netns=new_pod().path, pod="p8", container_id="c8")
    assert refused.code == 101
    assert "pool-10.244.0.0/29" in refused.json["details"]
    assert (await runtime.call("DEL", config(), pod="p3", container_id="c3")).status == 0
    again = await runtime.call("ADD", config(), netns=new_pod().path, pod="p8", container_id="c8")
    assert again.status == 0, again.stdout


@pytest.mark.usefixtures("node")
async def test_one_family_that_has_no_address_costs_the_other_none(
    cluster: IPAMCluster, runtime: Runtime, new_pod: NewPod
) -> None:
    cluster.pools = [pool("10.244.0.0/16"), pool("fd10::/128", 128)]
    for number, status in enumerate((0, 1)):
        answer = await runtime.call("ADD", config(), netns=new_pod().path, pod=f"p{number}", container_id=f"c{number}")
        assert answer.status == status, answer.stdout
    assert set((await held(cluster)).values()) == {"k8s-pod-network.c0"}


@pytest.mark.parametrize("when", ["before", "after"])
async def test_an_api_that_fails_amid_a_call_leaves_nothing_in_the_end(
    absent_agent: Agent, cluster: IPAMCluster, runtime: Runtime, new_pod: NewPod, when: str
) -> None:
    """Every call to the API fails once, before or after it is done; runtime and kubelet do what they do."""
    broken: set[tuple[str, str, str]] = set()

    def fail_once(phase: str, verb: str, kind: str, name: str) -> None:
        if phase == when and (verb, kind, name) not in broken:
            broken.add((verb, kind, name))
            raise UnavailableError(f"{verb} {kind} {name}: connection refused")

    allocator = cluster.node("node1", cluster.store.with_fault(fail_once))
    absent_agent.allocator = allocator
    async with absent_agent.serving():
        for attempt in range(20):
            pod, container = new_pod(), f"c{attempt}"
            added = await runtime.call("ADD", config(), netns=pod.path, pod="web", container_id=container)
            deleted = await runtime.call("DEL", config(), netns=pod.path, pod="web", container_id=container)
            assert deleted.status == 0, deleted.stdout
            if added.status == 0:
                break
            assert added.code == 11, added.stdout
        else:
            raise AssertionError("never added")
    assert broken, "nothing failed: this test has tested nothing"
    async with absent_agent.serving():
        last = await runtime.call("ADD", config(), netns=new_pod().path, pod="web", container_id="last")
        assert last.status == 0, last.stdout
        await _settle(allocator.drain)
    assert set((await held(cluster)).values()) == {"k8s-pod-network.last"}
    assert await problems(cluster) == []
    assert list(runtime.deferred.iterdir()) == []


async def _settle(drain: Callable[[], Awaitable[None]]) -> None:
    for _ in range(3):
        try:
            await drain()
        except StoreError:
            continue
        return
