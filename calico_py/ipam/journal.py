"""The journal of warm addresses: what this node has promised and the API does not know yet, in a file of its own.

A line for each event, in order: an address was taken for a pod, a pod's addresses are to be released, or either is in
the API. What a line says can be done again without harm, so that old lines that come back do none. Each line carries
its checksum: one that a crash tore is not taken for another.

A line is written before the answer; the answer does not wait until the disk has it. A killed agent loses nothing that
was written, and a machine that dies takes all pods with it, whose addresses the next start frees whatever the journal
says. ``wait_for_disk`` waits all the same.
"""

import asyncio
import json
import logging
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from calico_py.ipam.requests import Assigned
from calico_py.ipam.tasks import Tasks
from calico_py.model.folders import STATE

PATH = STATE / "journal"

_COMPACT_AT = 1 << 20  # bytes; about 5,000 pods

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Take:
    """Warm addresses that were given to a pod.

    Attributes:
        handle_id: the pod's; secondary: what is noted beside it.
        addresses: as the warm handle held them.
    """

    handle_id: str
    secondary: Mapping[str, str]
    addresses: tuple[Assigned, ...]


@dataclass(slots=True)
class Outstanding:
    """What the API has not been told, as far as the journal knows: by the pod's handle.

    Attributes:
        releases: handles in the order of their lines.
    """

    takes: dict[str, Take] = field(default_factory=dict)
    releases: dict[str, None] = field(default_factory=dict)


