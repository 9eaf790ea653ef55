"""The stream of changes leaves others their turn, however much the kernel has to say."""

import asyncio
import contextlib

import pytest

from calico_py.dataplane import monitor
from calico_py.model.kernel import KernelEvent, Link


async def test_a_flood_of_events_starves_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    event = KernelEvent(Link, object=Link("eth0"))
    monkeypatch.setattr(monitor, "_read", lambda _sock, _parse: [event])
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    task = asyncio.create_task(other())
    seen = 0
    with contextlib.closing(monitor.Monitor()) as events:
        async for _ in events:
            seen += 1
            if seen == 1000:
                break
    task.cancel()
    assert turns >= 100
