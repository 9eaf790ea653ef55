"""Whatever a peer makes ExaBGP write, bridge and agent neither raise nor lose count."""

import json
from ipaddress import ip_network

from hypothesis import given, settings
from hypothesis import strategies as st

from calico_py.bgp import exabgp_lines
from calico_py.bgp.bridge import Bridge
from calico_py.bgp.rib import AdjRibIn
from calico_py.model.speaker import ReplayComplete, ReplayStarted
from tests.unit.bgp.test_bridge import down, eor, head, opened, update
from tests.unit.bgp.test_exabgp_lines import PEERS, record, session

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
VALID = [
    head("state", "10.0.0.2", state="up"),
    head("state", "10.0.0.2", state="down", reason="x"),
    opened(),
    update("10.0.0.2", "10.50.0.0/26", gone=("10.50.0.64/26",)),
    eor(),
    record(attributes={"as-path": {"0": {"element": "as-sequence", "value": [1]}}, "community": [[1, 2]]}),
    session(state="up", open={"hold_time": 90, "restart_time": 1, "forwarding": True}),
    session(notification={"code": 6, "subcode": 1, "message": ""}),
]


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """A valid line of which one value, anywhere inside, is something else."""
    document = json.loads(draw(st.sampled_from(VALID)))
    node = document
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            break
        key = draw(st.sampled_from(keys))
        if isinstance(node[key], dict | list) and node[key] and draw(st.booleans()):
            node = node[key]
            continue
        node[key] = draw(values)
        break
    return json.dumps(document)


lines = damaged() | st.text(max_size=80) | st.builds(json.dumps, values) | st.sampled_from(VALID)


@given(lines)
def test_the_agent_reads_any_line(line: str) -> None:
    exabgp_lines.parse(line, PEERS)


@given(st.lists(lines, max_size=8))
def test_the_bridge_reads_any_lines_and_an_agent_understands_its_replay(given_lines: list[str]) -> None:
    bridge = Bridge("d")
    bridge.agent_connected(0.0)
    for now, line in enumerate(given_lines):
        bridge.exabgp_line(line, float(now))
    bridge.agent_connected(100.0)
    assert bridge.outbox is not None
    replay = bridge.outbox.take(1 << 30).decode().splitlines()
    assert isinstance(exabgp_lines.parse(replay[-1], PEERS), ReplayComplete)
    for line in replay:
        exabgp_lines.parse(line, PEERS)


@given(st.lists(st.text(max_size=60) | st.builds(json.dumps, values), max_size=5))
def test_the_agent_cannot_make_the_bridge_raise_anything_but_value_error(given_lines: list[str]) -> None:
    bridge = Bridge("d")
    for line in given_lines:
        try:
            bridge.agent_line(line, 0.0)
        except ValueError:
            continue


prefixes = st.sampled_from([f"10.50.{n}.0/26" for n in range(4)])
steps = st.lists(
    st.tuples(st.sampled_from(["announce", "gone", "eor", "down", "up", "read", "reconnect"]), prefixes), max_size=40
)


@settings(max_examples=200)
@given(steps)
def test_however_slowly_the_agent_reads_it_ends_with_the_same_table(actions: list[tuple[str, str]]) -> None:
    """Coalescing and replays lose nothing: an agent that reads late knows what one knows that reads at once."""
    bridge, ribs = Bridge("d"), AdjRibIn()
    prompt_bridge, prompt = Bridge("d"), AdjRibIn()

    def drain(source: Bridge, rib: AdjRibIn) -> None:
        assert source.outbox is not None
        for line in source.outbox.take(1 << 30).decode().splitlines():
            event = exabgp_lines.parse(line, PEERS)
            if not isinstance(event, exabgp_lines.Hello):
                assert not isinstance(
                    event,
                    exabgp_lines.BadLine
                    | exabgp_lines.Announced
                    | exabgp_lines.Configured
                    | exabgp_lines.Retired
                    | exabgp_lines.Unreached,
                )
                rib.handle(event, 0.0)

    for source, rib in ((bridge, ribs), (prompt_bridge, prompt)):
        rib.handle(ReplayStarted(), 0.0)
        source.agent_connected(0.0)
        for line in (opened(), head("state", "10.0.0.2", state="up")):
            source.exabgp_line(line, 0.0)
    for action, prefix in actions:
        for source in (bridge, prompt_bridge):
            if action == "announce":
                source.exabgp_line(update("10.0.0.2", prefix), 0.0)
            elif action == "gone":
                source.exabgp_line(update("10.0.0.2", gone=(prefix,)), 0.0)
            elif action == "eor":
                source.exabgp_line(eor(), 0.0)
            elif action == "down":
                down(source)
            elif action == "up":
                source.exabgp_line(head("state", "10.0.0.2", state="up"), 0.0)
        drain(prompt_bridge, prompt)
        if action == "read":
            drain(bridge, ribs)
        elif action == "reconnect":
            ribs.handle(ReplayStarted(), 0.0)
            bridge.agent_connected(0.0)
    drain(bridge, ribs)
    for rib, source in ((ribs, bridge), (prompt, prompt_bridge)):
        for line in (head("state", "10.0.0.2", state="up"), eor()):
            source.exabgp_line(line, 0.0)
        drain(source, rib)
    assert set(ribs.prefixes()) == set(prompt.prefixes()) == {*map(_network, bridge.sessions["10.0.0.2"].paths)}


def _network(key: tuple[str, int]) -> object:
    return ip_network(key[0])
