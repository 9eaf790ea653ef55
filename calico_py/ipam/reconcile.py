"""Which addresses of a node belong to no living container: the rule by which a restarted agent cleans up. Pure.

What is not certainly a dead container's stays: an allocation of another node, one without a pod's attributes, one of an
owner that the node's agent does not know, and one whose address the node still routes to a device.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from calico_py.ipam.blocks import Allocation, allocations
from calico_py.ipam.requests import Release, Released
from calico_py.model.blocks import IPAMBlock
from calico_py.model.names import CNI_NETWORK, workload_handle
from calico_py.model.net import Address

_POD_ATTRIBUTES = frozenset({"node", "namespace", "pod", "timestamp"})


@dataclass(frozen=True, slots=True)
class Living:
    """What lives on a node.

    Attributes:
        containers: ids of the containers whose devices exist.
        handles: that are somebody's without a device, such as an ADD that has not answered yet.
        addresses: that the node routes to a device; for pods of a Calico that was here before, whose devices name no
            container.
    """

    containers: Collection[str]
    handles: Collection[str] = ()
    addresses: Collection[Address] = ()


@dataclass(frozen=True, slots=True)
class ReconcileReport:
    """What a reconciliation found.

    Attributes:
        released: addresses of dead containers; kept: how many addresses of this node are in use.
    """

    released: Released = field(default_factory=Released)
    kept: int = 0


def leaked_addresses(
    blocks: Iterable[IPAMBlock], living: Living, *, node: str, network: str = CNI_NETWORK
) -> list[Release]:
    """The addresses that this node's dead containers hold, each with the handle and sequence number that were seen."""
    handles = {workload_handle(container, network) for container in living.containers} | set(living.handles)
    return [
        Release(a.address, a.handle, a.sequence, block.cidr)
        for block in blocks
        for a in allocations(block)
        if is_workload(a, network) and a.node == node and a.handle not in handles and a.address not in living.addresses
    ]


def is_workload(allocation: Allocation, network: str = CNI_NETWORK) -> bool:
    """Whether an allocation is certainly one that a CNI ADD made for a pod's container."""
    secondary = allocation.attribute.secondary
    return (
        not allocation.cooling
        and allocation.handle.startswith(f"{network}.")
        and {"node", "pod", "namespace"} <= secondary.keys() <= _POD_ATTRIBUTES
    )
