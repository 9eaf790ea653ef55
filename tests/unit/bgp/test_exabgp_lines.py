"""Records of the bridge's to events, desired state to commands, reasons to sentences."""

import json
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from calico_py.bgp import exabgp_lines
from calico_py.bgp.exabgp_lines import Announced, BadLine, Configured, Hello, Retired, Unreached
from calico_py.model.bgp import Advertisement, Origin, Path, Peer, SessionState
from calico_py.model.speaker import EndOfRib, PathAnnounced, PathWithdrawn, ReplayComplete, SessionChanged

P = ip_address("10.0.0.2")
PEER = Peer("Mesh_10_0_0_2", P, ip_address("10.0.0.1"), 64512, 64512, "10.0.0.1")
PEERS = {P: PEER}
OPEN = {"asn": 64512, "hold_time": 240, "router_id": "10.0.0.2", "restart_time": 120, "forwarding": True}


def record(**more: Any) -> str:
    base = {"kind": "path", "peer": "10.0.0.2", "nlri": "10.50.0.0/26", "id": 3, "hop": "10.0.0.9"}
    return json.dumps(base | {"asn": [64512, 64512], "router_id": "10.0.0.2", "attributes": {}} | more)


def session(**more: Any) -> str:
    base = {"kind": "session", "peer": "10.0.0.2", "state": "down", "age": 1.5, "reason": "", "asn": [64512, 64512]}
    return json.dumps(base | {"open": {}, "notification": {}, "keep": 0} | more)


def test_a_path_with_every_attribute() -> None:
    attributes = {
        "origin": "egp",
        "as-path": {
            "0": {"element": "as-sequence", "value": [65001, 65002]},
            "1": {"element": "as-set", "value": [9, 7]},
            "2": {"element": "as-confed-sequence", "value": [1]},
        },
        "med": 5,
        "local-preference": 200,
        "community": [[64512, 7], "no-export"],
        "originator-id": "10.0.0.8",
        "cluster-list": ["1.1.1.1", "2.2.2.2"],
    }
    assert exabgp_lines.parse(record(attributes=attributes, asn=[64512, 65001]), PEERS) == PathAnnounced(
        Path(
            nlri=ip_network("10.50.0.0/26"),
            peer=P,
            next_hop=ip_address("10.0.0.9"),
            path_id=3,
            origin=Origin.EGP,
            as_path=(65001, 65002, (7, 9)),
            local_pref=200,
            med=5,
            communities=("64512:7", "no-export"),
            originator_id="10.0.0.8",
            cluster_list=("1.1.1.1", "2.2.2.2"),
            peer_as=65001,
            peer_router_id="10.0.0.2",
            ebgp=True,
        )
    )


def test_bits_behind_a_prefix_mean_nothing() -> None:
    """RFC 4271 4.3: the value of trailing bits is irrelevant; ExaBGP shows them as they came."""
    announced = exabgp_lines.parse(record(nlri="10.50.0.17/26"), PEERS)
    assert isinstance(announced, PathAnnounced)
    assert announced.path.nlri == ip_network("10.50.0.0/26")
    gone = '{"kind": "gone", "peer": "10.0.0.2", "nlri": "10.50.0.17/26", "id": 3}'
    assert exabgp_lines.parse(gone, PEERS) == PathWithdrawn(P, ip_network("10.50.0.0/26"), 3)


def test_the_other_records() -> None:
    cases = {
        '{"kind": "gone", "peer": "10.0.0.2", "nlri": "10.1.0.0/26", "id": 0}': PathWithdrawn(
            P, ip_network("10.1.0.0/26")
        ),
        '{"kind": "eor", "peer": "fd00::2", "family": "ipv6 unicast"}': EndOfRib(ip_address("fd00::2"), 6),
        '{"kind": "hello", "version": 1, "digest": "d", "complete": true}': Hello("d", complete=True),
        '{"kind": "announced", "scope": "", "nlri": "10.1.0.0/26", "attributes": "a"}': Announced(
            "", "10.1.0.0/26", "a"
        ),
        '{"kind": "configured", "digest": "d"}': Configured("d"),
        '{"kind": "retired", "peer": "10.0.0.2"}': Retired(P),
        '{"kind": "replayed", "unread": 0}': ReplayComplete(),
        session(state="up", open=OPEN): SessionChanged(
            P, SessionState.ESTABLISHED, hold_time=90, restart_time=120, forwarding=True, age=1.5
        ),
    }
    for line, expected in cases.items():
        assert exabgp_lines.parse(line, PEERS) == expected


