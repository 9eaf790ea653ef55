"""An agent that the system refuses what it needs: one sentence with the cure, and no traceback."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import resource, socket, sys
from calico_py.agent.configuration.config import load_config
from calico_py.agent.process import run_to_end
config = load_config({"KUBECONFIG": sys.argv[1], "CALICO_PY_HEALTH_PORT": "65099"}, hostname="node1")
with socket.socket(socket.AF_UNIX) as calls:
    resource.setrlimit(resource.RLIMIT_NOFILE, (10, 10))
    print(*run_to_end(config, calls), sep="\\n")
"""


def test_a_limit_of_open_files(tmp_path: Path) -> None:
    cluster = {"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}
    context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
    kubeconfig = {"clusters": [cluster], "contexts": [context], "users": [{"name": "u", "user": {}}]}
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", "current-context": "c", **kubeconfig}))
    argv = [sys.executable, "-c", SCRIPT, str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
    said = done.stdout.splitlines()[-1]
    assert said.startswith("the agent ends, to be started again, as the system refuses what it needs: ")
    assert said.endswith("Too many open files; raise the agent's limit of open files (ulimit -n)")
    assert "Traceback" not in done.stderr
