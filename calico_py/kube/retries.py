"""Second tries: a request that only reads and failed is made again at once, as long as the server mostly answers.

One failure among answers is a connection that was cut, or one server of several that ends. What needs an answer of each
kind, as an agent's start does, would otherwise wait for the longest of all backoffs. A server that is away, or fails
again and again, gets no second tries: they are paid from a budget that its answers alone fill.
"""

import random
from dataclasses import dataclass, field

from calico_py.kube.backoff import Backoff

_TRIES = 2  # beyond the first
_FIRST, _LONGEST = 0.05, 0.2  # seconds between two tries
_BUDGET = 10.0  # second tries that a server gets before its first answer, or after its last

# What a server says that may be over in a moment (RFC 9110 15.6, RFC 6585 4). Not 504: that has taken its time already.
_PASSING = frozenset({429, 500, 502, 503})

# Seconds. The API server asks for one second when it has too much to do (flow control); who asks for more than so many
# is left to the caller's backoff.
_ASKED, _MOST_ASKED = 1.0, 2.0


@dataclass(slots=True)
class Budget:
    """The second tries of all requests to one server."""

    _left: float = field(default=_BUDGET, init=False)

    def earn(self) -> None:
        """The server has answered."""
        self._left = min(_BUDGET, self._left + 1)

    def spend(self) -> bool:
        """Whether there may be one more."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Tries:
    """Those of one request.

    Args:
        method: HTTP's; only GET is tried again.
    """

    def __init__(self, budget: Budget, method: str) -> None:
        self._budget = budget
        self._left = _TRIES if method == "GET" else 0
        self._backoff = Backoff(_FIRST, cap=_LONGEST)

    def after_failure(self) -> float | None:
        """Seconds to wait before the next try where no answer came; None if there is none."""
        return self._wait(self._backoff.wait())

    def after_answer(self, status: int, retry_after: str) -> float | None:
        """The same where one came: None is also for an answer to be content with.

        Args:
            status: HTTP's.
            retry_after: the header of that name (RFC 9110 10.2.3); empty where there is none.
        """
        if status not in _PASSING:
            if status < 500:
                self._budget.earn()
            return None
        if status != 429 and not retry_after:
            return self._wait(self._backoff.wait())
        asked = _ASKED if not retry_after else int(retry_after) if retry_after.isdecimal() else _MOST_ASKED + 1
        # Not all at once, those who were asked at once.
        return self._wait(asked * random.uniform(1.0, 1.5)) if asked <= _MOST_ASKED else None  # noqa: S311 - spreads load

    def _wait(self, seconds: float) -> float | None:
        if not self._left or not self._budget.spend():
            return None
        self._left -= 1
        return seconds
