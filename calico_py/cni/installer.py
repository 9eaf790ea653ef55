"""Puts the shim and the network configuration where the container runtime looks for them; builds the shim.

Everything is written beside its place and renamed: a runtime sees the whole file or none.
"""

import hashlib
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from calico_py.model.names import CNI_NETWORK

PLUGIN = "calico-py"  # the plugin's type, and so the name of its executable
BIN_DIRECTORY = Path("/opt/cni/bin")
CONF_DIRECTORY = Path("/etc/cni/net.d")
CONFLIST = "10-calico-py.conflist"
SOURCE = Path(__file__).with_name("shim") / "calico-py.c"

# Plugins of containernetworking that run behind ours, in this order: Kubernetes' hostPort and bandwidth annotations.
CHAINED: Mapping[str, Mapping[str, Any]] = {
    "portmap": {"snat": True, "capabilities": {"portMappings": True}},
    "bandwidth": {"capabilities": {"bandwidth": True}},
}

_CFLAGS = ("-std=c99", "-O2", "-Wall", "-Wextra", "-static", "-s")
_BUILD_SECONDS = 300  # ziglang's first run builds a C library


class InstallError(Exception):
    """The shim could not be built; the message says why and what to do."""


def ensure_shim(cache: Path, *, target: str = "") -> Path:
    """The built shim in a directory for such, built now if it is not there yet.

    Args:
        cache: made where it is missing. The file's name tells source and target apart.
        target: a triple for the zig compiler, such as ``aarch64-linux-musl``; empty for this machine.

    Raises:
        InstallError: no compiler, or it failed.
    """
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    built = cache / f"{PLUGIN}-{target or platform.machine()}-{digest}"
    if not built.exists():
        cache.mkdir(parents=True, exist_ok=True)
        build_shim(built, target=target)
    return built


def build_shim(output: Path, *, target: str = "") -> None:
    """Compile the shim, static, by the C compiler of the machine or PyPI's ziglang.

    Raises:
        InstallError: no compiler, or it failed.
    """
    temporary = output.with_name(f".{output.name}.{os.getpid()}")
    failures = []
    for compiler in _compilers(target):
        command = [*compiler, *_CFLAGS, "-o", str(temporary), str(SOURCE)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_BUILD_SECONDS, check=False)
        if done.returncode == 0:
            temporary.rename(output)
            return
        failures.append(f"{' '.join(command)}: {done.stderr.strip()}")
    temporary.unlink(missing_ok=True)
    raise InstallError(
        "; ".join(failures) or "found no C compiler: install gcc with libc6-dev, or ziglang from PyPI beside calico-py"
    )


def _compilers(target: str) -> list[Sequence[str]]:
    found: list[Sequence[str]] = []
    if not target and (cc := shutil.which("cc")):
        found.append([cc])
    if importlib.util.find_spec("ziglang"):
        found.append([sys.executable, "-m", "ziglang", "cc", "-target", target or f"{platform.machine()}-linux-musl"])
    return found


def install_shim(shim: Path, directory: Path = BIN_DIRECTORY) -> bool:
    """Copy a built shim to where runtimes look for plugins; False if the same is there already.

    Raises:
        OSError: the directory refuses.
    """
    destination, content = directory / PLUGIN, shim.read_bytes()
    if destination.exists() and destination.read_bytes() == content:
        return False
    _place(destination, content, 0o755)
    return True


def render_conflist(*, chained: Collection[str] = ()) -> str:
    """The network configuration list.

    1.0.0 is what containerd 1.6 takes. Alone in the list we offer 1.1.0 as well, for STATUS and GC; the plugins of
    Kubernetes' own images may not know it.

    Args:
        chained: the plugins of CHAINED that are installed.
    """
    document: dict[str, Any] = {"name": CNI_NETWORK, "cniVersion": "1.0.0"}
    if not chained:
        document["cniVersions"] = ["1.0.0", "1.1.0"]
    behind = [{"type": name, **settings} for name, settings in CHAINED.items() if name in chained]
    return json.dumps({**document, "plugins": [{"type": PLUGIN}, *behind]}, indent=2) + "\n"


def install_conflist(
    directory: Path = CONF_DIRECTORY, *, bin_directory: Path = BIN_DIRECTORY, name: str = CONFLIST
) -> bool:
    """Write the network configuration list; False if the same is there already.

    To be called once the agent can serve ADD: with it the node becomes Ready. hostPort and the bandwidth annotations
    work where their plugins are installed.

    Raises:
        OSError: the directory refuses.
    """
    content = render_conflist(chained=[plugin for plugin in CHAINED if (bin_directory / plugin).exists()]).encode()
    destination = directory / name
    if destination.exists() and destination.read_bytes() == content:
        return False
    _place(destination, content, 0o600)
    return True


def uninstall(
    conf_directory: Path = CONF_DIRECTORY, *, bin_directory: Path = BIN_DIRECTORY, name: str = CONFLIST
) -> None:
    """Take both away, the configuration first; that they are gone already is success."""
    (conf_directory / name).unlink(missing_ok=True)
    (bin_directory / PLUGIN).unlink(missing_ok=True)


def _place(destination: Path, content: bytes, mode: int) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    temporary = destination.with_name(f".{destination.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(destination)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
