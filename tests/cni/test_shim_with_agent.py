"""ADD, CHECK, DEL, STATUS and GC through the real shim, server and kernel."""

import asyncio
import json
from collections.abc import Callable
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import pytest

from calico_py.cni import verbs
from calico_py.cni.config import VERSIONS
from calico_py.model.names import workload_ifname
from calico_py.model.store import UnavailableError
from tests.cni.conftest import Agent
from tests.cni.runtime import Runtime, config
from tests.netns.namespaces import Namespace

pytestmark = pytest.mark.root

NewPod = Callable[[], Namespace]


def addresses_of(result: Any) -> list[str]:
    """In any version's shape."""
    if "ips" in result:
        return [each["address"] for each in result["ips"]]
    return [result[key]["ip"] for key in ("ip4", "ip6") if key in result]


@pytest.mark.parametrize("version", VERSIONS)
async def test_add_check_and_del_in_every_version(
    agent: Agent, runtime: Runtime, new_pod: NewPod, version: str
) -> None:
    pod = new_pod()
    added = await runtime.call("ADD", config(version), netns=pod.path, pod="web")
    assert added.status == 0, added.stdout
    result = added.json
    assert result["cniVersion"] == version
    assert addresses_of(result) == ["10.65.0.0/32", "fd65::/128"]
    (device,) = pod.ip("address", "show", "eth0")
    seen = {info["local"] for info in device["addr_info"] if info["scope"] == "global"}
    assert seen == {"10.65.0.0", "fd65::"}
    if version >= "0.4.0":
        checked = await runtime.call("CHECK", config(version, prevResult=result), netns=pod.path, pod="web")
        assert (checked.status, checked.stdout) == (0, "")
    deleted = await runtime.call("DEL", config(version, prevResult=result), netns=pod.path, pod="web")
    assert (deleted.status, deleted.stdout) == (0, "")
    assert agent.addresses.held == {}


async def test_the_result_names_both_interfaces_and_the_gateways(
    agent: Agent, runtime: Runtime, host: Namespace, new_pod: NewPod
) -> None:
    del agent
    pod = new_pod()
    result = (await runtime.call("ADD", config("1.1.0"), netns=pod.path, pod="web")).json
    (inside,) = pod.ip("link", "show", "eth0")
    assert result["interfaces"] == [
        {"name": workload_ifname("default", "web"), "mac": "ee:ee:ee:ee:ee:ee", "mtu": 1450},
        {"name": "eth0", "mac": inside["address"], "mtu": 1450, "sandbox": pod.path},
    ]
    assert result["ips"] == [
        {"interface": 1, "address": "10.65.0.0/32", "gateway": "169.254.1.1"},
        {"interface": 1, "address": "fd65::/128", "gateway": "fe80::ecee:eeff:feee:eeee"},
    ]
    assert result["routes"] == [
        {"dst": "0.0.0.0/0", "gw": "169.254.1.1"},
        {"dst": "::/0", "gw": "fe80::ecee:eeff:feee:eeee"},
    ]
    assert host.ip("link", "show", workload_ifname("default", "web"))


async def test_the_allocator_is_told_whose_address_it_is(agent: Agent, runtime: Runtime, new_pod: NewPod) -> None:
    await runtime.call("ADD", config(), netns=new_pod().path, pod="web", container_id="abc")
    (request,) = agent.addresses.requests
    assert request.handle_id == "k8s-pod-network.abc"
    assert dict(request.secondary) == {"namespace": "default", "pod": "web"}
    assert request.families == (4, 6)


