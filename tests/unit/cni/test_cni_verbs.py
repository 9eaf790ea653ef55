"""The verbs' order and what they do when a step fails, with fakes of the wiring and the allocator."""

import asyncio
import json
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from calico_py.cni import verbs
from calico_py.cni.deferred import DeferredDels
from calico_py.cni.errors import CNIError, Code
from calico_py.cni.verbs import Plugin, Surroundings
from calico_py.cni.wire import Request
from calico_py.cni.wishes import PodFacts
from calico_py.ipam.requests import ContendedError
from calico_py.model.net import Family
from calico_py.model.store import StoreError, UnavailableError
from calico_py.model.wiring import WiringError
from tests.fakes.addresses import FakeAddresses
from tests.fakes.wiring import FakePodWiring


@dataclass
class Node:
    """A plugin with everything around it; every step is noted."""

    folder: Path
    netns: int
    wiring: FakePodWiring = field(default_factory=FakePodWiring)
    addresses: FakeAddresses = field(default_factory=FakeAddresses)
    steps: list[str] = field(default_factory=list)
    families: tuple[Family, ...] = (4,)
    addressed: tuple[Family, ...] = (4, 6)
    facts: PodFacts | StoreError = field(default_factory=PodFacts)

    async def free_all_but(self, containers: Collection[str]) -> None:
        self.steps.append(f"free all but {' '.join(sorted(containers))}")

    async def pod_facts(self, _namespace: str, _name: str, _uid: str) -> PodFacts:
        if isinstance(self.facts, StoreError):
            raise self.facts
        return self.facts

    def __post_init__(self) -> None:
        self.deferred = DeferredDels(self.folder / "del")
        self.plugin = Plugin(
            wiring=self.wiring,
            addresses=self.addresses,
            surroundings=Surroundings(
                ready=lambda: "",
                families=lambda: self.families,
                mtu=lambda: 1450,
                pod_facts=self.pod_facts,
                addressed=lambda: self.addressed,
                free_all_but=self.free_all_but,
            ),
            deferred=self.deferred,
        )
        self.wiring.fault = lambda verb, _container: self.steps.append(verb)
        self.addresses.fault = self.note

    async def note(self, verb: str) -> None:
        self.steps.append(verb)

    async def start(self) -> None:
        await self.plugin.start()
        await self.plugin.work_off()

    async def call(self, verb: str, container: str = "c1", **config: Any) -> Any:
        document = {"cniVersion": "1.0.0", "name": "net"} | config
        answer = await self.plugin.run(request(verb, container, document), self.netns)
        return json.loads(answer) if answer else None


def request(verb: str, container: str, document: dict[str, Any]) -> Request:
    env = {
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": container,
        "CNI_NETNS": "/run/netns/x",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/opt/cni/bin",
        "CNI_ARGS": "K8S_POD_NAMESPACE=default;K8S_POD_NAME=web",
    }
    return Request(env, json.dumps(document).encode())


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    (tmp_path / "netns").touch()
    descriptor = os.open(tmp_path / "netns", os.O_RDONLY)
    yield Node(tmp_path, descriptor)
    os.close(descriptor)


async def test_an_address_is_released_after_the_interface_is_gone(node: Node) -> None:
    await node.start()
    await node.call("ADD")
    await node.call("DEL")
    assert node.steps == ["assign", "wire", "unwire", "release_handle"]


async def test_a_del_that_cannot_unwire_keeps_the_address(node: Node) -> None:
    await node.start()
    await node.call("ADD")

    def refuse(_verb: str, _container: str) -> None:
        raise WiringError("the kernel refused")

    node.wiring.fault = refuse
    with pytest.raises(CNIError, match="the kernel refused"):
        await node.call("DEL")
    assert len(node.addresses.held) == 1


async def test_a_failed_wire_gives_back_its_own_addresses_alone(node: Node) -> None:
    await node.start()
    node.addresses._held["10.65.0.40"] = "k8s-pod-network.c1"

    def refuse(verb: str, _container: str) -> None:
        if verb == "wire":
            raise WiringError("no")

    node.wiring.fault = refuse
    with pytest.raises(CNIError) as caught:
        await node.call("ADD")
    assert caught.value.code == Code.WIRING
    assert list(node.addresses.held) == ["10.65.0.40"]


async def test_addresses_of_a_failed_add_that_the_api_cannot_take_back_go_later(node: Node) -> None:
    await node.start()

    async def release_fails(verb: str) -> None:
        if verb.startswith("release"):
            raise UnavailableError("away")

    def refuse(verb: str, _container: str) -> None:
        if verb == "wire":
            raise WiringError("no")

    node.addresses.fault, node.wiring.fault = release_fails, refuse
    with pytest.raises(CNIError):
        await node.call("ADD")
    assert len(node.addresses.held) == 1
    node.addresses.fault = node.note
    await node.plugin.work_off()
    assert node.addresses.held == {}
    assert list(node.deferred.pending()) == []


