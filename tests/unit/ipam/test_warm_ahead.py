"""When the next block is claimed before an ADD needs it: where blocks are plenty."""

from pathlib import Path

import pytest

from calico_py.ipam.rules import may_claim_ahead
from calico_py.model.net import Network
from tests.fakes.ipam import IPAMCluster, config, pool, workload
from tests.fakes.warm import WarmNode


@pytest.mark.parametrize(
    ("cidr", "claimed", "allowed"),
    [
        ("10.0.0.0/16", 1, True),
        ("10.0.0.0/16", 512, True),
        ("10.0.0.0/16", 513, False),
        ("10.0.0.0/22", 0, True),
        ("10.0.0.0/22", 1, False),
        ("10.0.0.0/24", 1, False),
        ("fd00::/48", 1000, True),
    ],
)
def test_plenty(cidr: str, claimed: int, allowed: bool) -> None:
    assert may_claim_ahead(config(), pool(cidr), claimed) is allowed
    assert may_claim_ahead(config(auto_allocate_blocks=False), pool(cidr), claimed) is False


async def _missed(cluster: IPAMCluster, folder: Path, pods: int) -> tuple[int, set[Network]]:
    """ADDs that the stock could not serve, and the node's blocks, after so many pods one by one."""
    warm, _ = await WarmNode(cluster, folder).begin()
    for number in range(pods):
        cluster.taken = {affinity.cidr for affinity in await cluster.affinities()}
        await warm.assign(workload(f"c{number}"))
        await warm.catch_up()
    return warm.counts.missed, {block.cidr for block in await cluster.blocks()}


async def test_no_add_waits_for_a_claim_where_blocks_are_plenty(tmp_path: Path) -> None:
    missed, blocks = await _missed(IPAMCluster([pool("10.0.0.0/16")]), tmp_path, 150)
    assert missed == 0
    assert len(blocks) == 3


async def test_in_a_small_pool_the_add_that_needs_a_block_claims_it(tmp_path: Path) -> None:
    missed, blocks = await _missed(IPAMCluster([pool("10.0.0.0/24")]), tmp_path, 70)
    assert missed == 1
    assert len(blocks) == 2


async def test_the_limit_of_blocks_is_kept(tmp_path: Path) -> None:
    cluster = IPAMCluster([pool("10.0.0.0/16", 28)], config=config(max_blocks_per_host=2, strict_affinity=True))
    _, blocks = await _missed(cluster, tmp_path, 30)
    assert len(blocks) == 2
