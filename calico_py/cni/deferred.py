"""DELs that wait: left by the shim while the agent was away, or by the agent while the API was.

One file for each container and interface, named by both, holding the request as it travels on the wire. A file is
whole or absent; names with a leading dot are files in the making.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from calico_py.cni.wire import Request, VersionError, WireError, pack_request, parse_request
from calico_py.model.folders import STATE

DIRECTORY = STATE / "del"

_log = logging.getLogger(__name__)


class DeferredDels:
    """The directory of waiting DELs.

    Args:
        directory: made where it is missing, for root alone.
    """

    def __init__(self, directory: Path = DIRECTORY) -> None:
        self._directory = directory
        self._foreign: set[str] = set()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def keep(self, request: Request) -> None:
        """Keep it over a crash of the machine.

        Raises:
            OSError: the disk refused.
        """
        name = _name(request)
        temporary = self._directory / f".{name}.{os.getpid()}"
        try:
            with temporary.open("wb") as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(pack_request(request))
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(self._directory / name)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        self._sync()

    def pending(self) -> Iterator[Request]:
        """All of them, oldest first. A file that holds no request is removed with a word in the log.

        One of another wire version stays: the agent that knows it may come back.
        """
        for path in sorted(self._paths(), key=_age):
            try:
                request = parse_request(path.read_bytes())
            except FileNotFoundError:
                continue
            except VersionError as error:
                if path.name not in self._foreign:
                    self._foreign.add(path.name)
                    _log.warning("%s stays for an agent that understands it: %s", path, error)
                continue
            except WireError as error:
                _log.warning("%s is no DEL and is removed: %s", path, error)
                path.unlink(missing_ok=True)
                continue
            yield request

    def holds(self, request: Request) -> bool:
        """Whether a DEL of the same container and interface waits."""
        return (self._directory / _name(request)).exists()

    def done(self, request: Request) -> None:
        """Forget it."""
        with suppress(FileNotFoundError):
            (self._directory / _name(request)).unlink()

    def _paths(self) -> list[Path]:
        return [path for path in self._directory.iterdir() if not path.name.startswith(".")]

    def _sync(self) -> None:
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _name(request: Request) -> str:
    """As the shim names it; callers have validated both (config.parse_call)."""
    return f"{request.env['CNI_CONTAINERID']}.{request.env['CNI_IFNAME']}"


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