@pytest.mark.parametrize(
    ("more", "args"),
    [
        ({"runtimeConfig": {"ips": ["10.65.0.9"]}}, ""),
        ({"args": {"cni": {"ips": ["10.65.0.9/32"]}}}, ""),
        ({}, "IP=10.65.0.9;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web"),
    ],
)
@pytest.mark.usefixtures("agent")
async def test_an_address_that_is_asked_for(runtime: Runtime, new_pod: NewPod, more: dict[str, Any], args: str) -> None:
    added = await runtime.call("ADD", config(**more), netns=new_pod().path, args=args)
    assert addresses_of(added.json) == ["10.65.0.9/32"]
    second = await runtime.call("ADD", config(**more), netns=new_pod().path, args=args, container_id="c2")
    assert second.code == 101


async def test_pools_mtu_and_mac_of_the_configuration(agent: Agent, runtime: Runtime, new_pod: NewPod) -> None:
    pod, ipam = new_pod(), {"type": "calico-ipam", "ipv4_pools": ["pool1"], "ipv6_pools": ["fd65::/64"]}
    asked = config(mtu=1300, ipam=ipam, runtimeConfig={"mac": "02:00:00:00:00:09"})
    assert (await runtime.call("ADD", asked, netns=pod.path, pod="web")).status == 0
    (device,) = pod.ip("link", "show", "eth0")
    assert (device["mtu"], device["address"]) == (1300, "02:00:00:00:00:09")
    assert agent.addresses.requests[0].pools == ("pool1", "fd65::/64")


async def test_one_family_where_the_node_has_pools_of_one(agent: Agent, runtime: Runtime, new_pod: NewPod) -> None:
    agent.families = (6,)
    assert addresses_of((await runtime.call("ADD", config(), netns=new_pod().path)).json) == ["fd65::/128"]
    agent.families = ()
    refused = await runtime.call("ADD", config(), netns=new_pod().path, container_id="c2")
    assert refused.code == 101
    assert "IPPool" in refused.json["details"]


async def test_fifty_at_once(agent: Agent, runtime: Runtime, new_pod: NewPod) -> None:
    pods = [new_pod() for _ in range(50)]
    added = await asyncio.gather(
        *(
            runtime.call("ADD", config(), netns=pod.path, pod=f"pod{number}", container_id=f"c{number}")
            for number, pod in enumerate(pods)
        )
    )
    addresses = {address for answer in added for address in addresses_of(answer.json)}
    assert len(addresses) == 100
    deleted = await asyncio.gather(
        *(runtime.call("DEL", config(), pod=f"pod{number}", container_id=f"c{number}") for number in range(50))
    )
    assert {answer.status for answer in deleted} == {0}
    assert agent.addresses.held == {}
    assert sorted(set(agent.observed)) == [("ADD", 0), ("DEL", 0)]


async def test_del_then_add_of_a_pod_a_hundred_times(agent: Agent, runtime: Runtime, new_pod: NewPod) -> None:
    for number in range(100):
        added = await runtime.call("ADD", config(), netns=new_pod().path, pod="web", container_id=f"c{number}")
        assert added.status == 0, added.stdout
        deleted = await runtime.call("DEL", config(), pod="web", container_id=f"c{number}")
        assert deleted.status == 0, deleted.stdout
    assert agent.addresses.held == {}


async def test_a_second_add_of_a_container_fails_and_leaves_the_first(
    agent: Agent, runtime: Runtime, new_pod: NewPod
) -> None:
    pod = new_pod()
    result = (await runtime.call("ADD", config(), netns=pod.path, pod="web")).json
    held = agent.addresses.held
    for netns in (pod.path, new_pod().path):
        assert (await runtime.call("ADD", config(), netns=netns, pod="web")).code == 100
    assert agent.addresses.held == held
    assert (await runtime.call("CHECK", config(prevResult=result), netns=pod.path, pod="web")).status == 0


async def test_a_second_add_also_fails_after_a_restart_of_the_agent(
    absent_agent: Agent, runtime: Runtime, new_pod: NewPod
) -> None:
    pod = new_pod()
    async with absent_agent.serving():
        assert (await runtime.call("ADD", config(), netns=pod.path, pod="web")).status == 0
    held = absent_agent.addresses.held
    async with absent_agent.serving():
        assert (await runtime.call("ADD", config(), netns=pod.path, pod="web")).code == 100
    assert absent_agent.addresses.held == held


