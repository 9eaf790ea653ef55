"""What the leader must know of every block in the cluster. Pure."""

from dataclasses import dataclass

from calico_py.ipam.blocks import allocations, borrowed
from calico_py.ipam.garbage import is_infrastructure
from calico_py.model.kinds import IPAM_BLOCKS
from calico_py.model.meta import Meta
from calico_py.model.names import LABEL_BORROWED
from calico_py.model.net import Network
from calico_py.model.store import Json, Kind


@dataclass(frozen=True, slots=True)
class Mark:
    """A block as far as the leader watches it: five thousand whole blocks would cost it 50 MiB.

    Attributes:
        borrowed: another node than its own has an address of it.
        in_use: a pod, or whatever else is not calico-py's own, has one.
    """

    meta: Meta
    cidr: Network
    borrowed: bool
    in_use: bool

    @property
    def true(self) -> bool:
        """The label says what the block holds."""
        return (self.meta.labels.get(LABEL_BORROWED) == "true") == self.borrowed


def _decode(obj: Json) -> Mark:
    block = IPAM_BLOCKS.decode(obj)
    in_use = any(not a.cooling and not is_infrastructure(a) for a in allocations(block))
    return Mark(block.meta, block.cidr, bool(borrowed(block)) and not block.deleted, in_use and not block.deleted)


MARKS: Kind[Mark] = IPAM_BLOCKS.seen_as(_decode)
