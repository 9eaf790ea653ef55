"""Since when a node has no Node object."""

from datetime import UTC, datetime

from calico_py.agent.absence import Absence


def test_the_time_is_that_of_the_deletion_until_the_node_is_back() -> None:
    there, known = [False], [False]
    absence = Absence(lambda: there[0], lambda: known[0])
    absence.react()
    assert absence.since is None, "nothing is known yet"
    known[0], there[0] = True, True
    absence.react()
    assert absence.since is None
    there[0], before = False, datetime.now(UTC)
    absence.react()
    since = absence.since
    assert since is not None
    assert before <= since <= datetime.now(UTC)
    absence.react()
    assert absence.since == since
    there[0] = True
    absence.react()
    assert absence.since is None
