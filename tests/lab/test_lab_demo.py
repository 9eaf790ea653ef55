"""`calico-py lab demo`: all of it twice in a row, and what is left when somebody stops it."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.lab.labs import Traces, command, unique_name

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]


def _demo(name: str, picture: Path) -> "subprocess.Popen[str]":
    argv = command("lab", "demo", "--name", name, "--picture", str(picture))
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def test_twice_in_a_row_it_loses_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    before = Traces.now()
    name = unique_name()
    for number in (1, 2):
        picture = tmp_path / f"{number}.svg"
        with _demo(name, picture) as process:
            output, _ = process.communicate(timeout=200)
        assert process.returncode == 0, output
        assert output.count("lost: 0") == 2, output
        assert re.search(r"/26 via 192\.168\.50\.\d+ dev tunl0 proto 80 onlink", output)
        assert re.search(r"/26 via 192\.168\.50\.\d+ dev eth0 proto 81", output)
        assert re.search(r"192\.168\.50\.12 +Established, prefixes received: 1", output)
        assert re.search(r"IP 192\.168\.50\.11 > 192\.168\.50\.12: IP 10\.244\.\S+ > 10\.244\.\S+: ICMP", output)
        assert re.search(r"^ +IP 10\.244\.\S+ > 10\.244\.\S+: ICMP", output, re.MULTILINE)
        assert "ippool.projectcalico.org/default-ipv4-ippool configured" in output
        assert str(picture) in output
        root = ET.fromstring(picture.read_text())
        texts = " ".join("".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text"))
        for word in ("node1", "node3", "red", "blue", "192.168.50.12", "IPIP", "BGP session"):
            assert word in texts
        assert before.left_by(name) == []


@pytest.mark.parametrize(
    ("at", "number"),
    [
        ("made network namespace", signal.SIGINT),
        ("3 of 3 nodes ready", signal.SIGTERM),
        ("kubectl apply", signal.SIGINT),
    ],
)
def test_stopped_by_a_signal_it_cleans_up(tmp_path: Path, at: str, number: signal.Signals) -> None:
    before = Traces.now()
    name = unique_name()
    with _demo(name, tmp_path / "picture.svg") as process:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if at in line:
                break
        else:
            pytest.fail(said)
        time.sleep(0.5)
        process.send_signal(number)
        said += process.communicate(timeout=30)[0]
    assert process.returncode != 0
    assert "Traceback" not in said
    assert before.left_by(name) == []
