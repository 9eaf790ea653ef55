"""Which pools count, and in which one a prefix lies."""

from collections.abc import Iterable
from dataclasses import dataclass

from calico_py.model.intent import Problem
from calico_py.model.net import Network, contains
from calico_py.model.pools import IPPool


@dataclass(frozen=True, slots=True)
class Pools:
    """The pools that may be used, none overlapping another, and what is wrong with the rest."""

    usable: tuple[IPPool, ...]
    problems: tuple[Problem, ...]

    def find(self, prefix: Network) -> IPPool | None:
        """The pool in which the prefix lies."""
        return next((pool for pool in self.usable if contains(pool.cidr, prefix)), None)


def select_pools(pools: Iterable[IPPool]) -> Pools:
    """The older of two overlapping pools counts, the younger is left unused with a Problem.

    Age is the creation timestamp, then the name: every node comes to the same answer.
    """
    usable: list[IPPool] = []
    problems: list[Problem] = []
    for pool in sorted(pools, key=lambda p: (p.meta.creation_timestamp, p.name)):
        rival = next((other for other in usable if other.cidr.overlaps(pool.cidr)), None)
        if rival is None:
            usable.append(pool)
            continue
        problems.append(
            Problem(
                "IPPool",
                pool.name,
                "CIDROverlap",
                f"IPPool {pool.name}: spec.cidr {pool.cidr} overlaps with IPPool {rival.name} CIDR {rival.cidr}, "
                f"which is older: {pool.name} is not used; delete it or give it a network of its own",
            )
        )
    return Pools(tuple(usable), tuple(problems))
