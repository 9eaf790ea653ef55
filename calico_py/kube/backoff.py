"""Waits between attempts: exponential, jittered, capped."""

import random
from dataclasses import dataclass, field


@dataclass(slots=True)
class Backoff:
    """Doubles from ``first`` up to ``cap`` seconds; each wait is spread over the upper half of its length.

    The jitter keeps the agents of a cluster from coming back all at once when the API server does.
    """

    first: float = 0.2
    cap: float = 8.0
    _next: float = field(default=0.0, init=False)

    def wait(self) -> float:
        """Seconds to wait before the next attempt."""
        self._next = min(self.cap, self._next * 2 or self.first)
        return self._next * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, no secret

    def reset(self) -> None:
        """An attempt has succeeded."""
        self._next = 0.0
