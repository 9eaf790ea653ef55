"""SysctlKeeper: the few settings of a host that calico-py changes, and their old values.

What is ours after a restart with no memory: the settings named in a file, with the value that each had before the
first change and the one that it was given. The file is on the disk before the change is made.
"""

import json
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from calico_py.model.folders import STATE
from calico_py.model.kernel import Kernel, Put, Sysctl

DEFAULT_PATH = STATE / "sysctls.json"

FORWARD_IPV4 = "net/ipv4/ip_forward"
FORWARD_IPV6 = "net/ipv6/conf/all/forwarding"
_LOOSE = "2"  # Documentation/networking/ip-sysctl.rst, rp_filter: the source is reachable by any device

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Touched:
    """A setting that calico-py changed.

    Attributes:
        original: its value before the first change. given: the one that it was changed to.
    """

    name: str
    original: str
    given: str


def wanted_settings(*, uplinks: Iterable[str], tunnels: Iterable[str], ipv6: bool) -> dict[str, str]:
    """The settings to have.

    Packets of a mode change arrive by another device than their answers leave by. rp_filter is effective as the
    larger of ``all`` and the device's, so a device's 2 makes it loose whatever ``all`` says, and no other device
    is touched.

    Args:
        uplinks: devices that lead to other nodes.
        tunnels: tunnel devices, whether they exist yet or not.
        ipv6: whether pods have IPv6 addresses. Forwarding turns off router advertisements where accept_ra is 1.
    """
    settings = {FORWARD_IPV4: "1"}
    if ipv6:
        settings[FORWARD_IPV6] = "1"
    for device in (*uplinks, *tunnels):
        settings[f"net/ipv4/conf/{device}/rp_filter"] = _LOOSE
    return settings


class SysctlKeeper:
    """Changes settings and can put them back.

    Args:
        kernel: whose settings.
        path: the file; its folder is made if missing.
    """

    def __init__(self, kernel: Kernel, path: Path = DEFAULT_PATH) -> None:
        self._kernel = kernel
        self._path = path
        self._told = ""  # what is wrong with the file

    def touched(self) -> list[Touched]:
        """What was changed, for status; empty where the file is missing or unreadable."""
        try:
            return self._load()
        except OSError:
            return []

    def _load(self) -> list[Touched]:
        """What the file has; nothing where it is missing or makes no sense (which is logged).

        Raises:
            OSError: it cannot be read now; what it has may be needed later.
        """
        try:
            entries = json.loads(self._path.read_text())
            return [Touched(**entry) for entry in entries]
        except FileNotFoundError:
            return []
        except (ValueError, TypeError) as error:
            if str(error) != self._told:
                self._told = str(error)
                _log.warning("%s: found %s, expected a list of settings; their old values are lost", self._path, error)
            return []

    async def apply(self, settings: Mapping[str, str]) -> dict[str, str]:
        """Make settings so; one that the kernel does not have (yet) is left out.

        Returns:
            for each setting that could not be changed a sentence.
        """
        found = {name: await self._kernel.sysctl(name) for name in settings}
        changes = {name: value for name, value in settings.items() if found[name] not in (None, value)}
        if not changes:
            return {}
        try:
            known = {entry.name: entry for entry in self._load()}
            for name, value in changes.items():
                original = known[name].original if name in known else found[name]
                known[name] = Touched(name, str(original), value)
            self._save(list(known.values()))
        except OSError as error:
            why = f"{self._path} cannot be written ({error.strerror}), so that their old values would be lost"
            return {
                name: f"{name} is not set to {value}: {why}; free or mend its disk" for name, value in changes.items()
            }
        errors = await self._kernel.send([Put(Sysctl(name, value)) for name, value in changes.items()])
        return {name: str(error) for name, error in zip(changes, errors, strict=True) if error is not None}

    async def restore(self) -> list[str]:
        """Put back what still has the value that it was given, and forget; devices that are gone are left out.

        Returns:
            sentences about settings that could not be put back; these are remembered.
        """
        failed: list[Touched] = []
        problems: list[str] = []
        try:
            entries = self._load()
        except OSError as unreadable:
            return [
                f"{self._path} cannot be read ({unreadable.strerror}): its settings are not put back; mend its disk"
            ]
        for entry in reversed(entries):
            if await self._kernel.sysctl(entry.name) != entry.given:
                continue
            (error,) = await self._kernel.send([Put(Sysctl(entry.name, entry.original))])
            if error is not None:
                failed.append(entry)
                problems.append(str(error))
        if failed:
            self._save(failed)
        else:
            self._path.unlink(missing_ok=True)
        return problems

    def _save(self, entries: Iterable[Touched]) -> None:
        """On the disk and whole at any moment: written beside, synced, renamed, and the folder synced."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        beside = self._path.with_suffix(".new")
        with beside.open("w") as file:
            json.dump([asdict(entry) for entry in entries], file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
