"""The pure part of the bridge: what ExaBGP says in, what ExaBGP and the agent are told out."""

import json
import os
import socket
import subprocess
import sys
import time
from typing import Any

import pytest

from calico_py.bgp import exabgp_config
from calico_py.bgp.bridge import MAX_PATHS, SYNC_LIMIT, Bridge
from calico_py.bgp.bridge_orders import CHUNK, RELOAD_LIMIT
from calico_py.bgp.bridge_probe import BGP_PORT, PROBES, Prober, listening
from calico_py.bgp.bridge_session import Outbox, packed

P, Q, SIX = "10.0.0.2", "10.0.0.3", "fd00::2"


def head(kind: str, peer: str, **more: Any) -> str:
    neighbor = {"address": {"local": "10.0.0.1", "peer": peer}, "asn": {"local": 64512, "peer": 64512}} | more
    return json.dumps({"exabgp": "5.0.0", "type": kind, "neighbor": neighbor})


def opened(peer: str = P, *, restart: int | None = 120, forwarding: bool = True, family: str = "ipv4/unicast") -> str:
    capabilities: dict[str, Any] = {"65": {"name": "asn4", "asn4": 64512}}
    if restart is not None:
        flags = {family: ["restart"] if forwarding else []}
        capabilities["64"] = {"time": restart, "address-family-flags": flags, "restart-flags": []}
    message = {"version": 4, "asn": 23456, "hold_time": 240, "router_id": "10.0.0.2", "capabilities": capabilities}
    return head("open", peer, direction="receive", open=message)


def update(peer: str, *prefixes: str, hop: str = "10.0.0.2", gone: tuple[str, ...] = (), **attributes: Any) -> str:
    inside: dict[str, Any] = {"attribute": {"origin": "igp", "junk": "x"} | attributes}
    if prefixes:
        inside["announce"] = {"ipv4 unicast": {hop: [{"nlri": p, "path-information": "0.0.1.2"} for p in prefixes]}}
    if gone:
        inside["withdraw"] = {"ipv4 unicast": [{"nlri": p, "path-information": "0.0.1.2"} for p in gone]}
    return head("update", peer, direction="receive", message={"update": inside})


def eor(peer: str = P, afi: str = "ipv4") -> str:
    return head("update", peer, direction="receive", message={"eor": {"afi": afi, "safi": "unicast"}})


def up(bridge: Bridge, peer: str = P, now: float = 0.0, **more: Any) -> None:
    for line in (head("state", peer, state="connected"), opened(peer, **more), head("state", peer, state="up")):
        bridge.exabgp_line(line, now)


def down(bridge: Bridge, peer: str = P, now: float = 0.0) -> None:
    bridge.exabgp_line(head("state", peer, state="down", reason="closing connection"), now)


def told(bridge: Bridge) -> list[dict[str, Any]]:
    assert bridge.outbox is not None
    return [json.loads(line) for line in bridge.outbox.take(1 << 30).decode().splitlines()]


def kinds(bridge: Bridge) -> list[str]:
    return [record["kind"] + ":" + str(record.get("state", record.get("nlri", ""))) for record in told(bridge)]


def commands(bridge: Bridge) -> list[str]:
    lines = bridge.orders.to_exabgp.decode().splitlines()
    bridge.orders.to_exabgp.clear()
    return lines


def announce(bridge: Bridge, *entries: tuple[str, str, str], unset: tuple[tuple[str, str], ...] = ()) -> None:
    bridge.agent_line(json.dumps({"do": "announce", "set": entries, "unset": unset}), 0.0)


def test_the_agent_is_greeted_with_the_whole_table() -> None:
    bridge = Bridge("d1")
    announce(bridge, ("", "10.1.0.0/26", "next-hop self"))
    up(bridge)
    bridge.exabgp_line(update(P, "10.50.0.0/26", "10.50.0.64/26"), 1.0)
    bridge.exabgp_line(update(P, gone=("10.50.0.64/26",)), 1.0)
    bridge.exabgp_line(eor(), 2.0)
    bridge.agent_connected(10.0)
    records = told(bridge)
    assert [record["kind"] for record in records] == ["hello", "announced", "session", "path", "eor", "replayed"]
    assert records[0] == {"kind": "hello", "version": 1, "digest": "d1", "complete": False}
    assert records[2]["age"] == 10.0
    assert records[2]["open"] == {
        "asn": 64512,
        "hold_time": 240,
        "router_id": "10.0.0.2",
        "restart_time": 120,
        "forwarding": True,
    }
    assert records[3] == {
        "kind": "path",
        "peer": P,
        "nlri": "10.50.0.0/26",
        "id": 258,
        "hop": "10.0.0.2",
        "asn": [64512, 64512],
        "router_id": "10.0.0.2",
        "attributes": {"origin": "igp"},
    }


