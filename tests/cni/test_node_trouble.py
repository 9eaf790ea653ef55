"""What befalls a node, with the real agent: the API away, a full disk, a clock that jumps, clients of others."""

import asyncio
import json
import re
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from calico_py.model.names import LABEL_BORROWED, warm_handle, workload_handle
from tests.cni.real_agent import BLOCKS, NODE, RealAgent, addresses_of, eventually, held, make_pod, pod_addresses
from tests.cni.runtime import Runtime, config
from tests.netns.namespaces import Namespace

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

NewPod = Callable[[], Namespace]
WARM = 4
STRANGER = "k8s-pod-network.stranger"
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), Path("/nonexistent"))
BALLAST = "/var/lib/calico-py/ballast"


def in_node(runtime: Runtime, script: str) -> None:
    """Run a script where the shim's and the agent's paths lead to the node."""
    subprocess.run([*runtime.enter, "sh", "-c", script], check=False, capture_output=True)


def status() -> Any:
    """What the agent says of itself."""
    with urlopen("http://127.0.0.1:9099/status", timeout=10) as answer:
        return json.load(answer)


def counted(event: str) -> int:
    """A metric of the agent's."""
    with urlopen("http://127.0.0.1:9091/metrics", timeout=10) as answer:
        text = answer.read().decode()
    (number,) = re.findall(rf'^calico_py_ipam_address_events{{event="{event}"}} (\S+)$', text, re.MULTILINE)
    return int(float(number))


def steal(agent: RealAgent, address: str, handle: str | None) -> None:
    """What a client that knows nothing of warm addresses can do: release an address, and give it to another."""
    api = agent.faults.api
    while True:
        block = block_of(agent, address)
        spec = block["spec"]
        ordinal = [str(each) for each in ip_network(spec["cidr"])].index(address)
        spec["sequenceNumber"] += 1
        spec["sequenceNumberForAllocation"].pop(str(ordinal), None)
        if handle is None:
            spec["allocations"][ordinal] = None
            spec["unallocated"].append(ordinal)
        else:
            spec["allocations"][ordinal] = len(spec["attributes"])
            spec["attributes"].append({"handle_id": handle, "secondary": {"node": "node2", "pod": "stranger"}})
            spec["sequenceNumberForAllocation"][str(ordinal)] = spec["sequenceNumber"]
        answer = api.request("PUT", f"{BLOCKS}/{block['metadata']['name']}", block)
        if answer.status != 409:
            assert answer.status == 200, answer.body
            return


def block_of(agent: RealAgent, address: str) -> Any:
    """The IPAMBlock that contains an address."""
    items = agent.faults.api.request("GET", BLOCKS).body["items"]
    (block,) = (item for item in items if address in map(str, ip_network(item["spec"]["cidr"])))
    return block


def lends(agent: RealAgent, address: str) -> bool:
    """Whether the address's block is labelled as one from which another node has borrowed."""
    return bool(block_of(agent, address)["metadata"].get("labels", {}).get(LABEL_BORROWED) == "true")


def drop_label(agent: RealAgent, address: str) -> None:
    """What a client's write does that knows nothing of the label."""
    status = 409
    while status == 409:
        block = block_of(agent, address)
        block["metadata"].pop("labels")
        block["spec"]["sequenceNumber"] += 1
        answer = agent.faults.api.request("PUT", f"{BLOCKS}/{block['metadata']['name']}", block)
        status = answer.status
    assert status == 200, answer.body
    assert "labels" not in answer.body["metadata"]


