"""TunnelAddress: the address of this node's tunl0, had from IPAM while a pool tunnels, and kept afterwards.

Connections of this host may still use it as their source when the pool has gone back to Never: it is released only
when its pool is gone, or by cleanup.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address

from calico_py.ipam.allocator import Allocator
from calico_py.ipam.blocks import held_by
from calico_py.ipam.requests import IPAMError, Tunnel
from calico_py.kube.backoff import Backoff
from calico_py.model.blocks import IPAMBlock
from calico_py.model.net import Address, contains
from calico_py.model.store import StoreError
from calico_py.trouble import Trouble
from calico_py.waiting import came

log = logging.getLogger(__name__)


class TunnelAddress:
    """Keeps ``address`` current.

    Args:
        needed: whether a pool of the cluster tunnels.
        on_change: called when the address changed; must not block.

    Attributes:
        address: None while there is none.
        known: IPAM has answered at least once since the start.
        problem: why there is none although it is needed, as a sentence.
    """

    def __init__(self, allocator: Allocator, *, needed: Callable[[], bool], on_change: Callable[[], None]) -> None:
        self.address: IPv4Address | None = None
        self.known = False
        self.problem = ""
        self._allocator = allocator
        self._needed = needed
        self._on_change = on_change
        self._trouble = Trouble(log)
        self._look = asyncio.Event()
        self._was_needed = False

    def refresh(self) -> None:
        """Pools changed: look again."""
        self._look.set()

    def react(self) -> None:
        """Something changed, such as the Node, which may have gone or come back: look again where that matters."""
        if self._needed() != self._was_needed:
            self._look.set()

    def observe(self, blocks: Iterable[IPAMBlock]) -> None:
        """Blocks changed: look again where the address is this node's no more, before a pod gets it as well."""
        if self.address is None:
            return
        handle = Tunnel.IPIP.handle(self._allocator.node)
        for block in blocks:
            if contains(block.cidr, self.address) and self.address not in {a.address for a in held_by(block, handle)}:
                self._allocator.observe(block)
                self._look.set()

    async def run(self) -> None:
        """Have an address whenever one is needed, for ever."""
        backoff = Backoff()
        while True:
            await self._look.wait()
            self._look.clear()
            needed = self._was_needed = self._needed()
            try:
                found = await self._find(needed=needed)
            except (IPAMError, StoreError) as error:
                self._tell(error)
                await asyncio.sleep(backoff.wait())
                self._look.set()
                continue
            missing = found is None and needed
            self._tell("no pool with ipipMode selects this node" if missing else "")
            address = IPv4Address(int(found)) if found is not None else None
            if address != self.address or not self.known:
                log.info("address of tunl0: %s", address or ("none yet" if needed else "none, and none is needed"))
                self.address, self.known = address, True
                self._on_change()
            if missing:  # of a changed label of the Node nobody tells
                await self._until_told(backoff.wait())
            else:
                backoff.reset()

    async def _until_told(self, seconds: float) -> None:
        """Look again at the next change, or after so many seconds."""
        await came(self._look, within=seconds)
        self._look.set()

    async def _find(self, *, needed: bool) -> Address | None:
        if needed:
            return await self._allocator.ensure_tunnel_address(Tunnel.IPIP)
        held = await self._allocator.lookup(Tunnel.IPIP.handle(self._allocator.node))
        return held[0].address if held else None

    def _tell(self, cause: Exception | str) -> None:
        what = "tunl0 has no address" if self.address is None else f"tunl0 keeps {self.address} for now"
        self.problem = f"{what}: {cause}" if cause else ""
        if cause:
            self._trouble.tell(what, cause)
        else:
            self._trouble.over()
