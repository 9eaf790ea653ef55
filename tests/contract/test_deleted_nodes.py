"""250 nodes that go at once, on a real kube-apiserver: what was theirs is free within a minute, but for living pods."""

import asyncio
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from calico_py.ipam import blocks
from calico_py.kube.client import KubeStore, connect
from calico_py.model.blocks import IPAMConfiguration
from calico_py.model.kinds import IPAM_BLOCKS, IPAM_CONFIGURATIONS, NODES
from calico_py.model.meta import Meta
from calico_py.model.names import block_name
from calico_py.model.net import Address
from tests.contract.leading import Held, fill, leading, until_nothing_is_left
from tests.contract.servers import ApiUnderTest

pytestmark = pytest.mark.alone

GONE = 250
PODS = 2
PODS_STAY = 8.0  # seconds for which the API has pods of nodes that went; Kubernetes' collector takes 40 to 80
COOLDOWN = 3


class LivingPod:
    """A pod whose node goes, as the API has it until somebody removes it."""

    def __init__(self, api: ApiUnderTest, held: Held) -> None:
        self._api = api
        self._held = held
        self._path = "/api/v1/namespaces/default/pods"
        self.address: Address = ip_address(int(held.cidr.network_address) + 2)  # behind tunnel's and warm one's

    def make(self) -> None:
        container = {"name": "c", "image": "none"}
        body: dict[str, Any] = {
            "metadata": {"name": self._held.pod_name(0)},
            "spec": {"nodeName": self._held.node, "containers": [container]},
        }
        made = self._api.request("POST", self._path, body)
        assert made.status == 201, made.body
        status = {"status": {"phase": "Running", "podIPs": [{"ip": str(self.address)}], "podIP": str(self.address)}}
        own = f"{self._path}/{self._held.pod_name(0)}/status"
        assert self._api.request("PATCH", own, status, Content_Type="application/merge-patch+json").status == 200

    def remove(self) -> None:
        own = f"{self._path}/{self._held.pod_name(0)}"
        assert self._api.request("DELETE", own, {"gracePeriodSeconds": 0}).status == 200

    async def has_its_address(self, store: KubeStore) -> bool:
        block = await store.get(IPAM_BLOCKS, block_name(self._held.cidr))
        held = [a for a in blocks.allocations(block) if a.address == self.address]
        return len(held) == 1 and not held[0].cooling


async def test_all_is_free_within_a_minute_but_what_a_pod_has(kube_server: ApiUnderTest, tmp_path: Path) -> None:
    api = kube_server
    stays, *go = [Held(number, PODS) for number in range(GONE + 1)]
    living = [LivingPod(api, held) for held in go[:3]]
    async with connect(str(api.kubeconfig)) as store:
        await store.create(IPAM_CONFIGURATIONS, IPAMConfiguration(Meta("default"), ip_cooldown_seconds=COOLDOWN))
        await fill(store, [stays, *go])
        for pod in living:
            await asyncio.to_thread(pod.make)
        with leading(api.kubeconfig, stays.node, tmp_path / "log"):
            await asyncio.gather(*(store.delete(NODES, held.node) for held in go))
            await until_nothing_is_left(store, go[3:], within=60)
            await asyncio.sleep(PODS_STAY)
            for pod in living:
                assert await pod.has_its_address(store), "its pod lives"
                await asyncio.to_thread(pod.remove)
            seconds = await until_nothing_is_left(store, go, within=60)
            print(f"all is free {seconds:.1f} s after the end of the last pods")
            assert seconds < 20, "at its pod's end, without cooling"
            own = await store.get(IPAM_BLOCKS, block_name(stays.cidr))
            assert len(list(blocks.allocations(own))) == PODS + 2, "the node that stays has what it had"
