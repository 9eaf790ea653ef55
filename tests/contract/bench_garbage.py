"""What the leader needs to free 10,000 addresses of 250 deleted nodes on a real kube-apiserver: seconds and memory."""

import asyncio
import time
from pathlib import Path

import pytest

from calico_py.kube.client import connect
from calico_py.model.kinds import NODES
from tests.contract.leading import Held, fill, leading, left, peak_mib, until_nothing_is_left
from tests.contract.servers import ApiUnderTest
from tests.figures import Figure, Figures

pytestmark = pytest.mark.bench

NODES_GONE = 250
PODS = 38  # and a tunnel address and a warm one on each node: 10,000 addresses
SECONDS = 60.0
MIB = 200.0


@pytest.mark.timeout(600)
async def test_addresses_of_250_deleted_nodes(kube_server: ApiUnderTest, tmp_path: Path, figures: Figures) -> None:
    """Garbage collection."""
    stays, *go = [Held(number, PODS if number else 0) for number in range(NODES_GONE + 1)]
    async with connect(str(kube_server.kubeconfig)) as store:
        await fill(store, [stays, *go])
        assert (await left(store, go))["addresses"] == NODES_GONE * (PODS + 2)
        with leading(kube_server.kubeconfig, stays.node, tmp_path / "log") as pid:
            await asyncio.sleep(5)
            began = time.monotonic()
            await asyncio.gather(*(store.delete(NODES, held.node) for held in go))
            deleted = time.monotonic() - began
            seconds = deleted + await until_nothing_is_left(store, go, within=300)
            figures.tell(Figure("10,000 addresses of 250 deleted nodes are free", seconds, "s", SECONDS))
            figures.tell(Figure("memory of the leader", peak_mib(pid), "MiB", MIB))
