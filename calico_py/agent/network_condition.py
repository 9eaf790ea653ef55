"""The condition NetworkUnavailable of this node: whether pods may be placed here, and the reason.

The scheduler places no pod on a node whose condition is True (taint node.kubernetes.io/network-unavailable). So it is
True from the host's boot until this node can serve pods and send to the others, and False from then on: an agent that
ends or restarts leaves a network that works. The reasons are our own; Calico's are CalicoIsUp and CalicoIsDown.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from calico_py.kube.backoff import Backoff
from calico_py.model.codec import decode_meta
from calico_py.model.kinds import NODES
from calico_py.model.meta import Meta
from calico_py.model.store import ConflictError, Json, Kind, NotFoundError, Store, StoreError
from calico_py.trouble import Trouble

log = logging.getLogger(__name__)

CONDITION = "NetworkUnavailable"
UP = "CalicoPyIsUp"
STARTING = "CalicoPyIsStarting"
_POLL = 0.5  # seconds
_MANY = 5  # conflicts that are no accident
_STEADY = 10.0  # seconds for which another cause must last before it is written


@dataclass(frozen=True, slots=True)
class NodeConditions:
    """The conditions of a Node, those of others included."""

    meta: Meta
    conditions: tuple[Mapping[str, Any], ...] = ()


def _decode(obj: Json) -> NodeConditions:
    return NodeConditions(decode_meta(obj), tuple((obj.get("status") or {}).get("conditions") or ()))


NODE_CONDITIONS: Kind[NodeConditions] = NODES.seen_as(_decode)


class NetworkCondition:
    """Writes the condition.

    Args:
        not_ready: why the node cannot serve pods yet, each a sentence; none if it can.
        marker: a file that is gone after a boot, made when the node has become ready.
        now: RFC 3339.
    """

    def __init__(
        self,
        store: Store,
        node: str,
        *,
        not_ready: Callable[[], Sequence[str]],
        marker: Path,
        now: Callable[[], str] = lambda: datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    ) -> None:
        self._store = store
        self._node = node
        self._not_ready = not_ready
        self._marker = marker
        self._now = now

    async def run(self) -> None:
        """Until the node is ready; then there is nothing more to tell."""
        written = ""
        if not self._marker.exists() and (causes := self._not_ready()):
            written = causes[0]
            await self._write("True", STARTING, written)
        await self._until_ready(written)
        await self._write("False", UP, "calico-py serves the pods of this node")
        try:
            self._marker.parent.mkdir(parents=True, exist_ok=True)
            self._marker.touch()
        except OSError as error:
            log.warning(
                "%s cannot be written (%s): the next start of the agent will take itself for the first since the boot; "
                "free or mend its disk",
                self._marker,
                error.strerror,
            )

    async def _until_ready(self, written: str) -> None:
        """Return when the node is ready; until then the condition, where there is one, names the cause that lasts."""
        clock = asyncio.get_running_loop().time
        lasting, since = written, clock()
        while causes := self._not_ready():
            if causes[0] != lasting:
                lasting, since = causes[0], clock()
                log.debug("not ready yet: %s", lasting)
            elif written and lasting != written and clock() - since >= _STEADY:
                written = lasting
                await self._write("True", STARTING, written)
            await asyncio.sleep(_POLL)

    async def _write(self, status: str, reason: str, message: str) -> None:
        backoff, trouble, conflicts = Backoff(), Trouble(log), 0
        while True:
            try:
                await self._write_once(status, reason, message)
            except NotFoundError:
                log.debug("Node %s is not there yet", self._node)
            except StoreError as error:
                conflicts += isinstance(error, ConflictError)
                if isinstance(error, ConflictError) and conflicts < _MANY:
                    continue  # a Node that begins is written by many
                trouble.tell(f"Node {self._node}: the condition {CONDITION} was not written", error)
            else:
                trouble.over()
                return
            await asyncio.sleep(backoff.wait())

    async def _write_once(self, status: str, reason: str, message: str) -> None:
        """Merge patches replace lists: the whole list is written, on condition that nobody wrote meanwhile."""
        node = await self._store.get(NODE_CONDITIONS, self._node)
        before = next((each for each in node.conditions if each.get("type") == CONDITION), {})
        if tuple(before.get(key) for key in ("status", "reason", "message")) == (status, reason, message):
            return
        now = self._now()
        since = before["lastTransitionTime"] if before.get("status") == status else now
        ours = {"type": CONDITION, "status": status, "reason": reason, "message": message}
        ours |= {"lastHeartbeatTime": now, "lastTransitionTime": since}
        others = [each for each in node.conditions if each.get("type") != CONDITION]
        patch = {"metadata": {"resourceVersion": node.meta.resource_version}, "status": {"conditions": [*others, ours]}}
        await self._store.patch(NODE_CONDITIONS, self._node, patch, subresource="status")
        log.info("condition %s is %s: %s", CONDITION, status, message)
