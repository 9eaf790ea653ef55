"""docs/configuration.md is what the table of settings says."""

from pathlib import Path

from calico_py.agent.configuration.docs import render
from calico_py.agent.configuration.settings import SETTINGS

PAGE = Path(__file__).parents[3] / "docs" / "configuration.md"


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == render(), "run: make docs"


def test_every_setting_is_on_it() -> None:
    assert all(f"| `{setting.name}` |" in render() for setting in SETTINGS)


def test_every_row_has_four_cells() -> None:
    rows = [line for line in render().splitlines() if line.startswith("| `") and line.count(" | ") > 1]
    assert len(rows) == len(SETTINGS)
    assert all(row.count(" | ") == 3 for row in rows)
