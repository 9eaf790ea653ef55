"""What the rooms of IPAM must know of the node that they serve and of the cluster, asked anew each time."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from calico_py.ipam.rules import cooldown_of
from calico_py.model.blocks import IPAMConfiguration
from calico_py.model.net import Network
from calico_py.model.pools import IPPool


@dataclass(frozen=True, slots=True)
class Facts:
    """Of one node; see Allocator."""

    node: str
    labels: Callable[[], Mapping[str, str]]
    pools: Callable[[], Sequence[IPPool]]
    config: Callable[[], IPAMConfiguration]
    now: Callable[[], datetime]
    reserved: Callable[[], Collection[Network]]
    taken: Callable[[], Collection[Network]]
    gone_since: Callable[[], datetime | None]

    @property
    def cooldown(self) -> timedelta:
        """How long an address rests between two owners."""
        return cooldown_of(self.config())
