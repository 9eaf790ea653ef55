"""FakeAddresses: as much of the allocator as the CNI verbs see, in memory or in a file that outlives the process."""

import json
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path

from calico_py.ipam.requests import (
    AddressTakenError,
    Assigned,
    AssignRequest,
    ExhaustedError,
    Release,
    Released,
)
from calico_py.model.net import Family, Network

NETWORKS: dict[Family, Network] = {4: ip_network("10.65.0.0/26"), 6: ip_network("fd65::/122")}


async def _no_fault(_verb: str) -> None:
    """No fault at all."""


class FakeAddresses:
    """Hands out the lowest free address of one block of each family.

    Args:
        file: where the allocations are kept.

    Attributes:
        fault: awaited with the name of each method before anything happens; may raise or wait.
        requests: all that was asked for.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._held: dict[str, str] = json.loads(file.read_text()) if file is not None and file.exists() else {}
        self.fault: Callable[[str], Awaitable[None]] = _no_fault
        self.requests: list[AssignRequest] = []

    @property
    def held(self) -> dict[str, str]:
        """Handle by address."""
        return dict(self._held)

    async def assign(self, request: AssignRequest) -> Sequence[Assigned]:
        await self.fault("assign")
        self.requests.append(request)
        if taken := [str(address) for address in request.requested if str(address) in self._held]:
            raise AddressTakenError(f"{taken} are taken")
        chosen = [str(address) for address in request.requested] or [self._free(of) for of in request.families]
        self._held |= dict.fromkeys(chosen, request.handle_id)
        self._save()
        return [Assigned(ip_address(text), NETWORKS[4 if "." in text else 6], 1, request.handle_id) for text in chosen]

    async def release(self, releases: Sequence[Release]) -> Released:
        await self.fault("release")
        for release in releases:
            if self._held.get(str(release.address)) == release.handle_id:
                del self._held[str(release.address)]
        self._save()
        return Released(tuple(release.address for release in releases))

    async def lookup(self, handle_id: str) -> Sequence[Assigned]:
        await self.fault("lookup")
        return [
            Assigned(ip_address(text), NETWORKS[4 if "." in text else 6], 1, handle_id)
            for text, handle in self._held.items()
            if handle == handle_id
        ]

    async def release_handle(self, handle_id: str) -> int:
        await self.fault("release_handle")
        mine = [address for address, handle in self._held.items() if handle == handle_id]
        for address in mine:
            del self._held[address]
        self._save()
        return len(mine)

    def _free(self, of: Family) -> str:
        for address in NETWORKS[of]:
            if str(address) not in self._held:
                return str(address)
        raise ExhaustedError(node="node1", family=of, pools=["pool"], reasons=["full"])

    def _save(self) -> None:
        if self._file is not None:
            temporary = self._file.with_suffix(".new")
            temporary.write_text(json.dumps(self._held))
            temporary.rename(self._file)
