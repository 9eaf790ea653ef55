"""SIGKILL of the agent at every point of a call, and at random under load: no address twice, none leaked."""

import asyncio
import itertools
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from calico_py.dataplane.wiring import DYING_PREFIX
from calico_py.model.names import workload_ifname
from tests.cni.agent_process import POINTS
from tests.cni.runtime import Answer, Runtime, config
from tests.netns.namespaces import Namespace

pytestmark = pytest.mark.root

NewPod = Callable[[], Namespace]
ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def agent_process(runtime: Runtime, point: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """An agent; killed at the end if it has not died before."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("agent_process.py")), str(runtime.folder)]
        + [point] * bool(point),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def held(runtime: Runtime) -> dict[str, str]:
    loaded: dict[str, str] = json.loads((runtime.folder / "addresses.json").read_text())
    return loaded


def devices(host: Namespace) -> set[str]:
    names = {link["ifname"] for link in host.ip("link")}
    return {name for name in names if name != "lo" and not name.startswith(DYING_PREFIX)}


@pytest.mark.parametrize("point", POINTS)
async def test_death_at_each_point_is_made_good(runtime: Runtime, host: Namespace, new_pod: NewPod, point: str) -> None:
    """The runtime answers a failed ADD with DEL, and kubelet comes again with a new container."""
    first, second = new_pod(), new_pod()
    with agent_process(runtime, point) as agent:
        failed = await runtime.call("ADD", config(), netns=first.path, pod="web", container_id="first")
        if point in POINTS[:3]:
            assert failed.code == 11, failed.stdout
        deleted = await runtime.call("DEL", config(), netns=first.path, pod="web", container_id="first")
        assert deleted.status == 0, deleted.stdout
        await asyncio.to_thread(agent.wait, 5)
    with agent_process(runtime):
        added = await runtime.call("ADD", config(), netns=second.path, pod="web", container_id="second")
        assert added.status == 0, added.stdout
        assert set(held(runtime).values()) == {"k8s-pod-network.second"}
        assert devices(host) == {workload_ifname("default", "web")}
        checked = await runtime.call(
            "CHECK", config(prevResult=added.json), netns=second.path, pod="web", container_id="second"
        )
        assert checked.status == 0, checked.stdout
    assert list(runtime.deferred.iterdir()) == []


async def test_random_deaths_under_load(runtime: Runtime, host: Namespace, new_pod: NewPod) -> None:
    """Ten pods come and go while the agent dies four times; then each comes once more and stays."""
    chance = random.Random(20)
    quiet = asyncio.Event()
    failures: list[str] = []

    async def live(name: str) -> Answer:
        for number in itertools.count():
            stays = quiet.is_set()
            pod, container = new_pod(), f"{name}.{number}"
            answer = await runtime.call("ADD", config(), netns=pod.path, pod=name, container_id=container)
            if stays and answer.status == 0:
                return answer
            if answer.status:
                assert answer.code == 11, answer.stdout
                failures.append(answer.json["details"])
            deleted = await runtime.call("DEL", config(), pod=name, container_id=container)
            assert deleted.status == 0, deleted.stdout
        raise AssertionError("unreachable")

    async def die_and_rise() -> None:
        with ExitStack() as running:
            for _ in range(4):
                agent = running.enter_context(agent_process(runtime))
                await asyncio.sleep(1 + chance.random() / 2)
                agent.kill()
                await asyncio.to_thread(agent.wait)
            running.enter_context(agent_process(runtime))
            quiet.set()
            await finished.wait()

    finished = asyncio.Event()
    agents = asyncio.create_task(die_and_rise())
    answers = await asyncio.gather(*(live(f"pod{number}") for number in range(10)))
    finished.set()
    await agents
    addresses = {answer.json["ips"][0]["address"].removesuffix("/32") for answer in answers}
    assert failures, "no ADD was hit: this test has tested nothing"
    assert len(addresses) == len(answers), "an address twice"
    assert set(held(runtime)) == addresses, "addresses leaked"
    assert len(devices(host)) == len(answers)
