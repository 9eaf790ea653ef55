"""The images of a cluster test: calico-py's own, and one of busybox alone that serves as pause and as workload."""

import io
import os
import subprocess
import tarfile
from pathlib import Path

from calico_py.lab.cache import cache_directory
from deploy import image
from tests.cluster.settings import PAUSE_IMAGE

TEST_IMAGE = "docker.io/calico-py/test:1"
NEXT_TAG = "next"  # of the image to which calico-py is upgraded

_BUSYBOX = Path("/bin/busybox")  # Debian's busybox-static
_PLAIN = {"Env": ["PATH=/bin"], "Cmd": ["sh", "-c", "trap exit TERM; while :; do sleep 3600 & wait; done"]}


def build(folder: Path) -> list[Path]:
    """Archives, in an empty folder: busybox, whose entry point sleeps, and calico-py of this checkout in two releases.

    The second release differs from the first in one file that nobody reads.
    """
    plain, own = folder / "busybox.tar", folder / "calico-py.tar"
    applets, release = folder / "applets.layer", folder / "release.layer"
    _write_busybox(applets)
    image.write_archive(plain, image.Image([applets], [PAUSE_IMAGE, TEST_IMAGE], _PLAIN))
    with tarfile.open(release, "w") as tar:
        _add(tar, "etc/calico-py-release", NEXT_TAG.encode())
    with image.build_layers(cache_directory(os.environ)) as layers:
        image.write_archive(
            own,
            image.Image(layers, [f"{image.REFERENCE}:{image.version()}"]),
            image.Image([*layers, release], [f"{image.REFERENCE}:{NEXT_TAG}"]),
        )
    return [plain, own]


def _write_busybox(layer: Path) -> None:
    """Every applet is in PATH."""
    applets = subprocess.run([_BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
    with tarfile.open(layer, "w") as tar:
        tar.add(_BUSYBOX, "bin/busybox")
        for applet in applets:
            if applet != "busybox":
                entry = tarfile.TarInfo(f"bin/{applet}")
                entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(entry)
        for directory in ("tmp", "proc", "sys", "dev", "etc"):
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        _add(tar, "etc/nsswitch.conf", b"hosts: files\n")  # a static program cannot load the libraries of other sources


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))
