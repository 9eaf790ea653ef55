"""Absence: since when this node has had no Node object."""

from collections.abc import Callable
from datetime import UTC, datetime


class Absence:
    """Once a Node is deleted no other node has a route to its addresses, which cool down from then on.

    ``react`` is among the reactions to whatever is watched.

    Args:
        has_node: whether there is one, as far as is known.
        known: whether that is known at all.
    """

    def __init__(self, has_node: Callable[[], bool], known: Callable[[], bool]) -> None:
        self.since: datetime | None = None
        self._has_node = has_node
        self._known = known

    def react(self) -> None:
        """Something changed."""
        if not self._known() or self._has_node():
            self.since = None
        elif self.since is None:
            self.since = datetime.now(UTC)
