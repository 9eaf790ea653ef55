"""The status: what each part becomes, that it is JSON, and what a person reads."""

import asyncio
import dataclasses
import io
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from calico_py.agent.receiver import Receiver
from calico_py.agent.status.build import build_status
from calico_py.agent.status.health import ListenError, make_health, make_metrics_app, serve
from calico_py.agent.status.metrics import make_metrics
from calico_py.cli.status import command, render
from calico_py.model.bgp import BGPConfiguration
from calico_py.model.intent import Intent
from calico_py.model.kinds import BGP_CONFIGURATIONS
from tests.unit.agent.statuses import inputs


def printed(status: dict[str, Any], *, all_routes: bool = False) -> str:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(render(status, all_routes=all_routes))
    return console.export_text()


def as_json() -> dict[str, Any]:
    found = json.loads(json.dumps(dataclasses.asdict(build_status(inputs()))))
    assert isinstance(found, dict)
    return found


class TestBuild:
    def test_addresses_with_their_reasons(self) -> None:
        v4, v6 = build_status(inputs()).addresses
        assert (v4.address, v4.device, v4.reason) == ("192.168.1.11/24", "eth0", "Kubernetes' InternalIP of this node")
        assert (v6.address, v6.reason) == ("", "not looked up yet")

    def test_not_in_sync_until_every_kind_is(self) -> None:
        api = build_status(inputs()).api
        assert not api.in_sync
        assert api.watches[1].error == "list ippools: away"

    def test_pools(self) -> None:
        used, unused = build_status(inputs()).pools
        assert (used.name, used.used, used.sending, used.ipip_mode) == ("pool", True, "IPIP", "Always")
        assert (unused.name, unused.used, unused.sending) == ("unused", False, "")

    def test_blocks_of_this_node_and_borrowed_addresses(self) -> None:
        found = {block.cidr: block for block in build_status(inputs()).blocks}
        assert list(found) == ["10.244.0.0/26", "10.244.1.0/26", "10.244.3.0/26"]
        assert (found["10.244.0.0/26"].state, found["10.244.0.0/26"].in_use) == ("confirmed", 2)
        assert (found["10.244.1.0/26"].state, found["10.244.1.0/26"].in_use) == ("borrowed from node2", 1)
        assert (found["10.244.3.0/26"].state, found["10.244.3.0/26"].in_use) == ("pending", -1)

    def test_each_state_of_a_route(self) -> None:
        routes = build_status(inputs()).routes
        assert (routes.desired, routes.installed) == (3, 1)
        states = {route.dst: (route.state, route.waiting) for route in routes.routes}
        assert states == {
            "10.244.1.0/26": ("installed", ""),
            "10.244.2.0/26": ("none", "node node3 has not published its IPv4 address"),
            "10.244.3.0/26": ("pending", ""),
            "10.244.4.0/26": ("failed", "the kernel refused it"),
        }
        assert routes.routes[0].via == "192.168.1.12 dev tunl0"

    def test_peers(self) -> None:
        good, bad = build_status(inputs()).bgp.peers
        assert (good.state, good.received, good.in_sync, good.since) == ("Established", 4, True, "2027-01-15T07:51:40Z")
        assert (bad.state, bad.since) == ("Connect", "")
        assert "port 179" in bad.last_error

    def test_what_the_environment_says_and_what_has_no_effect(self) -> None:
        status = build_status(inputs())
        assert status.environment[0].startswith("IPPool pool")
        assert "CALICO_PY_LOGLEVEL" in status.environment[1]
        assert set(status.without_effect) == {"CLUSTER_TYPE", "FelixConfiguration spec.bpfEnabled"}

    def test_a_bgp_configuration_whose_password_or_prefixes_have_no_effect_is_named(self) -> None:
        def config(name: str, **spec: object) -> BGPConfiguration:
            return BGP_CONFIGURATIONS.decode({"metadata": {"name": name}, "spec": spec})

        password = {"secretKeyRef": {"name": "bgp", "key": "password"}}
        given = inputs()
        state = dataclasses.replace(
            given.state,
            bgp=config("default", nodeMeshPassword=password, asNumber=65001, logSeverityScreen="Info"),
            node_bgp={
                "node1": config("node.node1", prefixAdvertisements=[]),
                "node2": config("node.node2", bindMode="x"),
            },
        )
        found = set(build_status(dataclasses.replace(given, state=state)).without_effect)
        assert {name for name in found if name.startswith("BGP")} == {
            "BGPConfiguration spec.nodeMeshPassword",
            "BGPConfiguration node.node1 spec.prefixAdvertisements",
        }

    def test_before_the_first_pass_there_is_a_status_too(self) -> None:
        early = dataclasses.replace(
            inputs(), applied=None, intent=Intent(), choices={}, sessions={}, watched=(), receiver=Receiver()
        )
        status = build_status(early)
        assert (status.routes.desired, status.tunnel.engine, status.api.in_sync) == (0, "none", False)
        assert "waiting for the first list" in printed(dataclasses.asdict(status))


