"""What a pod's interface consists of: the messages for its two ends, pure."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv6Interface, ip_interface, ip_network

from calico_py.dataplane import route_codec
from calico_py.dataplane import wiring_codec as codec
from calico_py.dataplane.transact import Pack
from calico_py.dataplane.wiring_codec import DevConf
from calico_py.model.intent import PROTO_BOOT
from calico_py.model.kernel import METRIC_IPV4, METRIC_IPV6, NextHop, Route
from calico_py.model.names import CNI_NETWORK
from calico_py.model.net import Address, Interface, Network, family, host_network
from calico_py.model.wiring import GATEWAYS, HOST_MAC, POD_IFNAME, PodLink

# Then, between spaces, the container's id, the pod's addresses, and where they are others than usual the name of the
# interface inside the pod and that of the CNI network.
ALIAS = "calico-py pod "
_IFNAME, _NETWORK = "ifname=", "network="
ALIAS_MAX = 255  # bytes: IFALIASZ of linux/if.h without its zero

# As Calico's Felix sets them (endpoint manager); rp_filter stays the host's default, which a new device has.
HOST_CONF = {DevConf.FORWARDING: 1, DevConf.PROXY_ARP: 1, DevConf.ROUTE_LOCALNET: 1}
HOST_IPV6 = {"disable_ipv6": "0", "accept_ra": "0", "forwarding": "1", "proxy_ndp": "1"}
POD_CONF = {DevConf.FORWARDING: 0}

# milliseconds that a proxy ARP answer waits
HOST_PROXY_DELAY = 0

HOST_LINK_LOCAL = IPv6Interface((GATEWAYS[6], 64))

_LOOPBACK = 1  # LOOPBACK_IFINDEX, linux/net.h
_EVERYTHING: dict[int, Network] = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}


@dataclass(frozen=True, slots=True)
class Owner:
    """What a device's alias says: whose it is, and what is routed to it."""

    container_id: str
    addresses: tuple[Interface, ...] = ()
    ifname: str = POD_IFNAME
    network: str = CNI_NETWORK


def render_alias(link: PodLink) -> str:
    """The alias of the host's end."""
    words = [link.container_id, *(str(address.ip) for address in link.addresses)]
    if link.ifname != POD_IFNAME:
        words.append(_IFNAME + link.ifname)
    if link.network != CNI_NETWORK:
        words.append(_NETWORK + link.network)
    return ALIAS + " ".join(words)


def parse_alias(alias: str) -> Owner | None:
    """None where the alias is not one of ours."""
    if not alias.startswith(ALIAS):
        return None
    container_id, *words = alias.removeprefix(ALIAS).split(" ")
    ifname, network = POD_IFNAME, CNI_NETWORK
    addresses = []
    try:
        for word in words:
            if word.startswith(_IFNAME):
                ifname = word.removeprefix(_IFNAME)
            elif word.startswith(_NETWORK):
                network = word.removeprefix(_NETWORK)
            else:
                addresses.append(ip_interface(word))
    except ValueError:  # cut off or edited by hand
        return Owner(container_id)
    return Owner(container_id, tuple(addresses), ifname, network)


def has_ipv6(addresses: Iterable[Interface]) -> bool:
    """Whether the host's end must speak IPv6."""
    return any(address.version == 6 for address in addresses)


def put_host_addresses(addresses: Iterable[Interface], ifindex: int) -> list[Pack]:
    """Messages that make those of the host's end; EEXIST where they are.

    The gateway of IPv6, from which alone the kernel asks the pod for its MAC (ndisc_send_ns); that of IPv4 is nobody's.
    """
    return [partial(codec.pack_address, ifindex, HOST_LINK_LOCAL)] if has_ipv6(addresses) else []


def host_routes(addresses: Iterable[Interface], ifindex: int) -> list[Route]:
    """To a pod's addresses, by way of its device."""
    return [_direct(address.network, ifindex) for address in addresses]


def put_host_routes(addresses: Iterable[Interface], ifindex: int) -> list[Pack]:
    """Messages that make them, or make them equal."""
    return [_put(route) for route in host_routes(addresses, ifindex)]


def pod_routes(link: PodLink, ifindex: int) -> list[Route]:
    """To the gateway of each family, and by it to everything. A link-local gateway needs no route of its own."""
    routes = []
    for gateway in gateways(link):
        if gateway.version == 4:
            routes.append(_direct(host_network(gateway), ifindex))
        hop = NextHop(ifindex, gateway)
        routes.append(_route(_EVERYTHING[gateway.version], hop))
    return routes


def gateways(link: PodLink) -> list[Address]:
    """One for each family of the pod's addresses."""
    return [GATEWAYS[each] for each in sorted({family(address) for address in link.addresses})]


def host_end(link: PodLink, ifindex: int) -> list[Pack]:
    """Messages that set up the host's end."""
    six = has_ipv6(link.addresses)
    requests: list[Pack] = [partial(codec.pack_configure, ifindex, render_alias(link), HOST_CONF)]
    if six:  # without this, its link-local address is tentative for a second, and neighbours cannot be asked
        requests.append(partial(codec.pack_no_link_local, ifindex))
    requests += [partial(codec.pack_up, ifindex), partial(codec.pack_proxy_delay, ifindex, HOST_PROXY_DELAY)]
    return requests + put_host_addresses(link.addresses, ifindex) + put_host_routes(link.addresses, ifindex)


def pod_end(link: PodLink, ifindex: int) -> list[Pack]:
    """Messages that set up the pod's end and its loopback.

    The neighbour entries spare the pod its first ARP or NDP request, which proxy_arp answers only on a node that has a
    route for 169.254.1.1 out of another device.
    """
    return [
        partial(codec.pack_up, _LOOPBACK),
        partial(codec.pack_configure, ifindex, "", POD_CONF),
        partial(codec.pack_up, ifindex),
        _settle(ifindex),
        *(partial(codec.pack_address, ifindex, address) for address in link.addresses),
        *(_put(route) for route in pod_routes(link, ifindex)),
        *(partial(codec.pack_neighbour, ifindex, via, HOST_MAC, state=codec.NUD_PERMANENT) for via in gateways(link)),
    ]


def host_reaches(link: PodLink, ifindex: int, mac: str) -> list[Pack]:
    """Messages, once the pod's end is up, after which the host's first packet arrives.

    The neighbour entries spare it ARP and NDP, which the pod answers only once a work queue of its kernel has joined
    the solicited-node group of its address.
    """
    stale = (partial(codec.pack_neighbour, ifindex, each.ip, mac, state=codec.NUD_STALE) for each in link.addresses)
    return [_settle(ifindex), *stale]


def _settle(ifindex: int) -> Pack:
    """In newer kernels a look at a device makes it take packets at once, before linkwatch gets to it (rtnl_getlink)."""
    return partial(codec.pack_get_index, ifindex)


def _direct(dst: Network, ifindex: int) -> Route:
    return _route(dst, NextHop(ifindex), link_scope=dst.version == 4)


def _route(dst: Network, hop: NextHop, *, link_scope: bool = False) -> Route:
    metric = METRIC_IPV4 if dst.version == 4 else METRIC_IPV6
    return Route(dst, next_hops=(hop,), protocol=PROTO_BOOT, metric=metric, link_scope=link_scope)


def _put(route: Route) -> Pack:
    pack: Callable[[Route, int, int], bytes] = route_codec.pack_put
    return partial(pack, route)
