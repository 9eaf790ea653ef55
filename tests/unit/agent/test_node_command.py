"""`calico-py node`: flags, the file, and what cannot be used, before anything is touched."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from calico_py.agent.configuration.config import AgentConfig
from calico_py.cli import node


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[AgentConfig]:
    """The configurations with which an agent was started, instead of an agent."""
    configs: list[AgentConfig] = []

    async def run(config: AgentConfig) -> None:
        configs.append(config)

    monkeypatch.setattr(node, "run", run)
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


def test_a_kubeconfig_that_is_not_there_is_told_without_a_traceback() -> None:
    done = invoke("--kubeconfig", "/nonexistent/kubeconfig")
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1].startswith("Error: kubeconfig /nonexistent/kubeconfig: cannot be read")


def test_a_limit_of_the_system_is_told_without_a_traceback(tmp_path: Path) -> None:
    """A real one, of this process's open files."""
    cluster = {"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}
    context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
    kubeconfig = {"clusters": [cluster], "contexts": [context], "users": [{"name": "u", "user": {}}]}
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", "current-context": "c", **kubeconfig}))
    script = (
        "import resource; from calico_py.cli.main import main; import calico_py.cli.node; "
        "resource.setrlimit(resource.RLIMIT_NOFILE, (9, 9)); main()"
    )
    argv = [sys.executable, "-c", script, "node", "--kubeconfig", str(path), "--config", "/nonexistent"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "Error: the agent ends, to be started again, as the system refuses what it needs: Too many open files; "
        "raise the agent's limit of open files (ulimit -n)"
    )
    assert "Traceback" not in done.stderr
