"""The seam to a pod's namespace: PodWiring, which dataplane implements and agent hands to cni."""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from types import MappingProxyType
from typing import Protocol

from calico_py.model.names import CNI_NETWORK
from calico_py.model.net import Address, Family, Interface

HOST_MAC = "ee:ee:ee:ee:ee:ee"
"""Of the host's end of every pod's device, as Calico's."""

POD_IFNAME = "eth0"
"""What container runtimes call a pod's interface."""

GATEWAYS: Mapping[Family, Address] = MappingProxyType(
    {4: IPv4Address("169.254.1.1"), 6: IPv6Address("fe80::ecee:eeff:feee:eeee")}
)
"""What a pod's default routes point to; the second is HOST_MAC's link-local address (RFC 4291, appendix A)."""


@dataclass(frozen=True, slots=True)
class PodLink:
    """A pod's interface as it should be.

    Attributes:
        namespace: empty without Kubernetes; then nobody tells which containers replace each other.
        ifname: inside the pod; host_ifname: the other end (``cali...``).
        addresses: with host prefixes (/32, /128).
        mtu: bytes. mac: of the pod's end, empty for a random one.
        container_id: written on the host's end (ifalias), by which a restarted agent knows what lives.
        network: name of the CNI network that the interface attaches to.
    """

    namespace: str
    pod: str
    container_id: str
    ifname: str
    host_ifname: str
    addresses: tuple[Interface, ...]
    mtu: int
    mac: str = ""
    network: str = CNI_NETWORK


@dataclass(frozen=True, slots=True)
class Attachment:
    """A container's interface as its device tells of it.

    Attributes:
        host_ifname, ifname, network: as PodLink's.
    """

    host_ifname: str
    ifname: str = POD_IFNAME
    network: str = CNI_NETWORK


@dataclass(frozen=True, slots=True)
class WiredInterface:
    """An interface as it came to be: an entry of a CNI result's ``interfaces``."""

    name: str
    mac: str
    mtu: int
    in_pod: bool


class WiringError(Exception):
    """A pod's interface could not be made or is not as it should be; the message says what and what to do."""


class NamespaceError(WiringError):
    """What was given as the pod's network namespace is none, or is the node's own."""


class PodWiring(Protocol):
    """Makes, removes and checks the interface of a pod. A wire that fails has undone what it made."""

    async def wire(self, link: PodLink, netns: int) -> tuple[WiredInterface, WiredInterface]:
        """Make it. ``netns`` is a file descriptor of the pod's namespace; host's end first in the result.

        Raises:
            NamespaceError: there is no such namespace of a pod.
            WiringError: the interface exists, or the kernel refused.
        """
        ...

    async def unwire(self, host_ifname: str, container_id: str) -> None:
        """Remove it if it is that container's; gone already is success. The name is free again on return."""
        ...

    async def check(self, link: PodLink, netns: int) -> list[str]:
        """What differs from what wire made; empty if all is well."""
        ...

    async def list_containers(self) -> dict[str, Attachment]:
        """Container ids of the pods whose devices exist, with their attachments."""
        ...
