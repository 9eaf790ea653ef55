"""When a benchmark's figure is missed, and the page of all."""

import json
from pathlib import Path

import pytest

from tests.figures import Figure, Figures, render


@pytest.mark.parametrize(
    ("figure", "missed"),
    [
        (Figure("told", 5.0, "ms"), False),
        (Figure("limit", 5.0, "ms", at_most=5.0), False),
        (Figure("limit", 5.1, "ms", at_most=5.0), True),
        (Figure("ratio", 4.0, "ms", beside="other", other=10.0, ratio_at_most=0.4), False),
        (Figure("ratio", 4.1, "ms", beside="other", other=10.0, ratio_at_most=0.4), True),
        (Figure("both", 3.5, "ms", at_most=3.0, beside="other", other=10.0, ratio_at_most=0.4), True),
    ],
)
def test_missed(figure: Figure, missed: bool) -> None:
    assert figure.missed is missed
    assert ("missed" in figure.cells()[2]) is missed


def test_a_later_run_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "build" / "figures.json"
    for value in (9.0, 2.0):
        found = Figures("Title", "tests/bench_x.py", [Figure("one", value, "ms"), Figure("two", 1.0, "")])
        found.keep(path)
    kept = json.loads(path.read_text())["Title"]
    assert [(each["name"], each["measured"]) for each in kept["figures"]] == [("one", 2.0), ("two", 1.0)]
    page = render([Figures("Title", kept["source"], [Figure(**each) for each in kept["figures"]])], "a machine")
    assert "`make bench ARGS=tests/bench_x.py`" in page
    assert "| one |  | 2 ms |  |  |" in page
