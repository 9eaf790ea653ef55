"""The convergence of one node over what happens to it: restarts, things broken by hand, an API that says less."""

import asyncio
from pathlib import Path

import pytest

from calico_py.model.kinds import NODES
from calico_py.model.names import NODE_IPV4_IPIP_TUNNEL, NODE_SENDING
from calico_py.model.pools import EncapMode
from tests.fakes.waiting import until
from tests.unit.agent.one_node import ME, OneNode, block


@pytest.fixture
def node(tmp_path: Path) -> OneNode:
    return OneNode(tmp_path)


async def test_a_node_tunnels_to_another_once_that_one_receives(node: OneNode) -> None:
    await node.prepare(EncapMode.ALWAYS)
    async with node.agent():
        await node.quiet()
        assert node.route(block(2)) is None
        await node.annotate("node2", NODE_IPV4_IPIP_TUNNEL, "10.244.2.1")
        await until(lambda: node.device(block(2)) == "tunl0")
        notes = await node.annotations()
        assert NODE_IPV4_IPIP_TUNNEL in notes
        await node.quiet()
        assert '"mode": "IPIP"' in (await node.annotations())[NODE_SENDING]


async def test_a_restart_does_not_withdraw_the_receiver(node: OneNode) -> None:
    await node.prepare(EncapMode.ALWAYS)
    async with node.agent():
        await until(lambda: NODE_IPV4_IPIP_TUNNEL in node.view.nodes.objects[ME].meta.annotations)
        await node.quiet()
        before = (await node.annotations())[NODE_IPV4_IPIP_TUNNEL]
    async with node.agent(tunnel_address=False):
        await node.quiet()
        assert (await node.annotations()).get(NODE_IPV4_IPIP_TUNNEL) == before


async def test_without_its_own_node_an_agent_waits_and_does_not_spin(
    node: OneNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A receiver's time is up, and there is no Node object by which to take the step."""
    monkeypatch.setattr("calico_py.agent.receiver.LINGER", 0.3)
    await node.prepare(EncapMode.ALWAYS)
    async with node.agent() as loop:
        await until(lambda: NODE_IPV4_IPIP_TUNNEL in node.view.nodes.objects[ME].meta.annotations)
        await node.set_mode(EncapMode.NEVER)
        await until(lambda: loop.last is not None and loop.last.receiver.deadline is not None)
        await node.store.delete(NODES, ME)
        await until(lambda: bool(loop.problem))
        looks = 0

        def state() -> None:
            nonlocal looks
            looks += 1

        monkeypatch.setattr(loop, "_state", state)
        await asyncio.sleep(0.6)
        assert looks <= 3