async def test_a_new_container_of_a_pod_gets_a_new_address_and_the_old_ones_del_leaves_it(
    agent: Agent, runtime: Runtime, new_pod: NewPod
) -> None:
    old, new = new_pod(), new_pod()
    first = (await runtime.call("ADD", config(), netns=old.path, pod="web", container_id="old")).json
    second = (await runtime.call("ADD", config(), netns=new.path, pod="web", container_id="new")).json
    assert not set(addresses_of(first)) & set(addresses_of(second))
    assert (await runtime.call("DEL", config(), netns=old.path, pod="web", container_id="old")).status == 0
    checked = await runtime.call("CHECK", config(prevResult=second), netns=new.path, pod="web", container_id="new")
    assert checked.status == 0, checked.stdout
    assert set(agent.addresses.held.values()) == {"k8s-pod-network.new"}


async def test_del_succeeds_when_things_are_gone(agent: Agent, runtime: Runtime, new_pod: NewPod) -> None:
    assert (await runtime.call("DEL", config(), pod="web", container_id="unknown")).status == 0
    pod = new_pod()
    await runtime.call("ADD", config(), netns=pod.path, pod="web")
    assert (await runtime.call("DEL", config(), netns="/run/netns/vanished", pod="web")).status == 0
    assert (await runtime.call("DEL", config(), netns="", pod="web")).status == 0
    assert (await runtime.call("DEL", config(prevResult="rubbish"), pod="web", args="rubbish")).status == 0
    assert agent.addresses.held == {}


async def test_an_add_that_cannot_wire_keeps_no_address(agent: Agent, runtime: Runtime, new_pod: NewPod) -> None:
    pod = new_pod()
    pod.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other")
    failed = await runtime.call("ADD", config(), netns=pod.path, pod="web")
    assert failed.code == 100
    assert "eth0" in failed.json["details"]
    assert agent.addresses.held == {}


async def test_check_tells_what_differs(agent: Agent, runtime: Runtime, new_pod: NewPod) -> None:
    del agent
    pod = new_pod()
    result = (await runtime.call("ADD", config(), netns=pod.path, pod="web")).json
    pod.run("ip", "route", "del", "default")
    pod.run("ip", "address", "del", "10.65.0.0/32", "dev", "eth0")
    failed = await runtime.call("CHECK", config(prevResult=result), netns=pod.path, pod="web")
    assert failed.code == 100
    assert "found no address 10.65.0.0/32" in failed.json["details"]
    assert "found no route 0.0.0.0/0" in failed.json["details"]


async def test_an_add_waits_for_an_agent_that_has_just_begun(agent: Agent, runtime: Runtime, new_pod: NewPod) -> None:
    agent.not_ready = "not in sync with the API server yet"
    waiting = asyncio.create_task(runtime.call("ADD", config(), netns=new_pod().path, pod="web"))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    assert agent.addresses.held == {}
    agent.not_ready = ""
    assert (await waiting).status == 0


async def test_not_ready_is_told_and_del_goes_on(
    agent: Agent, runtime: Runtime, new_pod: NewPod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verbs, "READY_SECONDS", 0.2)
    await runtime.call("ADD", config(), netns=new_pod().path, pod="web")
    agent.not_ready = "the API server has not been heard yet"
    refused = await runtime.call("ADD", config(), netns=new_pod().path, pod="other", container_id="c2")
    assert refused.code == 11
    assert refused.json["details"] == agent.not_ready
    status = await runtime.call("STATUS", config("1.1.0"))
    assert (status.code, status.json["details"]) == (50, agent.not_ready)
    assert (await runtime.call("DEL", config(), pod="web")).status == 0
    assert agent.addresses.held == {}
    agent.not_ready = ""
    assert (await runtime.call("STATUS", config("1.1.0"))).status == 0


