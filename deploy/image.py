"""Builds calico-py's container image as a docker-archive, without a container engine: ``make image``.

The recipe is deploy/Dockerfile's: Debian with Python and nft, a virtual environment in /opt/calico-py, and the static
CNI shims of both architectures beside it. The lower layer (Debian and the packages of PyPI) is kept in the cache
folder under a name that depends on its recipe; the upper layer is calico-py alone. Needs mmdebstrap and root.

The result imports with ``ctr -n k8s.io image import``, ``docker load`` or ``podman load``.
"""

import argparse
import configparser
import contextlib
import hashlib
import io
import json
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from calico_py.cni.installer import PLUGIN, ensure_shim
from calico_py.lab.cache import cache_directory

CHECKOUT = Path(__file__).resolve().parent.parent
REFERENCE = "docker.io/calico-py/calico-py"

SUITE = "bookworm"
PYTHON = "3.11"  # bookworm's
PACKAGES = ("iproute2", "nftables", "python3")
HOME = "opt/calico-py"  # the virtual environment
SHIM_TARGETS = {"x86_64": "x86_64-linux-musl", "aarch64": "aarch64-linux-musl"}
_DOCKER_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_LEFT_OUT = ("/usr/share/doc/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/man/*")


SETTINGS: Mapping[str, Sequence[str]] = {
    "Env": [f"PATH=/{HOME}/bin:/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONUNBUFFERED=1"],
    "Entrypoint": ["calico-py"],
}


class BuildError(Exception):
    """The image could not be built; the message says which step failed."""


@dataclass(frozen=True, slots=True)
class Image:
    """What is written of an image.

    Attributes:
        layers: tar archives, the lowest first.
        references: names with tags.
        settings: entry point, environment, command.
    """

    layers: Sequence[Path]
    references: Sequence[str]
    settings: Mapping[str, Sequence[str]] = field(default_factory=lambda: SETTINGS)


def version() -> str:
    """calico-py's, which is the image's tag."""
    return _setup()["metadata"]["version"]


def build(output: Path, *, cache: Path, references: Sequence[str] = ()) -> None:
    """Write the image.

    Args:
        output: the archive; replaced where it exists.
        cache: for the lower layer and the shims.
        references: names of the image; by default REFERENCE with calico-py's version.

    Raises:
        BuildError: a step failed.
        InstallError: a shim could not be compiled.
    """
    with build_layers(cache) as layers:
        write_archive(output, Image(layers, references or [f"{REFERENCE}:{version()}"]))


@contextlib.contextmanager
def build_layers(cache: Path) -> Iterator[list[Path]]:
    """calico-py's layers, the lowest first, for as long as the block runs; arguments and errors as build has them."""
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".image-", dir=cache) as scratch:
        yield [_base_layer(cache, Path(scratch)), _top_layer(cache, Path(scratch))]


def _base_layer(cache: Path, scratch: Path) -> Path:
    """Debian and calico-py's requirements."""
    requirements = _setup()["options"]["install_requires"].split()
    recipe = [SUITE, platform.machine(), *PACKAGES, *_LEFT_OUT, *requirements]
    layer = cache / f"image-base-{hashlib.sha256(repr(recipe).encode()).hexdigest()[:16]}.tar"
    if not layer.exists():
        wheels = scratch / "wheels"
        _download(wheels, [*requirements, "pip"])
        (pip,) = wheels.glob("pip-*.whl")  # runs from its archive, and need not be in the image
        half = scratch / "base.tar"
        venv = f"/{HOME}"
        _run(
            "mmdebstrap",
            "--quiet",
            "--variant=minbase",
            f"--include={','.join(PACKAGES)}",
            *(f"--dpkgopt=path-exclude={path}" for path in _LEFT_OUT),
            f"--customize-hook=copy-in {wheels} /tmp",
            f'--customize-hook=chroot "$1" python3 -m venv --without-pip {venv}',
            f'--customize-hook=chroot "$1" env PYTHONPATH=/tmp/wheels/{pip.name} {venv}/bin/python -m pip install -q '
            "--no-index --find-links /tmp/wheels " + " ".join(f"'{requirement}'" for requirement in requirements),
            '--customize-hook=rm -r "$1/tmp/wheels"',
            SUITE,
            str(half),
        )
        half.rename(layer)
    return layer


