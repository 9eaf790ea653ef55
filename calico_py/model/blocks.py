"""IPAM objects of Calico v3: IPAMBlock, BlockAffinity, IPAMHandle, IPAMConfiguration, IPReservation.

Shapes only. What may be done with them is ipam's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from calico_py.model.meta import Meta
from calico_py.model.net import Network


class AffinityState(StrEnum):
    """Phase of a claim: only confirmed blocks are routed and announced."""

    PENDING = "pending"
    CONFIRMED = "confirmed"
    PENDING_DELETION = "pendingDeletion"


@dataclass(frozen=True, slots=True)
class BlockAffinity:
    """A node's claim on a block."""

    meta: Meta
    cidr: Network
    node: str
    state: AffinityState
    type: str = "host"
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class Attribute:
    """Who holds an address of a block.

    Attributes:
        handle_id: key of the IPAMHandle.
        secondary: node, namespace, pod, timestamp as Calico writes them.
        released_at: RFC 3339 time at which the address began to cool down, or empty.
    """

    handle_id: str | None = None
    secondary: Mapping[str, str] = field(default_factory=dict)
    alternate: Mapping[str, str] = field(default_factory=dict)
    released_at: str = ""


@dataclass(frozen=True, slots=True)
class IPAMBlock:
    """A slice of a pool with an entry for each ordinal.

    Attributes:
        affinity: ``host:NODE``, or None.
        allocations: for each ordinal the index of an attribute, or None.
        unallocated: free ordinals, first out first.
        sequence_numbers: for each allocated ordinal the sequence number of its allocation.
    """

    meta: Meta
    cidr: Network
    affinity: str | None
    allocations: tuple[int | None, ...]
    unallocated: tuple[int, ...]
    attributes: tuple[Attribute, ...] = ()
    sequence_number: int = 0
    sequence_numbers: Mapping[int, int] = field(default_factory=dict)
    affinity_claim_time: str = ""
    strict_affinity: bool = False
    deleted: bool = False

    @property
    def node(self) -> str | None:
        """The node whose block this is."""
        if self.affinity and self.affinity.startswith("host:"):
            return self.affinity.removeprefix("host:")
        return None


@dataclass(frozen=True, slots=True)
class IPAMHandle:
    """How many addresses of which block a handle holds."""

    meta: Meta
    handle_id: str
    blocks: Mapping[Network, int] = field(default_factory=dict)
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class IPAMConfiguration:
    """Cluster-wide rules of allocation; object ``default``.

    Attributes:
        max_blocks_per_host: 0 means the implicit limit, 20.
        ip_cooldown_seconds: None where the object does not say: calico-py's own default then.
    """

    meta: Meta
    strict_affinity: bool = False
    auto_allocate_blocks: bool = True
    max_blocks_per_host: int = 0
    ip_cooldown_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class IPReservation:
    """Addresses that are never handed out automatically."""

    meta: Meta
    reserved_cidrs: tuple[Network, ...]
