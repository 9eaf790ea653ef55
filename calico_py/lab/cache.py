"""Where built programs are kept between labs: the CNI shim, kube-apiserver, kubectl."""

from collections.abc import Mapping
from pathlib import Path


def cache_directory(environ: Mapping[str, str]) -> Path:
    """CALICO_PY_CACHE, or calico-py in the user's cache folder (XDG Base Directory Specification)."""
    own = environ.get("XDG_CACHE_HOME") or str(Path(environ.get("HOME", "/root")) / ".cache")
    return Path(environ.get("CALICO_PY_CACHE") or Path(own) / "calico-py")
