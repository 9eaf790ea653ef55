"""NodePublisher: what this node tells the others, kept true in its Node object by merge patches.

Only the keys that calico-py owns are ever sent; a key without a value is removed.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping

from calico_py.kube.backoff import Backoff
from calico_py.model.kinds import NODES
from calico_py.model.nodes import Node
from calico_py.model.store import Store, StoreError
from calico_py.trouble import Trouble

log = logging.getLogger(__name__)

_PEACE = 60.0  # seconds after which a change by somebody else is a new one
_NO_ACCIDENT = 0.5  # seconds; a wait of that length follows three changes in a row


class NodePublisher:
    """Keeps annotations and labels of one Node as they should be.

    Args:
        observed: the Node as the reflector has it, None where there is none.

    Attributes:
        last_error: why the Node is not as it should be, as a sentence; empty if it is.
    """

    def __init__(self, store: Store, node: str, observed: Callable[[], Node | None]) -> None:
        self.last_error = ""
        self._store = store
        self._node = node
        self._observed = observed
        self._annotations: dict[str, str | None] = {}
        self._labels: dict[str, str | None] = {}
        self._dirty = asyncio.Event()
        self._written: dict[str, dict[str, str | None]] = {}
        self._written_at = 0.0
        self._stood = False
        self._patience = Backoff(cap=_PEACE / 2)
        self._rival = Trouble(log)

    def set(
        self, *, annotations: Mapping[str, str | None] | None = None, labels: Mapping[str, str | None] | None = None
    ) -> None:
        """Values to have, None for a key that must be absent; keys not named stay as last set."""
        self._annotations.update(annotations or {})
        self._labels.update(labels or {})
        if self._difference():
            self._dirty.set()

    def refresh(self) -> None:
        """The observed Node changed: someone may have removed what is ours."""
        difference = self._difference()
        self._stood = self._stood or difference != self._written
        if difference:
            self._dirty.set()

    async def run(self) -> None:
        """Patch whenever something differs, for ever."""
        backoff, trouble = Backoff(), Trouble(log)
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            await self._give_way()
            difference = self._difference()
            if not difference:
                trouble.over()
                continue
            try:
                await self._store.patch(NODES, self._node, {"metadata": difference})
            except StoreError as error:
                what = f"Node {self._node}: its annotations could not be written"
                self.last_error = f"{what}: {error}"
                trouble.tell(what, error)
                await asyncio.sleep(backoff.wait())
                self._dirty.set()
            else:
                self.last_error = ""
                trouble.over()
                backoff.reset()
                self._written, self._written_at = difference, asyncio.get_running_loop().time()
                self._stood = False  # it is observed later than it is written

    async def _give_way(self) -> None:
        """Wait ever longer where what was written, and stood, is missing again: somebody else puts it right too."""
        difference = self._difference()
        if not difference or not self._stood or difference != self._written:
            return
        if asyncio.get_running_loop().time() - self._written_at > _PEACE:
            self._rival.over()
            self._patience.reset()
            return
        wait = self._patience.wait()
        if wait > _NO_ACCIDENT:
            keys = ", ".join(sorted(key for part in difference.values() for key in part))
            what = f"Node {self._node}: somebody else keeps changing {keys}"
            self._rival.tell(what, "see metadata.managedFields of the Node; stop the other program")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                while self._difference() in (difference, {}):  # until there is something else to tell
                    await self._dirty.wait()
                    self._dirty.clear()

    def _difference(self) -> dict[str, dict[str, str | None]]:
        node = self._observed()
        if node is None:
            return {}
        found = {
            "annotations": _missing(self._annotations, node.meta.annotations),
            "labels": _missing(self._labels, node.meta.labels),
        }
        return {key: value for key, value in found.items() if value}


def _missing(desired: Mapping[str, str | None], actual: Mapping[str, str]) -> dict[str, str | None]:
    return {key: value for key, value in desired.items() if actual.get(key) != value}