class JournalFile:
    """The file: appended to, brought to the disk, cut, replaced as a whole. Every method may raise OSError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1
        self._torn = False

    def read(self) -> bytes:
        """All of it; nothing where it does not exist."""
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return b""

    def append(self, data: bytes) -> None:
        """Add to its end; what was written of it is taken away again if not all could be."""
        if self._descriptor < 0:  # it could not be replaced at the start; a crash may have torn its last line
            self._descriptor, self._torn = self._open(self.path), True
        size = os.fstat(self._descriptor).st_size
        data = b"\n" + data if self._torn else data
        self._torn = True
        try:
            self._write_all(self._descriptor, data)
        except OSError:
            os.ftruncate(self._descriptor, size)
            raise
        self._torn = False

    def _open(self, path: Path, flags: int = 0) -> int:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | flags, 0o600)

    def _write_all(self, descriptor: int, data: bytes) -> None:
        """All of it: a disk that gets full takes a part first."""
        while data:
            data = data[self._write(descriptor, data) :]

    def _write(self, descriptor: int, data: bytes) -> int:
        """How much of it was written."""
        return os.write(descriptor, data)

    def sync(self) -> None:
        """Return once the disk has it. Blocks; a thread's work."""
        os.fdatasync(self._descriptor)

    def replace(self, data: bytes) -> None:
        """Make this its whole content; a crash or a full disk leaves the old content or the new."""
        temporary = self.path.with_name(f".{self.path.name}.new")
        descriptor = self._open(temporary, os.O_TRUNC)
        try:
            self._write_all(descriptor, data)
            os.fdatasync(descriptor)
            temporary.rename(self.path)
        except OSError:
            os.close(descriptor)
            temporary.unlink(missing_ok=True)
            raise
        self.close()
        self._descriptor, self._torn = descriptor, False

    @property
    def size(self) -> int:
        """Bytes; none of a file that is not open."""
        return os.fstat(self._descriptor).st_size if self._descriptor >= 0 else 0

    def close(self) -> None:
        """Give the descriptor back."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Journal:
    """The lines; `load` must have been called.

    Args:
        file: of this process alone.
        wait_for_disk: an answer waits for fdatasync(2); without, the disk follows behind.
    """

    def __init__(self, file: JournalFile, *, wait_for_disk: bool = False) -> None:
        self._file = file
        self._wait_for_disk = wait_for_disk
        self._tasks = Tasks()
        self._syncing: asyncio.Task[None] | None = None
        self._unsynced = False

    def load(self) -> Outstanding:
        """What earlier lines leave to be done. Lines that are none are passed over with a word in the log.

        Where the disk is full the file stays as it is: what it says holds all the same.

        Raises:
            OSError: the file cannot be read.
        """
        found = Outstanding()
        for line in _lines(self._file.read()):
            _note(found, line)
        try:
            self.compact(found)
        except OSError as error:
            log.warning("%s stays as it is, lines that are done too: %s", self._file.path, error)
        return found

    def compact(self, outstanding: Outstanding) -> None:
        """Keep only what is still to be done.

        Raises:
            OSError: the disk refused; the file is as it was.
        """
        takes = (_take_line(take) for take in outstanding.takes.values())
        releases = (_pack({"release": handle_id}) for handle_id in outstanding.releases)
        self._file.replace(b"".join((*takes, *releases)))

    def tidy(self, outstanding: Callable[[], Outstanding]) -> None:
        """Compact the file if it has become long."""
        try:
            if self._file.size > _COMPACT_AT:
                self.compact(outstanding())
        except OSError as error:
            log.warning("%s cannot be shortened: %s", self._file.path, error)

    async def take(self, take: Take) -> None:
        """Note that a pod is about to get these addresses.

        Raises:
            OSError: the disk refused: nothing is noted.
        """
        await self._append(_take_line(take))

    async def release(self, handle_id: str) -> None:
        """Note that all addresses of the handle are to be released.

        Raises:
            OSError: the disk refused: nothing is noted.
        """
        await self._append(_pack({"release": handle_id}))

    def done(self, handle_ids: Iterable[str]) -> None:
        """Note that the API knows all of these handles. A line that is missing costs a second try: none is forced."""
        lines = b"".join(_pack({"done": handle_id}) for handle_id in handle_ids)
        try:
            if lines:
                self._file.append(lines)
        except OSError as error:
            log.debug("%s: %s", self._file.path, error)

    async def close(self) -> None:
        """Bring the rest to the disk and close the file."""
        await self._tasks.drain()
        self._file.close()

    async def _append(self, line: bytes) -> None:
        self._file.append(line)
        self._unsynced = True
        if self._syncing is None or self._syncing.done():
            self._syncing = self._tasks.spawn(self._sync(), name="sync the journal")
        if self._wait_for_disk:
            await asyncio.shield(self._syncing)

    async def _sync(self) -> None:
        """Until all that was written meanwhile is on the disk too: one fdatasync for many lines."""
        while self._unsynced:
            self._unsynced = False
            try:
                await asyncio.to_thread(self._file.sync)  # milliseconds, in which the loop must go on
            except OSError as error:
                log.warning("%s: the disk does not keep it: %s", self._file.path, error)
                if self._wait_for_disk:
                    raise
                return


def _pack(record: Mapping[str, Any]) -> bytes:
    text = json.dumps(record, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _take_line(take: Take) -> bytes:
    addresses = [[str(a.address), str(a.block), a.sequence, a.handle_id, a.pool] for a in take.addresses]
    return _pack({"take": take.handle_id, "secondary": dict(take.secondary), "addresses": addresses})


def _lines(data: bytes) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line:
            continue
        checksum, _, text = line.partition(b" ")
        try:
            if int(checksum, 16) != zlib.crc32(text):
                raise ValueError("the checksum differs")
            yield json.loads(text)
        except ValueError as error:
            log.warning("journal, line %d is passed over, as a crash may have torn it: %s", number, error)


def _note(found: Outstanding, line: Mapping[str, Any]) -> None:
    if "take" in line:
        addresses = tuple(
            Assigned(ip_address(address), ip_network(block), sequence, handle_id, pool)
            for address, block, sequence, handle_id, pool in line["addresses"]
        )
        found.releases.pop(line["take"], None)
        found.takes[line["take"]] = Take(line["take"], line["secondary"], addresses)
    elif "release" in line:
        found.takes.pop(line["release"], None)
        found.releases[line["release"]] = None
    elif "done" in line:
        found.takes.pop(line["done"], None)
        found.releases.pop(line["done"], None)
