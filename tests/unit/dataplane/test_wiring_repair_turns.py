"""The repair of pods' host routes leaves others their turn, however much the kernel has to say."""

import asyncio
import socket

import pytest

from calico_py.dataplane import rtnl_socket
from calico_py.dataplane.wiring_repair import HostRoutes


class EnoughError(Exception):
    """The flood is over."""


async def test_a_flood_of_events_starves_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = received = 0

    async def receive(_sock: socket.socket) -> bytes:
        nonlocal received
        received += 1
        if received > 1000:
            raise EnoughError
        return b""

    async def other() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    monkeypatch.setattr(rtnl_socket, "receive", receive)
    task = asyncio.create_task(other())
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as host:
        host.bind((0, 0))
        with pytest.raises(EnoughError):
            await HostRoutes(host).keep()
    task.cancel()
    assert turns >= 100
