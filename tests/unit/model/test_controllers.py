"""Calico's settings of the cluster-wide work."""

from datetime import timedelta

import pytest

from calico_py.model.controllers import KUBE_CONTROLLERS_CONFIGURATIONS, KubeControllersConfiguration, parse_duration
from calico_py.model.meta import Meta
from calico_py.model.net import InvalidError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("15m", 900), ("15m0s", 900), ("1h30m", 5400), ("0s", 0), ("0", 0), ("1.5s", 1.5), ("500ms", 0.5)],
)
def test_durations_as_go_prints_them(text: str, seconds: float) -> None:
    assert parse_duration(text, field="f").total_seconds() == seconds


@pytest.mark.parametrize("text", ["", "15", "-1m", "15 m", "m", "15m x", "1d"])
def test_what_is_no_duration_is_named(text: str) -> None:
    with pytest.raises(InvalidError, match="f: found"):
        parse_duration(text, field="f")


def test_there_and_back() -> None:
    kind = KUBE_CONTROLLERS_CONFIGURATIONS
    for grace in (None, timedelta(minutes=15), timedelta(0)):
        made = KubeControllersConfiguration(Meta("default"), grace)
        assert kind.decode(kind.encode(made)) == made


def test_calicos_own_object_is_read() -> None:
    spec = {"controllers": {"node": {"reconcilerPeriod": "5m", "leakGracePeriod": "15m", "hostEndpoint": {}}}}
    found = KUBE_CONTROLLERS_CONFIGURATIONS.decode({"metadata": {"name": "default"}, "spec": spec})
    assert found.leak_grace_period == timedelta(minutes=15)