async def test_del_without_the_api_succeeds_and_is_made_good(
    absent_agent: Agent, runtime: Runtime, host: Namespace, new_pod: NewPod
) -> None:
    agent = absent_agent

    async def away(_verb: str) -> None:
        raise UnavailableError("the API server is away")

    present = agent.addresses.fault
    async with agent.serving():
        await runtime.call("ADD", config(), netns=new_pod().path, pod="web")
        agent.addresses.fault = away
        assert (await runtime.call("DEL", config(), pod="web")).status == 0
        assert workload_ifname("default", "web") not in {link["ifname"] for link in host.ip("link")}
        assert len(agent.addresses.held) == 2
        later = await runtime.call("ADD", config(), netns=new_pod().path, pod="web")
        assert later.code == 11
    agent.addresses.fault = present
    async with agent.serving():
        added = await runtime.call("ADD", config(), netns=new_pod().path, pod="web")
        assert addresses_of(added.json) == ["10.65.0.0/32", "fd65::/128"]
    assert list(runtime.deferred.iterdir()) == []


async def test_gc_removes_what_is_not_listed(agent: Agent, runtime: Runtime, new_pod: NewPod) -> None:
    for name in ("one", "two", "three"):
        await runtime.call("ADD", config(), netns=new_pod().path, pod=name, container_id=name)
    valid = {"cni.dev/valid-attachments": [{"containerID": "two", "ifname": "eth0"}]}
    assert (await runtime.call("GC", config("1.1.0"))).status == 0, "without a list nothing is removed"
    assert len(agent.addresses.held) == 6
    assert (await runtime.call("GC", config("1.1.0", **valid))).status == 0
    assert set(agent.addresses.held.values()) == {"k8s-pod-network.two"}


def named(network: str, **more: Any) -> dict[str, Any]:
    return config("1.1.0", **more) | {"name": network}


async def test_gc_knows_networks_and_interfaces_apart(absent_agent: Agent, runtime: Runtime, new_pod: NewPod) -> None:
    """Also an agent that learned of the attachments from their devices."""
    async with absent_agent.serving():
        await runtime.call("ADD", config("1.1.0"), netns=new_pod().path, pod="one", container_id="one")
        await runtime.call("ADD", named("storage"), netns=new_pod().path, pod="two", container_id="two", ifname="net1")
    nothing: dict[str, Any] = {"cni.dev/valid-attachments": []}
    two = {"cni.dev/valid-attachments": [{"containerID": "two", "ifname": "net1"}]}
    async with absent_agent.serving():
        assert (await runtime.call("GC", named("storage", **two))).status == 0
        assert set(absent_agent.addresses.held.values()) == {"k8s-pod-network.one", "k8s-pod-network.two"}
        assert (await runtime.call("GC", config("1.1.0", **nothing))).status == 0
        assert set(absent_agent.addresses.held.values()) == {"k8s-pod-network.two"}
        elsewhere = {"cni.dev/valid-attachments": [{"containerID": "two", "ifname": "eth0"}]}
        assert (await runtime.call("GC", named("storage", **elsewhere))).status == 0
        assert absent_agent.addresses.held == {}


async def test_a_second_interface_is_refused_and_its_del_leaves_the_first(
    agent: Agent, runtime: Runtime, new_pod: NewPod
) -> None:
    pod = new_pod()
    added = await runtime.call("ADD", config(), netns=pod.path, pod="web")
    refused = await runtime.call("ADD", config(), netns=pod.path, pod="web", ifname="net1")
    assert (refused.code, "one interface" in refused.stdout) == (100, True)
    assert (await runtime.call("DEL", config(), netns=pod.path, pod="web", ifname="net1")).status == 0
    checked = await runtime.call("CHECK", config(prevResult=added.json), netns=pod.path, pod="web")
    assert (checked.status, checked.stdout) == (0, "")
    assert len(agent.addresses.held) == 2


