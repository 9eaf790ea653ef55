"""A flow counts what is lost: the control of all tests that find nothing lost."""

import time

import pytest

from calico_py.lab import flows
from calico_py.lab.commands import run
from tests.lab.labs import stub_lab

pytestmark = [pytest.mark.root, pytest.mark.alone]  # it bounds a loss from above


def test_a_flow_sees_a_route_that_was_away_for_50_ms() -> None:
    with stub_lab(nodes=3, subnets=2) as lab:
        netns = lab.topology.nodes[0].netns
        with flows.running_flow(lab.endpoint("node1"), lab.endpoint("node3")) as running:
            time.sleep(0.5)
            run(["ip", "-n", netns, "route", "add", "unreachable", "192.168.51.13"])
            time.sleep(0.05)
            run(["ip", "-n", netns, "route", "delete", "unreachable", "192.168.51.13"])
            time.sleep(0.5)
            result = running.stop()
    assert 30 < result.there.lost < 400
    assert 30 < result.back.lost < 400  # the strict filter has no way back either
    assert result.there.refused
