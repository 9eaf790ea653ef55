"""The report of what the engine did."""

import json
import os
from pathlib import Path

import pytest

from calico_py.dataplane.tunnel.stats import Stats, write_report


def test_report_is_replaced_whole(tmp_path: Path) -> None:
    stats = Stats(sent=3, sent_bytes=300)
    stats.drops["no route"] += 2
    path = tmp_path / "new" / "tunnel.json"
    write_report(path, Stats().report())
    write_report(path, stats.report())
    assert json.loads(path.read_text()) == {
        "sent": {"packets": 3, "bytes": 300},
        "received": {"packets": 0, "bytes": 0},
        "drops": {"no route": 2},
        "icmp": {},
    }
    assert [entry.name for entry in path.parent.iterdir()] == ["tunnel.json"]


def test_what_is_no_file_is_left_alone(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(FileExistsError, match="no regular file"):
        write_report(pipe, {})
    assert pipe.is_fifo()
