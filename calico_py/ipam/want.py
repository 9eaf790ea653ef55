"""A request for addresses of one family while it is being served."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from calico_py.ipam.requests import Assigned, ExhaustedError
from calico_py.model.blocks import Attribute, IPAMConfiguration
from calico_py.model.net import Family
from calico_py.model.pools import IPPool


@dataclass(slots=True)
class Want:
    """A request for addresses of one family, and what it has so far.

    Attributes:
        pools: that may serve it, in order.
        since: number of the moment at which it came, for sharing what is looked for after that.
        refused: why other pools of the family may not serve it, by name.
        reasons: why a step could not help, in the words that Calico has for it, and what to do.
    """

    family: Family
    count: int
    owner: Attribute
    pools: Sequence[IPPool]
    config: IPAMConfiguration
    since: int
    refused: Mapping[str, str] = field(default_factory=dict)
    got: list[Assigned] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    @property
    def missing(self) -> int:
        """How many addresses are still to be found."""
        return self.count - len(self.got)

    def exhausted(self, node: str) -> ExhaustedError:
        """The error that says what was tried, and why each thing had nothing."""
        return ExhaustedError(
            node=node,
            family=self.family,
            pools=[f"{pool.name} ({pool.cidr})" for pool in self.pools],
            reasons=[*self.reasons, *(f"IPPool {name} was not tried: {why}" for name, why in self.refused.items())],
        )


@dataclass(frozen=True, slots=True)
class Failure:
    """What a request could not get, which others of the same pools and rules need not try for.

    Attributes:
        seen: number of the moment to which what it looked at belongs, at least.
        reasons: as those of the request.
    """

    pools: Sequence[IPPool]
    config: IPAMConfiguration
    seen: int
    reasons: tuple[str, ...]

    @classmethod
    def of(cls, want: Want, seen: int) -> "Failure":
        """The request has just failed."""
        return cls(want.pools, want.config, seen, tuple(want.reasons))

    def concerns(self, want: Want) -> bool:
        """Whether the other asked for the same."""
        return (self.pools, self.config) == (want.pools, want.config)

    def answers(self, want: Want) -> bool:
        """Whether it is the other's as well: what was looked at is no older than that request."""
        return self.seen >= want.since and self.concerns(want)
