"""FakePodWiring: the PodWiring of the unit tests, without a kernel."""

import os
import stat
from collections.abc import Callable

from calico_py.model.wiring import HOST_MAC, Attachment, NamespaceError, PodLink, WiredInterface, WiringError

_POD_MAC = "02:00:00:00:00:01"


def _no_fault(_verb: str, _container_id: str) -> None:
    """No fault at all."""


class FakePodWiring:
    """Remembers what was wired; a namespace is told by its descriptor's inode.

    Attributes:
        fault: called with verb and container id before anything happens; may raise.
        damage: what check finds wrong besides.
    """

    def __init__(self) -> None:
        self.links: dict[str, PodLink] = {}
        self.fault: Callable[[str, str], None] = _no_fault
        self.damage: list[str] = []
        self._inside: dict[str, tuple[int, str]] = {}

    async def wire(self, link: PodLink, netns: int) -> tuple[WiredInterface, WiredInterface]:
        self.fault("wire", link.container_id)
        place = (_inode(netns), link.ifname)
        old = self.links.get(link.host_ifname)
        if old is not None and old.container_id == link.container_id:
            raise WiringError(f"device {link.host_ifname}: found it, expected none")
        if old is not None and not link.namespace:
            raise WiringError(f"device {link.host_ifname}: found it with container {old.container_id}")
        if any(taken == place for name, taken in self._inside.items() if name != link.host_ifname):
            raise WiringError(f"device {link.ifname}: found one, expected none")
        if len(set(link.addresses)) < len(link.addresses):
            raise WiringError(f"device {link.ifname}: an address twice")
        self.links[link.host_ifname] = link
        self._inside[link.host_ifname] = place
        return (
            WiredInterface(link.host_ifname, HOST_MAC, link.mtu, in_pod=False),
            WiredInterface(link.ifname, link.mac or _POD_MAC, link.mtu, in_pod=True),
        )

    async def unwire(self, host_ifname: str, container_id: str) -> None:
        self.fault("unwire", container_id)
        link = self.links.get(host_ifname)
        if link is not None and link.container_id == container_id:
            del self.links[host_ifname], self._inside[host_ifname]

    async def check(self, link: PodLink, netns: int) -> list[str]:
        self.fault("check", link.container_id)
        actual = self.links.get(link.host_ifname)
        if actual is None or self._inside[link.host_ifname] != (_inode(netns), link.ifname):
            return ["found no device", *self.damage]
        found = list(self.damage)
        if actual.container_id != link.container_id:
            found.append(f"found container {actual.container_id}")
        found += [f"found no address {address}" for address in link.addresses if address not in actual.addresses]
        if link.mtu not in (0, actual.mtu):
            found.append(f"mtu: found {actual.mtu}, expected {link.mtu}")
        return found

    async def list_containers(self) -> dict[str, Attachment]:
        return {link.container_id: Attachment(name, link.ifname, link.network) for name, link in self.links.items()}


def _inode(netns: int) -> int:
    status = os.fstat(netns)
    if not stat.S_ISREG(status.st_mode):  # a namespace's file is a regular one of nsfs
        raise NamespaceError("network namespace: found something else")
    return status.st_ino