@pytest.mark.parametrize("hops", [["fd00::2", "fe80::2"], ["fe80::2", "fd00::2"]])
def test_of_a_global_and_a_link_local_next_hop_the_global_one_counts(hops: list[str]) -> None:
    bridge = Bridge("d1")
    up(bridge, SIX, family="ipv6/unicast")
    announced = {"ipv6 unicast": {hop: [{"nlri": "fd50::/122"}] for hop in hops}}
    message = {"update": {"attribute": {"origin": "igp"}, "announce": announced}}
    bridge.exabgp_line(head("update", SIX, direction="receive", message=message), 0.0)
    bridge.agent_connected(0.0)
    assert [record["hop"] for record in told(bridge) if record["kind"] == "path"] == ["fd00::2"]


def test_what_happens_is_told_and_a_second_agent_replaces_the_first() -> None:
    bridge = Bridge("d1")
    bridge.agent_connected(0.0)
    told(bridge)
    up(bridge)
    bridge.exabgp_line(update(P, "10.50.0.0/26"), 0.0)
    assert kinds(bridge) == ["session:up", "path:10.50.0.0/26"]
    bridge.agent_connected(0.0)
    assert kinds(bridge) == ["hello:", "session:up", "path:10.50.0.0/26", "replayed:"]


def test_a_slow_agent_gets_the_last_word_on_each_prefix_but_never_across_a_barrier() -> None:
    box = Outbox()
    for line, subject in [("a1", "a"), ("b1", "b"), ("a2", "a"), ("down", None), ("a3", "a"), ("a4", "a")]:
        box.put(line, subject)
    assert box.take(1000).decode().splitlines() == ["a2", "b1", "down", "a4"]
    assert len(box) == 0
    box.put("x" * 50, "x")
    box.put("y" * 50, "y")
    assert box.take(1) == b"x" * 50 + b"\n", "at least one line, whatever its length"


def test_an_agent_that_does_not_read_is_dropped_before_memory_is_gone() -> None:
    bridge = Bridge("d1")
    bridge.agent_connected(0.0)
    up(bridge)
    for n in range(60_000):
        bridge.exabgp_line(eor(), float(n))
    assert bridge.overrun
    bridge.agent_lost()
    assert not bridge.overrun


def test_a_lost_session_is_replayed_as_history_while_its_paths_may_live() -> None:
    bridge = Bridge("d1")
    up(bridge)
    bridge.exabgp_line(update(P, "10.50.0.0/26"), 1.0)
    down(bridge, now=100.0)
    bridge.exabgp_line(head("state", P, state="connected"), 101.0)
    down(bridge, now=102.0)
    bridge.agent_connected(110.0)
    records = told(bridge)
    assert [r["kind"] + ":" + r.get("state", "") for r in records] == [
        "hello:",
        "session:up",
        "path:",
        "session:down",
        "replayed:",
    ]
    assert records[1]["age"] == records[3]["age"] == 10.0
    assert records[1]["open"]["restart_time"] == 120, "as it was granted, not as of the failed attempts since"
    bridge.agent_connected(100.0 + 121.0)
    assert "path" not in [record["kind"] for record in told(bridge)]


@pytest.mark.parametrize("restart", [None, 0])
def test_without_graceful_restart_nothing_is_kept(restart: int | None) -> None:
    bridge = Bridge("d1")
    up(bridge, restart=restart)
    bridge.exabgp_line(update(P, "10.50.0.0/26"), 1.0)
    down(bridge, now=2.0)
    bridge.agent_connected(2.0)
    assert "path" not in [record["kind"] for record in told(bridge)]


