"""What pods and namespaces ask for in Calico's annotations, from the API through the real agent to the interface."""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from calico_py.model.names import warm_handle
from tests.cni.real_agent import NODE, POOLS, RealAgent, addresses_of, eventually, held, make_pod, pod_addresses
from tests.cni.runtime import Answer, config
from tests.contract.servers import MERGE
from tests.netns.namespaces import Namespace

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

NewPod = Callable[[], Namespace]
WISH = "cni.projectcalico.org/"


def make_pool(agent: RealAgent, name: str, cidr: str, **spec: Any) -> None:
    body = {
        "apiVersion": "projectcalico.org/v3",
        "kind": "IPPool",
        "metadata": {"name": name},
        "spec": {"cidr": cidr, **spec},
    }
    made = agent.faults.api.request("POST", "/apis/projectcalico.org/v3/ippools", body)
    assert made.status == 201, made.body


def annotate_namespace(agent: RealAgent, **wishes: str | None) -> None:
    annotations = {WISH + name: value for name, value in wishes.items()}
    patch = {"metadata": {"annotations": annotations}}
    assert agent.faults.api.request("PATCH", "/api/v1/namespaces/default", patch, Content_Type=MERGE).status == 200


async def test_annotations(real_agent: RealAgent, new_pod: NewPod) -> None:
    agent = real_agent

    async def add(name: str, **wishes: str) -> tuple[Answer, Namespace]:
        make_pod(agent.faults.api, name, annotations={WISH + wish: value for wish, value in wishes.items()})
        pod = new_pod()
        return await agent.runtime.call("ADD", config(), netns=pod.path, pod=name, container_id=name), pod

    async def addresses(name: str, **wishes: str) -> list[str]:
        answer, pod = await add(name, **wishes)
        assert answer.status == 0, answer.stdout
        found = addresses_of(answer.json)
        assert pod_addresses(pod) == set(found)
        return found

    with agent.running():
        await agent.wait_until_ready()
        make_pool(agent, "by-name", "10.9.0.0/24", nodeSelector="!all()")
        make_pool(agent, "by-cidr", "10.10.0.0/24", assignmentMode="Manual")
        make_pool(agent, "off", "10.11.0.0/24", disabled=True)
        first = await addresses("plain")
        assert [address.startswith(prefix) for address, prefix in zip(first, ("10.244.", "fd10:"), strict=True)]

        wanted = ["10.244.3.7", "fd10:244::7"]
        assert await addresses("exact", ipAddrs=str(wanted).replace("'", '"')) == wanted
        again, _ = await add("again", ipAddrs='["10.244.3.7"]')
        assert again.code == 101
        assert "10.244.3.7" in again.json["details"]
        assert (await agent.runtime.call("DEL", config(), pod="exact", container_id="exact")).status == 0

        def free() -> bool:
            return wanted[0] not in held(agent)

        await eventually("the address is free", free)
        assert await addresses("third", ipAddrs='["10.244.3.7"]') == wanted[:1]

        assert (await addresses("named", ipv4pools='["by-name"]'))[0].startswith("10.9.0.")
        assert (await addresses("cidr", ipv4pools='["10.10.0.0/24"]', ipFamilies='["IPv4"]'))[0].startswith("10.10.0.")
        disabled, _ = await add("disabled", ipv4pools='["off"]')
        assert disabled.code == 101
        assert "off" in disabled.json["details"]

        answer, pod = await add("mac", hwAddr="1c:0c:0a:c0:ff:ee")
        assert answer.status == 0, answer.stdout
        assert pod.ip("link", "show", "eth0")[0]["address"] == "1c:0c:0a:c0:ff:ee"
        wrong, _ = await add("wrong", ipAddrs="10.244.3.9")
        assert wrong.code == 7
        assert "cni.projectcalico.org/ipAddrs" in wrong.json["details"]

        annotate_namespace(agent, ipv4pools='["by-name"]', ipFamilies='["IPv4"]')

        for number in range(50):
            found = await addresses(f"of-namespace{number}")
            if found[0].startswith("10.9.0."):
                break
        assert [address.startswith("10.9.0.") for address in found] == [True], "the namespace's, of one family"
        assert (await addresses("own", ipv4pools='["by-cidr"]'))[0].startswith("10.10.0."), "the pod's comes first"


async def test_a_family_whose_pools_are_closed_is_not_left_out(real_agent: RealAgent, new_pod: NewPod) -> None:
    """Nor is the node unready by it, which would evict its pods. A pool that goes takes its family with it."""
    agent = real_agent
    pool = "/apis/projectcalico.org/v3/ippools/default-ipv6-ippool"
    numbers = itertools.count()

    async def first(expected: Callable[[Answer], bool], **wishes: str) -> Answer:
        """The answer of the first ADD that is as expected, once the agent has heard of all."""
        for number in itertools.islice(numbers, 50):
            name = f"pod{number}"
            make_pod(agent.faults.api, name, annotations={WISH + wish: value for wish, value in wishes.items()})
            answer = await agent.runtime.call("ADD", config(), netns=new_pod().path, pod=name, container_id=name)
            if expected(answer):
                return answer
            await asyncio.sleep(0.05)
        raise AssertionError(answer.stdout)

    with agent.running():
        await agent.wait_until_ready()
        await first(lambda answer: len(addresses_of(answer.json)) == 2)
        make_pool(agent, "special", "fd20::/112", nodeSelector="!all()")
        closed = {"spec": {"disabled": True}}
        assert agent.faults.api.request("PATCH", pool, closed, Content_Type=MERGE).status == 200
        refused = await first(lambda answer: answer.code == 101)
        assert "default-ipv6-ippool: spec.disabled is true" in refused.json["details"]
        assert (await agent.runtime.call("STATUS", config("1.1.0"))).status == 0
        named = await first(lambda answer: answer.status == 0, ipv6pools='["special"]')
        assert [address.split(":")[0] for address in addresses_of(named.json)][1:] == ["fd20"]
        assert agent.faults.api.request("DELETE", pool).status == 200
        single = await first(lambda answer: answer.status == 0)
        assert len(addresses_of(single.json)) == 1


async def test_one_family_without_an_address_costs_the_other_none(real_agent: RealAgent, new_pod: NewPod) -> None:
    """Of a pool of one IPv6 address the second pod gets none, and so no IPv4 address is taken for it."""
    agent = real_agent
    agent.environment |= {"CALICO_IPV6POOL_CIDR": "fd10:244::/128", "CALICO_IPV6POOL_BLOCK_SIZE": "128"}
    assert POOLS[6] != agent.environment["CALICO_IPV6POOL_CIDR"]
    for name in ("first", "second"):
        make_pod(agent.faults.api, name)
    with agent.running():
        await agent.wait_until_ready()
        added = await agent.runtime.call("ADD", config(), netns=new_pod().path, pod="first", container_id="first")
        assert added.status == 0, added.stdout
        refused = await agent.runtime.call("ADD", config(), netns=new_pod().path, pod="second", container_id="second")
        assert refused.code == 101, refused.stdout
        assert "default-ipv6-ippool" in refused.json["details"]

        def owners() -> set[str]:
            return {handle for handle in held(agent).values() if handle != warm_handle(NODE)}

        await eventually("only the first has addresses", lambda: owners() == {"k8s-pod-network.first"})