async def test_the_api_away(real_agent: RealAgent, runtime: Runtime, new_pod: NewPod) -> None:
    """ADD goes on until the reserve is used up, then says: try again later. DEL always succeeds."""
    agent = real_agent
    names = [f"p{number}" for number in range(WARM + 3)]
    for name in names:
        make_pod(agent.faults.api, name)
    agent.environment["CALICO_PY_WARM_ADDRESSES"] = str(WARM)
    with agent.running():
        await agent.wait_until_ready()
        await eventually("the stock is full", lambda: list(held(agent).values()).count(warm_handle(NODE)) == 2 * WARM)
        await asyncio.sleep(0.5)  # the watches of the pods have told
        agent.faults.away = True
        living: dict[str, list[str]] = {}
        for name in names:
            pod = new_pod()
            answer = await runtime.call("ADD", config(), netns=pod.path, pod=name, container_id=name)
            if len(living) == WARM:
                assert answer.code == 11, answer.stdout
                assert "try again later" in answer.json["msg"]
            else:
                assert answer.status == 0, answer.stdout
                living[name] = addresses_of(answer.json)
                assert pod_addresses(pod) == set(living[name])
        assert len({address for addresses in living.values() for address in addresses}) == 2 * WARM
        gone = names[0]
        deleted = await runtime.call("DEL", config(), pod=gone, container_id=gone)
        assert deleted.status == 0, deleted.stdout
        for name in names[WARM:]:
            assert (await runtime.call("DEL", config(), pod=name, container_id=name)).status == 0
        del living[gone]
        agent.faults.away = False
        expected = sorted([workload_handle(name) for name in living] * 2)

        def settled() -> bool:
            found = sorted(handle for handle in held(agent).values() if handle != warm_handle(NODE))
            return found == expected

        await eventually("the API has heard of all that happened", settled, within=60)


async def test_a_disk_that_is_full(real_agent: RealAgent, runtime: Runtime, new_pod: NewPod) -> None:
    """The journal cannot be written: addresses come from the API, and a Problem says so until there is room."""
    agent = real_agent
    for number in range(6):
        make_pod(agent.faults.api, f"p{number}")

    async def add(number: int) -> None:
        pod, name = new_pod(), f"p{number}"
        answer = await runtime.call("ADD", config(), netns=pod.path, pod=name, container_id=name)
        assert answer.status == 0, answer.stdout

    def trouble() -> list[str]:
        return [problem for problem in status()["problems"] if "journal" in json.dumps(problem)]

    # No block left, and no inode either.
    fill = f"cd {BALLAST}; head -c 1M /dev/zero >> blocks; i=0; while mkdir $i; do i=$((i + 1)); done"
    in_node(runtime, f"mount -t tmpfs -o size=256k,nr_inodes=64 cpy /var/lib/calico-py && mkdir {BALLAST}")
    with agent.running():
        await agent.wait_until_ready()
        await add(0)
        assert trouble() == []
        in_node(runtime, fill)
        for _ in range(40):  # what is left of the last page takes some lines
            await add(1)
            if trouble():
                break
            assert (await runtime.call("DEL", config(), pod="p1", container_id="p1")).status == 0
        assert trouble(), "it is told"
        await add(2)
        agent.end()
        in_node(runtime, fill)
        agent.start()
        await agent.wait_until_ready()
        await add(3)
        await eventually("it is told after a restart too", trouble)
        in_node(runtime, f"rm -r {BALLAST}/*")
        await add(4)
        await eventually("the trouble is over", lambda: not trouble())
        await add(5)
        agent.end()
        agent.start()
        await agent.wait_until_ready()
        expected = sorted([workload_handle(f"p{number}") for number in range(6)] * 2)
        await eventually(
            "each pod has its own, and nothing leaked",
            lambda: sorted(handle for handle in held(agent).values() if handle != warm_handle(NODE)) == expected,
        )


