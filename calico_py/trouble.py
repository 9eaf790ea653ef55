"""Trouble: what goes wrong again and again, told in the log when it begins, once a minute while it lasts, at its end.

Here because every room tries again; knows nothing of any of them.
"""

import logging
import time
from collections.abc import Callable

EVERY = 60.0  # seconds between two lines about the same trouble
_SHOWN = 3


class Trouble:
    """The trouble of one loop, or of several that fail together.

    Args:
        log: where the lines go.
        clock: monotonic time, seconds.
    """

    def __init__(self, log: logging.Logger, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._lasting: dict[str, str] = {}
        self._since = 0.0
        self._said = ""
        self._said_at = float("-inf")
        self._owed = False

    @property
    def lasts(self) -> bool:
        """Somebody has it."""
        return bool(self._lasting)

    def tell(self, what: str, cause: Exception | str = "", *, party: str = "") -> None:
        """It went wrong, once more or for the first time.

        Args:
            what: the object and what could not be done with it.
            cause: why; an error with a ``cure`` says what to do as well.
            party: which of several loops says so.
        """
        now = self._clock()
        first = not self._lasting
        if first:
            self._since = now
        self._lasting[party] = sentence = _sentence(what, cause)
        due = now - self._said_at >= EVERY
        # What comes and goes, the same each time, is one trouble.
        if due or (first and sentence != self._said):
            self._log.warning("%s", sentence if first or not self._owed else self._still(now))
            self._said, self._said_at, self._owed = sentence, now, True

    def over(self, *, party: str = "") -> None:
        """It went well."""
        if self._lasting.pop(party, None) is not None and not self._lasting and self._owed:
            self._log.info("over after %.0f s: %s", self._clock() - self._since, self._said)
            self._owed = False

    def _still(self, now: float) -> str:
        sentences = list(dict.fromkeys(self._lasting.values()))
        more = f" (and {len(sentences) - _SHOWN} more)" if len(sentences) > _SHOWN else ""
        return f"still, for {now - self._since:.0f} s: {' | '.join(sentences[:_SHOWN])}{more}"


def _sentence(what: str, cause: Exception | str) -> str:
    because = str(cause) or type(cause).__name__ if isinstance(cause, Exception) else cause
    cure = getattr(cause, "cure", "")
    return "; ".join(part for part in (f"{what}: {because}" if because else what, cure) if part)
