"""Reactions: what is done at a change, by parts that know nothing of each other."""

from collections.abc import Callable


class Reactions(list[Callable[[], None]]):
    """To be called at the change; each that joins may join later, and must not block."""

    def __call__(self) -> None:
        """All of them, in the order in which they joined."""
        for react in self:
            react()
