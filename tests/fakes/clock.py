"""An event loop whose time passes at once when nothing is left to do: hours of timers in seconds, the same each run."""

import asyncio
import selectors

TICK = 1e-6  # seconds that one turn takes; a clock that stood still would let code spin that waits for a moment to pass


class _Jumping(selectors.DefaultSelector):
    """Never waits: the time that it was to wait has passed."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Like a selector's; without a timeout it waits in earnest, for only another thread can have something."""
        if timeout is None:
            return super().select()
        ready = super().select(0)
        self.now += TICK if ready else max(TICK, timeout)
        return ready


class JumpingLoop(asyncio.SelectorEventLoop):
    """See the module. Its time begins at 0."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Seconds."""
        return self._jumping.now
