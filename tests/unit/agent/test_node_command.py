"""`calico-py node`: flags, the file, and what cannot be used, before anything is touched."""

import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result

from calico_py.agent.configuration.config import AgentConfig, load_config
from calico_py.cli import node
from calico_py.cni import server


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[AgentConfig]:
    """The configurations with which an agent was started, instead of an agent."""
    configs: list[AgentConfig] = []

    def start(config: AgentConfig) -> list[str]:
        configs.append(config)
        return []

    monkeypatch.setattr(node, "start", start)
    return configs


def invoke(*arguments: str, env: Mapping[str, str] | None = None) -> Result:
    return CliRunner().invoke(node.command, ["--config", "/nonexistent", *arguments], env=dict(env or {}))


def test_flags_come_first(started: list[AgentConfig]) -> None:
    done = invoke("--nodename", "n9", "--set", "AS=64513", env={"NODENAME": "n1", "AS": "1"})
    assert done.exit_code == 0
    assert (started[0].node, started[0].as_number) == ("n9", 64513)


def test_the_file_is_read(started: list[AgentConfig], tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("NODENAME: from-file\n")
    assert CliRunner().invoke(node.command, ["--config", str(path)]).exit_code == 0
    assert started[0].node == "from-file"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--set", "NO_SUCH=1"], "--set: found 'NO_SUCH=1', expected NAME=VALUE"),
        (["--set", "AS"], "--set: found 'AS'"),
        (["--log-level", "loud"], "CALICO_PY_LOG_LEVEL (flag): found 'loud', expected one of debug, info"),
    ],
)
def test_bad_flags_are_told(started: list[AgentConfig], arguments: list[str], says: str) -> None:
    done = invoke(*arguments)
    assert done.exit_code != 0
    assert says in done.stderr
    assert not started


def test_a_misspelt_variable_ends_it_with_those_allowed(started: list[AgentConfig]) -> None:
    done = invoke(env={"CALICO_IPV4POOL_IPIP": "Sometimes"})
    assert done.exit_code == 1
    assert "CALICO_IPV4POOL_IPIP (environment): found 'Sometimes', expected one of Always, CrossSubnet" in done.stderr
    assert not started


def test_a_bad_file_names_itself(started: list[AgentConfig], tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("[")
    done = CliRunner().invoke(node.command, ["--config", str(path)])
    assert done.exit_code == 1
    assert f"{path}: not YAML" in done.stderr
    assert not started


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """What an agent has for /run/calico-py."""
    monkeypatch.setattr(node, "RUN", tmp_path / "run")
    monkeypatch.setattr(server, "SOCKET", tmp_path / "run" / "cni.sock")
    return tmp_path / "run"


def test_who_calls_is_heard_before_the_agent_has_loaded(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def run_to_end(_: AgentConfig, calls: socket.socket) -> list[str]:
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(folder / "cni.sock"))
            calls.accept()[0].close()
        return ["it ran"]

    monkeypatch.setitem(sys.modules, "calico_py.agent.process", SimpleNamespace(run_to_end=run_to_end))
    assert node.start(load_config({}, hostname="node1")) == ["it ran"]


def test_where_it_cannot_listen_it_says_so(folder: Path) -> None:
    folder.write_text("a file\n")
    (said,) = node.start(load_config({}, hostname="node1"))
    assert said == f"{folder}: File exists; the agent runs as root of its node"


@pytest.mark.root
def test_where_the_disk_is_full_it_says_so(folder: Path) -> None:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k,nr_inodes=1", "none", str(folder)], check=True)
    try:
        (said,) = node.start(load_config({}, hostname="node1"))
        assert said.startswith(f"{folder}/")
        assert said.endswith(": No space left on device; free or mend its disk")
    finally:
        subprocess.run(["umount", str(folder)], check=True)
