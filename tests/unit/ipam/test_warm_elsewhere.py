"""An address that a pod asks for by name, and that another node keeps warm."""

from ipaddress import ip_network
from pathlib import Path

import pytest

from calico_py.ipam.requests import AddressTakenError
from tests.fakes.ipam import IPAMCluster, pool, workload
from tests.fakes.warm import WarmNode


async def test_the_error_says_what_to_do_and_that_helps(tmp_path: Path) -> None:
    cluster = IPAMCluster([pool("10.0.0.0/24")])
    warm, allocator = await WarmNode(cluster, tmp_path).begin()
    await allocator.drain()
    wanted = min(await cluster.held())
    other = cluster.node("node2")
    with pytest.raises(
        AddressTakenError, match="to the stock of node node1; an IPReservation makes every node let it go"
    ):
        await other.assign(workload("c1", requested=(wanted,)))
    cluster.reserved = [ip_network(wanted)]
    await warm.catch_up()
    (got,) = await other.assign(workload("c1", requested=(wanted,)))
    assert got.address == wanted