@pytest.mark.parametrize(
    ("reason", "code", "kept"),
    [
        ("closing connection", None, 120),
        ("notification sent (4,0)", None, 120),
        ("notification received (4,0)", 4, 120),
        ("notification sent (3,1)", None, 0),
        ("notification received (6,2)", 6, 0),
    ],
)
def test_a_notification_ends_all_grace_but_for_the_hold_timer(reason: str, code: int | None, kept: int) -> None:
    bridge = Bridge("d1")
    bridge.agent_connected(0.0)
    up(bridge)
    bridge.exabgp_line(update(P, "10.50.0.0/26"), 1.0)
    told(bridge)
    if code is not None:
        notification = {"code": code, "subcode": 0, "data": "", "message": ""}
        bridge.exabgp_line(head("notification", P, direction="receive", notification=notification), 2.0)
    bridge.exabgp_line(head("state", P, state="down", reason=reason), 2.0)
    assert [record["keep"] for record in told(bridge)] == [kept]
    assert bool(bridge.sessions[P].paths) == bool(kept)


def test_end_of_rib_and_a_lost_forwarding_state_drop_stale_paths() -> None:
    bridge = Bridge("d1")
    up(bridge)
    bridge.exabgp_line(update(P, "10.50.0.0/26", "10.50.0.64/26"), 1.0)
    down(bridge, now=2.0)
    up(bridge, now=3.0)
    bridge.exabgp_line(update(P, "10.50.0.0/26"), 4.0)
    bridge.agent_connected(4.0)
    told(bridge)
    bridge.exabgp_line(eor(), 5.0)
    assert kinds(bridge) == ["gone:10.50.0.64/26", "eor:"]
    down(bridge, now=6.0)
    up(bridge, now=7.0, forwarding=False)
    assert bridge.sessions[P].paths == {}
    assert SYNC_LIMIT > 0


def test_announcements_go_to_sessions_that_are_up_only_and_end_of_rib_comes_last() -> None:
    """One that is down would hold an UPDATE back, for which ExaBGP drops every reload."""
    bridge = Bridge("d1")
    announce(bridge, ("", "10.1.0.0/26", "next-hop self"))
    assert commands(bridge) == []
    up(bridge)
    assert commands(bridge) == [f"neighbor {P} announce attributes next-hop self nlri 10.1.0.0/26"]
    bridge.agent_line('{"do": "complete"}', 0.0)
    assert commands(bridge) == [f"neighbor {P} announce eor ipv4 unicast"]
    up(bridge, Q)
    assert commands(bridge) == [
        f"neighbor {Q} announce attributes next-hop self nlri 10.1.0.0/26",
        f"neighbor {Q} announce eor ipv4 unicast",
    ]
    announce(bridge, ("", "10.1.0.64/26", "next-hop self community [1:2]"), unset=(("", "10.1.0.0/26"),))
    assert commands(bridge) == [
        f"neighbor {P}, neighbor {Q} withdraw attributes next-hop self nlri 10.1.0.0/26",
        f"neighbor {P}, neighbor {Q} announce attributes next-hop self community [1:2] nlri 10.1.0.64/26",
    ]


def test_a_session_that_comes_back_is_told_all_again_and_what_went_meanwhile() -> None:
    bridge = Bridge("d1")
    announce(bridge, ("", "10.1.0.0/26", "next-hop self"), ("", "10.1.0.64/26", "next-hop self"))
    up(bridge)
    down(bridge)
    commands(bridge)
    announce(bridge, unset=(("", "10.1.0.64/26"),))
    assert commands(bridge) == []
    up(bridge)
    assert commands(bridge) == [
        f"neighbor {P} withdraw attributes next-hop self nlri 10.1.0.64/26",
        f"neighbor {P} announce attributes next-hop self nlri 10.1.0.0/26",
    ]


def test_a_scope_of_its_own_and_the_family_of_the_session() -> None:
    bridge = Bridge("d1")
    up(bridge)
    up(bridge, SIX, family="ipv6/unicast")
    announce(
        bridge,
        ("", "10.1.0.0/26", "next-hop self"),
        (P, "10.1.0.0/26", "next-hop 10.0.0.9"),
        ("", "fd01::/122", "next-hop self"),
    )
    assert commands(bridge) == [
        f"neighbor {P} announce attributes next-hop 10.0.0.9 nlri 10.1.0.0/26",
        f"neighbor {SIX} announce attributes next-hop self nlri fd01::/122",
    ]


def test_many_prefixes_go_in_chunks() -> None:
    bridge = Bridge("d1")
    up(bridge)
    announce(bridge, *[("", f"10.1.{n}.0/24", "next-hop self") for n in range(CHUNK + 1)])
    lines = commands(bridge)
    assert [line.count("/24") for line in lines] == [CHUNK, 1]


