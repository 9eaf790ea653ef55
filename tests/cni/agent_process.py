"""A server in a process of its own, to be killed: ``agent_process.py FOLDER [POINT]`` dies by SIGKILL at that point."""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from calico_py.cni.deferred import DeferredDels
from calico_py.cni.server import Server
from calico_py.cni.verbs import Plugin, Surroundings
from calico_py.dataplane.wiring import NetlinkPodWiring
from calico_py.ipam.requests import Assigned, AssignRequest
from calico_py.model.wiring import PodLink, WiredInterface
from tests.fakes.addresses import FakeAddresses

API_SECONDS = 0.02
POINTS = ("before assign", "after assign", "after wire", "after unwire", "after release")


def reach(point: str) -> None:
    """Die here if this is the point."""
    if sys.argv[2:] == [point]:
        os.kill(os.getpid(), signal.SIGKILL)


class Addresses(FakeAddresses):
    """With points of death."""

    async def assign(self, request: AssignRequest) -> Sequence[Assigned]:
        reach("before assign")
        await asyncio.sleep(API_SECONDS)
        assigned = await super().assign(request)
        reach("after assign")
        return assigned

    async def release_handle(self, handle_id: str) -> int:
        await asyncio.sleep(API_SECONDS)
        count = await super().release_handle(handle_id)
        reach("after release")
        return count


class Wiring(NetlinkPodWiring):
    """With points of death."""

    async def wire(self, link: PodLink, netns: int) -> tuple[WiredInterface, WiredInterface]:
        wired = await super().wire(link, netns)
        reach("after wire")
        return wired

    async def unwire(self, host_ifname: str, container_id: str) -> None:
        await super().unwire(host_ifname, container_id)
        reach("after unwire")


async def main(folder: Path) -> None:
    wiring = Wiring()
    plugin = Plugin(
        wiring=wiring,
        addresses=Addresses(folder / "addresses.json"),
        surroundings=Surroundings(ready=lambda: "", families=lambda: (4,), mtu=lambda: 1450),
        deferred=DeferredDels(folder / "state" / "del"),
    )
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(Server(plugin, path=folder / "run" / "cni.sock").serve())
        tasks.create_task(wiring.run())


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
