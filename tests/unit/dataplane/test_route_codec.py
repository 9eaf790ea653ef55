"""Routes as rtnetlink messages, both families."""

import contextlib
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_py.dataplane import nlmsg, route_codec
from calico_py.model.kernel import METRIC_IPV6, NextHop, Route, RouteType
from calico_py.model.net import Address, Family

IFINDEX = st.integers(1, 2**31 - 1)
U32 = st.integers(0, 2**32 - 1)


def networks(family: Family) -> st.SearchStrategy[IPv4Network] | st.SearchStrategy[IPv6Network]:
    if family == 4:
        return st.builds(
            lambda n, p: IPv4Network((n >> (32 - p) << (32 - p), p)), st.integers(0, 2**32 - 1), st.integers(0, 32)
        )
    return st.builds(
        lambda n, p: IPv6Network((n >> (128 - p) << (128 - p), p)), st.integers(0, 2**128 - 1), st.integers(0, 128)
    )


def addresses(family: Family) -> st.SearchStrategy[Address]:
    if family == 4:
        return st.builds(IPv4Address, st.integers(0, 2**32 - 1))
    return st.builds(IPv6Address, st.integers(0, 2**128 - 1))


@st.composite
def routes(draw: Callable[..., object], family: Family) -> Route:
    either = st.one_of(addresses(4), addresses(6)) if family == 4 else addresses(6)
    hops = st.builds(NextHop, IFINDEX, st.none() | either, st.booleans())
    kind = draw(st.sampled_from([RouteType.UNICAST, RouteType.BLACKHOLE]))
    route = draw(
        st.builds(
            Route,
            dst=networks(family),
            type=st.just(kind),
            next_hops=st.lists(hops, min_size=1, max_size=4).map(tuple),
            protocol=st.integers(0, 255),
            table=st.integers(1, 2**32 - 1),
            metric=U32,
            link_scope=st.booleans(),
            mtu=U32,
            prefsrc=st.none() | addresses(family),
        )
    )
    assert isinstance(route, Route)
    return route


def parse(message: bytes) -> Route | None:
    (parsed,) = nlmsg.iter_messages(message)
    return route_codec.RouteParser().parse(parsed.body)


@given(st.one_of(routes(4), routes(6)))
def test_a_route_comes_back(route: Route) -> None:
    route = route_codec.normalise(route)
    assert parse(route_codec.pack_put(route, 1, 0)) == route
    assert parse(route_codec.pack_delete(route, 1, 0)) == route


@given(st.lists(st.one_of(routes(4), routes(6)), max_size=6))
def test_one_parser_reads_many(many: list[Route]) -> None:
    """What a parser remembers of one route never shows in another."""
    many = [route_codec.normalise(route) for route in many]
    data = b"".join(route_codec.pack_put(route, 1, 0) for route in many)
    parser = route_codec.RouteParser()
    assert [parser.parse(message.body) for message in nlmsg.iter_messages(data)] == many


@given(st.one_of(routes(4), routes(6)), st.data())
def test_a_route_cut_short_is_read_or_refused(route: Route, data: st.DataObject) -> None:
    (message,) = nlmsg.iter_messages(route_codec.pack_put(route, 1, 0))
    cut = message.body[: data.draw(st.integers(0, len(message.body)))]
    with contextlib.suppress(nlmsg.TruncatedError):
        route_codec.RouteParser().parse(cut)


def test_bytes_of_a_tunnel_route() -> None:
    """The layout of linux/rtnetlink.h, written out."""
    route = Route(
        IPv4Network("10.244.166.128/26"),
        next_hops=(NextHop(7, IPv4Address("192.168.1.12"), onlink=True),),
        protocol=80,
    )
    assert route_codec.pack_put(route, 5, nlmsg.NLM_F_ACK).hex(" ", 4) == (
        "3c000000 18000505 05000000 00000000 "  # nlmsghdr: 60, RTM_NEWROUTE, REQUEST|ACK|REPLACE|CREATE, seq 5
        "021a0000 fe500001 04000000 "  # rtmsg: AF_INET /26, table main, proto 80, universe, unicast, onlink
        "08000f00 fe000000 "  # RTA_TABLE
        "08000100 0af4a680 "  # RTA_DST
        "08000500 c0a8010c "  # RTA_GATEWAY
        "08000400 07000000"  # RTA_OIF
    )


def test_normal_form() -> None:
    high, low = NextHop(9, IPv6Address("fe80::2")), NextHop(3, IPv6Address("fe80::1"))
    route = Route(IPv6Network("fd00::/64"), next_hops=(high, low), link_scope=True)
    assert route_codec.normalise(route) == Route(IPv6Network("fd00::/64"), next_hops=(low, high), metric=METRIC_IPV6)
    hole = Route(IPv4Network("10.0.0.0/26"), RouteType.BLACKHOLE, (low,))
    assert route_codec.normalise(hole).next_hops == ()


@pytest.mark.parametrize(
    "rtmsg",
    [
        pytest.param("0220000000000001 00020000", id="cached exception"),
        pytest.param("0220001000000001 00000000", id="type of service"),
        pytest.param("0a40400000000001 00000000", id="source prefix"),
        pytest.param("8020000000000001 00000000", id="another family"),
    ],
)
def test_what_has_no_key_of_ours_is_left_out(rtmsg: str) -> None:
    assert route_codec.RouteParser().parse(bytes.fromhex(rtmsg)) is None


def test_ten_thousand_routes_are_packed_and_read_in_no_time(
    benchmark_seconds: Callable[[Callable[[], object]], float],
) -> None:
    """15 and 35 ms on a quiet machine; a wider limit for a busy one."""
    hops = [(NextHop(7, IPv4Address(0xC0A80000 + n), onlink=True),) for n in range(250)]
    many = [Route(IPv4Network((0x0A000000 + 64 * n, 26)), next_hops=hops[n % 250], protocol=80) for n in range(10_000)]
    assert benchmark_seconds(lambda: [route_codec.pack_put(route, 1, 0) for route in many]) < 0.1
    data = b"".join(route_codec.pack_put(route, 1, 0) for route in many)

    def read() -> list[Route | None]:
        parser = route_codec.RouteParser()
        return [parser.parse(message.body) for message in nlmsg.iter_messages(data)]

    assert read() == many
    assert benchmark_seconds(read) < 0.2
