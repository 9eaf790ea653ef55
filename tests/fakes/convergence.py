"""The convergence of one node, composed as the agent's main does, over a store, a kernel and a speaker of a test."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from calico_py.agent.configuration.config import AgentConfig
from calico_py.agent.learned import Learner
from calico_py.agent.loop import Loop
from calico_py.agent.own_address import OwnAddress
from calico_py.agent.publish import NodePublisher
from calico_py.agent.reactions import Reactions
from calico_py.agent.receiver import wants_ipip
from calico_py.agent.tunnel_address import TunnelAddress
from calico_py.agent.view import ClusterView
from calico_py.dataplane.converge import Dataplane
from calico_py.ipam.allocator import Allocator
from calico_py.model.kernel import Kernel
from calico_py.model.speaker import Speaker
from calico_py.model.store import Store
from tests.fakes.waiting import until


def _unobserved(_compute: float, _apply: float, _undone: bool) -> None:
    """Nobody counts."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What an agent has outside of its own process.

    Attributes:
        patched: where the agent patches its Node, which may fail apart from the rest; usually the store.
    """

    store: Store
    patched: Store
    kernel: Kernel
    speaker: Speaker
    state_dir: Path


@dataclass(frozen=True, slots=True)
class Converging:
    """The parts of a running agent that tests look at."""

    loop: Loop
    view: ClusterView
    tunnel_address: TunnelAddress


@contextlib.asynccontextmanager
async def _running(parts: Iterable[Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Each as a task, until the block ends; what a task died of is raised there."""
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        yield
    finally:
        ended = [task for task in tasks if task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in ended:
            task.result()


@contextlib.asynccontextmanager
async def converging(
    config: AgentConfig,
    around: Surroundings,
    *,
    tunnel_address: bool = True,
    observe: Callable[[float, float, bool], None] = _unobserved,
) -> AsyncIterator[Converging]:
    """One life of the agent; yields once API in-sync was reached and a pass was made.

    Args:
        config: who it is.
        around: with whom it works.
        tunnel_address: False for an IPAM that does not answer.
        observe: see Loop.
    """
    changed = Reactions()
    view = ClusterView(around.store, config.node, changed, lambda: address.refresh())  # noqa: PLW0108 - it comes later
    publisher = NodePublisher(around.patched, config.node, lambda: view.nodes.objects.get(config.node))
    own = OwnAddress(config, around.store, around.kernel, publisher, on_change=changed)
    allocator = Allocator(
        around.store,
        node=config.node,
        labels=view.labels,
        pools=lambda: tuple(view.pools.objects.values()),
        config=view.ipam_configuration,
        now=lambda: datetime.now(UTC),
    )
    address = TunnelAddress(allocator, needed=lambda: wants_ipip(view.pools.objects.values()), on_change=changed)
    learner = Learner(around.speaker, changed)
    dataplane = Dataplane(around.kernel, state_dir=around.state_dir)
    loop = Loop(
        config,
        view=view,
        kernel=around.kernel,
        dataplane=dataplane,
        learner=learner,
        speaker=around.speaker,
        publisher=publisher,
        own=own,
        tunnel_address=address,
    )
    loop.observe = observe
    changed += [loop.mark, publisher.refresh, address.react]

    async def follow() -> None:
        async for event in around.kernel.events():
            if dataplane.on_event(event):
                loop.mark()

    async def keep_address() -> None:
        await view.wait_in_sync()
        address.refresh()
        if tunnel_address:
            await address.run()

    parts = (view.run(), publisher.run(), own.run(), learner.run(), loop.run(), follow(), keep_address())
    async with _running(parts):
        await until(lambda: loop.last is not None, within=60)
        yield Converging(loop, view, address)
