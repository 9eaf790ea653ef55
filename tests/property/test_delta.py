"""DeltaTracker against the definition of what is left to do."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from calico_py.dataplane.delta import DeltaTracker

KEYS = st.sampled_from("abcde")
VALUES = st.sampled_from([None, 0, 1, 2])
STATES = st.dictionaries(KEYS, VALUES)
Step = tuple[str, object, object]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set_desired"), STATES, st.none()),
        st.tuples(st.just("set_actual"), STATES, st.none()),
        st.tuples(st.just("seen"), KEYS, VALUES),
        st.tuples(st.just("gone"), KEYS, st.none()),
    ),
    max_size=12,
)


@given(STEPS)
def test_puts_and_deletes_are_the_difference(steps: list[Step]) -> None:
    tracker: DeltaTracker[str, int | None] = DeltaTracker()
    desired: dict[str, int | None] = {}
    actual: dict[str, int | None] = {}
    for verb, first, second in steps:
        call: Callable[..., None] = getattr(tracker, verb)
        if verb == "seen":
            assert isinstance(first, str)
            assert second is None or isinstance(second, int)
            call(first, second)
            actual[first] = second
        elif verb == "gone":
            assert isinstance(first, str)
            call(first)
            actual.pop(first, None)
        else:
            assert isinstance(first, dict)
            call(first)
            desired, actual = (dict(first), actual) if verb == "set_desired" else (desired, dict(first))
        assert tracker.desired == desired
        assert tracker.actual == actual
        assert tracker.puts == {k: v for k, v in desired.items() if k not in actual or actual[k] != v}
        assert tracker.deletes == {k: v for k, v in actual.items() if k not in desired}


@given(STATES, STATES)
def test_doing_what_is_left_leaves_nothing(desired: dict[str, int | None], actual: dict[str, int | None]) -> None:
    tracker: DeltaTracker[str, int | None] = DeltaTracker()
    tracker.set_desired(desired)
    tracker.set_actual(actual)
    for key, value in dict(tracker.puts).items():
        tracker.seen(key, value)
    for key in list(tracker.deletes):
        tracker.gone(key)
    assert tracker.actual == tracker.desired == desired
    assert not tracker.puts
    assert not tracker.deletes


def test_the_callers_mapping_is_not_kept() -> None:
    tracker: DeltaTracker[str, int] = DeltaTracker()
    desired = {"a": 1}
    tracker.set_desired(desired)
    desired["a"] = 2
    assert tracker.puts == {"a": 1}
