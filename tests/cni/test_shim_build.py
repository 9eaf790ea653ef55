"""The shim as PyPI's zig compiler builds it: for images, of both architectures. Slow the first time, then cached."""

import json
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from calico_py.cni import installer
from tests.cni.elf import machine, needs_interpreter

pytestmark = pytest.mark.root  # not for `make check`, which must be quick


@pytest.mark.timeout(400)
@pytest.mark.parametrize("architecture", ["x86_64", "aarch64"])
def test_zig_builds_the_shim_for_both_architectures(architecture: str) -> None:
    pytest.importorskip("ziglang", reason="PyPI's ziglang is not installed")
    shim = installer.ensure_shim(Path.home() / ".cache" / "calico-py", target=f"{architecture}-linux-musl")
    assert machine(shim) == architecture
    assert not needs_interpreter(shim)
    emulator = [] if architecture == platform.machine() else [shutil.which(f"qemu-{architecture}")]
    if None in emulator:
        pytest.skip(f"qemu-{architecture} is not installed (Debian: qemu-user)")
    command = [word for word in emulator if word] + [str(shim)]
    answer = subprocess.run(command, env={"CNI_COMMAND": "VERSION"}, input=b"", capture_output=True, check=True)
    assert json.loads(answer.stdout)["supportedVersions"][-1] == "1.1.0"
