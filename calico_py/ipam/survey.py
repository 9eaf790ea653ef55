"""Looks at all blocks of the cluster: shared by all requests that came before, and rare where they are in vain.

On a pool that is full each ADD ends with such a look, and a cluster's blocks are up to 50 MB of JSON. So a search that
found nothing anywhere is not repeated for a second (or as long as it took, up to ten): requests that come meanwhile
wait for the next, and have its answer together. What becomes free in the node's own blocks ends their waiting.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from calico_py.ipam.want import Failure, Want
from calico_py.model.blocks import IPAMBlock
from calico_py.model.kinds import IPAM_BLOCKS
from calico_py.model.net import Network
from calico_py.model.store import Store
from calico_py.waiting import came

REST = 1.0  # seconds
_LONGEST = 10.0  # seconds; an ADD that waits for longer is of no use to its runtime


@dataclass(frozen=True, slots=True)
class _Vain:
    """A search that found nothing anywhere.

    Attributes:
        until: time of the event loop, seconds, before which none like it is begun.
        taken: what was claimed then.
    """

    failure: Failure
    until: float
    taken: frozenset[Network]


@dataclass(frozen=True, slots=True)
class Survey:
    """All blocks of the cluster at one moment; ``number``: which moment."""

    blocks: Mapping[Network, IPAMBlock]
    number: int


_NOTHING = Survey({}, 0)


class Surveys:
    """Those of one node. Moments are numbered by the requests that come.

    Args:
        taken: CIDRs that nodes have claimed, as a watch shows them; where that changes a look may be worth it.
        rest: how long a search in vain stands: so many seconds, or times as long as it took where that was longer.

    Attributes:
        moment: the number of this one.
    """

    def __init__(self, store: Store, *, taken: Callable[[], Collection[Network]], rest: float = REST) -> None:
        self.moment = 0
        self._store = store
        self._taken = taken
        self._rest = rest
        self._last = _NOTHING
        self._vain: dict[tuple[str, ...], _Vain] = {}
        self._news = asyncio.Event()

    def arrive(self) -> int:
        """The number of this moment, at which a request comes."""
        self.moment += 1
        return self.moment

    async def look(self, want: Want) -> Survey:
        """All blocks at a moment after the request came.

        Raises:
            StoreError: the API failed.
        """
        if self._last.number < want.since:
            number = self.moment
            listing = await self._store.list(IPAM_BLOCKS)
            self._last = Survey({block.cidr: block for block in listing.items if not block.deleted}, number)
        return self._last

    def forget(self) -> None:
        """The next request looks anew: there may be more by now than was seen, or nobody needs it any more."""
        self._last = _NOTHING

    def found_nothing(self, want: Want, seen: int, began: float) -> None:
        """The request has been everywhere.

        Args:
            want: the request, with its reasons.
            seen: number of the moment to which what it looked at belongs, at least.
            began: time of the event loop at which the search began, seconds.
        """
        now = asyncio.get_running_loop().time()
        until = now + self._rest * min(_LONGEST, max(1.0, now - began))
        self._vain = {names: vain for names, vain in self._vain.items() if vain.until > now}
        self._vain[_names(want)] = _Vain(Failure.of(want, seen), until, frozenset(self._taken()))
        self.forget()

    def answer(self, want: Want) -> Failure | None:
        """That of a search in vain which began after this request had come."""
        vain = self._vain.get(_names(want))
        return vain.failure if vain is not None and vain.failure.answers(want) else None

    def in_vain(self, want: Want) -> bool:
        """Whether there was nothing for such a request a moment before it came: it waits with its own search."""
        vain = self._vain.get(_names(want))
        if vain is None or vain.failure.answers(want) or not vain.failure.concerns(want):
            return False
        return asyncio.get_running_loop().time() < vain.until and vain.taken == frozenset(self._taken())

    async def pause(self, want: Want) -> None:
        """Wait until a search may be worth it, or something has become free in the node's own blocks."""
        vain = self._vain[_names(want)]
        await came(self._news, within=vain.until - asyncio.get_running_loop().time())

    def blocks_changed(self) -> None:
        """An address of the node's own blocks may have become free."""
        self._news.set()
        self._news = asyncio.Event()


def _names(want: Want) -> tuple[str, ...]:
    return tuple(pool.name for pool in want.pools)
