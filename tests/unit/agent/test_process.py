"""Why an agent could not begin or go on, in sentences, from a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

_PROGRAM = """
import resource, socket, sys
from calico_py.agent.configuration.config import load_config
from calico_py.agent.process import run_to_end

config = load_config({"KUBECONFIG": sys.argv[1]}, hostname="node1")
with socket.socket(socket.AF_UNIX) as calls:
    if sys.argv[2:]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]),) * 2)
    print(*run_to_end(config, calls), sep="\\n")
"""


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """An agent's process with this kubeconfig and, maybe, this limit of open files."""
    command = [sys.executable, "-c", _PROGRAM, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)


def test_a_kubeconfig_that_is_not_there() -> None:
    assert run("/nonexistent/kubeconfig").stdout.startswith("kubeconfig /nonexistent/kubeconfig: cannot be read")


def test_a_limit_of_the_system(tmp_path: Path) -> None:
    """A real one, of this process's open files."""
    cluster = {"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}
    context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
    kubeconfig = {"clusters": [cluster], "contexts": [context], "users": [{"name": "u", "user": {}}]}
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", "current-context": "c", **kubeconfig}))
    done = run(str(path), "10")
    said = done.stdout.splitlines()[-1]
    assert said.startswith("the agent ends, to be started again, as the system refuses what it needs: ")
    assert said.endswith("Too many open files; raise the agent's limit of open files (ulimit -n)")
    assert "Traceback" not in done.stderr