@pytest.mark.skipif(not FAKETIME.exists(), reason="libfaketime is not installed (Debian: libfaketime)")
async def test_a_clock_that_jumps(real_agent: RealAgent, runtime: Runtime, new_pod: NewPod) -> None:
    """A day ahead, then two days back, while pods come and go: nothing waits for a day, nothing is given twice."""
    agent, clock = real_agent, runtime.folder / "clock"
    agent.environment |= {
        "CALICO_PY_WARM_ADDRESSES": str(WARM),
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    clock.write_text("+0d")
    living: dict[str, list[str]] = {}
    made = 0

    async def churn() -> None:
        """Two come for each that goes."""
        nonlocal made
        for _ in range(10):
            name = f"p{made % 20}"
            made += 1
            if name in living:
                assert (await runtime.call("DEL", config(), pod=name, container_id=living.pop(name)[0])).status == 0
                continue
            container = f"{name}-{made}"
            answer = await runtime.call("ADD", config(), netns=new_pod().path, pod=name, container_id=container)
            assert answer.status == 0, answer.stdout
            living[name] = [container, *addresses_of(answer.json)]
        used = [address for _, *addresses in living.values() for address in addresses]
        assert len(used) == len(set(used)) == 2 * len(living)

    def stocked() -> bool:
        return list(held(agent).values()).count(warm_handle(NODE)) >= 2 * WARM

    for number in range(20):
        make_pod(agent.faults.api, f"p{number}")
    with agent.running():
        await agent.wait_until_ready()
        for jump in ("+0d", "+1d", "-1d", "+0d"):
            clock.write_text(jump)
            await churn()
            await eventually(f"the stock is full again at {jump}", stocked)
            await churn()
            await churn()
        agent.end()
        clock.write_text("-1d")
        agent.start()
        await agent.wait_until_ready()
        await churn()
        expected = sorted([workload_handle(container) for container, *_ in living.values()] * 2)
        await eventually(
            "each pod has its own, and nothing leaked",
            lambda: sorted(handle for handle in held(agent).values() if handle != warm_handle(NODE)) == expected,
        )
        assert f"{datetime.now(UTC) - timedelta(days=1):%Y-%m-%d}" in agent.log.read_text(), "the clock did jump"


async def test_foreign_clients(real_agent: RealAgent, runtime: Runtime, new_pod: NewPod) -> None:
    """They release warm and used addresses, and give them to others: the agent hears of it and says so."""
    agent = real_agent
    agent.environment |= {"CALICO_PY_WARM_ADDRESSES": str(WARM), "CALICO_PY_METRICS_PORT": "9091"}
    names = [f"p{number}" for number in range(3 * WARM)]
    for name in names:
        make_pod(agent.faults.api, name)

    async def add(name: str) -> str:
        answer = await runtime.call("ADD", config(), netns=new_pod().path, pod=name, container_id=name)
        assert answer.status == 0, answer.stdout
        return addresses_of(answer.json)[0]

    def owner(address: str) -> str:
        return held(agent).get(address, "")

    with agent.running():
        await agent.wait_until_ready()
        await eventually("the stock is full", lambda: list(held(agent).values()).count(warm_handle(NODE)) == 2 * WARM)
        warm = next(address for address, handle in held(agent).items() if handle == warm_handle(NODE))
        steal(agent, warm, STRANGER)
        await eventually("the agent hears of the warm address", lambda: counted("dropped"))
        await eventually("its block is labelled as lending", lambda: lends(agent, warm), within=2)
        drop_label(agent, warm)
        await eventually("it is labelled again", lambda: lends(agent, warm), within=2)
        used = [await add(name) for name in names]
        assert warm not in used
        assert owner(warm) == STRANGER

        await eventually("the API knows the first pod", lambda: owner(used[0]) == workload_handle(names[0]))
        steal(agent, used[0], None)
        await eventually("the pod's address is its own again", lambda: owner(used[0]) == workload_handle(names[0]))
        await eventually("that is counted", lambda: counted("reclaimed"))
        assert counted("reclaimed") == 1

        await eventually("the API knows the second pod", lambda: owner(used[1]) == workload_handle(names[1]))
        steal(agent, used[1], STRANGER)
        await eventually("it is told that the address is lost", lambda: counted("lost"))
        told = [problem for problem in status()["problems"] if used[1] in json.dumps(problem)]
        assert "delete the pod" in json.dumps(told)

        def event() -> list[str]:
            events = agent.faults.api.request("GET", "/api/v1/namespaces/default/events").body["items"]
            return [each["message"] for each in events if each["reason"] == "AddressLost"]

        assert used[1] in (await eventually("there is an Event", event))[0]
        assert (await runtime.call("DEL", config(), pod=names[1], container_id=names[1])).status == 0
        await asyncio.sleep(1)
        assert owner(used[1]) == STRANGER, "a DEL releases nothing of others"
        await eventually("the trouble is over", lambda: used[1] not in json.dumps(status()["problems"]))
