"""Running the system's commands, with errors that a person can act on."""

import shutil
import subprocess
from collections.abc import Sequence

_PACKAGES = {
    "ip": "iproute2",
    "nft": "nftables",
    "nsenter": "util-linux",
    "ping": "iputils-ping",
    "setpriv": "util-linux",
    "sleep": "coreutils",
    "tcpdump": "tcpdump",
    "umount": "mount",
    "unshare": "util-linux",
}


class LabError(Exception):
    """The lab could not do what was asked; the message says what and what to do."""


def require(*names: str) -> None:
    """Check that commands exist.

    Raises:
        LabError: naming the Debian packages to install.
    """
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        packages = " ".join(sorted({_PACKAGES.get(name, name) for name in missing}))
        raise LabError(f"{', '.join(missing)}: not found in PATH; install with: apt-get install {packages}")


def run(argv: Sequence[str], *, stdin: str = "") -> str:
    """Run a command to its end and return its output.

    Raises:
        LabError: with the command's own words, if it failed or does not exist.
    """
    require(argv[0])
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip() or f"exit code {done.returncode}"
        raise LabError(f"{' '.join(argv)}: {said}")
    return done.stdout