class TestPrinted:
    def test_a_person_finds_each_cause(self) -> None:
        text = printed(as_json())
        for expected in (
            "192.168.1.11/24 on eth0: Kubernetes' InternalIP of this node",
            "1450: the uplink's 1500 less VXLAN",
            "no tunnel engine is attached to tunl0",
            "engine userspace: this kernel has no ipip",
            "IPPool unused overlaps IPPool pool",
            "nft is missing",
            "2 of 64",
            "borrowed from node2",
            "no TCP connection to 192.168.1.13 port 179",
            "3 desired, 1 installed",
            "the kernel refused it",
            "CALICO_PY_LOGLEVEL (environment) is no setting",
            "net/ipv4/conf/eth0/rp_filter",
            "waiting for ippools; away",
            "FelixConfiguration spec.bpfEnabled",
        ):
            assert expected in text

    def test_routes_that_are_well_are_printed_on_request(self) -> None:
        assert "10.244.1.0/26" not in printed(as_json()).split("Routes")[1]
        assert "10.244.1.0/26" in printed(as_json(), all_routes=True).split("Routes")[1]

    def test_text_with_brackets_is_text(self) -> None:
        status = as_json()
        status["problems"][0]["message"] = "metadata.annotations[projectcalico.org/IPv4Address]: found [bold]"
        assert "[projectcalico.org/IPv4Address]: found [bold]" in printed(status)


class TestHttp:
    async def test_ready_and_not_ready_and_status(self) -> None:
        causes: list[str] = ["no address yet", "no engine"]
        stuck = ""
        app = make_health(not_alive=lambda: stuck, not_ready=lambda: causes, status=lambda: build_status(inputs()))
        async with serve(app, "127.0.0.1", 0) as port:
            assert await get(port, "/readiness") == (503, "no address yet\nno engine\n")
            causes.clear()
            assert await get(port, "/readiness") == (200, "ready\n")
            assert (await get(port, "/liveness"))[0] == 200
            stuck = "nothing moves"
            assert await get(port, "/liveness") == (503, "nothing moves\n")
            status, body = await get(port, "/status")
            assert (status, json.loads(body)) == (200, as_json())

    async def test_metrics(self) -> None:
        metrics = make_metrics()
        app = make_metrics_app(metrics, lambda: metrics.observe(build_status(inputs()), leading=True))
        async with serve(app, "127.0.0.1", 0) as port:
            _, body = await get(port, "/metrics")
        lines = body.splitlines()
        assert "calico_py_routes_desired 3.0" in lines
        assert "calico_py_leader 1.0" in lines
        assert "calico_py_ready 0.0" in lines
        assert "calico_py_bgp_peers_established 1.0" in lines
        assert 'calico_py_watch_objects{resource="nodes"} 3.0' in lines
        assert "felix_route_table_num_routes 1.0" in lines

    def test_two_registries_stand_side_by_side(self) -> None:
        first, second = make_metrics(), make_metrics()
        first.apply_failures.inc()
        assert b"calico_py_apply_failures_total 1.0" in first.render()
        assert b"calico_py_apply_failures_total 0.0" in second.render()

    async def test_a_port_that_is_taken_is_named(self) -> None:
        app = make_metrics_app(make_metrics(), lambda: None)
        again = make_metrics_app(make_metrics(), lambda: None)
        async with serve(app, "127.0.0.1", 0) as port:
            with pytest.raises(ListenError, match=f"port {port}: another process has it"):
                async with serve(again, "127.0.0.1", port):
                    pass


async def get(port: int, path: str) -> tuple[int, str]:
    def blocking() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    return await asyncio.to_thread(blocking)


@pytest.fixture
def agent_port() -> Iterator[int]:
    """An agent's HTTP in a loop of its own, as a process beside the command would be."""
    started, stopped = threading.Event(), asyncio.Event()
    ports: list[int] = []
    loop = asyncio.new_event_loop()

    async def main() -> None:
        app = make_health(not_alive=str, not_ready=list, status=lambda: build_status(inputs()))
        async with serve(app, "127.0.0.1", 0) as port:
            ports.append(port)
            started.set()
            await stopped.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(main()))
    thread.start()
    started.wait(10)
    yield ports[0]
    loop.call_soon_threadsafe(stopped.set)
    thread.join(10)
    loop.close()


class TestCommand:
    def test_json(self, agent_port: int) -> None:
        done = CliRunner().invoke(command, ["--port", str(agent_port), "-o", "json"])
        assert done.exit_code == 0
        assert json.loads(done.stdout) == as_json()

    def test_text(self, agent_port: int) -> None:
        done = CliRunner().invoke(command, ["--port", str(agent_port), "--routes"])
        assert done.exit_code == 0
        assert "10.244.1.0/26" in done.stdout

    def test_without_an_agent(self) -> None:
        done = CliRunner().invoke(command, ["--port", "1"])
        assert done.exit_code == 1
        assert "no agent answers at http://127.0.0.1:1/status" in done.stderr
        assert "calico-py node" in done.stderr
