"""Names and addresses of a lab."""

import ipaddress
import re

import pytest

from calico_py.lab.network import compute_commands
from calico_py.lab.topology import ApiServer, LabSpec, compute_topology, is_namespace_of
from calico_py.model.net import Interface, InvalidError
from calico_py.model.pools import EncapMode

SIZES = [(1, 1), (3, 1), (3, 2), (5, 5), (200, 7)]


@pytest.mark.parametrize(("nodes", "subnets"), SIZES)
def test_every_address_is_used_once_and_lies_in_its_subnet(nodes: int, subnets: int) -> None:
    topology = compute_topology(LabSpec(nodes=nodes, subnets=subnets))
    assert len(topology.nodes) == nodes
    assert {node.subnet for node in topology.nodes} == set(range(1, subnets + 1))
    addresses: list[Interface] = [topology.core4, topology.core6]
    for router in topology.routers:
        addresses += [router.lan4, router.lan6, router.core4, router.core6]
    for node in topology.nodes:
        addresses += [node.ipv4, node.ipv6]
        router = topology.routers[node.subnet - 1]
        assert node.gateway4 in node.ipv4.network
        assert node.gateway6 in node.ipv6.network
        assert (node.gateway4, node.gateway6) == (router.lan4.ip, router.lan6.ip)
    assert len({address.ip for address in addresses}) == len(addresses)


def test_three_nodes_of_two_subnets_have_neighbours_and_a_stranger() -> None:
    topology = compute_topology(LabSpec(nodes=3, subnets=2))
    assert [node.subnet for node in topology.nodes] == [1, 1, 2]
    assert [str(node.ipv4) for node in topology.nodes] == ["192.168.50.11/24", "192.168.50.12/24", "192.168.51.13/24"]
    assert str(topology.node("node3").ipv6) == "fd00:192:168:51::13/64"


@pytest.mark.parametrize(("nodes", "subnets"), SIZES)
def test_device_names_fit_into_the_kernels_fifteen_characters_and_are_unique_in_their_namespace(
    nodes: int, subnets: int
) -> None:
    made: list[tuple[str, str]] = []
    for netns, lines in compute_commands(compute_topology(LabSpec(nodes=nodes, subnets=subnets))):
        for line in lines:
            if line.startswith("link add"):
                made.append((netns, line.split()[2]))
                made += re.findall(r"peer name (\S+) netns (\S+)", line)
    devices = [(netns, name) if netns.startswith("lab-") else (name, netns) for netns, name in made]
    assert all(len(name) <= 15 for _, name in devices)
    assert len(set(devices)) == len(devices)


def test_no_device_is_made_outside_of_the_labs_namespaces() -> None:
    topology = compute_topology(LabSpec(nodes=4, subnets=2))
    for netns, lines in compute_commands(topology):
        assert netns in topology.namespaces
        for line in lines:
            assert ("veth" in line) == ("netns" in line)


@pytest.mark.parametrize(
    ("field", "spec"),
    [
        ("--name", {"name": "Lab"}),
        ("--name", {"name": "a" * 41}),
        ("--name", {"name": "lab-"}),
        ("--name", {"name": "../etc"}),
        ("--nodes", {"nodes": 0}),
        ("--nodes", {"nodes": 201}),
        ("--subnets", {"nodes": 2, "subnets": 3}),
        ("--subnets", {"subnets": 0}),
        ("--pool", {"pools": ("10.244.0.1/16",)}),
        ("--pool", {"pools": ("pods",)}),
        ("--pool", {"pools": ("192.168.0.0/16",)}),
        ("--pool", {"pools": ("fd00:192:168:50::/64",)}),
    ],
)
def test_what_cannot_be_is_refused_by_the_name_of_its_option(field: str, spec: dict[str, object]) -> None:
    with pytest.raises(InvalidError) as caught:
        LabSpec(**spec)  # type: ignore[arg-type]  # each case sets fields of one type
    assert caught.value.field == field


def test_a_spec_survives_its_file() -> None:
    spec = LabSpec(
        "other", 4, 2, ApiServer.KUBE, ("10.1.0.0/16", "fd01::/48"), EncapMode.NEVER, {"agent": ("sleep", "9")}
    )
    assert LabSpec.from_json(spec.to_json()) == spec


def test_the_first_pool_of_each_family_is_the_environments() -> None:
    spec = LabSpec(pools=("10.1.0.0/16", "fd01::/48", "10.2.0.0/16"))
    assert (spec.pool(4), spec.pool(6)) == ("10.1.0.0/16", "fd01::/48")
    assert spec.further_pools() == ("10.2.0.0/16",)
    assert LabSpec(pools=("fd01::/48",)).pool(4) == ""


def test_namespaces_are_known_by_their_names_alone() -> None:
    for name in compute_topology(LabSpec(name="a", nodes=12, subnets=3)).namespaces:
        assert is_namespace_of(name, "a")
    for name in ("a", "a-node", "a-node1x", "b-node1", "a-node1-node1", "xa-node1", "a-router"):
        assert not is_namespace_of(name, "a")
    assert is_namespace_of("a-node1-core", "a-node1")


def test_pools_and_the_labs_own_networks_are_apart_by_default() -> None:
    topology = compute_topology(LabSpec(nodes=50, subnets=50))
    pool = ipaddress.ip_network(topology.spec.pool(4))
    assert not any(pool.overlaps(router.lan4.network) for router in topology.routers)
