"""Every refusal says what, why and what to do."""

import errno
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest

from calico_py.dataplane.refusals import is_gone, refusal
from calico_py.model.kernel import (
    Addr,
    Delete,
    FdbEntry,
    KernelObject,
    Link,
    Neigh,
    NextHop,
    NftTable,
    Put,
    Route,
    RouteType,
    Sysctl,
)

BLOCK = IPv4Network("10.244.166.128/26")
VIA = NextHop(7, IPv4Address("192.168.1.12"), onlink=True)


@pytest.mark.parametrize(
    ("obj", "words"),
    [
        (
            Route(BLOCK, next_hops=(VIA,), protocol=80),
            "route 10.244.166.128/26 via 192.168.1.12 dev #7 onlink proto 80",
        ),
        (Route(BLOCK, RouteType.BLACKHOLE, protocol=80), "route blackhole 10.244.166.128/26 proto 80"),
        (Link("tunl0", kind="ipip"), "device tunl0 of kind ipip"),
        (Addr(7, IPv4Interface("10.244.1.0/32")), "address 10.244.1.0/32 on device #7"),
        (Neigh(7, IPv4Address("10.0.0.1"), "02:00:00:00:00:01"), "neighbour 10.0.0.1 lladdr 02:00:00:00:00:01"),
        (FdbEntry(7, "02:00:00:00:00:01", IPv4Address("10.0.0.1")), "forwarding entry 02:00:00:00:00:01 dst 10.0.0.1"),
        (Sysctl("net/ipv4/ip_forward", "1"), "setting net/ipv4/ip_forward = 1"),
        (NftTable("inet", "calico-py"), "nftables table inet calico-py"),
    ],
)
def test_the_object_is_named(obj: KernelObject, words: str) -> None:
    assert words in str(refusal(Put(obj), errno.EPERM))


def test_devices_are_named_where_their_names_are_known() -> None:
    route = Route(BLOCK, next_hops=(VIA,), protocol=80)
    assert "dev tunl0 onlink" in str(refusal(Put(route), errno.ENETDOWN, devices={7: "tunl0"}))
    assert "dev #7 onlink" in str(refusal(Put(route), errno.ENODEV, devices={8: "eth0"}))


def test_the_sentence() -> None:
    change = Delete(Link("tunl0"))
    error = refusal(change, errno.EPERM, "in the kernel's words")
    assert str(error) == (
        "cannot remove device tunl0: operation not permitted (in the kernel's words);"
        " the agent needs the capability NET_ADMIN"
    )
    assert (error.errno, error.change) == (errno.EPERM, change)


def test_an_unknown_error_still_says_what_to_do() -> None:
    assert "report it" in str(refusal(Put(Link("tunl0")), errno.EXDEV))


def test_only_a_removal_can_be_done_already() -> None:
    assert is_gone(Delete(Link("tunl0")), errno.ENODEV)
    assert not is_gone(Put(Link("tunl0")), errno.ENODEV)
    assert not is_gone(Delete(Link("tunl0")), errno.EPERM)


@pytest.mark.parametrize(
    ("number", "text", "cure"),
    [
        (errno.EINVAL, "Nexthop has invalid gateway", "the gateway is an address of this node itself"),
        (errno.EACCES, "Nexthop has invalid gateway", "a rule of `ip rule` forbids the way to it"),
        (errno.EACCES, "", "NET_ADMIN"),
        (errno.ENETUNREACH, "Nexthop has invalid gateway", "check the node's address and subnet"),
        (errno.ENOBUFS, "", "raise the memory limit of the agent's container"),
    ],
)
def test_a_route_that_is_refused(number: int, text: str, cure: str) -> None:
    assert cure in str(refusal(Put(Route(BLOCK, next_hops=(VIA,), protocol=80)), number, text))


def test_what_nft_says_stands_for_itself() -> None:
    """Its errno is not known, so no meaning of one is put before its own words."""
    said = str(refusal(Put(NftTable("inet", "calico-py")), errno.EINVAL, "nft -f - did not end within 30 s"))
    assert said.startswith("cannot set nftables table inet calico-py: nft -f - did not end within 30 s; it is tried")
    assert "`nft list ruleset`" in said
