"""`calico-py speaker` where it cannot begin: a sentence, no traceback."""

from pathlib import Path

from click.testing import CliRunner

from calico_py.cli.speaker import command


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = CliRunner().invoke(command, ["--run-dir", str(tmp_path / "file" / "run")])
    assert done.exit_code == 1
    assert done.stderr == (
        f"calico-py speaker: {tmp_path}/file/run: Not a directory; free or mend its disk, it starts again\n"
    )
