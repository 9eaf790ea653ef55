"""The shim is built by either compiler, and both files are installed whole."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from calico_py.cni import installer
from calico_py.cni.installer import InstallError
from tests.cni.elf import needs_interpreter


@pytest.fixture(scope="session")
def cache() -> Path:
    return Path.home() / ".cache" / "calico-py"


def test_the_shim_is_static_and_small(cache: Path) -> None:
    shim = installer.ensure_shim(cache)
    assert not needs_interpreter(shim)
    assert needs_interpreter(Path("/bin/sh").resolve()), "else this test would not notice"
    assert shim.stat().st_size < 1 << 20


def test_a_built_shim_is_not_built_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shim = installer.ensure_shim(cache)
    monkeypatch.setattr(installer, "_compilers", list)
    assert installer.ensure_shim(cache) == shim


def test_no_compiler_is_said_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installer, "_compilers", lambda _target: [])
    with pytest.raises(InstallError, match="install gcc"):
        installer.build_shim(tmp_path / "shim")


def test_a_compiler_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installer, "_compilers", lambda _target: [["sh", "-c", "echo no space left >&2; exit 1", "cc"]])
    with pytest.raises(InstallError, match="no space left"):
        installer.build_shim(tmp_path / "shim")
    assert list(tmp_path.iterdir()) == []


def test_the_shim_is_installed_once(tmp_path: Path) -> None:
    built = tmp_path / "built"
    built.write_bytes(b"one")
    assert installer.install_shim(built, tmp_path / "bin")
    assert not installer.install_shim(built, tmp_path / "bin")
    built.write_bytes(b"two")
    assert installer.install_shim(built, tmp_path / "bin")
    (installed,) = (tmp_path / "bin").iterdir()
    assert (installed.name, installed.read_bytes(), installed.stat().st_mode & 0o777) == ("calico-py", b"two", 0o755)


def test_a_shim_in_use_is_replaced(tmp_path: Path) -> None:
    """Writing over an executable that runs fails with ETXTBSY; a rename does not."""
    sleep = shutil.which("sleep")
    assert sleep
    installer.install_shim(Path(sleep), tmp_path)
    with subprocess.Popen([str(tmp_path / "calico-py"), "10"]) as process:
        other = tmp_path / "other"
        other.write_bytes(b"new")
        assert installer.install_shim(other, tmp_path)
        process.kill()


def test_the_configuration_is_for_root_and_written_once(tmp_path: Path) -> None:
    assert installer.install_conflist(tmp_path / "net.d", bin_directory=tmp_path)
    assert not installer.install_conflist(tmp_path / "net.d", bin_directory=tmp_path)
    (file,) = (tmp_path / "net.d").iterdir()
    assert (file.name, file.stat().st_mode & 0o777) == ("10-calico-py.conflist", 0o600)
    document = json.loads(file.read_text())
    assert document["name"] == "k8s-pod-network"
    assert document["cniVersion"] == "1.0.0", "what containerd 1.6 takes"
    assert document["cniVersions"] == ["1.0.0", "1.1.0"]
    assert document["plugins"] == [{"type": "calico-py"}]


@pytest.mark.parametrize("found", [["portmap"], ["bandwidth"], ["portmap", "bandwidth"]])
def test_the_reference_plugins_are_chained_where_they_are_installed(tmp_path: Path, found: list[str]) -> None:
    for plugin in found:
        (tmp_path / plugin).touch()
    installer.install_conflist(tmp_path / "net.d", bin_directory=tmp_path)
    document = json.loads((tmp_path / "net.d" / installer.CONFLIST).read_text())
    assert "cniVersions" not in document
    assert [plugin["type"] for plugin in document["plugins"]] == ["calico-py", *found]
    capabilities = {"portmap": {"portMappings": True}, "bandwidth": {"bandwidth": True}}
    assert [plugin["capabilities"] for plugin in document["plugins"][1:]] == [capabilities[name] for name in found]


def test_uninstall_removes_both_and_succeeds_twice(tmp_path: Path) -> None:
    built = tmp_path / "built"
    built.write_bytes(b"one")
    installer.install_shim(built, tmp_path / "bin")
    installer.install_conflist(tmp_path / "net.d", bin_directory=tmp_path / "bin")
    for _ in range(2):
        installer.uninstall(tmp_path / "net.d", bin_directory=tmp_path / "bin")
    assert list((tmp_path / "bin").iterdir()) == []
    assert list((tmp_path / "net.d").iterdir()) == []
