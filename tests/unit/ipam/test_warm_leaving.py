"""A pod that goes while the API may have heard of it, or not."""

from pathlib import Path

from calico_py.ipam.requests import Release
from calico_py.model.store import UnavailableError
from tests.fakes.ipam import IPAMCluster, pool, workload
from tests.fakes.warm import WarmNode


async def test_of_a_pod_that_goes_nothing_is_claimed_again_and_nothing_lost(tmp_path: Path) -> None:
    """The API may have heard of it, and somebody else released and got its address meanwhile."""
    cluster, away = IPAMCluster([pool("10.0.0.0/24")]), False

    def cut(when: str, verb: str, kind: str, name: str) -> None:
        if away and when == "before":
            raise UnavailableError(f"{verb} {kind} {name}: connection refused")

    warm, _ = await WarmNode(cluster, tmp_path).begin(cluster.store.with_fault(cut))
    (got,) = await warm.assign(workload("c1"))
    away = True
    await warm.catch_up()
    await warm.release_handle("k8s-pod-network.c1")
    other = cluster.node("node2")
    await other.release([Release(got.address)])
    await other.assign(workload("theirs", requested=(got.address,)))
    away = False
    while not await warm.catch_up():
        pass
    assert warm.problems() == ()
    assert (warm.counts.lost, warm.counts.reclaimed) == (0, 0)
    assert (await cluster.held())[got.address].handle == "k8s-pod-network.theirs"
