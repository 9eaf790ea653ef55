"""The node's own address: which of the host's it is, and why. Pure.

Without a setting: Kubernetes' InternalIP where the host has it, then the address of the default route's device. What
was found once is kept while the host has it. Calico's methods are here too (node/pkg/lifecycle/startup/autodetection).
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_interface

from calico_py.agent.configuration.spellings import Detection, Method, NodeAddress
from calico_py.model.intent import Problem
from calico_py.model.kernel import TABLE_MAIN, Addr, Link, Route, RouteType
from calico_py.model.names import NODE_IPV4_ADDRESS, NODE_IPV6_ADDRESS
from calico_py.model.net import FAMILIES, Address, Family, Interface, contains, family, parse_network
from calico_py.model.nodes import Node

# Names that first-found passes over, each anchored at the start (so that ibmveth0 is not taken for a veth).
SKIPPED = (
    "docker",
    "cbr",
    "dummy",
    "podman",
    "virbr",
    "lxcbr",
    "veth",
    "lo",
    "br-",
    "cali",
    "tunl",
    "flannel",
    "kube-ipvs",
    "cni",
    "vxlan.calico",
    "vxlan-v6.calico",
    "wireguard.cali",
    "wg-v6.cali",
    "nodelocaldns",
)


_BROADCAST = IPv4Address("255.255.255.255")

_Found = tuple[Link, Interface]


@dataclass(frozen=True, slots=True)
class Host:
    """What the choice looks at.

    Attributes:
        links: in the kernel's order.
        internal: Kubernetes' InternalIPs of this node.
        towards: the source address that the kernel takes towards a can-reach host, by family.
    """

    links: Sequence[Link]
    addrs: Sequence[Addr]
    routes: Sequence[Route] = ()
    internal: Sequence[Address] = ()
    towards: Mapping[Family, Address] = field(default_factory=dict)

    def candidates(self, fam: Family) -> Iterator[_Found]:
        """Every address that could be a node's, with its device: global unicast, of a device that is up."""
        links = {link.ifindex: link for link in self.links}
        for addr in self.addrs:
            link = links.get(addr.ifindex)
            if link is not None and link.up and addr.interface.version == fam and _usable(addr.interface.ip):
                yield link, addr.interface

    def find(self, address: Address) -> _Found | None:
        """The address as the host has it, with its device."""
        return next((found for found in self.candidates(family(address)) if found[1].ip == address), None)


@dataclass(frozen=True, slots=True)
class Choice:
    """The node's address of one family.

    Attributes:
        address: with the prefix of its subnet; None where there is none.
        reason: why this one, or why none, as a sentence.
        device: that holds it; empty where none does.
    """

    address: Interface | None
    reason: str
    device: str = ""


def choose_address(
    wanted: NodeAddress, detection: Detection, host: Host, *, fam: Family, current: Interface | None
) -> Choice:
    """The node's address of one family.

    Args:
        wanted: the setting IP or IP6.
        detection: the setting of its autodetection method.
        host: what the kernel and Kubernetes say.
        fam: 4 or 6.
        current: what this node's annotation says.
    """
    variable = "IP" if fam == 4 else "IP6"
    if not wanted.wanted:
        return Choice(None, f"{variable} is none")
    if wanted.address is not None:
        return _given(wanted.address, wanted.prefixlen, host, variable)
    kept = host.find(current.ip) if current is not None else None
    found, reason = _detect(detection, host, fam)
    if kept is not None and kept != found and _qualifies(detection, host, *kept):
        anew = f"chosen anew it would be {found[1]} ({reason})" if found is not None else reason
        return Choice(
            kept[1], f"kept: this node's annotation has it and {kept[0].name} still does; {anew}", kept[0].name
        )
    if found is not None:
        link, interface = found
        return Choice(interface, reason, link.name)
    if current is not None:
        return Choice(current, f"kept from this node's annotation, though the host does not have it and {reason}")
    return Choice(None, reason)


def _given(address: Address, prefixlen: int | None, host: Host, variable: str) -> Choice:
    """What a person set is taken, with the prefix that it names or that the host has."""
    found = host.find(address)
    device = found[0].name if found else ""
    if prefixlen is not None:
        return Choice(ip_interface(f"{address}/{prefixlen}"), f"{variable} sets it", device)
    if found is None:
        return Choice(ip_interface(address), f"{variable} sets it; no device of this host has it")
    return Choice(found[1], f"{variable} sets it; the prefix is that of {device}", device)


