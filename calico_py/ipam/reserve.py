"""How many addresses a node keeps warm, and which. Pure.

The level doubles whenever the reserve ran dry or half of it was used within a second, and halves after each quiet
minute. It never exceeds a quarter of the addresses of the node's blocks: what is warm here, no other node can borrow.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from calico_py.ipam.requests import Assigned
from calico_py.model.net import Address

SECOND = timedelta(seconds=1)
QUIET = timedelta(seconds=60)
GROWTH = 16  # the level under load is at most so many times that without
SHARE = 4  # of so many addresses of the node's blocks one may be warm


@dataclass(slots=True)
class Level:
    """How many addresses of one family should be warm.

    Attributes:
        base: without load; at most this times GROWTH with.
        wanted: now.
    """

    base: int
    wanted: int = 0
    _looked: datetime | None = None
    _used: int = 0
    _dry: bool = False
    _changed: datetime | None = None

    def use(self, *, dry: bool = False) -> None:
        """One was taken, or none was left."""
        self._used += 1
        self._dry |= dry

    def look(self, now: datetime) -> int:
        """The number from now on."""
        before = self.wanted = max(self.wanted, self.base)
        if self._looked is not None and now - self._looked < SECOND and not self._dry:
            return before
        self._looked = now
        if self._dry or (self._used * 2 > before and self._used > 1):
            self.wanted = min(before * 2, self.base * GROWTH)
            self._changed = now
        elif self._used and self._used * 4 > before:
            self._changed = now
        elif self._changed is not None and now - self._changed >= QUIET:
            self.wanted = max(self.base, before // 2)
            self._changed = now if self.wanted > self.base else None
        self._used, self._dry = 0, False
        return self.wanted

    def most(self, own: int) -> int:
        """How many may be warm where the node's blocks have ``own`` addresses."""
        return min(self.wanted, own // SHARE)


@dataclass(slots=True)
class Reserve:
    """The warm addresses at hand, first in first out, and those that rest because a pod had them."""

    _at_hand: dict[Address, Assigned] = field(default_factory=dict)
    _resting: dict[Address, tuple[datetime, Assigned]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Assigned]:
        """All of them, resting ones too."""
        yield from self._at_hand.values()
        yield from (assigned for _, assigned in self._resting.values())

    def __len__(self) -> int:
        return len(self._at_hand) + len(self._resting)

    def __contains__(self, address: Address) -> bool:
        return address in self._at_hand or address in self._resting

    @property
    def resting(self) -> frozenset[Address]:
        """Those that must not be given yet."""
        return frozenset(self._resting)

    def put(self, some: Iterable[Assigned]) -> None:
        """Add, at the end."""
        for assigned in some:
            self._at_hand[assigned.address] = assigned

    def rest(self, some: Iterable[Assigned], until: datetime) -> None:
        """Add what must not be given before then."""
        for assigned in some:
            self._resting[assigned.address] = (until, assigned)

    def wake(self, now: datetime) -> None:
        """Those that have rested are at hand again."""
        for until, assigned in list(self._resting.values()):
            if until <= now:
                del self._resting[assigned.address]
                self._at_hand[assigned.address] = assigned

    def take(self, fits: Callable[[Assigned], bool]) -> Assigned | None:
        """The one that has waited for longest of those that fit."""
        found = next((assigned for assigned in self._at_hand.values() if fits(assigned)), None)
        if found is not None:
            del self._at_hand[found.address]
        return found

    def remove(self, address: Address) -> Assigned | None:
        """Take that one out, at hand or resting."""
        if address in self._at_hand:
            return self._at_hand.pop(address)
        return self._resting.pop(address)[1] if address in self._resting else None
