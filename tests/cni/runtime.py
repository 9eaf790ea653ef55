"""A container runtime's side of CNI: calls the real shim, in a mount namespace where its paths are a test's own."""

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MOUNTS = """
set -e
mount -t tmpfs cpy /run && mkdir /run/calico-py && mount --bind "$0/run" /run/calico-py
mount -t tmpfs cpy /var/lib && mkdir /var/lib/calico-py && mount --bind "$0/state" /var/lib/calico-py
echo ready
exec cat
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the executable did."""

    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """What it printed."""
        return json.loads(self.stdout)

    @property
    def code(self) -> int:
        """Of the error that it printed; 0 for success."""
        return self.json["code"] if self.status else 0


class Runtime:
    """Calls one node's plugin."""

    def __init__(self, shim: Path) -> None:
        self._shim = shim
        self.folder = Path(tempfile.mkdtemp(prefix=f"cpy{os.getpid()}-"))
        for name in ("run", "state"):
            (self.folder / name).mkdir()
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", _MOUNTS, str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"ready\n"

    @property
    def socket(self) -> Path:
        """Where the shim looks for the agent."""
        return self.folder / "run" / "cni.sock"

    @property
    def enter(self) -> list[str]:
        """Command prefix that runs a program where the shim's paths lead to this node."""
        return ["nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt", "--"]

    @property
    def deferred(self) -> Path:
        """Where the shim leaves DELs."""
        return self.folder / "state" / "del"

    async def call(
        self,
        verb: str,
        config: Mapping[str, Any] | bytes = b"",
        *,
        netns: str | None = None,
        container_id: str | None = "c1",
        ifname: str | None = "eth0",
        pod: str | None = None,
        args: str | None = None,
    ) -> Answer:
        """One call; None leaves a variable out. ``pod`` stands for the CNI_ARGS that Kubernetes' runtimes give."""
        if pod is not None:
            args = f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod};K8S_POD_INFRA_CONTAINER_ID=x"
        env = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": container_id,
            "CNI_NETNS": netns,
            "CNI_IFNAME": ifname,
            "CNI_ARGS": args,
            "CNI_PATH": "/opt/cni/bin",
        }
        process = await asyncio.create_subprocess_exec(
            *self.enter,
            str(self._shim),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": os.environ["PATH"]} | {name: value for name, value in env.items() if value is not None},
        )
        stdin = config if isinstance(config, bytes) else json.dumps(config).encode()
        stdout, stderr = await process.communicate(stdin)
        assert process.returncode is not None
        return Answer(process.returncode, stdout.decode(), stderr.decode())

    def close(self) -> None:
        """Leave nothing."""
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        self._holder.stdin.close()
        self._holder.wait(timeout=10)
        self._holder.stdout.close()
        shutil.rmtree(self.folder)


def config(version: str = "1.0.0", **more: Any) -> dict[str, Any]:
    """A network configuration as libcni makes it from a list."""
    return {"cniVersion": version, "name": "k8s-pod-network", "type": "calico-py", **more}
