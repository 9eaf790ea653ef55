"""Announcer: makes an Event and a line in the log of each problem that appears, once while it lasts."""

import logging
from collections.abc import Callable, Iterable

from calico_py.kube.events import Recorder
from calico_py.model.intent import Problem
from calico_py.model.store import ObjectRef

log = logging.getLogger(__name__)


class Announcer:
    """Tells the problems of one source.

    Args:
        uid: uid of the object that a problem is about, empty where it is unknown; ``kubectl describe`` goes by it.
    """

    def __init__(self, recorder: Recorder, uid: Callable[[Problem], str]) -> None:
        self._recorder = recorder
        self._uid = uid
        self._told: frozenset[Problem] = frozenset()

    def tell(self, problems: Iterable[Problem]) -> None:
        """All problems of the source as they are now; those that were there before are not told again."""
        now = frozenset(problems)
        for problem in sorted(now - self._told, key=lambda problem: (problem.kind, problem.name, problem.message)):
            log.warning("%s", problem.message)
            about = ObjectRef(problem.kind, problem.name, uid=self._uid(problem))
            self._recorder.post(about, problem.reason, problem.message)
        for problem in self._told - now:
            log.info("no longer: %s", problem.message)
        self._told = now
