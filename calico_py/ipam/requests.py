"""What callers ask of IPAM, what they get, and why they may not: requests, results, errors. Shapes only."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from calico_py.model import names
from calico_py.model.net import Address, Family, Network
from calico_py.model.pools import AllowedUse, EncapMode, IPPool


@dataclass(frozen=True, slots=True)
class AssignRequest:
    """Addresses for one owner: all of them are assigned, or none.

    Attributes:
        handle_id: the owner, by which the addresses are found and released again.
        secondary: what Calico notes beside it: namespace and pod, or the type; node and timestamp are added.
        families: one address for each entry; a family may come several times.
        requested: exactly these addresses instead; families then has no effect.
        pools: names or CIDRs of pools, used in this order and whatever their selectors say. A family without a pool
            among them takes from the pools that select the node.
        pool_families: of which family a pool of these must be, by name or CIDR, where that was said.
        namespace_labels: labels of the pod's namespace, for pools with a namespaceSelector; None if they are unknown.
    """

    handle_id: str
    secondary: Mapping[str, str] = field(default_factory=dict)
    families: tuple[Family, ...] = (4,)
    requested: tuple[Address, ...] = ()
    pools: tuple[str, ...] = ()
    use: AllowedUse = AllowedUse.WORKLOAD
    namespace_labels: Mapping[str, str] | None = None
    pool_families: Mapping[str, Family] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Assigned:
    """An address that is the requester's.

    Attributes:
        block: CIDR of the block in which it lies; pool: name of the pool, empty if no pool contains it any more.
        sequence: to be given back at the release.
    """

    address: Address
    block: Network
    sequence: int
    handle_id: str
    pool: str = ""


@dataclass(frozen=True, slots=True)
class Release:
    """An address to be released, if it still is what the caller saw.

    Attributes:
        handle_id: not released where another handle holds it by now; empty does not ask.
        sequence: not released where it was allocated anew since; None does not ask.
        block: CIDR of the block in which it lies; None where the caller does not know.
    """

    address: Address
    handle_id: str = ""
    sequence: int | None = None
    block: Network | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Released:
    """The outcome of a release.

    Attributes:
        released: free now, or cooling down.
        unallocated: nobody held them: not an error.
        refused: why they stay as they are: held by another handle, or allocated anew since.
    """

    released: tuple[Address, ...] = ()
    unallocated: tuple[Address, ...] = ()
    refused: Mapping[Address, str] = field(default_factory=dict)


class Tunnel(StrEnum):
    """A tunnel device of a node that has an address of its own from IPAM."""

    IPIP = "ipipTunnelAddress"  # the values are Calico's of the attribute ``type``
    VXLAN = "vxlanTunnelAddress"
    VXLAN_V6 = "vxlanV6TunnelAddress"

    @property
    def family(self) -> Family:
        """Of the address; IPIP carries IPv4 alone."""
        return 6 if self is Tunnel.VXLAN_V6 else 4

    def handle(self, node: str) -> str:
        """The handle of that node's device."""
        if self is Tunnel.IPIP:
            return names.ipip_tunnel_handle(node)
        return names.vxlan_tunnel_handle(node, self.family)

    def served_by(self, pool: IPPool) -> bool:
        """Whether the pool's traffic goes through this tunnel."""
        mode = pool.ipip_mode if self is Tunnel.IPIP else pool.vxlan_mode
        return mode != EncapMode.NEVER and pool.cidr.version == self.family


class IPAMError(Exception):
    """A request for addresses could not be met; nothing was assigned."""


class PoolError(IPAMError):
    """No pool may serve the request: none is left, or one that was asked for does not exist or is disabled."""


class ExhaustedError(IPAMError):
    """The pools may serve the request, but have no address for it; the message says why each has none."""

    def __init__(self, *, node: str, family: Family, pools: Sequence[str], reasons: Collection[str]) -> None:
        where = ", ".join(pools)
        super().__init__(
            f"no IPv{family} address for node {node} in pools {where}: {'; '.join(dict.fromkeys(reasons))}"
        )
        self.reasons = tuple(dict.fromkeys(reasons))


class AddressTakenError(IPAMError):
    """An address that was asked for by name is somebody's already."""


class ContendedError(IPAMError):
    """A write met a conflict on every one of its tries."""


class UnreadableError(IPAMError):
    """A block in the API is none that calico-py can read; the message names the field. Nobody may write it."""
