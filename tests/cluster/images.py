"""The images of a cluster test: calico-py's own, and one of busybox alone that serves as pause and as workload."""

import io
import os
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

from calico_py.lab.cache import cache_directory
from deploy import image

TEST_IMAGE = "docker.io/calico-py/test:1"

_BUSYBOX = Path("/bin/busybox")  # Debian's busybox-static


def write_busybox(output: Path, references: Sequence[str]) -> None:
    """An image whose entry point sleeps; every applet is in its PATH."""
    layer = output.with_suffix(".layer")
    hosts = b"hosts: files\n"  # a static program cannot load the libraries of other sources
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
        entry = tarfile.TarInfo("etc/nsswitch.conf")
        entry.size = len(hosts)
        tar.addfile(entry, io.BytesIO(hosts))
    settings = {"Env": ["PATH=/bin"], "Cmd": ["sh", "-c", "trap exit TERM; while :; do sleep 3600 & wait; done"]}
    image.write_archive(output, [layer], references, settings)
    layer.unlink()


def write_calico_py(output: Path, references: Sequence[str] = ()) -> None:
    """calico-py's image, of this checkout."""
    image.build(output, cache=cache_directory(os.environ), references=references)
