"""The lab's wires: namespaces, bridges, veth pairs, addresses, routes and settings, made with ip(8).

The commands are computed first (pure), then run. A lab's devices end with its namespaces.
"""

from collections.abc import Iterator
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path

from calico_py.lab import namespaces
from calico_py.lab.commands import run
from calico_py.lab.topology import MTU, NodePlace, RouterPlace, Topology

UPLINK = "eth0"


# The hard case: an administrator's strict reverse path filter, and no forwarding, before any agent has started.
_NODE_SETTINGS = {
    "net/ipv4/conf/all/rp_filter": "1",
    "net/ipv4/conf/default/rp_filter": "1",
    f"net/ipv4/conf/{UPLINK}/rp_filter": "1",
    "net/ipv4/ip_forward": "0",
    "net/ipv6/conf/all/forwarding": "0",
}
_ROUTER_SETTINGS = {
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv4/ip_forward": "1",
    "net/ipv6/conf/all/forwarding": "1",
}
# Addresses are known to be free: no second of duplicate address detection (RFC 4862 5.4) before they work.
_COMMON_SETTINGS = {
    "net/ipv6/conf/all/accept_dad": "0",
    "net/ipv6/conf/default/accept_dad": "0",
    "net/ipv6/conf/all/accept_ra": "0",
    "net/ipv6/conf/default/accept_ra": "0",
}


def build(topology: Topology) -> Iterator[str]:
    """Make all namespaces with their wires; yields the name of each namespace when it is there.

    Raises:
        LabError: a command failed; what was made until then is found by its names.
    """
    for netns in topology.namespaces:
        namespaces.add(netns)
        apply_settings(netns, _COMMON_SETTINGS)
    for netns, lines in compute_commands(topology):
        if netns in {router.netns for router in topology.routers}:
            apply_settings(netns, _ROUTER_SETTINGS)
        run(["ip", "-n", netns, "-batch", "-"], stdin="".join(f"{line}\n" for line in lines))
        if netns in {node.netns for node in topology.nodes}:
            apply_settings(netns, _NODE_SETTINGS)
        yield netns


def apply_settings(netns: str, settings: dict[str, str]) -> None:
    """Write sysctls, given as paths under /proc/sys, of a namespace. /proc/sys/net shows the reader's own namespace."""
    with namespaces.inside(namespaces.named(netns)):
        for path, value in settings.items():
            Path("/proc/sys", path).write_text(value)


def compute_commands(topology: Topology) -> list[tuple[str, list[str]]]:
    """For each namespace, in the order in which they must run, the lines for ``ip -batch``."""
    return [
        (topology.core, _core(topology)),
        *((router.netns, _router(topology, router)) for router in topology.routers),
        *((node.netns, _node(node, topology.routers[node.subnet - 1])) for node in topology.nodes),
    ]


def _core(topology: Topology) -> list[str]:
    lines = ["link set lo up", _bridge("core0", topology.core4), "link set core0 up"]
    lines += _addresses("core0", topology.core4, topology.core6)
    for router in topology.routers:
        port = f"router{router.subnet}"
        lines.append(f"link add {port} mtu {MTU} type veth peer name core0 netns {router.netns} mtu {MTU}")
        lines.append(f"link set {port} master core0 up")
        lines += [f"route add {router.lan4.network} via {router.core4.ip}"]
        lines += [f"route add {router.lan6.network} via {router.core6.ip}"]
    return lines


def _router(topology: Topology, router: RouterPlace) -> list[str]:
    lines = ["link set lo up", _bridge("lan0", router.lan4), "link set lan0 up", "link set core0 up"]
    lines += _addresses("core0", router.core4, router.core6)
    lines += _addresses("lan0", router.lan4, router.lan6)
    for other in topology.routers:
        if other != router:
            lines.append(f"route add {other.lan4.network} via {other.core4.ip}")
            lines.append(f"route add {other.lan6.network} via {other.core6.ip}")
    for node in topology.nodes:
        if node.subnet == router.subnet:
            lines.append(f"link add {node.name} mtu {MTU} type veth peer name {UPLINK} netns {node.netns} mtu {MTU}")
            lines.append(f"link set {node.name} master lan0 up")
    return lines


def _node(node: NodePlace, router: RouterPlace) -> list[str]:
    lines = ["link set lo up", f"link set {UPLINK} up", *_addresses(UPLINK, node.ipv4, node.ipv6)]
    lines.append(f"route add default via {router.lan4.ip}")
    lines.append(f"route add default via {router.lan6.ip}")
    return lines


def _bridge(device: str, ipv4: IPv4Interface) -> str:
    """The line that makes a bridge.

    With a MAC of its own, made of its address: a bridge without one takes the lowest of its ports', and the neighbours
    would lose it for up to 30 s when a port that somebody adds comes or goes. And it must not hold frames back while it
    learns who wants multicast: neighbour discovery would lose its first.
    """
    mac = ":".join(f"{byte:02x}" for byte in (0x02, 0, *ipv4.ip.packed))
    return f"link add {device} address {mac} mtu {MTU} type bridge mcast_snooping 0"


def _addresses(device: str, ipv4: IPv4Interface, ipv6: IPv6Interface) -> list[str]:
    return [f"address add {ipv4} dev {device}", f"address add {ipv6} dev {device} nodad"]
