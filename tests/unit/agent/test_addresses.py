"""Which address a node takes, and why: each method, each reason, on hosts that trip naive choices."""

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Interface, ip_address, ip_interface, ip_network

import pytest

from calico_py.agent.addresses import Choice, Host, choose_address, find_duplicates
from calico_py.agent.configuration.spellings import NodeAddress, detection, node_address
from calico_py.agent.own_node import OWN_NODE
from calico_py.model.kernel import Addr, Link, NextHop, Route
from calico_py.model.meta import Meta
from calico_py.model.net import Family
from calico_py.model.nodes import Node


def host(
    addresses: Mapping[str, Sequence[str]],
    *,
    default: tuple[str, str] | None = None,
    internal: Sequence[str] = (),
    towards: Mapping[Family, str] | None = None,
    down: str = "",
) -> Host:
    links = [Link(name, index, up=name != down) for index, name in enumerate(addresses, 1)]
    index_of = {link.name: link.ifindex for link in links}
    routes = []
    if default is not None:
        device, gateway = default
        via = ip_address(gateway)
        anywhere = ip_network("0.0.0.0/0" if via.version == 4 else "::/0")
        routes.append(Route(anywhere, next_hops=(NextHop(index_of[device], via),)))
    return Host(
        links=links,
        addrs=[Addr(index_of[name], ip_interface(text)) for name, texts in addresses.items() for text in texts],
        routes=routes,
        internal=[ip_address(text) for text in internal],
        towards={family: ip_address(text) for family, text in (towards or {}).items()},
    )


CROWDED = host(
    {
        "lo": ["127.0.0.1/8"],
        "eth0": ["192.168.1.11/24", "fd00::11/64"],
        "eth1": ["10.9.0.11/16"],
        "docker0": ["172.17.0.1/16"],
        "ibmveth2": ["10.8.0.11/16"],
        "cali1234": [],
        "nodelocaldns": ["169.254.20.10/32"],
        "tunl0": ["10.244.0.1/32"],
    },
    default=("eth0", "192.168.1.1"),
    internal=["10.9.0.11"],
    towards={4: "192.168.1.11"},
)


def choose(
    on: Host, ip: str = "autodetect", method: str = "", *, family: Family = 4, current: str | None = None
) -> Choice:
    kept = ip_interface(current) if current else None
    return choose_address(node_address(family)(ip), detection(family)(method), on, fam=family, current=kept)


@pytest.mark.parametrize(
    ("method", "address", "device", "says"),
    [
        ("", "10.9.0.11/16", "eth1", "InternalIP"),
        ("kubernetes-internal-ip", "10.9.0.11/16", "eth1", "InternalIP"),
        ("first-found", "10.8.0.11/16", "ibmveth2", "first address of ibmveth2"),
        ("interface=eth.*", "10.8.0.11/16", "ibmveth2", "interface=eth.*"),
        ("interface=^eth,^lo", "10.9.0.11/16", "eth1", "interface=^eth,^lo"),
        ("skip-interface=ibm", "10.9.0.11/16", "eth1", "skip-interface=ibm"),
        ("skip-interface=ibm,eth1", "192.168.1.11/24", "eth0", "skip-interface"),
        ("cidr=192.168.0.0/16,172.16.0.0/12", "172.17.0.1/16", "docker0", "cidr="),
        ("cidr=192.168.0.0/16", "192.168.1.11/24", "eth0", "contains it"),
        ("can-reach=192.0.2.1", "192.168.1.11/24", "eth0", "towards 192.0.2.1"),
    ],
)
def test_each_method(method: str, address: str, device: str, says: str) -> None:
    choice = choose(CROWDED, method=method)
    assert (str(choice.address), choice.device) == (address, device)
    assert says in choice.reason


def test_the_default_route_s_device_where_kubernetes_has_no_address_of_this_host() -> None:
    unknown = host({"eth1": ["10.9.0.11/16"], "eth0": ["192.168.1.11/24"]}, default=("eth0", "192.168.1.1"))
    choice = choose(unknown)
    assert str(choice.address) == "192.168.1.11/24"
    assert "Kubernetes knows no IPv4 InternalIP" in choice.reason
    natted = host({"eth0": ["192.168.1.11/24"]}, default=("eth0", "192.168.1.1"), internal=["203.0.113.9"])
    choice = choose(natted)
    assert str(choice.address) == "192.168.1.11/24"
    assert "203.0.113.9" in choice.reason


def test_of_several_addresses_on_the_default_device_the_one_near_the_gateway() -> None:
    both = host({"eth0": ["10.0.0.100/32", "192.168.1.11/24"]}, default=("eth0", "192.168.1.1"))
    assert str(choose(both).address) == "192.168.1.11/24"


def test_the_preferred_source_of_the_default_route_wins() -> None:
    two = host({"lo": ["127.0.0.1/8", "10.1.1.1/32"], "eth0": ["192.168.1.11/24"]})
    route = Route(ip_network("0.0.0.0/0"), next_hops=(NextHop(2),), prefsrc=ip_address("10.1.1.1"))
    preferring = Host(two.links, two.addrs, [route])
    assert str(choose(preferring).address) == "10.1.1.1/32"