def test_the_file_brings_announcements_and_end_of_rib_back() -> None:
    first = Bridge("d1")
    announce(first, ("", "10.1.0.0/26", "next-hop self"))
    first.agent_line('{"do": "complete"}', 0.0)
    assert first.save
    second = Bridge("d1", first.orders.state())
    up(second)
    assert commands(second) == [
        f"neighbor {P} announce attributes next-hop self nlri 10.1.0.0/26",
        f"neighbor {P} announce eor ipv4 unicast",
    ]


@pytest.mark.parametrize(
    "saved", ["", "junk", "[]", "{}", '{"announced": [], "complete": 1}', '{"announced": {"": 3}}']
)
def test_a_damaged_file_is_as_none(saved: str) -> None:
    bridge = Bridge("d1", saved)
    assert (bridge.orders.announced, bridge.orders.complete) == ({}, False)


def answer(bridge: Bridge, digests: list[str], now: float, sent: dict[str, int] | None = None) -> None:
    for digest in digests:
        for line in ("neighbor 10.0.0.2 {", f'  description "{digest}";', "  router-id 10.0.0.1;", "}"):
            bridge.exabgp_line(line, now)
    peers = [{"peer": {"address": peer}, "messages": {"sent": {"update": n}}} for peer, n in (sent or {}).items()]
    bridge.exabgp_line(json.dumps(peers), now)


def test_a_reload_is_repeated_until_the_neighbours_show_its_digest() -> None:
    bridge = Bridge("d1")
    bridge.agent_connected(0.0)
    told(bridge)
    bridge.agent_line(json.dumps({"do": "sessions", "digest": "d2", "peers": [P, Q]}), 0.0)
    assert commands(bridge) == ["reload"]
    assert bridge.orders.deadline is not None
    bridge.orders.tick(bridge.orders.deadline - 0.01)
    assert commands(bridge) == []
    bridge.orders.tick(bridge.orders.deadline)
    assert commands(bridge) == [f"show neighbor configuration {P}", "show neighbor json"]
    answer(bridge, ["d1"], 0.1)
    assert commands(bridge) == ["reload"], "dropped: once more"
    answer(bridge, [], 0.2)
    assert commands(bridge) == ["reload"], "the neighbour is not there yet"
    answer(bridge, ["d2", "d1"], 0.2)
    assert commands(bridge) == ["reload"], "two answers mixed"
    bridge.orders.tick(bridge.orders.deadline)
    commands(bridge)
    answer(bridge, ["d2", "d2"], 0.3)
    assert commands(bridge) == []
    assert told(bridge) == [{"kind": "configured", "digest": "d2"}]
    assert bridge.orders.deadline is None


def test_a_reload_that_never_comes_is_given_up() -> None:
    bridge = Bridge("d1")
    bridge.agent_line(json.dumps({"do": "sessions", "digest": "d2", "peers": [P]}), 100.0)
    assert not bridge.orders.hopeless(100.0 + RELOAD_LIMIT)
    assert bridge.orders.hopeless(100.1 + RELOAD_LIMIT)
    answer(bridge, ["d2"], 131.0)
    assert not bridge.orders.hopeless(200.0)


def watch(bridge: Bridge, *peers: str) -> None:
    bridge.agent_line(json.dumps({"do": "watch", "peers": [[peer, "10.0.0.1", 179] for peer in peers]}), 0.0)


def test_neighbours_that_exchange_no_message_are_probed_and_a_change_is_told_once() -> None:
    bridge = Bridge("d1")
    watch(bridge, P, Q, "10.0.0.4")
    up(bridge)
    bridge.exabgp_line(head("state", Q, state="connected"), 0.0)
    bridge.exabgp_line(opened(Q), 0.0)
    assert bridge.unreached() == {"10.0.0.4": "10.0.0.1"}, "Q has sent an OPEN: ExaBGP says what was wrong with it"
    bridge.agent_connected(0.0)
    told(bridge)
    bridge.probed("10.0.0.4", "ENETUNREACH", waiting=False)
    bridge.probed("10.0.0.4", "ENETUNREACH", waiting=False)
    expected = {
        "kind": "probe",
        "peer": "10.0.0.4",
        "error": "ENETUNREACH",
        "waiting": False,
        "tried": False,
        "deaf": False,
    }
    assert told(bridge) == [expected]
    bridge.agent_connected(0.0)
    told(bridge)
    watch(bridge, P, Q, "10.0.0.4")
    assert told(bridge)[-1] == expected, "an agent that comes later is told as well, once it knows what should be"
    down(bridge, "10.0.0.4")
    assert told(bridge) == [], "one more attempt that failed says less"


