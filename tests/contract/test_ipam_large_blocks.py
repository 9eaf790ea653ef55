"""A block as large as they get, full: more than a megabyte that each write sends whole."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from calico_py.ipam.allocator import Allocator
from calico_py.ipam.blocks import allocations, block_problems
from calico_py.ipam.reconcile import Living
from calico_py.ipam.requests import AssignRequest
from calico_py.kube.client import KubeStore, connect
from calico_py.model.kinds import IPAM_BLOCKS
from calico_py.model.names import block_name
from tests.contract.servers import ApiUnderTest
from tests.contract.test_ipam_contract import node
from tests.fakes.ipam import pool

# The official client gives aiohttp the body in one piece, which takes less time than its JSON did.
pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning"),
]

BLOCKS = "/apis/projectcalico.org/v3/ipamblocks"
SIZE = 4096  # addresses
AT_ONCE = 256
LARGE = pool("10.0.0.0/16", 20, name="large")
CONTAINER = "0123456789abcdef" * 4  # as long as containerd's
NAMES = {"namespace": "a-namespace-as-people-call-them", "pod": "a-deployment-7d8f9c6b5d-x2x2x"}


@pytest.fixture
async def store(api_server: ApiUnderTest) -> AsyncIterator[KubeStore]:
    async with connect(str(api_server.kubeconfig)) as found:
        yield found


def handle(number: int) -> str:
    return f"k8s-pod-network.{number:04}{CONTAINER[4:]}"


async def fill(allocator: Allocator) -> None:
    """All addresses of one block, each a pod's own, but for the handles, which are thousands of small objects."""
    allocator._handles.mark = lambda *_, **__: None  # type: ignore[method-assign]
    for first in range(0, SIZE, AT_ONCE):
        await asyncio.gather(
            *(allocator.assign(AssignRequest(handle(n), NAMES)) for n in range(first, first + AT_ONCE))
        )


async def test_a_full_block_of_the_largest_size(store: KubeStore, api_server: ApiUnderTest) -> None:
    allocator = node(store, "node1", pools=(LARGE,))
    await fill(allocator)
    (block,) = allocator.own_blocks()
    assert len(list(allocations(block))) == SIZE
    assert block_problems(block) == []
    name = block_name(block.cidr)
    size = len(json.dumps(api_server.request("GET", f"{BLOCKS}/{name}").body))
    assert size > 1_000_000, size

    (next_one,) = await allocator.assign(AssignRequest(handle(SIZE), NAMES))
    assert next_one.block != block.cidr, "the next address comes from another block"
    gone = (0, 2, SIZE - 2)
    for number in gone:
        assert await allocator.release_handle(handle(number)) == 1
    again = node(store, "node1", pools=(LARGE,))
    again._handles.mark = lambda *_, **__: None  # type: ignore[method-assign]
    odd = range(1, SIZE, 2)
    report = await again.reconcile(Living({handle(n).removeprefix("k8s-pod-network.") for n in odd}))
    assert len(report.released.released) == SIZE // 2 - len(gone) + 1
    found = await store.get(IPAM_BLOCKS, name)
    assert {a.handle for a in allocations(found) if not a.cooling} == {handle(n) for n in odd}
    assert block_problems(found) == []
