"""What the engine counts, and how it tells: a JSON file, replaced whole, and a line in the log."""

import errno
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(slots=True)
class Stats:
    """Counters since the process began.

    Attributes:
        sent: packets encapsulated; received: packets decapsulated; with their inner bytes.
        drops: packets not carried, by reason.
        icmp: ICMP errors sent, by kind.
    """

    sent: int = 0
    sent_bytes: int = 0
    received: int = 0
    received_bytes: int = 0
    drops: Counter[str] = field(default_factory=Counter)
    icmp: Counter[str] = field(default_factory=Counter)

    def report(self) -> dict[str, Any]:
        """All of it as JSON."""
        return {
            "sent": {"packets": self.sent, "bytes": self.sent_bytes},
            "received": {"packets": self.received, "bytes": self.received_bytes},
            "drops": dict(sorted(self.drops.items())),
            "icmp": dict(sorted(self.icmp.items())),
        }


def write_report(path: Path, report: dict[str, Any]) -> None:
    """Replace the file atomically; makes its folder.

    Raises:
        OSError: the file system's, or there is something else of that name, such as a device.
    """
    if path.exists() and not path.is_file():  # renaming would take its place
        raise FileExistsError(errno.EEXIST, "found something that is no regular file", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    new.replace(path)
