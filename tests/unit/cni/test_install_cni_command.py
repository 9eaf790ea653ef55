"""`calico-py install-cni`, as the init container runs it."""

import platform
from pathlib import Path

from click.testing import CliRunner

from calico_py.cli.main import main


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["install-cni", *arguments])
    return done.exit_code, done.output


def test_the_executable_of_this_machine_is_put_in_place_once(tmp_path: Path) -> None:
    for machine in (platform.machine(), "other"):
        (tmp_path / "shims" / machine).mkdir(parents=True)
        (tmp_path / "shims" / machine / "calico-py").write_text(machine)
    arguments = ("--directory", str(tmp_path / "bin"), "--shims", str(tmp_path / "shims"))
    destination = tmp_path / "bin" / "calico-py"
    assert run(*arguments) == (0, f"{destination}: installed\n")
    assert (destination.read_text(), destination.stat().st_mode & 0o777) == (platform.machine(), 0o755)
    assert run(*arguments) == (0, f"{destination}: is there already\n")


def test_another_machine_s_image_says_so(tmp_path: Path) -> None:
    (tmp_path / "shims" / "other").mkdir(parents=True)
    code, said = run("--directory", str(tmp_path), "--shims", str(tmp_path / "shims"))
    assert code == 1
    assert f"has executables for other, this host is {platform.machine()}" in said


def test_a_directory_that_refuses_is_named(tmp_path: Path) -> None:
    (tmp_path / "shims" / platform.machine()).mkdir(parents=True)
    (tmp_path / "shims" / platform.machine() / "calico-py").touch()
    (tmp_path / "file").touch()
    code, said = run("--directory", str(tmp_path / "file" / "bin"), "--shims", str(tmp_path / "shims"))
    assert code == 1
    assert f"{tmp_path / 'file' / 'bin' / 'calico-py'} cannot be written" in said
