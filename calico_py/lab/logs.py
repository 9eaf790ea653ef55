"""The logs of a node's processes, one after the other or as they grow."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

from calico_py.lab import environments
from calico_py.lab.commands import LabError
from calico_py.lab.live import LiveLab

PROCESSES = environments.PROCESSES
_PAUSE = 0.2  # seconds between two looks
_ERROR = "Error: "  # click's, before the words with which a command ends
_STAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:")  # of a line that a process logs while it runs


def read_lines(lab: LiveLab, node: str, process: str = "", *, follow: bool = False) -> Iterator[str]:
    """Lines of each process (or one) of a node, with the process's name before them; with follow, for ever.

    Raises:
        LabError, InvalidError: no such node, or nothing has been logged.
    """
    lab.topology.node(node)
    wanted = (process,) if process else PROCESSES
    paths = {each: lab.state.log(f"{node}-{each}") for each in wanted}
    if not follow and not any(path.exists() for path in paths.values()):
        raise LabError(f"{node}: no log of {', '.join(wanted)}; has it ever been started? see: calico-py lab status")
    offsets = dict.fromkeys(wanted, 0)
    while True:
        for each, path in paths.items():
            lines, offsets[each] = _read_from(path, offsets[each], partial=not follow)
            yield from (f"{each}: {line}" for line in lines)
        if not follow:
            return
        time.sleep(_PAUSE)


def last_error(path: Path) -> str:
    """With what error the process that writes the log has ended, if that is the last that it said; else empty."""
    lines, _ = _read_from(path, 0, partial=True)
    begins = [number for number, line in enumerate(lines) if line.startswith(_ERROR)]
    said = lines[begins[-1] :] if begins else []
    return "" if any(_STAMP.match(line) for line in said) else "; ".join(said).removeprefix(_ERROR)


def _read_from(path: Path, offset: int, *, partial: bool) -> tuple[list[str], int]:
    """Lines after an offset in bytes, and where to go on; a line without its end only if partial ones are wanted."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            found = file.read()
    except FileNotFoundError:
        return [], offset
    whole = found if partial else found[: found.rfind(b"\n") + 1]
    return whole.decode(errors="replace").splitlines(), offset + len(whole)