def test_nothing_is_said_of_a_probe_once_the_session_is_up() -> None:
    bridge = Bridge("d1")
    watch(bridge, P)
    bridge.probed(P, "ENETUNREACH", waiting=False)
    bridge.agent_connected(0.0)
    up(bridge)
    told(bridge)
    watch(bridge, P)
    bridge.probed(P, "", waiting=False)
    assert told(bridge) == []


@pytest.mark.parametrize("error", [pytest.param("", marks=pytest.mark.root), "ECONNREFUSED"])
def test_a_probe_with_a_real_socket(error: str) -> None:
    bridge, prober = Bridge("d1"), Prober()
    bridge.agent_line(json.dumps({"do": "watch", "peers": [["127.0.0.1", "127.0.0.1", 179]]}), 0.0)
    bridge.agent_connected(0.0)
    told(bridge)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        if not error:
            listener.bind(("127.0.0.1", BGP_PORT))
        for _ in range(6):
            prober.round(bridge)
            time.sleep(0.01)
    assert [record["error"] for record in told(bridge)] == [error]
    watch(bridge)
    prober.round(bridge)
    assert prober._probes == {}


def test_where_exabgp_does_not_listen_it_is_told_to_try_again() -> None:
    bridge = Bridge("d1")
    watch(bridge, P)
    bridge.agent_connected(0.0)
    told(bridge)
    bridge.listens({(packed("10.0.0.1"), 180), (packed("10.0.0.9"), 179)})
    assert commands(bridge) == ["reload"]
    bridge.probed(P, "", waiting=False)
    assert [record["deaf"] for record in told(bridge)] == [True]
    bridge.listens({(packed("10.0.0.1"), 179)})
    assert commands(bridge) == []
    bridge.probed(P, "", waiting=False)
    assert [record["deaf"] for record in told(bridge)] == [False]


