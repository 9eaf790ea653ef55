"""Claims of blocks of different sizes that overlap: the later one gives way.

A pool that is deleted and made anew with another blockSize is seen by nodes at different times. Two that claim in the
same seconds by different sizes want blocks of different names, so that creating the block decides nothing between them.

So a node that has written its pending affinity looks, before it creates the block, at all affinities as they were at
that moment or later. Of two such writes the API has one before the other, and whoever wrote later sees both: a node
gives way to every other affinity that overlaps its own, unless that one was certainly written later, and then the other
node does the same. Where that is not certain both give way, and go on with another block.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping

from calico_py.model.blocks import AffinityState, BlockAffinity
from calico_py.model.kinds import BLOCK_AFFINITIES
from calico_py.model.net import contains
from calico_py.model.store import Store

# A watch tells of a write some milliseconds after it; one that lags for longer is not waited for.
_LOOKS = 25
_LOOK_SECONDS = 0.02

Watched = Callable[[], Mapping[str, BlockAffinity]]


class Rivals:
    """Finds them for one node.

    Args:
        watched: all affinities by name, as a watch shows them; None: the API is asked each time.
    """

    def __init__(self, store: Store, watched: Watched | None = None) -> None:
        self._store = store
        self._watched = watched

    async def find(self, mine: BlockAffinity) -> BlockAffinity | None:
        """The affinity to which this one, as the API has just answered it, gives way; None if there is none.

        Raises:
            StoreError: the API failed.
        """
        return next((other for other in await self._seen_since(mine) if _goes_first(other, mine)), None)

    async def _seen_since(self, mine: BlockAffinity) -> Iterable[BlockAffinity]:
        """All affinities at one moment after this one was written: a watch tells of writes in the API's own order."""
        for _ in range(_LOOKS if self._watched is not None else 0):
            assert self._watched is not None
            found = self._watched()
            if (own := found.get(mine.meta.name)) is not None and not _is_later(mine, own):
                return found.values()
            await asyncio.sleep(_LOOK_SECONDS)
        return (await self._store.list(BLOCK_AFFINITIES)).items


def _goes_first(other: BlockAffinity, mine: BlockAffinity) -> bool:
    if other.deleted or other.cidr.prefixlen == mine.cidr.prefixlen:
        return False  # of two of the same size the block itself decides
    if not (contains(other.cidr, mine.cidr) or contains(mine.cidr, other.cidr)):
        return False
    fresh = other.state is AffinityState.PENDING and other.meta.generation == 1  # nobody wrote it since it was made
    return not (fresh and _is_later(other, mine))


def _is_later(one: BlockAffinity, other: BlockAffinity) -> bool:
    """Whether that version was certainly written after the other; versions of one kind count up (KEP-5504)."""
    versions = one.meta.resource_version, other.meta.resource_version
    return all(version.isdecimal() for version in versions) and int(versions[0]) > int(versions[1])