@pytest.mark.parametrize(
    "line",
    [
        "",
        "null",
        "[" * 100_000,
        '{"kind": "other"}',
        record(nlri="10.50.0.0/33"),
        record(nlri=7),
        record(hop="self"),
        record(id=-1),
        record(id=True),
        record(asn=[1]),
        record(attributes={"origin": "x"}),
        record(attributes={"med": "5"}),
        record(attributes={"as-path": []}),
        record(attributes={"as-path": {"x": {"element": "as-sequence", "value": [1]}}}),
        record(attributes={"originator-id": "fd00::1"}),
        record(attributes={"community": 5}),
        session(state="up"),
    ],
)
def test_a_line_that_makes_no_sense_is_a_value(line: str) -> None:
    assert isinstance(exabgp_lines.parse(line, PEERS), BadLine)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"reason": "closing connection"}, ["no TCP connection to 10.0.0.2 port 179", "firewall"]),
        ({"reason": "notification sent (2,2)", "open": OPEN | {"asn": 65009}}, ["65009", "64512", "correct the AS"]),
        ({"reason": "notification sent (2,3)", "open": OPEN}, ["same router id", "10.0.0.2"]),
        ({"reason": "notification sent (4,0)", "open": OPEN}, ["nothing was heard", "hold time"]),
        ({"reason": "notification sent (3,1)", "open": OPEN}, ["broke the protocol", "UPDATE"]),
        ({"reason": "closing connection", "open": OPEN}, ["closed the connection"]),
        ({"notification": {"code": 2, "subcode": 2, "message": ""}}, ["refuses our AS 64512"]),
        ({"notification": {"code": 2, "subcode": 3, "message": ""}}, ["refuses our router id 10.0.0.1"]),
        ({"notification": {"code": 4, "subcode": 0, "message": ""}}, ["heard nothing of this node"]),
        ({"notification": {"code": 6, "subcode": 3, "message": ""}}, ["not configured there"]),
        ({"notification": {"code": 6, "subcode": 99, "message": ""}}, ["cease, subcode 99"]),
        ({"notification": {"code": 99, "subcode": 1, "message": ""}}, ["code 99", "(99,1)"]),
    ],
)
def test_a_session_that_is_down_says_why(more: dict[str, Any], words: list[str]) -> None:
    event = exabgp_lines.parse(session(**more), PEERS)
    assert isinstance(event, SessionChanged)
    assert event.state == SessionState.CONNECT
    for word in words:
        assert word in event.reason


def test_nothing_is_said_of_a_peer_that_is_not_configured() -> None:
    probe = {"kind": "probe", "peer": "10.0.0.2", "error": "", "waiting": False, "tried": False, "deaf": False}
    for line in (session(reason="closing connection"), json.dumps(probe)):
        event = exabgp_lines.parse(line, {})
        assert isinstance(event, SessionChanged | Unreached)
        assert event.reason == ""
        known = exabgp_lines.parse(line, PEERS)
        assert isinstance(known, SessionChanged | Unreached)
        assert known.reason != ""


def test_announcements_by_scope() -> None:
    wanted = [
        Advertisement(ip_network("10.1.0.0/26")),
        Advertisement(ip_network("10.1.0.0/26"), next_hop=ip_address("10.0.0.9"), peers=frozenset({P})),
        Advertisement(ip_network("fd01::/122"), communities=("64512:7", "1:2")),
    ]
    assert exabgp_lines.announcements(wanted) == {
        ("", "10.1.0.0/26"): "next-hop self",
        ("10.0.0.2", "10.1.0.0/26"): "next-hop 10.0.0.9",
        ("", "fd01::/122"): "next-hop self community [1:2 64512:7]",
    }
    assert exabgp_lines.announcements(reversed(wanted)) == exabgp_lines.announcements(wanted)


@pytest.mark.parametrize(
    "community", ["", "1", "1:2:3", "1:x", "65536:1", "1:2] nlri 0.0.0.0/0", "1:2\nreload", "\u0661:1"]
)
def test_nothing_but_two_numbers_gets_into_a_community(community: str) -> None:
    with pytest.raises(ValueError, match="expected two numbers"):
        exabgp_lines.announcements([Advertisement(ip_network("10.1.0.0/26"), communities=(community,))])


def test_only_the_difference_is_announced() -> None:
    held = {("", "10.1.0.0/26"): "a", ("", "10.2.0.0/26"): "a", ("", "10.3.0.0/26"): "a"}
    wanted = {("", "10.1.0.0/26"): "a", ("", "10.2.0.0/26"): "b", ("x", "10.3.0.0/26"): "a"}
    assert exabgp_lines.command_announce(held, held) == ""
    assert json.loads(exabgp_lines.command_announce(held, wanted)) == {
        "do": "announce",
        "set": [["", "10.2.0.0/26", "b"], ["x", "10.3.0.0/26", "a"]],
        "unset": [["", "10.3.0.0/26"]],
    }


def test_commands_are_one_line_each() -> None:
    other = replace(PEER, address=ip_address("fd00::2"))
    for command in (
        exabgp_lines.command_sessions("d", [P, other.address]),
        exabgp_lines.command_complete(),
        exabgp_lines.command_retire([P]),
    ):
        assert command.count("\n") == 1
        json.loads(command)
