"""SIGKILL of the real agent at random, an API that fails and dawdles, twenty runtimes: nothing twice, none leaked.

On the embedded API server and on a real kube-apiserver, behind a proxy that fails requests and cuts watches.
"""

import asyncio
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from calico_py.model.names import warm_handle, workload_handle
from tests.cni.real_agent import NODE, RealAgent, addresses_of, make_pod, pod_addresses, report_addresses
from tests.cni.runtime import Answer, Runtime, config
from tests.contract.servers import ApiUnderTest
from tests.lab.labs import NEEDS_KUBE
from tests.netns.namespaces import Namespace

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

SEED = 20261124
RUNTIMES = 20
PODS = 5  # of each runtime
CALLS = 2000  # ADDs and DELs that succeed
DEATHS = 5  # at least
FAILING, DELAYED = 0.2, 0.2
LIFE = (0.5, 16.0)  # seconds from one death of the agent to the next
SETTLED = 60.0  # seconds


@dataclass
class Container:
    """One that its pod has now.

    Attributes:
        addresses: that its ADD was answered with; empty where it failed.
    """

    id: str
    pod: str
    netns: Namespace
    addresses: list[str] = field(default_factory=list)


@dataclass
class Runtimes:
    """Those of one node.

    Attributes:
        using: by address, the container that has it. living: by pod, its container.
        seen: how calls ended, by verb and code.
        made: how many containers there were. deaths: of the agent.
    """

    runtime: Runtime
    dice: random.Random
    using: dict[str, Container] = field(default_factory=dict)
    living: dict[str, Container] = field(default_factory=dict)
    seen: Counter[tuple[str, int]] = field(default_factory=Counter)
    made: int = 0
    deaths: int = 0

    async def churn(self, names: list[str]) -> None:
        """One runtime: its pods come and go, each time in a new container; in the end some of them stay."""
        while self.seen["ADD", 0] + self.seen["DEL", 0] < CALLS or self.deaths < DEATHS:
            name = self.dice.choice(names)
            container = self.living.pop(name, None)
            await (self.add(name) if container is None else self.delete(container))
        for name in names[: PODS // 2]:
            while name not in self.living:
                await self.add(name)

    async def add(self, pod: str) -> None:
        """ADD; where it fails, what a runtime does then, and a while later the kubelet comes again."""
        self.made += 1
        container = Container(f"{pod}-{self.made}", pod, Namespace())
        answer = await self.call("ADD", container)
        if answer.status:
            assert answer.code == 11, answer.stdout
            await self.delete(container)
            await asyncio.sleep(self.dice.uniform(0, 1))
            return
        container.addresses = addresses_of(answer.json)
        assert len(container.addresses) == 2, answer.stdout
        for address in container.addresses:
            assert address not in self.using, f"{container.id} and {self.using[address].id} have {address}"
            self.using[address] = container
        self.living[pod] = container

    async def delete(self, container: Container) -> None:
        """DEL until it succeeds; at times with the namespace gone, now and then once more."""
        for address in container.addresses:
            del self.using[address]
        if gone := self.dice.random() < 0.5:
            container.netns.close()
        answer = await self.call("DEL", container)
        while answer.status:
            await asyncio.sleep(0.1)
            answer = await self.call("DEL", container)
        if self.dice.random() < 0.1:
            await self.call("DEL", container)
        if not gone:
            container.netns.close()

    async def call(self, verb: str, container: Container) -> Answer:
        """One call, counted."""
        answer = await self.runtime.call(
            verb, config(), netns=container.netns.path, pod=container.pod, container_id=container.id
        )
        self.seen[verb, answer.code] += 1
        return answer

    def close(self) -> None:
        """Let the namespaces go."""
        for container in self.living.values():
            container.netns.close()


async def kill_at_random(agent: RealAgent, runtimes: Runtimes, churning: "asyncio.Future[list[None]]") -> None:
    """Until the runtimes are done."""
    dice = random.Random(SEED)
    while not churning.done():
        await asyncio.wait([churning], timeout=dice.uniform(*LIFE))
        if not churning.done():
            agent.end(signal.SIGKILL)
            runtimes.deaths += 1
            agent.start()


async def calico_py_ipam(api: ApiUnderTest, *words: str) -> tuple[int, str]:
    """Exit status of the command as a person runs it, and what it says."""
    program = Path(sys.executable).with_name("calico-py")
    process = await asyncio.create_subprocess_exec(
        program, "ipam", *words, "--kubeconfig", api.kubeconfig, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def allocated(api: ApiUnderTest) -> dict[str, list[str]]:
    """Addresses by handle, as the blocks have them; without those that are warm or cool down."""
    status, output = await calico_py_ipam(api, "show", "--addresses", "-o", "json")
    assert status == 0, output
    held: dict[str, list[str]] = {}
    for row in json.loads(output)["addresses"]:
        if row["state"] == "in use" and row["handle"] != warm_handle(NODE):
            held.setdefault(row["handle"], []).append(row["address"])
    return {handle: sorted(addresses) for handle, addresses in held.items()}


def tell_kubelets_view(api: ApiUnderTest, pods: list[str], living: dict[str, Container]) -> None:
    """Pods that run say so with their addresses; the others are deleted."""
    for name in pods:
        if name in living:
            report_addresses(api, name, living[name].addresses)
        else:
            own = f"/api/v1/namespaces/default/pods/{name}"
            assert api.request("DELETE", own, {"gracePeriodSeconds": 0}).status == 200


def shorten_the_grace_period(api: ApiUnderTest) -> None:
    """What nobody goes on with is cleaned up after that time; Calico's 15 minutes would be long for a test."""
    body = {
        "apiVersion": "projectcalico.org/v3",
        "kind": "KubeControllersConfiguration",
        "metadata": {"name": "default"},
        "spec": {"controllers": {"node": {"leakGracePeriod": "4s"}}},
    }
    path = "/apis/projectcalico.org/v3/kubecontrollersconfigurations"
    made = api.request("POST", path, body)
    assert made.status in (201, 409), made.body
    if made.status == 409:
        merge = {"Content_Type": "application/merge-patch+json"}
        assert api.request("PATCH", f"{path}/default", {"spec": body["spec"]}, **merge).status == 200


@pytest.mark.parametrize("real_agent", ["embedded", pytest.param("kube", marks=NEEDS_KUBE)], indirect=True)
async def test_random_kills_with_an_api_that_fails(real_agent: RealAgent) -> None:
    agent, api = real_agent, real_agent.faults.api
    runtimes = Runtimes(agent.runtime, random.Random(SEED))
    names = [[f"r{number}-{each}" for each in range(PODS)] for number in range(RUNTIMES)]
    pods = [name for some in names for name in some]
    for name in pods:
        make_pod(api, name)
    try:
        with agent.running():
            await agent.wait_until_ready()
            start = time.monotonic()
            agent.faults.failing, agent.faults.delayed = FAILING, DELAYED
            churning = asyncio.gather(*(runtimes.churn(some) for some in names))
            await kill_at_random(agent, runtimes, churning)
            await churning
            agent.faults.failing = agent.faults.delayed = 0
            took = time.monotonic() - start
            print(f"{took:.0f} s, {runtimes.deaths} deaths; {dict(runtimes.seen)}; API: {agent.faults.done}")
            assert runtimes.seen["ADD", 11], "no ADD was hit: this test has tested nothing"
            assert agent.faults.done["watch"], "no watch was cut"
            await agent.wait_until_ready()
            tell_kubelets_view(api, pods, runtimes.living)
            expected = {workload_handle(c.id): sorted(c.addresses) for c in runtimes.living.values()}
            deadline = time.monotonic() + SETTLED
            while (found := await allocated(api)) != expected:
                assert agent.runs, agent.last_words
                differ = {handle: (found.get(handle), expected.get(handle)) for handle in found.keys() | expected}
                told = {handle: pair for handle, pair in differ.items() if pair[0] != pair[1]}
                assert time.monotonic() < deadline, f"found and expected differ: {told}; {agent.last_words}"
                await asyncio.sleep(0.5)
            shorten_the_grace_period(api)
            while (checked := await calico_py_ipam(api, "check"))[0]:
                assert time.monotonic() < deadline, checked[1]
            assert await allocated(api) == expected, "what lives stays"
            robbed = [line for line in agent.log.read_text().splitlines() if "somebody else" in line]
            assert robbed == [], "nobody else was here"
            for container in runtimes.living.values():
                assert pod_addresses(container.netns) == set(container.addresses)
    finally:
        runtimes.close()
