"""A handle is written in the end, however often the API fails: nothing else would come back to it."""

import asyncio

from calico_py.model.store import UnavailableError
from tests.fakes.clock import JumpingLoop
from tests.fakes.ipam import IPAMCluster, pool, workload

FAILURES = 20  # some minutes of them


async def assign_while_handles_cannot_be_written() -> None:
    cluster = IPAMCluster([pool("10.0.0.0/24")])
    left = FAILURES

    def fail(when: str, verb: str, kind: str, _name: str) -> None:
        nonlocal left
        if left and (when, verb, kind) == ("before", "create", "IPAMHandle"):
            left -= 1
            raise UnavailableError("the API server is away")

    cluster.store.fault = fail
    node = cluster.node("node1")
    await node.assign(workload("c1"))
    await node.drain()
    assert not left
    assert set(await cluster.handles()) == {"k8s-pod-network.c1"}


def test_it_is_tried_until_it_is_done() -> None:
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(assign_while_handles_cannot_be_written())
