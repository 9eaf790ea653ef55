"""`calico-py ipam` against both API servers."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from calico_py.cli import ipam, status
from calico_py.ipam.requests import AssignRequest
from calico_py.kube.client import connect
from tests.contract.servers import ApiUnderTest
from tests.contract.test_ipam_contract import FOUR, node

Command = Callable[..., Result]


@pytest.fixture
def command(api_server: ApiUnderTest, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setattr(ipam, "SETTLE_SECONDS", 0.1)

    def run(*words: str) -> Result:
        return CliRunner().invoke(ipam.command, [*words, "--kubeconfig", str(api_server.kubeconfig)])

    return run


@pytest.fixture
def cluster(api_server: ApiUnderTest) -> str:
    """A node with a pod that runs and one that is gone; the first one's address."""
    made = api_server.request(
        "POST",
        "/apis/projectcalico.org/v3/ippools",
        {
            "apiVersion": "projectcalico.org/v3",
            "kind": "IPPool",
            "metadata": {"name": "four"},
            "spec": {"cidr": "10.0.0.0/27", "blockSize": 28},
        },
    )
    assert made.status == 201, made.body
    assert api_server.request("POST", "/api/v1/nodes", _object("Node", "node1")).status == 201

    async def assign() -> list[str]:
        async with connect(str(api_server.kubeconfig)) as store:
            allocator = node(store, "node1", pools=(FOUR,))
            got = [
                (
                    await allocator.assign(
                        AssignRequest(f"k8s-pod-network.{name}", {"namespace": "default", "pod": name})
                    )
                )[0]
                for name in ("web", "gone")
            ]
            await allocator.reserve("calico-py-warm-node1", 4, lambda _own: 2)
            await allocator.drain()
            return [str(a.address) for a in got]

    web, _ = asyncio.run(assign())
    pod = _object("Pod", "web") | {"spec": {"nodeName": "node1", "containers": [{"name": "c", "image": "i"}]}}
    answer = api_server.request("POST", "/api/v1/namespaces/default/pods", pod)
    assert answer.status == 201, answer.body
    body = {"status": {"phase": "Running", "podIP": web, "podIPs": [{"ip": web}]}}
    patched = api_server.request(
        "PATCH", "/api/v1/namespaces/default/pods/web/status", body, Content_Type="application/merge-patch+json"
    )
    assert patched.status == 200, patched.body
    return web


def _object(kind: str, name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}}


def test_show_counts_and_names(command: Command, cluster: str) -> None:
    found = json.loads(command("show", "--blocks", "--addresses", "-o", "json").stdout)
    (pool,) = found["pools"]
    assert (pool["name"], pool["in_use"], pool["warm"], pool["free"]) == ("four", 2, 2, 28)
    assert found["blocks"][0]["node"] == "node1"
    assert len(found["addresses"]) == 4
    text = command("show", cluster, "10.0.0.31").stdout
    assert "default/web" in text
    assert "10.0.0.31 is free in pool four: nobody has it" in text
    assert "four" in command("show").stdout
    assert "10.9.9.9 is in no pool" in command("show", "10.9.9.9").stdout
    assert command("show", "nonsense").exit_code == 2


def test_show_says_what_is_reserved_borrowed_and_in_force(
    command: Command, api_server: ApiUnderTest, cluster: str
) -> None:
    assert cluster
    group = {"apiVersion": "projectcalico.org/v3"}
    for plural, obj in (
        ("ipreservations", {"kind": "IPReservation", "spec": {"reservedCIDRs": ["10.0.0.16/30", "10.0.0.0/31"]}}),
        ("ipamconfigurations", {"kind": "IPAMConfiguration", "spec": {"strictAffinity": True, "ipCooldownSeconds": 7}}),
    ):
        body = {**group, **obj, "metadata": {"name": "default"}}
        answer = api_server.request("POST", f"/apis/projectcalico.org/v3/{plural}", body)
        assert answer.status == 201, answer.body
    found = yaml.safe_load(command("show", "--addresses", "--borrowed", "--configuration", "-o", "yaml").stdout)
    (pool,) = found["pools"]
    held = {row["address"] for row in found["addresses"]}
    reserved = {f"10.0.0.{number}" for number in (0, 1, 16, 17, 18, 19)} - held
    assert (pool["reserved"], pool["free"]) == (len(reserved), 32 - len(held) - len(reserved))
    assert found["borrowed"] == []
    values = {row["setting"]: (row["value"], row["means"]) for row in found["configuration"]}
    assert values["strictAffinity"] == (True, "a node never borrows")
    assert values["ipCooldownSeconds"] == (7, "an address rests for 7 s")
    assert values["maxBlocksPerHost"] == (0, "a node claims at most 20 blocks of a family")
    text = command("show", "--borrowed").stdout
    assert "no address is borrowed" in text
    assert "2 (6%)" in text