def _download(wheels: Path, requirements: Sequence[str]) -> None:
    """Wheels for the image's Python, whichever runs here."""
    machine = platform.machine()
    platforms = (f"manylinux2014_{machine}", f"manylinux_2_28_{machine}")
    _run(
        *(sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "-d", str(wheels)),
        *("--only-binary=:all:", "--implementation", "cp", "--python-version", PYTHON),
        *(word for name in platforms for word in ("--platform", name)),
        *requirements,
    )


def _top_layer(cache: Path, scratch: Path) -> Path:
    """calico-py itself and its shims."""
    _run(
        *(sys.executable, "-m", "pip", "wheel", "-q", "--disable-pip-version-check", "--no-deps"),
        *("-w", str(scratch / "own"), str(CHECKOUT)),
    )
    (wheel,) = (scratch / "own").glob("*.whl")
    site = f"{HOME}/lib/python{PYTHON}/site-packages"
    with zipfile.ZipFile(wheel) as content:
        content.extractall(scratch / "root" / site)  # noqa: S202 - our own wheel
    if f"{sys.version_info.major}.{sys.version_info.minor}" == PYTHON:
        _run(
            *(sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"),
            *("-s", str(scratch / "root"), "-p", "/", str(scratch / "root" / site / "calico_py")),
        )
    layer = scratch / "top.tar"
    with tarfile.open(layer, "w") as tar:
        for path in sorted((scratch / "root" / site).rglob("*")):
            if path.is_file():
                _add(tar, str(path.relative_to(scratch / "root")), path.read_bytes(), 0o644)
        launcher = f"#!/{HOME}/bin/python\nimport sys\nfrom calico_py.cli.main import main\nsys.exit(main())\n"
        _add(tar, f"{HOME}/bin/calico-py", launcher.encode(), 0o755)
        for machine, target in SHIM_TARGETS.items():
            shim = ensure_shim(cache / "shim", target=target)
            _add(tar, f"{HOME}/shim/{machine}/{PLUGIN}", shim.read_bytes(), 0o755)
    return layer


def _add(tar: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))


def write_archive(output: Path, *images: Image) -> None:
    """Images in the format of ``docker save``, replacing the file where it exists.

    For each a configuration that names its layers by digest; layers that several have are written once.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    digests = {layer: _digest(layer) for image in images for layer in image.layers}
    manifest: list[dict[str, object]] = []
    half = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        with tarfile.open(half, "w") as tar:
            for image in images:
                config = _config([digests[layer] for layer in image.layers], image.settings)
                name = f"{hashlib.sha256(config).hexdigest()}.json"
                _add(tar, name, config, 0o644)
                layers = [f"{digests[layer]}/layer.tar" for layer in image.layers]
                manifest.append({"Config": name, "RepoTags": list(image.references), "Layers": layers})
            for layer, digest in digests.items():
                tar.add(layer, f"{digest}/layer.tar", filter=_plain)
            _add(tar, "manifest.json", json.dumps(manifest).encode(), 0o644)
        half.rename(output)
    finally:
        half.unlink(missing_ok=True)


def _config(digests: Sequence[str], settings: Mapping[str, Sequence[str]]) -> bytes:
    return json.dumps(
        {
            "architecture": _DOCKER_ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": settings,
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]},
        }
    ).encode()


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(CHECKOUT / "setup.cfg")
    return parser


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{' '.join(command[:6])} ... failed: {(done.stderr or done.stdout).strip()[-2000:]}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Build calico-py's image as a docker-archive.")
    parser.add_argument("--output", type=Path, default=CHECKOUT / "build" / "calico-py.tar")
    parser.add_argument("--tag", default=f"{REFERENCE}:{version()}", help="name of the image, with its tag")
    given = parser.parse_args()
    try:
        build(given.output, cache=cache_directory(os.environ), references=[given.tag])
    except BuildError as error:
        sys.exit(f"Error: {error}")
    print(f"{given.output}: {given.tag}, {given.output.stat().st_size >> 20} MB")


if __name__ == "__main__":
    main()
