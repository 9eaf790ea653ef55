"""DeltaTracker: what should be, what is, and hence what is left to do. Pure, and ignorant of what it tracks.

            desired                      actual
      ┌────────────────────┬────────────────────┬──────────────────┐
      │  only desired      │  both              │  only actual     │
      │                    │  equal  │ differ   │                  │
      │  put               │   -     │ put      │  delete          │
      └────────────────────┴────────────────────┴──────────────────┘

Actual is what was read, seen in an event, or confirmed by a write; a key that cannot be trusted any more is forgotten,
and counts as absent: writing it once too often is harmless, missing it is not.
"""

from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class DeltaTracker(Generic[K, V]):
    """Keeps puts and deletes up to date as desired and actual change; a key costs the same however many there are."""

    def __init__(self) -> None:
        self._desired: dict[K, V] = {}
        self._actual: dict[K, V] = {}
        self._puts: dict[K, V] = {}
        self._deletes: dict[K, V] = {}

    @property
    def desired(self) -> Mapping[K, V]:
        """What should be."""
        return self._desired

    @property
    def actual(self) -> Mapping[K, V]:
        """What is, as far as is known."""
        return self._actual

    @property
    def puts(self) -> Mapping[K, V]:
        """Desired values that are missing or differ."""
        return self._puts

    @property
    def deletes(self) -> Mapping[K, V]:
        """Actual values that nothing desires."""
        return self._deletes

    def set_desired(self, desired: Mapping[K, V]) -> None:
        """Replace all that should be."""
        self._desired = dict(desired)
        self._compare()

    def set_actual(self, actual: Mapping[K, V]) -> None:
        """Replace all that is, after it was read."""
        self._actual = dict(actual)
        self._compare()

    def seen(self, key: K, value: V) -> None:
        """The key has this value now."""
        self._actual[key] = value
        self._compare_key(key)

    def gone(self, key: K) -> None:
        """The key has no value now, or its value is not known any more."""
        self._actual.pop(key, None)
        self._compare_key(key)

    def _compare(self) -> None:
        desired, actual = self._desired, self._actual
        self._puts = {key: value for key, value in desired.items() if key not in actual or actual[key] != value}
        self._deletes = {key: value for key, value in actual.items() if key not in desired}

    def _compare_key(self, key: K) -> None:
        self._puts.pop(key, None)
        self._deletes.pop(key, None)
        if key in self._desired:
            if key not in self._actual or self._actual[key] != self._desired[key]:
                self._puts[key] = self._desired[key]
        elif key in self._actual:
            self._deletes[key] = self._actual[key]
