"""IPPool: a range of pod addresses and the way by which they travel between nodes (Calico v3)."""

from dataclasses import dataclass
from enum import StrEnum

from calico_py.model.meta import Meta
from calico_py.model.net import Network


class EncapMode(StrEnum):
    """When packets between nodes are encapsulated."""

    NEVER = "Never"
    ALWAYS = "Always"
    CROSS_SUBNET = "CrossSubnet"


class AllowedUse(StrEnum):
    """What a pool's addresses may be given to."""

    WORKLOAD = "Workload"
    TUNNEL = "Tunnel"
    LOAD_BALANCER = "LoadBalancer"


@dataclass(frozen=True, slots=True)
class IPPool:
    """A pool as its object says; defaults are Calico's.

    Attributes:
        block_size: prefix length of the blocks, in bits.
        disabled: no new allocations; routes stay.
    """

    meta: Meta
    cidr: Network
    block_size: int = 26
    ipip_mode: EncapMode = EncapMode.NEVER
    vxlan_mode: EncapMode = EncapMode.NEVER
    nat_outgoing: bool = False
    disabled: bool = False
    disable_bgp_export: bool = False
    node_selector: str = "all()"
    namespace_selector: str = ""
    allowed_uses: tuple[AllowedUse, ...] = (AllowedUse.WORKLOAD, AllowedUse.TUNNEL)
    assignment_mode: str = "Automatic"

    @property
    def name(self) -> str:
        """Name of the object."""
        return self.meta.name

    @property
    def tunnels(self) -> bool:
        """Whether any of its traffic may be encapsulated."""
        return self.ipip_mode != EncapMode.NEVER or self.vxlan_mode != EncapMode.NEVER
