"""Nodes race for a small pool: whatever the order of their calls, it gives all the addresses that it has."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from calico_py.ipam.requests import ExhaustedError
from tests.fakes.ipam import IPAMCluster, config, pool, problems, workload
from tests.fakes.slow import SlowStore

SIZE = 16


@given(
    block_size=st.sampled_from([28, 30, 31, 32]),
    wanted=st.lists(st.integers(0, 4), min_size=1, max_size=24),
    turns=st.lists(st.integers(0, 8), min_size=1, max_size=16),
)
def test_no_address_is_withheld(block_size: int, wanted: list[int], turns: list[int]) -> None:
    async def race() -> tuple[int, list[str]]:
        cluster = IPAMCluster([pool("10.0.0.0/28", block_size)], config())
        looks = iter(range(1_000_000))
        store = SlowStore(cluster.store, lambda: turns[next(looks) % len(turns)])
        nodes = [cluster.node(f"node{i}", store) for i in range(5)]
        work = [nodes[of].assign(workload(f"c{i}")) for i, of in enumerate(wanted)]
        results = await asyncio.gather(*work, return_exceptions=True)
        for node in nodes:
            await node.drain()
        assert all(isinstance(result, tuple | ExhaustedError) for result in results), results
        got = {result[0].address for result in results if isinstance(result, tuple)}
        assert got == set(await cluster.held())
        return len(got), await problems(cluster)

    assert asyncio.run(race()) == (min(SIZE, len(wanted)), [])