def test_ipv6_is_chosen_in_the_same_way() -> None:
    six = host({"eth0": ["fe80::1/64", "fd00::11/64"], "eth1": ["fd01::11/64"]}, default=("eth0", "fe80::99"))
    assert str(choose(six, family=6).address) == "fd00::11/64"
    assert str(choose(six, method="interface=eth1", family=6).address) == "fd01::11/64"


def test_nothing_there_says_what_was_looked_for() -> None:
    bare = host({"lo": ["127.0.0.1/8"], "eth0": ["fe80::1/64"]})
    for method in ("", "first-found", "cidr=10.0.0.0/8", "kubernetes-internal-ip", "can-reach=x", "interface=eth9"):
        choice = choose(bare, method=method)
        assert choice.address is None
        assert "IPv4" in choice.reason


def test_a_device_that_is_down_is_no_node_s() -> None:
    down = host({"eth0": ["192.168.1.11/24"]}, default=("eth0", "192.168.1.1"), down="eth0")
    assert choose(down).address is None


@pytest.mark.parametrize(
    ("ip", "address", "says"),
    [
        ("192.168.1.11", "192.168.1.11/24", "prefix is that of eth0"),
        ("4.3.2.1/25", "4.3.2.1/25", "IP sets it"),
        ("1.2.3.5", "1.2.3.5/32", "no device of this host has it"),
        ("none", None, "IP is none"),
    ],
)
def test_what_a_person_set_is_taken(ip: str, address: str | None, says: str) -> None:
    choice = choose(CROWDED, ip)
    assert (str(choice.address) if choice.address else None) == address
    assert says in choice.reason


def test_what_was_chosen_is_kept_while_the_host_has_it() -> None:
    choice = choose(CROWDED, current="192.168.1.11/24")
    assert (str(choice.address), choice.device) == ("192.168.1.11/24", "eth0")
    assert "kept" in choice.reason
    assert "anew it would be 10.9.0.11/16 (Kubernetes' InternalIP" in choice.reason


def test_what_would_be_chosen_again_has_the_reason_of_the_choice() -> None:
    assert choose(CROWDED, current="10.9.0.11/16") == choose(CROWDED)


def test_a_kept_address_takes_the_host_s_prefix() -> None:
    assert str(choose(CROWDED, current="192.168.1.11/32").address) == "192.168.1.11/24"


def test_what_was_chosen_is_left_when_the_method_forbids_it() -> None:
    assert str(choose(CROWDED, method="cidr=10.9.0.0/16", current="192.168.1.11/24").address) == "10.9.0.11/16"
    assert str(choose(CROWDED, method="interface=eth0", current="10.9.0.11/16").address) == "192.168.1.11/24"


def test_what_was_chosen_is_left_when_the_host_lost_it_for_another() -> None:
    assert str(choose(CROWDED, current="192.168.1.99/24").address) == "10.9.0.11/16"


def test_what_was_chosen_is_kept_when_there_is_nothing_else() -> None:
    bare = host({"lo": ["127.0.0.1/8"]})
    choice = choose(bare, current="192.168.1.11/24")
    assert str(choice.address) == "192.168.1.11/24"
    assert "the host does not have it" in choice.reason


def test_none_removes_what_was_chosen() -> None:
    assert choose_address(NodeAddress(wanted=False), detection(4)(""), CROWDED, fam=4, current=None).address is None


def test_two_nodes_with_one_address_are_a_problem_of_this_one() -> None:
    own = Node(Meta("node1"), ipv4=IPv4Interface("192.168.1.11/24"))
    others = [
        own,
        Node(Meta("node2"), ipv4=IPv4Interface("192.168.1.12/24")),
        Node(Meta("node3"), ipv4=IPv4Interface("192.168.1.11/16")),
        Node(Meta("node4")),
    ]
    (problem,) = find_duplicates(own, others)
    assert (problem.kind, problem.name) == ("Node", "node1")
    assert "192.168.1.11" in problem.message
    assert "node3" in problem.message
    assert find_duplicates(own, others[:2]) == ()


def test_the_own_node_s_internal_addresses() -> None:
    found = OWN_NODE.decode(
        {
            "metadata": {"name": "node1"},
            "status": {
                "addresses": [
                    {"type": "Hostname", "address": "node1"},
                    {"type": "InternalIP", "address": "192.168.1.11"},
                    {"type": "InternalIP", "address": "not-an-address"},
                    {"type": "ExternalIP", "address": "203.0.113.9"},
                    {"type": "InternalIP", "address": "fd00::11"},
                ]
            },
        }
    )
    assert found.internal == (ip_address("192.168.1.11"), ip_address("fd00::11"))
    assert OWN_NODE.decode({"metadata": {"name": "node1"}}).internal == ()
