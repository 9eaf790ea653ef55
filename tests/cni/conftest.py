"""A node with the real shim, the real server and the real kernel; addresses come from a fake."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from calico_py.cni.deferred import DeferredDels
from calico_py.cni.installer import ensure_shim
from calico_py.cni.server import Server
from calico_py.cni.verbs import Addresses, Plugin, Surroundings
from calico_py.dataplane.wiring import NetlinkPodWiring
from calico_py.model.net import Family
from tests.cni.real_agent import ADDRESS, RealAgent, faulty
from tests.cni.runtime import Runtime
from tests.contract.servers import embedded, kube
from tests.fakes.addresses import FakeAddresses
from tests.netns.namespaces import Namespace, host_namespace


@pytest.fixture(scope="session")
def shim() -> Path:
    return ensure_shim(Path.home() / ".cache" / "calico-py")


@pytest.fixture
def runtime(shim: Path) -> Iterator[Runtime]:
    made = Runtime(shim)
    yield made
    made.close()


@pytest.fixture
def host() -> Iterator[Namespace]:
    with host_namespace() as namespace:
        yield namespace


@pytest.fixture
def new_pod() -> Iterator[Callable[[], Namespace]]:
    made: list[Namespace] = []

    def make() -> Namespace:
        made.append(Namespace())
        return made[-1]

    yield make
    for pod in made:
        pod.close()


@dataclass
class Agent:
    """What stands in for an agent: change its attributes at any time.

    Attributes:
        allocator: used instead of the fake, where it is set.
    """

    runtime: Runtime
    addresses: FakeAddresses = field(default_factory=FakeAddresses)
    allocator: Addresses | None = None
    families: tuple[Family, ...] = (4, 6)
    not_ready: str = ""
    observed: list[tuple[str, int]] = field(default_factory=list)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Agent"]:
        """The server runs within the block."""
        wiring = NetlinkPodWiring()
        plugin = Plugin(
            wiring=wiring,
            addresses=self.allocator or self.addresses,
            surroundings=Surroundings(ready=lambda: self.not_ready, families=lambda: self.families, mtu=lambda: 1450),
            deferred=DeferredDels(self.runtime.deferred),
        )
        server = Server(
            plugin,
            path=self.runtime.socket,
            observe=lambda verb, code, _seconds: self.observed.append((verb, code)),
        )
        tasks = [asyncio.create_task(server.serve()), asyncio.create_task(wiring.run())]
        try:
            await asyncio.sleep(0)
            yield self
            assert not any(task.done() for task in tasks), "the server never ends by itself"
        finally:
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            wiring.close()


@pytest.fixture
def absent_agent(runtime: Runtime, host: Namespace) -> Agent:
    """Not serving yet."""
    del host
    return Agent(runtime)


@pytest.fixture
async def agent(absent_agent: Agent) -> AsyncIterator[Agent]:
    async with absent_agent.serving():
        yield absent_agent


@pytest.fixture
async def real_agent(request: pytest.FixtureRequest, host: Namespace, runtime: Runtime) -> AsyncIterator[RealAgent]:
    """`calico-py node` before an API server whose faults are off; not running yet.

    The server is the embedded one, or a real kube-apiserver where the test's parameter is "kube".
    """
    del host
    folder = Path(tempfile.mkdtemp(prefix=f"cpy{os.getpid()}-api-"))
    try:
        real = getattr(request, "param", "embedded") == "kube"
        with kube(folder, advertise=ADDRESS) if real else embedded(folder) as api:
            async with faulty(api) as proxy:
                yield RealAgent(runtime, proxy)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
