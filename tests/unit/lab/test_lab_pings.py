"""What ping prints, as data."""

import ipaddress

import pytest

from calico_py.lab.commands import LabError
from calico_py.lab.pings import parse_ping

TO = ipaddress.ip_address("10.244.0.1")

ALL = """PING 10.244.0.1 (10.244.0.1) 56(84) bytes of data.
64 bytes from 10.244.0.1: icmp_seq=1 ttl=62 time=0.260 ms

--- 10.244.0.1 ping statistics ---
2 packets transmitted, 2 received, 0% packet loss, time 201ms
rtt min/avg/max/mdev = 0.210/0.260/0.310/0.050 ms
"""
SOME = """PING 10.244.0.1 (10.244.0.1) 56(84) bytes of data.
From 192.168.50.11 icmp_seq=1 Destination Host Unreachable

--- 10.244.0.1 ping statistics ---
3 packets transmitted, 1 received, +2 duplicates, +1 errors, 66% packet loss, time 2031ms
rtt min/avg/max/mdev = 0.210/0.210/0.210/0.000 ms
"""
NONE = """PING 10.244.0.1 (10.244.0.1) 56(84) bytes of data.

--- 10.244.0.1 ping statistics ---
3 packets transmitted, 0 received, 100% packet loss, time 2031ms
"""


def test_all_answered() -> None:
    result = parse_ping(TO, ALL, "")
    assert result.ok
    assert (result.sent, result.received, result.times) == (2, 2, (0.21, 0.26, 0.31))
    assert result.to_json()["rtt_ms"] == {"min": 0.21, "avg": 0.26, "max": 0.31}


def test_some_answered_says_what_came_instead() -> None:
    result = parse_ping(TO, SOME, "")
    assert not result.ok
    assert (result.received, result.duplicates) == (1, 2)
    assert "Destination Host Unreachable" in result.said


def test_none_answered() -> None:
    result = parse_ping(TO, NONE, "")
    assert not result.ok
    assert (result.times, result.to_json()["lost"]) == (None, 3)


def test_no_route_is_a_result() -> None:
    result = parse_ping(TO, "", "ping: connect: Network is unreachable\n")
    assert not result.ok
    assert "Network is unreachable" in result.said


def test_a_ping_that_did_not_run_is_an_error() -> None:
    with pytest.raises(LabError, match="Operation not permitted"):
        parse_ping(TO, "", "ping: socket: Operation not permitted\n")
