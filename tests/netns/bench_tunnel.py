"""What the userspace tunnel costs and carries, sender and receiver on the same machine."""

import os
import time
from pathlib import Path

import pytest

from tests.figures import Figure, Figures
from tests.netns.tunnel_nodes import cluster

pytestmark = [pytest.mark.root, pytest.mark.bench]

RATE, SECONDS = 10_000, 5
STREAM = 200_000_000  # bytes


@pytest.mark.parametrize("encapsulation", ["ipip", "udp"])
def test_figures(tmp_path: Path, encapsulation: str, figures: Figures) -> None:
    """The userspace tunnel."""
    with cluster(tmp_path) as two:
        two.tunnel(encapsulation=encapsulation)
        one, other = two.nodes
        assert one.ping(other.pod) == 3
        start = one.engine_seconds()
        flows = (one.flow(other, rate=RATE, seconds=SECONDS), other.flow(one, rate=RATE, seconds=SECONDS))
        lost = sum(flow.finish().lost for flow in flows)
        used = one.engine_seconds() - start
        data = os.urandom(1_000_000) * (STREAM // 1_000_000)
        begun = time.monotonic()
        one.transfer(other, data)
        rate = len(data) * 8 / (time.monotonic() - begun) / 1e9
        load = f"{encapsulation}, {RATE} packets a second each way"
        figures.tell(Figure(f"{load}: lost of {2 * RATE * SECONDS}", lost, "packets"))
        figures.tell(Figure(f"{load}: engine", used / SECONDS * 100, "% of a core"))
        figures.tell(Figure(f"{load}: engine's time", used / (2 * RATE * SECONDS) * 1e6, "us a packet"))
        figures.tell(Figure(f"{encapsulation}, one TCP stream", rate, "Gbit/s"))