def test_where_it_cannot_listen_for_long_it_is_made_to_try_ever_less() -> None:
    """A router on the host may have the port for good, and a reload of many neighbours takes seconds."""
    bridge = Bridge("d1")
    bridge.agent_line(json.dumps({"do": "watch", "peers": [[P, "10.0.0.1", 179]]}), 0.0)
    reloads = []
    for look in range(1, 61):  # five minutes
        bridge.listens(set())
        reloads += [look] * commands(bridge).count("reload")
    assert reloads[:6] == [1, 2, 4, 8, 12, 16]
    assert len(reloads) == 11
    bridge.listens({(packed("10.0.0.1"), 179)})
    bridge.listens(set())
    assert commands(bridge) == ["reload"], "a new loss is answered at once"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_sockets_on_which_a_process_listens(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener, socket.socket(family) as other:
        listener.bind((host, 0))
        other.bind((host, 0))
        listener.listen()
        found = listening(os.getpid())
        assert (packed(host), listener.getsockname()[1]) in found
        assert (packed(host), other.getsockname()[1]) not in found
        assert listening(1) & found == set()


def test_a_thousand_neighbours_that_are_down_all_have_their_turn() -> None:
    bridge, prober = Bridge("d1"), Prober()
    everyone = [f"127.0.{n // 250}.{n % 250 + 1}" for n in range(300)]
    bridge.agent_line(json.dumps({"do": "watch", "peers": [[peer, "127.0.0.1", 179] for peer in everyone]}), 0.0)
    for _ in range(10):
        prober.round(bridge)
        assert sum(probe.pending for probe in prober._probes.values()) <= PROBES
    assert set(bridge.probes) == set(everyone)
    watch(bridge)
    prober.round(bridge)


def test_a_configuration_without_neighbours_is_proved_by_their_absence() -> None:
    bridge = Bridge("d1")
    bridge.agent_connected(0.0)
    told(bridge)
    bridge.agent_line(json.dumps({"do": "sessions", "digest": "d0", "peers": [P, Q]}), 0.0)
    answer(bridge, ["d0"], 0.5)
    told(bridge)
    bridge.agent_line(json.dumps({"do": "sessions", "digest": "d2", "peers": []}), 0.9)
    commands(bridge)
    bridge.orders.tick(1.0)
    assert commands(bridge) == [f"show neighbor configuration {P}", "show neighbor json"]
    answer(bridge, ["d1"], 1.1)
    assert commands(bridge) == ["reload"]
    bridge.orders.tick(5.0)
    answer(bridge, [], 5.1)
    assert told(bridge) == [{"kind": "configured", "digest": "d2"}]


def test_a_neighbour_retires_when_its_counter_stands_still_or_time_is_up() -> None:
    bridge = Bridge("d1")
    announce(bridge, ("", "10.1.0.0/26", "next-hop self"))
    up(bridge)
    up(bridge, Q)
    bridge.agent_connected(0.0)
    told(bridge)
    commands(bridge)
    bridge.agent_line(json.dumps({"do": "retire", "peers": [P]}), 10.0)
    assert commands(bridge) == [f"neighbor {P} withdraw attributes next-hop self nlri 10.1.0.0/26"]
    answer(bridge, [], 10.1, {P: 5, Q: 1})
    answer(bridge, [], 10.2, {P: 6, Q: 1})
    assert told(bridge) == []
    answer(bridge, [], 10.3, {P: 6, Q: 1})
    assert told(bridge) == [{"kind": "retired", "peer": P}]
    bridge.agent_line(json.dumps({"do": "retire", "peers": [Q]}), 20.0)
    answer(bridge, [], 23.1, {P: 6, Q: 9})
    assert told(bridge) == [{"kind": "retired", "peer": Q}]


def test_a_neighbour_that_stays_after_all_is_announced_everything_again() -> None:
    for end in ("agent lost", "stays"):
        bridge = Bridge("d1")
        announce(bridge, ("", "10.1.0.0/26", "next-hop self"))
        up(bridge)
        bridge.agent_connected(0.0)
        bridge.agent_line(json.dumps({"do": "retire", "peers": [P]}), 10.0)
        commands(bridge)
        if end == "agent lost":
            bridge.agent_lost()
        else:
            bridge.agent_line(json.dumps({"do": "sessions", "digest": "d1", "peers": [P]}), 11.0)
        assert f"neighbor {P} announce attributes next-hop self nlri 10.1.0.0/26" in commands(bridge)


def test_an_exabgp_that_does_not_answer_is_given_up() -> None:
    bridge = Bridge("d1")
    up(bridge)
    bridge.agent_connected(0.0)
    bridge.agent_line(json.dumps({"do": "retire", "peers": [P]}), 10.0)
    assert not bridge.orders.hopeless(13.0 + RELOAD_LIMIT)
    assert bridge.orders.hopeless(13.1 + RELOAD_LIMIT)


def test_what_is_still_said_of_a_removed_neighbour_is_not_told() -> None:
    bridge = Bridge("d1")
    up(bridge)
    bridge.agent_line(json.dumps({"do": "sessions", "digest": "d2", "peers": [Q]}), 0.0)
    bridge.agent_connected(0.0)
    told(bridge)
    down(bridge)
    assert told(bridge) == []
    assert P not in bridge.sessions


def test_a_flood_of_prefixes_of_one_neighbour_is_bounded() -> None:
    bridge = Bridge("d1")
    up(bridge)
    for a in range(MAX_PATHS // 1000 + 1):
        bridge.exabgp_line(update(P, *[f"10.{a}.{n}.0/24" for n in range(1000)]), 0.0)
    assert len(bridge.sessions[P].paths) == MAX_PATHS
    assert bridge.unread == 1000


def test_the_bridge_loads_nothing_but_the_standard_library() -> None:
    program = (
        "import sys; sys.path.append(sys.argv[1]); import calico_py.bgp.bridge_loop\n"
        "print(*{name.partition('.')[0] for name in sys.modules} - set(sys.stdlib_module_names) - {'__main__'})"
    )
    root = str(exabgp_config.BRIDGE.parents[2])
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program, root], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["calico_py"]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "done",
        "{",
        "{}",
        '{"type": "update"}',
        '{"type": "state", "neighbor": 3}',
        '{"type": "notification"}',
        "[1, {}]",
    ],
)
def test_a_line_that_makes_no_sense_is_ignored(line: str) -> None:
    bridge = Bridge("d1")
    bridge.exabgp_line(line, 0.0)
    assert bridge.sessions == {}


@pytest.mark.parametrize(
    "line", ["", "junk", "[]", "{}", '{"do": "no"}', '{"do": "announce", "set": [["a"]], "unset": []}']
)
def test_nonsense_of_the_agents_is_a_value_error(line: str) -> None:
    with pytest.raises(ValueError):
        Bridge("d1").agent_line(line, 0.0)