def _qualifies(detection: Detection, host: Host, link: Link, interface: Interface) -> bool:
    """Whether the method would take this address if it were the only one."""
    match detection.method:
        case Method.DEFAULT:
            return True
        case Method.FIRST_FOUND:
            return not link.name.startswith(SKIPPED)
        case Method.INTERFACE:
            return _matches(link.name, detection.arguments)
        case Method.SKIP_INTERFACE:
            return not link.name.startswith(SKIPPED) and not _matches(link.name, detection.arguments)
        case Method.CIDR:
            cidrs = (parse_network(cidr, field=str(detection)) for cidr in detection.arguments)
            return any(contains(cidr, interface.ip) for cidr in cidrs)
        case Method.INTERNAL_IP:
            return interface.ip in host.internal
        case Method.CAN_REACH:
            return interface.ip == host.towards.get(family(interface))


def _detect(detection: Detection, host: Host, fam: Family) -> tuple[_Found | None, str]:
    """The address that the method finds, and why that one or why none."""
    if detection.method == Method.DEFAULT:
        return _by_default(host, fam)
    found = _scan(detection, host, fam)
    match detection.method:
        case Method.CAN_REACH:
            target = detection.arguments[0]
            missing = f"there is no way to {target} from an IPv{fam} address of this host"
            return found, f"the source address towards {target}" if found else missing
        case Method.INTERNAL_IP:
            return found, "Kubernetes' InternalIP of this node" if found else _no_internal_ip(host, fam)
        case Method.CIDR:
            return (
                found,
                f"{detection} contains it" if found else f"{detection} contains no IPv{fam} address of this host",
            )
    if found is None:
        return None, f"{detection} finds no device with an IPv{fam} address"
    return found, f"{detection}: the first address of {found[0].name}"


def _scan(detection: Detection, host: Host, fam: Family) -> _Found | None:
    """Calico's scan: devices from the last to the first, and of each its first address."""
    order = {link.ifindex: index for index, link in enumerate(host.links)}
    found = [candidate for candidate in host.candidates(fam) if _qualifies(detection, host, *candidate)]
    return max(found, key=lambda candidate: order[candidate[0].ifindex], default=None)


def _by_default(host: Host, fam: Family) -> tuple[_Found | None, str]:
    found = _scan(Detection(Method.INTERNAL_IP), host, fam)
    if found is not None:
        return found, "Kubernetes' InternalIP of this node"
    why_not = _no_internal_ip(host, fam)
    found = _on_default_route(host, fam)
    if found is not None:
        return found, f"on the device of the default route ({why_not})"
    return None, f"{why_not}, and no device with a default route has an IPv{fam} address"


def _no_internal_ip(host: Host, fam: Family) -> str:
    internal = [str(address) for address in host.internal if address.version == fam]
    if internal:
        return f"no device of this host has Kubernetes' InternalIP {', '.join(internal)}"
    return f"Kubernetes knows no IPv{fam} InternalIP of this node"


def _on_default_route(host: Host, fam: Family) -> _Found | None:
    """Of the best default route: its preferred source, or an address on its device, best in its gateway's subnet."""
    defaults = (
        route
        for route in host.routes
        if route.dst.prefixlen == 0
        and route.dst.version == fam
        and route.table == TABLE_MAIN
        and route.type == RouteType.UNICAST
    )
    for route in sorted(defaults, key=lambda route: route.metric):
        preferred = host.find(route.prefsrc) if route.prefsrc is not None else None
        if preferred is not None:
            return preferred
        devices = {hop.ifindex for hop in route.next_hops}
        gateways = [hop.gateway for hop in route.next_hops if hop.gateway is not None]
        found = [candidate for candidate in host.candidates(fam) if candidate[0].ifindex in devices]
        near = [candidate for candidate in found if any(gateway in candidate[1].network for gateway in gateways)]
        if found:
            return (near or found)[0]
    return None


def _matches(name: str, expressions: Iterable[str]) -> bool:
    """As in Calico an expression may match anywhere in the name."""
    return any(re.search(expression, name) for expression in expressions)


def _usable(address: Address) -> bool:
    """Global unicast as Go's net package means it, which Calico asks: private addresses are."""
    return not (
        address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_unspecified
        or address == _BROADCAST
    )


def find_duplicates(own: Node, nodes: Iterable[Node]) -> tuple[Problem, ...]:
    """A Problem for each other node that has published this node's own address."""
    problems = []
    for node in sorted(nodes, key=lambda node: node.name):
        for fam in FAMILIES:
            mine, theirs = own.address(fam), node.address(fam)
            if node.name == own.name or mine is None or theirs is None or mine.ip != theirs.ip:
                continue
            annotation = NODE_IPV4_ADDRESS if fam == 4 else NODE_IPV6_ADDRESS
            problems.append(
                Problem(
                    "Node",
                    own.name,
                    "DuplicateAddress",
                    f"Node {own.name}: metadata.annotations[{annotation}]: found {mine.ip}, which Node {node.name} has "
                    "too; expected an address of this node alone. Give one of the two another address, or set "
                    f"{'IP' if fam == 4 else 'IP6'} or its autodetection method on that node",
                )
            )
    return tuple(problems)
