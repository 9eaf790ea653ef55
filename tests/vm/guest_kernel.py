"""A Debian kernel with its modules, and an initramfs that puts it on top of this machine's own files.

Both are made once and kept in the folder vm of the cache (calico_py.lab.cache). The kernel of the machine that runs the
tests need not have ipip; Debian's has it as a module, with everything else that a node's kernel has.
"""

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from calico_py.lab.cache import cache_directory

CACHE = cache_directory(os.environ) / "vm"

_META_PACKAGE = "linux-image-amd64"
_NEEDED = {
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
    "modprobe": "kmod",
    "depmod": "kmod",
    "cpio": "cpio",
    "apt-get": "apt",
    "dpkg": "dpkg",
}
# Enough to reach the host's files; all other modules are loaded from there when somebody needs them.
_BOOT_MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")

# The host's / is below, read-only; what the guest writes stays in its memory.
_INIT = """#!/bin/busybox sh
export PATH=/bin
/bin/busybox --install -s /bin
mkdir -p /proc /sys /dev /host /memory /new
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
while read -r module; do insmod "/modules/$module"; done < /modules/order
shared=trans=virtio,version=9p2000.L,msize=524288
mount -t 9p -o "$shared,cache=loose,ro" hostroot /host
mount -t tmpfs tmpfs /memory
mkdir /memory/upper /memory/work
mount -t overlay -o lowerdir=/host,upperdir=/memory/upper,workdir=/memory/work overlay /new
for folder in /proc /sys /dev; do mount --move $folder /new$folder; done
mount -t tmpfs tmpfs /new/run
mkdir -p /new/run/exchange /new/lib/modules
mount -t 9p -o "$shared,cache=none" exchange /new/run/exchange
mount --bind "/new$(cat /new/run/exchange/modules)" /new/lib/modules
exec switch_root /new /bin/sh /run/exchange/start
"""


class UnavailableError(Exception):
    """This machine cannot run the guest; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """What QEMU boots.

    Attributes:
        modules: folder that the guest has as /lib/modules.
    """

    image: Path
    initramfs: Path
    modules: Path


def prepare() -> Kernel:
    """The kernel, downloaded and unpacked if that has not been done.

    Raises:
        UnavailableError: something is missing on this machine.
    """
    if platform.machine() != "x86_64":
        raise UnavailableError(f"the guest is x86_64, this machine is {platform.machine()}")
    missing = sorted({package for program, package in _NEEDED.items() if shutil.which(program) is None})
    if missing:
        raise UnavailableError(f"missing: apt-get install {' '.join(missing)}")
    CACHE.mkdir(parents=True, exist_ok=True)
    with _locked(CACHE / "lock"):
        tree = _unpacked()
        (image,) = (tree / "boot").glob("vmlinuz-*")
        return Kernel(image, _initramfs(tree, image.name.removeprefix("vmlinuz-")), tree / "lib/modules")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _unpacked() -> Path:
    """The newest kernel that is here, else the one that the archive has now."""
    if found := sorted(CACHE.glob("linux-image-*-amd64")):
        return found[-1]
    package = _package()
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        _run(["apt-get", "download", package], folder)
        (archive,) = Path(folder).glob("*.deb")
        tree = Path(folder, "tree")
        _run(["dpkg", "-x", str(archive), str(tree)], folder)
        (modules,) = (tree / "lib/modules").iterdir()
        _run(["depmod", "-b", str(tree), modules.name], folder)
        return tree.rename(CACHE / package)


def _package() -> str:
    depends = _run(["apt-cache", "depends", _META_PACKAGE], str(CACHE))
    names = [line.split()[1] for line in depends.splitlines() if line.strip().startswith("Depends: linux-image-")]
    if not names:
        raise UnavailableError(f"apt knows no package {_META_PACKAGE}: run apt-get update on a Debian machine")
    return names[0]


def _run(command: list[str], folder: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=folder)
    if done.returncode:
        raise UnavailableError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def _initramfs(tree: Path, release: str) -> Path:
    """A cpio archive of busybox, the modules to start with, and the init above."""
    key = hashlib.sha256("\n".join([_INIT, release, *_BOOT_MODULES]).encode()).hexdigest()[:12]
    path = tree / f"initramfs-{key}"
    if path.exists():
        return path
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        root = Path(folder, "root")
        (root / "bin").mkdir(parents=True)
        (root / "modules").mkdir()
        busybox = shutil.which("busybox")
        assert busybox is not None
        shutil.copy(busybox, root / "bin/busybox")
        order = _module_files(tree, release)
        for file in order:
            shutil.copy(file, root / "modules" / file.name)
        (root / "modules/order").write_text("".join(f"{file.name}\n" for file in order))
        (root / "init").write_text(_INIT)
        os.chmod(root / "init", 0o755)  # noqa: PTH101 - the same as Path.chmod, in one line with its mode
        _run(["sh", "-c", "cd root && find . | cpio --quiet -o -H newc | gzip -1 > ../new"], folder)
        return Path(folder, "new").rename(path)


def _module_files(tree: Path, release: str) -> list[Path]:
    files: dict[Path, None] = {}
    for module in _BOOT_MODULES:
        wanted = _run(["modprobe", "-d", str(tree), "-S", release, "--show-depends", module], str(tree))
        for line in wanted.splitlines():
            if line.startswith("insmod "):
                files[Path(line.split()[1])] = None
    return list(files)
