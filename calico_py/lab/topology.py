"""What a lab consists of: its namespaces, networks and addresses, computed from its name and size. Pure.

Every device is born inside a namespace of the lab, none in the host's; so two labs may use the same addresses and
device names, and what tells them apart is the name of the namespace alone.

    core      192.168.49.1   the API server, and the bridge that joins the routers
    routerK   192.168.49.1K  gateway of subnet K, 192.168.(49+K).1, and its bridge
    nodeN     192.168.(49+K).(10+N)
"""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import Any, Self

from calico_py.model.net import InvalidError, Network, parse_network
from calico_py.model.pools import EncapMode

API_PORT = 6443
MTU = 1500  # bytes, of every link
DEFAULT_POOL = "10.244.0.0/16"
MAX_NODES = 200
MAX_SUBNETS = 50

_CORE_OCTET = 49
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?")


class ApiServer(StrEnum):
    """Which API server a lab runs."""

    EMBEDDED = "embedded"
    KUBE = "kube"


@dataclass(frozen=True, slots=True)
class LabSpec:
    """What a person asks for.

    Attributes:
        name: also the first part of the names of its namespaces.
        pools: CIDRs of the pods; the first of each family goes to the agents' environment, further ones become
            IPPool objects.
        ipip: CALICO_IPV4POOL_IPIP of the agents.
        commands: command of each process of a node where it is not ``calico-py`` itself.
    """

    name: str = "lab"
    nodes: int = 3
    subnets: int = 1
    api: ApiServer = ApiServer.EMBEDDED
    pools: tuple[str, ...] = (DEFAULT_POOL,)
    ipip: EncapMode = EncapMode.ALWAYS
    commands: Mapping[str, tuple[str, ...]] | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InvalidError("--name", self.name, "up to 40 lower-case letters, digits and hyphens")
        if not 1 <= self.nodes <= MAX_NODES:
            raise InvalidError("--nodes", self.nodes, f"1 to {MAX_NODES}")
        if not 1 <= self.subnets <= min(self.nodes, MAX_SUBNETS):
            raise InvalidError("--subnets", self.subnets, f"1 to {MAX_SUBNETS}, and no more than nodes ({self.nodes})")
        for pool in self.pools:
            found = parse_network(pool, field="--pool")
            clash = next((net for net in _networks(self.subnets) if found.overlaps(net)), None)
            if clash:
                raise InvalidError("--pool", pool, f"a network apart from the lab's own {clash}")

    def to_json(self) -> dict[str, Any]:
        """As written to the state directory."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """Inverse of to_json."""
        commands = found.get("commands")
        return cls(
            name=found["name"],
            nodes=found["nodes"],
            subnets=found["subnets"],
            api=ApiServer(found["api"]),
            pools=tuple(found["pools"]),
            ipip=EncapMode(found["ipip"]),
            commands={key: tuple(value) for key, value in commands.items()} if commands else None,
        )

    def pool(self, family: int) -> str:
        """The first pool of a family, or an empty string."""
        return next((pool for pool in self.pools if ipaddress.ip_network(pool).version == family), "")

    def further_pools(self) -> tuple[str, ...]:
        """The pools that the environment has no variable for."""
        return tuple(pool for pool in self.pools if pool not in (self.pool(4), self.pool(6)))


@dataclass(frozen=True, slots=True)
class NodePlace:
    """A node and where it hangs.

    Attributes:
        name: of the Node object. netns: of its network namespace. subnet: counted from 1.
    """

    name: str
    netns: str
    subnet: int
    ipv4: IPv4Interface
    ipv6: IPv6Interface
    gateway4: IPv4Address
    gateway6: IPv6Address


@dataclass(frozen=True, slots=True)
class RouterPlace:
    """The gateway of a subnet: lan is its address there, core that towards the other routers."""

    netns: str
    subnet: int
    lan4: IPv4Interface
    lan6: IPv6Interface
    core4: IPv4Interface
    core6: IPv6Interface


@dataclass(frozen=True, slots=True)
class Topology:
    """All of it."""

    spec: LabSpec
    core: str
    core4: IPv4Interface
    core6: IPv6Interface
    routers: tuple[RouterPlace, ...]
    nodes: tuple[NodePlace, ...]

    @property
    def namespaces(self) -> tuple[str, ...]:
        """Names of all network namespaces."""
        return (self.core, *(r.netns for r in self.routers), *(n.netns for n in self.nodes))

    def node(self, name: str) -> NodePlace:
        """A node by its name.

        Raises:
            InvalidError: the lab has no such node.
        """
        for node in self.nodes:
            if node.name == name:
                return node
        raise InvalidError("node", name, "one of " + ", ".join(node.name for node in self.nodes))


def compute_topology(spec: LabSpec) -> Topology:
    """The lab's names and addresses; the nodes fill the subnets in order, the first subnets being the fuller ones."""
    routers = tuple(_router(spec.name, subnet) for subnet in range(1, spec.subnets + 1))
    size, rest = divmod(spec.nodes, spec.subnets)
    nodes: list[NodePlace] = []
    for router in routers:
        count = size + (1 if router.subnet <= rest else 0)
        nodes += [_node(spec.name, len(nodes) + 1 + i, router) for i in range(count)]
    return Topology(
        spec=spec,
        core=f"{spec.name}-core",
        core4=_interface4(_CORE_OCTET, 1),
        core6=_interface6(_CORE_OCTET, 1),
        routers=routers,
        nodes=tuple(nodes),
    )


def is_namespace_of(netns: str, lab: str) -> bool:
    """Whether a network namespace of that name is the lab's; such names are reserved to it."""
    return re.fullmatch(re.escape(lab) + r"-(core|router\d+|node\d+)", netns) is not None


def _node(lab: str, number: int, router: RouterPlace) -> NodePlace:
    octet = _CORE_OCTET + router.subnet
    return NodePlace(
        name=f"node{number}",
        netns=f"{lab}-node{number}",
        subnet=router.subnet,
        ipv4=_interface4(octet, 10 + number),
        ipv6=_interface6(octet, 10 + number),
        gateway4=router.lan4.ip,
        gateway6=router.lan6.ip,
    )


def _router(lab: str, subnet: int) -> RouterPlace:
    octet = _CORE_OCTET + subnet
    return RouterPlace(
        netns=f"{lab}-router{subnet}",
        subnet=subnet,
        lan4=_interface4(octet, 1),
        lan6=_interface6(octet, 1),
        core4=_interface4(_CORE_OCTET, 10 + subnet),
        core6=_interface6(_CORE_OCTET, 10 + subnet),
    )


def _interface4(octet: int, host: int) -> IPv4Interface:
    return IPv4Interface(f"192.168.{octet}.{host}/24")


def _interface6(octet: int, host: int) -> IPv6Interface:
    """IPv4's numbers spelt in IPv6, so that a person sees which belong together."""
    return IPv6Interface(f"fd00:192:168:{octet}::{host}/64")


def _networks(subnets: int) -> list[Network]:
    octets = range(_CORE_OCTET, _CORE_OCTET + subnets + 1)
    nets4: list[IPv4Network] = [_interface4(octet, 1).network for octet in octets]
    nets6: list[IPv6Network] = [_interface6(octet, 1).network for octet in octets]
    return [*nets4, *nets6]