async def test_what_is_no_pods_namespace_is_told_as_such(
    agent: Agent, runtime: Runtime, host: Namespace, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    for path, why in ((str(tmp_path / "file"), "found something else"), (host.path, "found the node's own")):
        refused = await runtime.call("ADD", config(), netns=path, pod="web")
        assert (refused.code, why in refused.stdout) == (8, True)
    assert agent.addresses.held == {}


async def test_an_add_under_way_is_finished_when_the_agent_stops(
    absent_agent: Agent, runtime: Runtime, new_pod: NewPod
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_verb: str) -> None:
        begun.set()
        await go_on.wait()

    absent_agent.addresses.fault = slow
    async with absent_agent.serving():
        call = asyncio.create_task(runtime.call("ADD", config(), netns=new_pod().path, pod="web"))
        await begun.wait()
        asyncio.get_running_loop().call_later(0.3, go_on.set)
    assert (await call).status == 0


async def test_a_result_of_the_plugin_before_is_kept(agent: Agent, runtime: Runtime, new_pod: NewPod) -> None:
    del agent
    previous = {
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "net1", "sandbox": "/x"}],
        "ips": [{"interface": 0, "address": "10.9.0.1/24"}],
        "dns": {"nameservers": ["10.96.0.10"]},
    }
    result = (await runtime.call("ADD", config(prevResult=previous), netns=new_pod().path, pod="web")).json
    assert [each["name"] for each in result["interfaces"]][::2] == ["net1", "eth0"]
    assert [each["interface"] for each in result["ips"]] == [0, 2, 2]
    assert result["dns"] == previous["dns"]


async def test_without_kubernetes_arguments_the_container_names_the_device(
    agent: Agent, runtime: Runtime, host: Namespace, new_pod: NewPod
) -> None:
    del agent
    pod, container = new_pod(), "0123456789abcdef"
    added = await runtime.call("ADD", config(), netns=pod.path, container_id=container)
    assert added.json["interfaces"][0]["name"] == "cali0123456789a"
    assert host.ip("link", "show", "cali0123456789a")
    assert (await runtime.call("DEL", config(), netns=pod.path, container_id=container)).status == 0


@pytest.mark.parametrize("plugin", ["portmap", "bandwidth"])
async def test_the_reference_plugins_chain_behind_ours(
    agent: Agent, runtime: Runtime, host: Namespace, new_pod: NewPod, plugin: str
) -> None:
    """They parse our result and find the devices that it names."""
    del agent
    pod = new_pod()
    result = (await runtime.call("ADD", config(), netns=pod.path, pod="web")).json
    ports = [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]
    limits = {"ingressRate": 1000000, "ingressBurst": 1000000, "egressRate": 1000000, "egressBurst": 1000000}
    capabilities = {"portMappings": ports} if plugin == "portmap" else {"bandwidth": limits}
    chained = {**config(), "type": plugin, "snat": True, "prevResult": result, "runtimeConfig": capabilities}
    path = f"/usr/lib/cni/{plugin}"
    env = [f"CNI_COMMAND=ADD CNI_CONTAINERID=c1 CNI_NETNS={pod.path} CNI_IFNAME=eth0 CNI_PATH=/usr/lib/cni"]
    done = host.run(
        "sh", "-c", f"test -x {path} || exit 77; {env[0]} {path} <<'.'\n{json.dumps(chained)}\n.\n", check=False
    )
    if done.returncode == 77:
        pytest.skip(f"{path} is not installed (Debian: containernetworking-plugins)")
    assert done.returncode == 0, done.stdout
    passed = json.loads(done.stdout)
    assert [ip_interface(each["address"]) for each in passed["ips"]] == [
        ip_interface("10.65.0.0/32"),
        ip_interface("fd65::/128"),
    ]