def test_check_finds_the_leak_that_release_mends(command: Command, cluster: str) -> None:
    found = command("check", "-o", "json")
    assert found.exit_code == 1
    (finding,) = json.loads(found.stdout)
    assert finding["reason"] == "Leaked"
    assert "pod default/gone, which does not exist" in finding["message"]
    leaked = finding["message"].split()[1].rstrip(":")
    kept = command("release", cluster)
    assert kept.exit_code == 1
    assert "a living pod has it" in kept.output
    planned = json.loads(command("gc", "--dry-run", "-o", "json").stdout)["garbage"]
    assert [(row["what"], row["when"]) for row in planned] == [(f"address {leaked}", "after the grace period")]
    released = command("release", leaked)
    assert released.exit_code == 0, released.output
    assert f"{leaked} is released" in released.stdout
    clean = command("check")
    assert clean.exit_code == 0, clean.output
    assert clean.stdout == "addresses: 3, 1 block, 1 claim, 2 handles, 1 pod, 1 node: all agree\n"
    assert "nobody has it" in command("release", leaked).output


def test_the_dry_run_has_a_reason_for_each_thing_of_a_deleted_node(
    command: Command, api_server: ApiUnderTest, cluster: str
) -> None:
    assert api_server.request("DELETE", "/api/v1/nodes/node1").status == 200
    planned = json.loads(command("gc", "--dry-run", "-o", "json").stdout)["garbage"]
    assert all("does not exist" in row["why"] for row in planned), planned
    assert [row["what"].split()[0] for row in planned] == ["address"] * 3, planned
    assert cluster not in str(planned), "its pod lives"


def test_a_warm_address_is_only_released_by_force(command: Command, cluster: str) -> None:
    assert cluster
    rows = json.loads(command("show", "--addresses", "-o", "json").stdout)["addresses"]
    warm = next(row["address"] for row in rows if row["state"] == "warm")
    assert "kept warm by node node1" in command("release", warm).output
    assert command("release", "--force", warm).exit_code == 0


def test_status_of_the_cluster_counts_by_node_and_by_pool(api_server: ApiUnderTest, cluster: str) -> None:
    assert cluster
    words = ["--cluster", "--kubeconfig", str(api_server.kubeconfig)]
    found = json.loads(CliRunner().invoke(status.command, [*words, "-o", "json"]).stdout)
    (node1,) = found["nodes"]
    assert (node1["node"], node1["blocks"], node1["in use"], node1["warm"]) == ("node1", 1, 2, 2)
    assert node1["address"] == "none yet"
    (four,) = found["pools"]
    assert (four["pool"], four["mode"], four["in use"], four["free"]) == ("four", "direct", 2, 28)
    told = CliRunner().invoke(status.command, words)
    assert "node1" in told.stdout
    assert told.exit_code == 1, "a node without an address is a problem"
    assert found["problems"] == [
        {"object": "Node node1", "what": "has no address: is the agent running there? see its log"}
    ]


def test_an_api_that_is_away_is_a_sentence() -> None:
    found = CliRunner().invoke(ipam.command, ["show", "--kubeconfig", "/nonexistent"])
    assert found.exit_code == 2, "no answer, not one that says that something is wrong"
    assert found.output.startswith("Error: ")
