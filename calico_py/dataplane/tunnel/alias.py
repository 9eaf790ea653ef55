"""What the device's ifalias tells the engine: how to encapsulate and from which address. Pure.

The agent writes it (``ip link set tunl0 alias "calico-py ipip local 192.168.1.11"``); it is also the mark by which
a restarted agent knows the device as its own.
"""

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import AddressValueError, IPv4Address

from calico_py.model.net import InvalidError

FLANNEL_UDP_PORT = 8285  # flannel's udp backend, its default
_OWNER = "calico-py"


class Encapsulation(StrEnum):
    """What stands between the nodes' outer IPv4 header and a pod's packet."""

    IPIP = "ipip"  # nothing: protocol 4 (RFC 2003)
    UDP = "udp"  # a UDP header (flannel's udp backend)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """This node's end of the tunnel.

    Attributes:
        local: outer source address.
        port: UDP port of all nodes; 0 for IPIP, which has none.
    """

    encapsulation: Encapsulation
    local: IPv4Address
    port: int = 0

    def alias(self) -> str:
        """The ifalias that says this."""
        port = f" port {self.port}" if self.port else ""
        return f"{_OWNER} {self.encapsulation} local {self.local}{port}"


def parse_alias(alias: str) -> Endpoint:
    """The inverse of Endpoint.alias.

    Raises:
        InvalidError: the alias says something else.
    """
    expected = f"'{_OWNER} ipip local ADDRESS' or '{_OWNER} udp local ADDRESS port PORT'"
    words = alias.split()
    try:
        match words:
            case ["calico-py", "ipip", "local", address]:
                return Endpoint(Encapsulation.IPIP, IPv4Address(address))
            case ["calico-py", "udp", "local", address, "port", port] if 0 < int(port) < 65536:
                return Endpoint(Encapsulation.UDP, IPv4Address(address), int(port))
            case _:
                raise InvalidError("ifalias", alias, expected)
    except (AddressValueError, ValueError):
        raise InvalidError("ifalias", alias, expected) from None
