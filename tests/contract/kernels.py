"""The kernels on which the contract suite runs: the fake, and this machine's, in a namespace of its own."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from calico_py.dataplane.netlink import LinuxKernel
from calico_py.model.kernel import Addr, Kernel, KernelError, KernelEvent, KernelObject, Link, Put, Route
from calico_py.model.net import Interface
from tests.fakes.kernel import FakeKernel
from tests.netns.namespaces import Namespace

QUIET = 0.3  # seconds without an event after which none is expected


@dataclass(frozen=True, slots=True)
class World:
    """A kernel and what a test may do to it that the Kernel protocol has no words for.

    Attributes:
        add_device: makes an Ethernet device with carrier, down; gives its ifindex.
    """

    kernel: Kernel
    add_device: Callable[[str], int]

    async def put(self, obj: KernelObject) -> KernelError | None:
        """Put one object."""
        (answer,) = await self.kernel.send([Put(obj)])
        return answer

    async def must(self, *objects: KernelObject) -> None:
        """Put objects, none of which may be refused."""
        assert [error for error in await self.kernel.send([Put(obj) for obj in objects]) if error] == []

    async def uplink(self, interface: Interface, name: str = "eth0") -> int:
        """An Ethernet device that is up and has an address."""
        ifindex = self.add_device(name)
        await self.must(Link(name, ifindex, up=True), Addr(ifindex, interface))
        return ifindex

    async def tunnel(self, name: str = "tun7") -> int:
        """A TUN device that is up; its ifindex."""
        await self.must(Link(name, kind="tun", up=True))
        return (await self.link(name)).ifindex

    async def link(self, name: str) -> Link:
        """The device of that name."""
        (found,) = [link for link in await self.kernel.dump(Link) if link.name == name]
        return found

    async def routes(self, *protocols: int) -> set[Route]:
        """Routes of these protocols."""
        return {route for route in await self.kernel.dump(Route) if route.protocol in protocols}


@asynccontextmanager
async def fake_world(*, ipip: bool = False) -> AsyncIterator[World]:
    """The fake."""
    kernel = FakeKernel(ipip=ipip)
    yield World(kernel, kernel.add_device)


@asynccontextmanager
async def linux_world() -> AsyncIterator[World]:
    """This machine's kernel; the calling thread is inside the namespace meanwhile."""
    namespace = Namespace()

    def add_device(name: str) -> int:
        namespace.run("ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}-peer")
        namespace.run("ip", "link", "set", f"{name}-peer", "up")
        ifindex = namespace.ip("link", "show", name)[0]["ifindex"]
        assert isinstance(ifindex, int)
        return ifindex

    try:
        # With no address anywhere the kernel has no local table, and without that no gateway is a unicast address.
        namespace.run("ip", "link", "set", "lo", "up")
        with namespace.entered():
            async with LinuxKernel() as kernel:
                yield World(kernel, add_device)
    finally:
        namespace.close()


async def read_events(events: AsyncIterator[KernelEvent], kind: type[KernelObject]) -> list[KernelEvent]:
    """Events of a kind up to now: until none has come for a while."""
    found: list[KernelEvent] = []
    while True:
        try:
            event = await asyncio.wait_for(anext(events), QUIET)
        except TimeoutError:
            return found
        if event.kind is kind:
            found.append(event)
