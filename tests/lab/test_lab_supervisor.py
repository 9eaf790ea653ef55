"""The supervisor as the kubelet: what runs, what comes back, what stays down."""

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from calico_py.lab import agents, objects
from calico_py.lab.commands import LabError
from calico_py.lab.live import LiveLab
from calico_py.lab.readiness import ask_agent, find_causes, wait_until_ready
from calico_py.lab.statuses import read_status
from calico_py.model.names import NODE_TUNNEL_ENGINE_LABEL
from calico_py.model.net import InvalidError
from tests.lab.labs import STUBS, calico_py, marked, stub_lab

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def lab() -> Iterator[LiveLab]:
    with stub_lab(nodes=2) as found:
        yield found


def _process(lab: LiveLab, node: str, process: str) -> dict[str, Any]:
    for entry in lab.state.read_processes():
        if (entry["node"], entry["process"]) == (node, process):
            return entry
    raise AssertionError(process)


def _until(condition: object, within: float = 10.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


def test_a_killed_agent_is_back_within_a_second(lab: LiveLab) -> None:
    wait_until_ready(lab, within=10)
    before = _process(lab, "node1", "agent")
    (killed,) = agents.kill(lab, "node1", "agent")
    assert killed == before["pid"]
    _until(lambda: _process(lab, "node1", "agent")["pid"] not in (0, killed), within=1.0)
    found = _process(lab, "node1", "agent")
    assert (found["restarts"], found["last_exit"]) == (before["restarts"] + 1, "SIGKILL")


def _label(lab: LiveLab, node: str, engine: str | None) -> None:
    """Ask for a userspace tunnel on a node, or no longer."""
    lab.api().patch(f"{objects.NODES}/{node}", {"metadata": {"labels": {NODE_TUNNEL_ENGINE_LABEL: engine}}})


def _running(lab: LiveLab, node: str) -> set[str]:
    return {process for process in agents.PROCESSES if marked(lab.state.name, f"{node}-{process}")}


def test_what_was_stopped_stays_down_until_it_is_started(lab: LiveLab) -> None:
    """Agent, speaker and tunnel, whatever the label says meanwhile and whichever had just been killed."""
    _label(lab, "node2", "userspace")
    _until(lambda: _running(lab, "node2") == {"agent", "speaker", "tunnel"}, within=5)
    agents.kill(lab, "node2", "speaker")
    agents.change(lab, "node2", "stop")
    assert not _running(lab, "node2")
    _label(lab, "node2", None)
    _label(lab, "node2", "userspace")
    time.sleep(0.5)
    assert not _running(lab, "node2")
    assert "no agent listens" in find_causes(lab)["node2"]
    assert calico_py("lab", "status", "--name", lab.state.name).stdout.count("stopped") == 3
    with pytest.raises(LabError, match="no process agent"):
        agents.kill(lab, "node2", "agent")
    agents.change(lab, "node2", "start")
    _until(lambda: _running(lab, "node2") == {"agent", "speaker", "tunnel"}, within=2)
    _until(lambda: ask_agent(lab.node("node2").place.netns, "/readiness").status == 200)
    _label(lab, "node2", None)
    _until(lambda: _running(lab, "node2") == {"agent", "speaker"}, within=5)


def test_one_process_alone_may_be_stopped(lab: LiveLab) -> None:
    for process, others in (("agent", {"speaker"}), ("speaker", {"agent"})):
        done = calico_py("lab", "agent", "stop", "node2", "--only", process, "--name", lab.state.name)
        assert done.returncode == 0, done.stderr
        assert _running(lab, "node2") == others
        agents.change(lab, "node2", "start", only=process)
        _until(lambda: _running(lab, "node2") == {"agent", "speaker"}, within=2)


def test_a_restart_is_of_the_agent_and_brings_back_what_was_stopped(lab: LiveLab) -> None:
    before = {process: _process(lab, "node1", process)["pid"] for process in ("agent", "speaker")}
    agents.change(lab, "node1", "restart")
    after = {process: _process(lab, "node1", process)["pid"] for process in ("agent", "speaker")}
    assert after["agent"] not in (0, before["agent"])
    assert after["speaker"] == before["speaker"]
    agents.change(lab, "node1", "stop", only="speaker")
    agents.change(lab, "node1", "restart")
    assert _process(lab, "node1", "speaker")["pid"]


def test_restart_takes_a_new_environment_and_keeps_it(lab: LiveLab) -> None:
    done = calico_py(
        *("lab", "agent", "restart", "node1", "--name", lab.state.name),
        *("--env", "CALICO_IPV4POOL_IPIP=Never", "--env", "CALICO_X=a=b", "--generation", "5"),
    )
    assert done.returncode == 0, done.stderr
    log = lab.state.log("node1-agent")

    def last() -> str:
        return [line for line in log.read_text().splitlines() if line.startswith("environment")][-1]

    _until(lambda: "CALICO_IPV4POOL_IPIP=Never" in last())
    assert "CALICO_X=a=b" in last()
    assert "CALICO_PY_TEMPLATE_GENERATION=5" in last()
    lines = log.read_text().count("environment")
    agents.kill(lab, "node1", "agent")
    _until(lambda: log.read_text().count("environment") > lines)
    assert "CALICO_IPV4POOL_IPIP=Never" in last()
    assert "CALICO_IPV4POOL_IPIP=Always" in lab.state.log("node2-agent").read_text()


def test_an_agent_that_is_not_ready_says_why_and_up_fails_with_it(lab: LiveLab) -> None:
    agents.change(lab, "node2", "restart", env={"CAUSE": "the dog ate my routes"})
    with pytest.raises(LabError, match="node2: the dog ate my routes") as caught:
        wait_until_ready(lab, within=1.5)
    assert "node1" not in str(caught.value)
    agents.change(lab, "node2", "restart", env={"CAUSE": ""})
    wait_until_ready(lab, within=10)


def test_without_a_supervisor_nobody_waits_for_its_nodes() -> None:
    with stub_lab(nodes=1, commands={**STUBS, "agent": ("sleep", "86400")}) as lab:
        supervisor = lab.state.read_supervisor()
        assert supervisor
        supervisor.kill(wait=5)
        begun = time.monotonic()
        with pytest.raises(LabError, match="supervisor has ended"):
            wait_until_ready(lab, within=60)
        assert time.monotonic() - begun < 5
        shown = calico_py("lab", "status", "--name", lab.state.name)
        assert "supervisor has ended; take the lab down" in " ".join(shown.stdout.split())


def test_the_tunnel_runs_while_the_label_asks_for_it(lab: LiveLab) -> None:
    assert not marked(lab.state.name, "node1-tunnel")
    _label(lab, "node1", "userspace")
    _until(lambda: marked(lab.state.name, "node1-tunnel"), within=5)
    assert not marked(lab.state.name, "node2-tunnel")
    agents.kill(lab, "node1", "tunnel")
    _until(lambda: _process(lab, "node1", "tunnel")["restarts"] == 1, within=5)
    _label(lab, "node1", None)
    _until(lambda: not marked(lab.state.name, "node1-tunnel"), within=5)
    time.sleep(0.5)
    assert not marked(lab.state.name, "node1-tunnel")


def test_a_killed_api_server_comes_back_at_the_same_address_with_its_objects(lab: LiveLab) -> None:
    api = lab.api()
    api.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kept"}})
    before = _process(lab, "", "api")
    os.kill(before["pid"], signal.SIGKILL)
    _until(lambda: _process(lab, "", "api")["pid"] not in (0, before["pid"]))
    _until(lambda: api.get("/api/v1/namespaces/kept")["metadata"]["name"] == "kept")
    _label(lab, "node2", "userspace")
    _until(lambda: marked(lab.state.name, "node2-tunnel"), within=5)
    _label(lab, "node2", None)


def test_nodes_are_registered_with_addresses_of_both_families(lab: LiveLab) -> None:
    status = lab.api().get(f"{objects.NODES}/node2")["status"]
    assert {(a["type"], a["address"]) for a in status["addresses"]} == {
        ("InternalIP", "192.168.50.12"),
        ("InternalIP", "fd00:192:168:50::12"),
        ("Hostname", "node2"),
    }


def test_status_tells_what_runs_with_the_hosts_process_ids(lab: LiveLab) -> None:
    status = read_status(lab)
    assert [node["name"] for node in status["nodes"]] == ["node1", "node2"]
    for node in status["nodes"]:
        assert node["processes"]["agent"]["pid"] in marked(lab.state.name, f"{node['name']}-agent")
    shown = calico_py("lab", "status", "--name", lab.state.name)
    assert shown.returncode == 0
    assert "node2" in shown.stdout


def test_unknown_nodes_are_refused_with_those_that_exist(lab: LiveLab) -> None:
    with pytest.raises(InvalidError, match="node1, node2"):
        agents.kill(lab, "node3", "agent")


def test_what_a_process_left_in_another_session_ends_with_it() -> None:
    commands = {**STUBS, "speaker": ("sh", "-c", "setsid sleep 86399 & exec sleep 86400")}
    with stub_lab(nodes=1, commands=commands) as lab:
        _until(lambda: len(marked(lab.state.name, "node1-speaker")) == 2)
        before = set(marked(lab.state.name, "node1-speaker"))
        agents.kill(lab, "node1", "speaker")
        _until(lambda: len(set(marked(lab.state.name, "node1-speaker")) - before) == 2)
        assert not before & set(marked(lab.state.name, "node1-speaker"))
