"""A node with warm addresses for the tests of IPAM: journal, allocator and crash points at every step of either."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from calico_py.ipam.allocator import Allocator
from calico_py.ipam.journal import Journal, JournalFile
from calico_py.ipam.reconcile import Living
from calico_py.ipam.warm import WarmAddresses
from calico_py.model.net import Address, Family
from calico_py.model.store import Store
from tests.fakes.ipam import IPAMCluster

Step = Callable[[str], None]
"""Called with the name of a step of the journal right before and right after it; may raise."""


def no_step(_name: str) -> None:
    """No fault at all."""


class SteppedFile(JournalFile):
    """The real file, with a hook around each step; a step "torn append" comes when half of a line is written."""

    def __init__(self, path: Path, step: Step = no_step) -> None:
        super().__init__(path)
        self.step = step
        self.synced = b""

    def __del__(self) -> None:
        """Nobody has it any more: its agent was killed, and the kernel closes what a process leaves."""
        self.close()

    def append(self, data: bytes) -> None:
        self.step("before append")
        super().append(data)
        self.step("after append")

    def _write(self, descriptor: int, data: bytes) -> int:
        if descriptor == self._descriptor:
            try:
                self.step("torn append")
            except BaseException:
                super()._write(descriptor, data[: len(data) // 2])
                raise
        return super()._write(descriptor, data)

    def sync(self) -> None:
        self.step("before sync")
        super().sync()
        self.synced = self.read()
        self.step("after sync")

    def replace(self, data: bytes) -> None:
        self.step("before replace")
        super().replace(data)
        self.step("after replace")


@dataclass
class WarmNode:
    """One agent's addresses, from its start to its death.

    Attributes:
        living: containers that have a device, with their addresses.
    """

    cluster: IPAMCluster
    folder: Path
    name: str = "node1"
    base: int = 8
    families: tuple[Family, ...] = (4,)
    wait_for_disk: bool = False
    living: dict[str, set[Address]] = field(default_factory=dict)
    has_node: Callable[[], bool] = lambda: True

    def make(self, store: Store | None = None, step: Step = no_step) -> tuple[WarmAddresses, Allocator]:
        """As after a start of the agent; `begin` is still to be called."""
        allocator = self.cluster.node(self.name, store)
        file = SteppedFile(self.folder / f"journal-{self.name}", step)
        warm = WarmAddresses(
            allocator,
            Journal(file, wait_for_disk=self.wait_for_disk),
            base=self.base,
            families=lambda: self.families,
            now=self.cluster.tick,
            has_node=self.has_node,
            routed=self._routed,
        )
        return warm, allocator

    async def _routed(self) -> Collection[Address]:
        return self.now_living().addresses

    def now_living(self) -> Living:
        """What the agent finds on its node."""
        routed = {address for held in self.living.values() for address in held}
        return Living(containers=tuple(self.living), addresses=routed)

    async def begin(self, store: Store | None = None, step: Step = no_step) -> tuple[WarmAddresses, Allocator]:
        """Started, and its stock at its level."""
        warm, allocator = self.make(store, step)
        await warm.start(self.now_living())
        await allocator.reconcile(self.now_living())
        await warm.catch_up()
        return warm, allocator
