"""Up and down: what a lab leaves is nothing, whoever dies and whenever."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from calico_py.lab import lifecycle, namespaces
from calico_py.lab.commands import LabError
from calico_py.lab.pings import ping
from calico_py.lab.state import BASE, StateDir
from calico_py.lab.topology import LabSpec
from tests.lab.labs import STUBS, Traces, calico_py, command, processes_of, stub_lab, unique_name

pytestmark = pytest.mark.root


def _until(condition: object, within: float = 10.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


def test_up_and_down_leave_nothing() -> None:
    before = Traces.now()
    with stub_lab(nodes=3, subnets=2) as lab:
        name = lab.state.name
        assert len(processes_of(name)) >= 1 + 1 + 3 * 3  # supervisor, API, and pause, agent, speaker of each
        assert before.left_by(name), "the check must see a lab that is up"
    assert before.left_by(name) == []


def test_down_twice_and_down_of_nothing_are_success() -> None:
    with stub_lab() as lab:
        first = calico_py("lab", "down", "--name", lab.state.name)
        second = calico_py("lab", "down", "--name", lab.state.name)
    assert (first.returncode, second.returncode) == (0, 0)
    assert "is down" in first.stdout
    assert "nothing to do" in second.stdout


def test_a_killed_supervisor_takes_every_process_along_and_down_removes_the_rest() -> None:
    before = Traces.now()
    with stub_lab() as lab:
        name = lab.state.name
        with lab.endpoint("node1").popen(["sleep", "86400"]) as inside:
            supervisor = lab.state.read_supervisor()
            assert supervisor
            assert supervisor.kill(signal.SIGKILL, wait=5)
            assert inside.wait(5) != 0
        assert processes_of(name) == []
        assert "node1" in str(namespaces.list_names())
        lifecycle.down(name, reaped=False)
        assert before.left_by(name) == []


def test_a_process_that_somebody_started_in_a_node_ends_with_the_lab() -> None:
    with stub_lab() as lab:
        netns = lab.topology.nodes[0].netns
        argv = ["ip", "netns", "exec", netns, "sleep", "86400"]
        with subprocess.Popen(argv) as foreign:
            _until(lambda: namespaces.list_processes(namespaces.named(netns)).count(foreign.pid))
            lifecycle.down(lab.state.name, reaped=False)
            assert foreign.wait(5) == -signal.SIGKILL


@pytest.mark.parametrize("damage", ["supervisor.json", "processes.json", "everything"])
def test_down_works_with_a_part_of_the_state_gone(damage: str) -> None:
    before = Traces.now()
    with stub_lab() as lab:
        name = lab.state.name
        for path in lab.state.path.iterdir() if damage == "everything" else [lab.state.path / damage]:
            if path.is_file() or path.is_socket():
                path.unlink()
        lifecycle.down(name, reaped=False)
        assert before.left_by(name) == []


def test_a_damaged_state_is_told_with_its_cure() -> None:
    with stub_lab() as lab:
        lab.state.spec.write_text("{")
        told = calico_py("lab", "status", "--name", lab.state.name)
    assert told.returncode == 1
    assert f"calico-py lab down --name {lab.state.name}" in told.stderr


@pytest.mark.parametrize(
    ("victim", "delay"),
    [("command", 0.0), ("command", 0.4), ("supervisor", 0.0), ("supervisor", 0.3), ("supervisor", 0.8)],
)
def test_killed_amid_up_leaves_nothing_after_down(victim: str, delay: float) -> None:
    before = Traces.now()
    name = unique_name()
    state = StateDir(name)
    with subprocess.Popen(
        command("lab", "up", "--name", name), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as up:
        _until(state.path.exists)
        if victim == "supervisor":
            _until(lambda: state.read_supervisor() is not None)
            time.sleep(delay)
            supervisor = state.read_supervisor()
            if supervisor:
                supervisor.kill()
            up.wait(90)
            assert up.returncode != 0
        else:
            time.sleep(delay)
            up.kill()
    lifecycle.down(name, reaped=False)
    time.sleep(0.3)  # a supervisor that was being born would be seen by now
    assert before.left_by(name) == []


@pytest.mark.parametrize(
    ("at", "number"),
    [("made network namespace", signal.SIGINT), ("no agent listens yet", signal.SIGINT), ("made node", signal.SIGTERM)],
)
def test_an_interrupted_up_cleans_up_by_itself(at: str, number: signal.Signals) -> None:
    """While it makes the lab, and while it waits for the nodes; also when the person is impatient."""
    before = Traces.now()
    name = unique_name()
    with subprocess.Popen(command("lab", "up", "--name", name), stderr=subprocess.PIPE, text=True) as up:
        assert up.stderr is not None
        for line in up.stderr:
            if at in line:
                break
        up.send_signal(number)
        time.sleep(0.1)
        up.send_signal(signal.SIGINT)
        said = up.stderr.read()
    assert up.returncode == 1
    assert "Traceback" not in said
    assert before.left_by(name) == []


def test_up_names_why_an_agent_does_not_run() -> None:
    name = unique_name()
    try:
        up = calico_py("lab", "up", "--name", name, "--nodes", "1", "--pool", "10.1.0.0/27", "--timeout", "5")
        assert up.returncode == 1
        assert "node1: CALICO_IPV4POOL_CIDR: found 10.1.0.0/27, expected at least one block" in up.stderr
    finally:
        lifecycle.down(name, reaped=False)


def test_a_part_that_cannot_be_made_is_named_and_nothing_is_left() -> None:
    before = Traces.now()
    name = unique_name()
    broken = LabSpec(name, 1, commands={**STUBS, "api": (sys.executable, "-c", "raise SystemExit('no server today')")})
    with pytest.raises(LabError, match="no server today"):
        lifecycle.start(broken, lambda _: None)
    assert before.left_by(name) == []


def test_a_name_that_is_taken_is_refused_and_its_owner_is_left_alone() -> None:
    with stub_lab() as lab:
        again = calico_py("lab", "up", "--name", lab.state.name)
        assert again.returncode == 1
        assert f"calico-py lab down --name {lab.state.name}" in again.stderr
        assert ping(lab.endpoint("node1"), lab.target("node2"), count=1).ok


def test_a_foreign_namespace_of_the_same_name_is_refused_and_left_alone() -> None:
    name = unique_name()
    namespaces.add(f"{name}-node1")
    try:
        told = calico_py("lab", "up", "--name", name)
        assert told.returncode == 1
        assert f"{name}-node1" in told.stderr
        assert namespaces.named(f"{name}-node1").exists()
        assert not StateDir(name).path.exists()
    finally:
        namespaces.delete(f"{name}-node1")


def test_two_labs_do_not_disturb_each_other() -> None:
    with stub_lab(nodes=2) as one, stub_lab(nodes=3, subnets=2) as other:
        for lab in (one, other):
            assert ping(lab.endpoint("node1"), lab.target("node2"), count=2).ok
        assert one.api().server != other.api().server
        lifecycle.down(one.state.name, reaped=False)
        assert ping(other.endpoint("node1"), other.target("node3"), count=2).ok
        assert [item["metadata"]["name"] for item in other.api().list("/api/v1/nodes")] == ["node1", "node2", "node3"]
    assert not any(str(path).endswith((one.state.name, other.state.name)) for path in Path(BASE).glob("*"))


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (("--nodes", "0"), "--nodes"),
        (("--subnets", "9"), "--subnets"),
        (("--pool", "10.244.0.0/33"), "--pool"),
        (("--pool", "192.168.50.0/24"), "--pool"),
        (("--ipip", "Sometimes"), "--ipip"),
        (("--name", "No_Such"), "--name"),
    ],
)
def test_bad_options_name_themselves(arguments: tuple[str, ...], field: str) -> None:
    told = calico_py("lab", "up", *arguments)
    assert told.returncode != 0
    assert field in told.stderr
