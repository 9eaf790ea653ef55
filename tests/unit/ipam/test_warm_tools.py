"""What a tool that releases addresses of living pods leaves, such as calicoctl: first the block, then the handle."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from calico_py.ipam import promises
from calico_py.ipam.requests import Release
from calico_py.model.kinds import IPAM_HANDLES
from calico_py.model.net import Network
from tests.fakes.ipam import IPAMCluster, pool, workload
from tests.fakes.warm import WarmNode

HANDLE = "k8s-pod-network.c1"


async def counts(cluster: IPAMCluster) -> Mapping[Network, int]:
    found = (await cluster.handles()).get(HANDLE)
    return found.blocks if found is not None else {}


@pytest.mark.parametrize("families", [(4,), (4, 6)])
async def test_a_handle_that_is_lowered_behind_the_reclaim_is_right_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, families: tuple[int, ...]
) -> None:
    cluster = IPAMCluster([pool("10.0.0.0/24", name="four"), pool("fd00::/120", name="six")])
    warm, allocator = await WarmNode(cluster, tmp_path).begin()
    got = await warm.assign(workload("c1", *families))  # type: ignore[arg-type]  # 4 and 6
    await warm.catch_up()
    await allocator.drain()
    before = await counts(cluster)
    assert len(before) == len(families)

    tool = cluster.node("node1")
    await tool.release([Release(got[0].address)])
    await tool.drain()
    for block in await cluster.blocks():
        allocator.observe(block)
    await warm.catch_up()
    await allocator.drain()
    handles = await cluster.handles()
    if HANDLE in handles:
        found = handles[HANDLE]
        left = {cidr: count for cidr, count in before.items() if cidr != got[0].block}
        if left:
            await cluster.store.update(IPAM_HANDLES, replace(found, blocks=left))
        else:
            await cluster.store.delete(IPAM_HANDLES, found.meta.name)
    assert await counts(cluster) != before

    await warm.catch_up()
    await allocator.drain()
    assert await counts(cluster) != before, "not looked at again at once: the tool may not be done"
    monkeypatch.setattr(promises, "TOOL_SECONDS", 0.0)
    await warm.catch_up()
    await allocator.drain()
    assert await counts(cluster) == before
