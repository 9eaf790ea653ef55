"""What the log says of trouble: its beginning, then little, and its end."""

import logging

import pytest

from calico_py.model.store import ForbiddenError, UnauthenticatedError, UnavailableError
from calico_py.trouble import EVERY, Trouble


class Told:
    """Trouble with a clock that the test moves, and the lines that it logged."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.now = 1000.0
        self._caplog = caplog
        caplog.set_level(logging.INFO)
        self.trouble = Trouble(logging.getLogger("loop"), clock=lambda: self.now)

    def lines(self) -> list[str]:
        found = [record.getMessage() for record in self._caplog.records]
        self._caplog.clear()
        return found


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Told:
    return Told(caplog)


def test_a_line_at_the_beginning_one_a_minute_and_one_at_the_end(told: Told) -> None:
    told.trouble.tell("Node a cannot be read", UnavailableError("connection refused"))
    assert told.lines() == [f"Node a cannot be read: connection refused; {UnavailableError.cure}"]
    for _ in range(200):
        told.now += 1
        told.trouble.tell("Node a cannot be read", "no answer")
    lines = told.lines()
    assert [line.partition(":")[0] for line in lines] == [f"still, for {n * EVERY:.0f} s" for n in (1, 2, 3)]
    assert "no answer" in lines[0]
    told.trouble.over()
    assert told.lines() == ["over after 200 s: Node a cannot be read: no answer"]
    told.trouble.over()
    assert told.lines() == []


def test_what_comes_and_goes_is_told_once_a_minute(told: Told) -> None:
    for _ in range(100):
        told.trouble.tell("no event posted")
        told.trouble.over()
        told.now += 1
    assert [line for line in told.lines() if line == "no event posted"] == ["no event posted"] * 2


def test_another_trouble_after_the_end_of_one_is_told_at_once(told: Told) -> None:
    told.trouble.tell("a")
    told.trouble.over()
    told.trouble.tell("b")
    assert told.lines() == ["a", "over after 0 s: a", "b"]


def test_loops_that_fail_together_are_told_of_together(told: Told) -> None:
    for party in "abcde":
        told.trouble.tell(f"{party} fails", party=party)
    assert told.lines() == ["a fails"]
    told.now += EVERY
    told.trouble.tell("b fails", party="b")
    assert told.lines() == [f"still, for {EVERY:.0f} s: a fails | b fails | c fails (and 2 more)"]
    for party in "abcd":
        told.trouble.over(party=party)
    assert told.lines() == []
    assert told.trouble.lasts
    told.trouble.over(party="e")
    assert told.lines() == ["over after 60 s: b fails"]
    assert not told.trouble.lasts


@pytest.mark.parametrize("error", [UnauthenticatedError("401"), ForbiddenError("403")])
def test_an_api_that_refuses_is_told_with_a_cure(told: Told, error: ForbiddenError | UnauthenticatedError) -> None:
    told.trouble.tell("Node a cannot be written", error)
    (line,) = told.lines()
    assert "deleted" in line
    assert "stop" in line
