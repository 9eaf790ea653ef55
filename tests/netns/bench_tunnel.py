"""What the userspace tunnel costs and carries: ``pytest -s tests/netns/bench_tunnel.py`` as root on an idle machine."""

import os
import time
from pathlib import Path

import pytest

from tests.netns.tunnel_nodes import cluster

pytestmark = [pytest.mark.root, pytest.mark.bench]

RATE, SECONDS = 10_000, 5
STREAM = 200_000_000  # bytes


@pytest.mark.parametrize("encapsulation", ["ipip", "udp"])
def test_figures(tmp_path: Path, encapsulation: str) -> None:
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
        print(
            f"\n{encapsulation}: {RATE} packets a second each way: {lost} of {2 * RATE * SECONDS} lost, "
            f"engine {used / SECONDS:.0%} of a core, {used / (2 * RATE * SECONDS) * 1e6:.1f} us a packet; "
            f"one TCP stream {rate:.2f} Gbit/s"
        )
