"""The seam to a pod's namespace: PodWiring, which dataplane implements and agent hands to cni."""

from dataclasses import dataclass
from typing import Protocol

from calico_py.model.net import Interface


@dataclass(frozen=True, slots=True)
class PodLink:
    """A pod's interface as it should be.

    Attributes:
        ifname: inside the pod; host_ifname: the other end (``cali...``).
        addresses: with host prefixes (/32, /128).
        mtu: bytes. mac: of the pod's end, empty for a random one.
        container_id: written on the host's end (ifalias), by which a restarted agent knows what lives.
    """

    namespace: str
    pod: str
    container_id: str
    ifname: str
    host_ifname: str
    addresses: tuple[Interface, ...]
    mtu: int
    mac: str = ""


@dataclass(frozen=True, slots=True)
class WiredInterface:
    """An interface as it came to be: an entry of a CNI result's ``interfaces``."""

    name: str
    mac: str
    mtu: int
    in_pod: bool


class WiringError(Exception):
    """A pod's interface could not be made or is not as it should be; the message says what and what to do."""


class PodWiring(Protocol):
    """Makes, removes and checks the interface of a pod. A wire that fails has undone what it made."""

    async def wire(self, link: PodLink, netns: int) -> tuple[WiredInterface, WiredInterface]:
        """Make it. ``netns`` is a file descriptor of the pod's namespace; host's end first in the result.

        Raises:
            WiringError: the interface exists, the namespace is gone, or the kernel refused.
        """
        ...

    async def unwire(self, host_ifname: str, container_id: str) -> None:
        """Remove it if it is that container's; gone already is success. The name is free again on return."""
        ...

    async def check(self, link: PodLink, netns: int) -> list[str]:
        """What differs from what wire made; empty if all is well."""
        ...

    async def list_containers(self) -> dict[str, str]:
        """Container ids of the pods whose devices exist, with the names of the devices."""
        ...