@pytest.mark.parametrize("error", [UnavailableError("away"), StoreError("?"), ContendedError("busy")])
async def test_what_passes_by_itself_is_told_as_try_again(node: Node, error: Exception) -> None:
    await node.start()

    async def fail(_verb: str) -> None:
        raise error

    node.addresses.fault = fail
    with pytest.raises(CNIError) as caught:
        await node.call("ADD")
    assert caught.value.code == Code.TRY_AGAIN_LATER
    assert node.wiring.links == {}


async def test_an_allocator_that_never_answers_is_not_waited_for(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    await node.start()
    monkeypatch.setattr(verbs, "ASSIGN_SECONDS", 0.05)

    async def hang(_verb: str) -> None:
        await asyncio.Event().wait()

    node.addresses.fault = hang
    with pytest.raises(CNIError) as caught:
        await node.call("ADD")
    assert caught.value.code == Code.TRY_AGAIN_LATER
    assert caught.value.details == "no answer in time"


async def test_calls_for_one_container_follow_each_other(node: Node) -> None:
    await node.start()

    async def slow(verb: str) -> None:
        node.steps.append(f"{verb} begins")
        await asyncio.sleep(0.01)
        node.steps.append(f"{verb} ends")

    node.addresses.fault = slow
    await asyncio.gather(node.call("ADD"), node.call("DEL"))
    assert node.steps == [
        "assign begins",
        "assign ends",
        "wire",
        "unwire",
        "release_handle begins",
        "release_handle ends",
    ]
    assert len(node.plugin._turns) == 0


async def test_calls_for_different_containers_do_not_wait_for_each_other(node: Node) -> None:
    await node.start()
    together = asyncio.Barrier(2)

    async def meet(_verb: str) -> None:
        async with asyncio.timeout(1):
            await together.wait()

    node.addresses.fault = meet
    results = await asyncio.gather(node.call("ADD", "c1"), node.call("ADD", "c2"), return_exceptions=True)
    assert not [each for each in results if isinstance(each, TimeoutError)]


async def test_the_first_add_waits_for_the_dels(node: Node) -> None:
    await node.plugin.start()
    node.deferred.keep(request("DEL", "old", {"cniVersion": "1.0.0", "name": "net"}))
    add = asyncio.create_task(node.call("ADD"))
    await asyncio.sleep(0.01)
    assert node.steps == []
    await node.plugin.work_off()
    await add
    assert node.steps == ["unwire", "release_handle", "assign", "wire"]


async def test_without_the_api_all_interfaces_go_and_the_addresses_wait(node: Node) -> None:
    await node.plugin.start()
    for name in ("a", "b", "c"):
        node.deferred.keep(request("DEL", name, {"cniVersion": "1.0.0", "name": "net"}))

    async def away(verb: str) -> None:
        node.steps.append(verb)
        raise UnavailableError("away")

    node.addresses.fault = away
    await node.plugin.work_off()
    assert node.steps.count("unwire") == 3
    assert node.steps.count("release_handle") == 1, "an API that is away is asked once"
    assert len(list(node.deferred.pending())) == 3


async def test_an_add_whose_del_still_waits_is_told_to_come_again(node: Node) -> None:
    """Else the DEL would hit the new attachment later."""
    await node.plugin.start()
    node.deferred.keep(request("DEL", "c1", {"cniVersion": "1.0.0", "name": "net"}))

    async def away(_verb: str) -> None:
        raise UnavailableError("away")

    node.addresses.fault = away
    await node.plugin.work_off()
    with pytest.raises(CNIError) as caught:
        await node.call("ADD")
    assert caught.value.code == Code.TRY_AGAIN_LATER


async def test_a_del_that_waits_and_is_no_valid_call_is_dropped(node: Node) -> None:
    node.deferred.keep(request("DEL", "c1", {"cniVersion": "9.0.0"}))
    await node.plugin.work_off()
    assert list(node.deferred.pending()) == []


async def test_a_del_that_waits_and_meets_a_defect_keeps_nobody_from_serving(node: Node) -> None:
    await node.plugin.start()
    for name in ("a", "b"):
        node.deferred.keep(request("DEL", name, {"cniVersion": "1.0.0", "name": "net"}))

    def defect(_verb: str, container: str) -> None:
        if container == "a":
            raise RuntimeError("nobody thought of this")

    node.wiring.fault = defect
    await node.plugin.work_off()
    assert [each.env["CNI_CONTAINERID"] for each in node.deferred.pending()] == ["a"]
    await node.call("ADD")


async def test_a_del_that_neither_the_api_nor_the_disk_takes_fails(node: Node) -> None:
    await node.start()
    await node.call("ADD")

    async def away(_verb: str) -> None:
        raise UnavailableError("away")

    node.addresses.fault = away
    (node.folder / "del").rmdir()
    with pytest.raises(CNIError, match="cannot keep the DEL") as caught:
        await node.call("DEL")
    assert caught.value.code == Code.IO_FAILURE


async def test_check_asks_ipam_too_and_does_without_the_api(node: Node) -> None:
    await node.start()
    result = await node.call("ADD")
    await node.call("CHECK", prevResult=result)
    node.addresses._held.clear()
    with pytest.raises(CNIError, match=r"10\.65\.0\.0: found it unassigned"):
        await node.call("CHECK", prevResult=result)

    async def away(_verb: str) -> None:
        raise UnavailableError("away")

    node.addresses.fault = away
    await node.call("CHECK", prevResult=result)


async def test_no_pool_is_said_and_what_to_do(node: Node) -> None:
    await node.start()
    node.families = ()
    with pytest.raises(CNIError, match="IPPool") as caught:
        await node.call("ADD")
    assert caught.value.code == Code.ADDRESSES


@pytest.mark.parametrize(
    ("previous", "code"),
    [
        ({}, Code.INVALID_CONFIGURATION),
        ({"interfaces": [{"name": "eth0"}]}, Code.INVALID_CONFIGURATION),
        ({"interfaces": [{"name": "other", "sandbox": "/x"}]}, Code.INVALID_CONFIGURATION),
        ({"interfaces": [3]}, Code.DECODE_FAILURE),
        ({"interfaces": [{"name": "eth0", "sandbox": "/x"}], "ips": [{"interface": 0}]}, Code.DECODE_FAILURE),
        (
            {"interfaces": [{"name": "eth0", "sandbox": "/x"}], "ips": [{"interface": 0, "address": "x"}]},
            Code.DECODE_FAILURE,
        ),
        ({"interfaces": [{"name": "eth0", "sandbox": "/x", "mtu": "x"}]}, Code.DECODE_FAILURE),
    ],
)
async def test_a_previous_result_that_is_none(node: Node, previous: dict[str, Any], code: Code) -> None:
    await node.start()
    with pytest.raises(CNIError) as caught:
        await node.call("CHECK", prevResult=previous)
    assert caught.value.code == code


async def test_what_the_pod_asks_for_reaches_the_allocator_and_the_interface(node: Node) -> None:
    await node.start()
    prefix = "cni.projectcalico.org/"
    own = {f"{prefix}ipv4pools": '["special"]', f"{prefix}hwAddr": "02:00:00:00:00:07"}
    node.facts = PodFacts(own, {f"{prefix}ipFamilies": '["IPv4"]'}, {"team": "a"})
    node.families = (4, 6)
    await node.call("ADD")
    (asked,) = node.addresses.requests
    assert (asked.pools, asked.families, asked.namespace_labels) == (("special",), (4,), {"team": "a"})
    (link,) = node.wiring.links.values()
    assert link.mac == "02:00:00:00:00:07"


async def test_a_family_that_the_pod_asks_for_and_the_node_lacks_is_an_error(node: Node) -> None:
    await node.start()
    node.facts = PodFacts({"cni.projectcalico.org/ipFamilies": '["IPv4", "IPv6"]'})
    with pytest.raises(CNIError, match="ipFamilies: found IPv6") as caught:
        await node.call("ADD")
    assert caught.value.code == Code.ADDRESSES
    assert node.steps == []


async def test_a_family_that_the_configuration_turns_off_is_not_given(node: Node) -> None:
    await node.start()
    node.families = (4, 6)
    await node.call("ADD", ipam={"assign_ipv6": "false"})
    assert node.addresses.requests[0].families == (4,)


async def test_where_both_are_turned_off_the_configuration_is_to_blame(node: Node) -> None:
    await node.start()
    with pytest.raises(CNIError, match="found both false"):
        await node.call("ADD", ipam={"assign_ipv4": "false", "assign_ipv6": "false"})


async def test_a_pool_that_is_named_brings_its_family_where_the_node_has_an_address(node: Node) -> None:
    await node.start()
    node.facts = PodFacts({"cni.projectcalico.org/ipv6pools": '["special"]'})
    await node.call("ADD")
    assert node.addresses.requests[0].families == (4, 6)
    node.addressed = (4,)
    await node.call("ADD", "c2", ipam={"ipv6_pools": ["other"]})
    assert node.addresses.requests[1].families == (4,)


async def test_a_pod_whose_annotations_cannot_be_read_is_tried_again(node: Node) -> None:
    await node.start()
    node.facts = UnavailableError("connection refused")
    with pytest.raises(CNIError, match="connection refused") as caught:
        await node.call("ADD")
    assert caught.value.code == Code.TRY_AGAIN_LATER
    assert node.steps == []


async def test_gc_frees_also_the_addresses_of_containers_whose_devices_are_gone(node: Node) -> None:
    """Those that live are the valid ones, and whatever else has a device, of other networks.

    One pod, whose second container has taken the first one's device over.
    """
    await node.start()
    await node.call("ADD", "dead")
    await node.call("ADD", "foreign", name="storage")
    valid: dict[str, Any] = {"cni.dev/valid-attachments": [{"containerID": "valid", "ifname": "eth0"}]}
    node.steps.clear()
    await node.call("GC", "", cniVersion="1.1.0", **valid)
    assert node.steps == ["free all but foreign valid"]
