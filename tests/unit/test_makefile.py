"""What make does before anything of the project is installed."""

import os
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).parents[2]


def test_a_virtual_environment_that_make_has_not_finished_is_made_anew(tmp_path: Path) -> None:
    """Of another Python, or without its packages, it would break everything later."""
    assert "--clear .venv" in commands(tmp_path)
    (tmp_path / ".venv").mkdir()
    assert "--clear .venv" in commands(tmp_path)
    done = tmp_path / ".venv" / ".run"
    done.touch()
    os.utime(done, (0, 0))  # older than what it was made from
    assert "-m venv  .venv" in commands(tmp_path)


def commands(folder: Path) -> str:
    """What make would run for the environment of a checkout."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(HERE / name, folder)
    (folder / "setup.cfg").touch()
    return subprocess.run(
        ["make", "--dry-run", ".venv/.run"], cwd=folder, capture_output=True, text=True, check=True
    ).stdout
