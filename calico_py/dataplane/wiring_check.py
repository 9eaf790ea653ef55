"""Whether a pod's interface still is what wiring_plan makes of it: CHECK. Reads, changes nothing.

What others add beside (addresses, routes, qdiscs) is theirs, and no difference (CNI specification, section 4, CHECK).
"""

import socket
from collections.abc import Iterator, Mapping
from functools import partial

from calico_py.dataplane import object_codec, route_codec
from calico_py.dataplane import wiring_codec as codec
from calico_py.dataplane.transact import dump, transact
from calico_py.dataplane.wiring_plan import (
    HOST_CONF,
    HOST_IPV6,
    HOST_LINK_LOCAL,
    HOST_PROXY_DELAY,
    gateways,
    has_ipv6,
    host_routes,
    pod_routes,
    render_alias,
)
from calico_py.model.kernel import Link, Neigh, Route
from calico_py.model.net import FAMILIES
from calico_py.model.wiring import HOST_MAC, PodLink


def check(link: PodLink, host: socket.socket, pod: socket.socket) -> list[str]:
    """Differences, each in a sentence.

    An mtu of 0 and an empty mac are not compared. The sockets are of the two namespaces.
    """
    return [*_check_host(link, host), *_check_pod(link, pod)]


def _check_host(link: PodLink, sock: socket.socket) -> Iterator[str]:
    name = f"host's device {link.host_ifname}"
    body = _read_link(sock, link.host_ifname)
    if body is None:
        yield f"{name}: found none"
        return
    found, conf = _parse(body), codec.parse_conf(body)
    if found.alias != render_alias(link):
        yield f"{name}: found the alias {found.alias!r}, expected {render_alias(link)!r}"
    yield from _check_link(name, found, mtu=link.mtu, mac=HOST_MAC)
    for setting, value in HOST_CONF.items():
        if (actual := conf.get(setting)) != value:
            yield f"{name}: {setting.name.lower()}: found {actual}, expected {value}"
    delays = dict(filter(None, map(codec.parse_proxy_delay, dump(sock, codec.pack_arp_parameters))))
    if (delay := delays.get(found.ifindex)) != HOST_PROXY_DELAY:
        yield f"{name}: proxy_delay: found {delay}, expected {HOST_PROXY_DELAY}"
    if has_ipv6(link.addresses):
        yield from _check_host_ipv6(name, codec.parse_conf6(body))
        if transact(sock, [partial(codec.pack_get_address, found.ifindex, HOST_LINK_LOCAL.ip)]).refused:
            yield f"{name}: found no address {HOST_LINK_LOCAL}"
    yield from _missing_routes(name, sock, found.ifindex, host_routes(link.addresses, found.ifindex))


def _check_host_ipv6(name: str, conf: Mapping[int, int]) -> Iterator[str]:
    for setting, value in HOST_IPV6.items():
        if (actual := conf.get(codec.DevConf6[setting.upper()])) != int(value):
            yield f"{name}: {setting} of IPv6: found {actual}, expected {value}"


def _check_pod(link: PodLink, sock: socket.socket) -> Iterator[str]:
    name = f"pod's device {link.ifname}"
    body = _read_link(sock, link.ifname)
    if body is None:
        yield f"{name}: found none"
        return
    found = _parse(body)
    yield from _check_link(name, found, mtu=link.mtu, mac=link.mac.lower())
    addresses = {
        parsed.interface
        for parsed in map(object_codec.parse_addr, dump(sock, object_codec.pack_addr_dump))
        if parsed is not None and parsed.ifindex == found.ifindex
    }
    for address in link.addresses:
        if address not in addresses:
            yield f"{name}: found no address {address}"
    yield from _missing_routes(name, sock, found.ifindex, pod_routes(link, found.ifindex))
    neighbours = {
        parsed.entry
        for parsed in map(object_codec.parse_neigh, dump(sock, object_codec.pack_neigh_dump))
        if parsed is not None and parsed.permanent
    }
    for gateway in gateways(link):
        if Neigh(found.ifindex, gateway, HOST_MAC) not in neighbours:
            yield f"{name}: found no permanent neighbour {gateway} with {HOST_MAC}"
    loopback = _read_link(sock, "lo")
    if loopback is None or not _parse(loopback).up:
        yield "pod's device lo: found it down, expected it up"


def _check_link(name: str, found: Link, *, mtu: int, mac: str) -> Iterator[str]:
    if not found.up:
        yield f"{name}: found it down, expected it up"
    if mtu and found.mtu != mtu:
        yield f"{name}: mtu: found {found.mtu}, expected {mtu}"
    if mac and found.mac != mac:
        yield f"{name}: mac: found {found.mac}, expected {mac}"


def _missing_routes(name: str, sock: socket.socket, ifindex: int, expected: list[Route]) -> Iterator[str]:
    """By destination and gateway; another metric or protocol is for whoever changed it."""
    actual = set()
    for each in FAMILIES:
        parser = route_codec.RouteParser()
        for body in dump(sock, partial(codec.pack_routes_of, ifindex, each)):
            if (route := parser.parse(body)) is not None:
                actual |= {(route.dst, hop.gateway) for hop in route.next_hops if hop.ifindex == ifindex}
    for route in expected:
        gateway = route.next_hops[0].gateway
        if (route.dst, gateway) not in actual:
            yield f"{name}: found no route {route.dst}{f' via {gateway}' if gateway else ''}"


def _read_link(sock: socket.socket, name: str) -> bytes | None:
    replies = transact(sock, [partial(codec.pack_get_link, name)]).replies
    return replies[0] if replies else None


def _parse(body: bytes) -> Link:
    parsed = object_codec.parse_link(body)
    assert parsed is not None, "RTM_GETLINK answers with AF_UNSPEC"
    return parsed.link
