"""Node: what a node tells the others about itself, read from its annotations and labels alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface

from calico_py.model.meta import Meta
from calico_py.model.net import Address, Family, Interface


@dataclass(frozen=True, slots=True)
class Sending:
    """By which encapsulation a node sends to other nodes' blocks of a pool.

    Attributes:
        mode: ``IPIP``, ``VXLAN`` or ``None``.
        since: RFC 3339 time of the last change.
    """

    mode: str
    since: str


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the cluster.

    Attributes:
        ipv4: address with the prefix of its subnet; None until its agent has written it: no routes to it yet.
        ipip_tunnel: set while the node's IPIP receiver is up.
        sending: by pool name; None where the node does not say (real Calico).
        invalid: annotations that say nothing usable and count as absent, each with what was expected, as a sentence.
    """

    meta: Meta
    ipv4: IPv4Interface | None = None
    ipv6: IPv6Interface | None = None
    ipip_tunnel: IPv4Address | None = None
    vxlan_tunnels: Mapping[Family, Address] = field(default_factory=dict)
    vxlan_macs: Mapping[Family, str] = field(default_factory=dict)
    as_number: int | None = None
    rr_cluster_id: str = ""
    sending: Mapping[str, Sending] | None = None
    invalid: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of the node."""
        return self.meta.name

    def address(self, family: Family) -> Interface | None:
        """The node's address of that family, with its subnet's prefix."""
        return self.ipv4 if family == 4 else self.ipv6
