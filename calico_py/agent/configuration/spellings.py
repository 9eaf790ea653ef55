"""How the values of settings are spelt: each function turns a text into a value or says what would have been right.

The spellings are Calico's (node/pkg/lifecycle/startup), with one difference: a boolean that is neither true nor false
is refused, where Calico takes it for true.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, ip_interface
from typing import TypeVar

from calico_py.model.bgp_codec import parse_as_number
from calico_py.model.net import Address, Family, InvalidError, Network, parse_network
from calico_py.model.pools import EncapMode
from calico_py.model.selectors import parse_selector

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)


class SpellingError(ValueError):
    """The value is not among those allowed; the message is the phrase that lists them."""


class Backend(StrEnum):
    """CALICO_NETWORKING_BACKEND."""

    BIRD = "bird"
    VXLAN = "vxlan"
    NONE = "none"


class Datastore(StrEnum):
    """DATASTORE_TYPE."""

    KUBERNETES = "kubernetes"


class Engine(StrEnum):
    """Who encapsulates IPIP."""

    AUTO = "auto"
    KERNEL = "kernel"
    USERSPACE = "userspace"


class LogLevel(StrEnum):
    """What is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class MtuPolicy(StrEnum):
    """What a pod's MTU leaves room for."""

    AUTO = "auto"
    IN_USE = "in-use"


class Method(StrEnum):
    """Ways to find the node's address; those but ``default`` are Calico's."""

    DEFAULT = "default"
    FIRST_FOUND = "first-found"
    INTERFACE = "interface"
    SKIP_INTERFACE = "skip-interface"
    CAN_REACH = "can-reach"
    CIDR = "cidr"
    INTERNAL_IP = "kubernetes-internal-ip"


@dataclass(frozen=True, slots=True)
class Detection:
    """A parsed IP_AUTODETECTION_METHOD.

    Attributes:
        arguments: regular expressions, CIDRs, or one host, as the method needs.
    """

    method: Method = Method.DEFAULT
    arguments: tuple[str, ...] = ()

    def __str__(self) -> str:
        """As it is spelt."""
        return f"{self.method}={','.join(self.arguments)}" if self.arguments else str(self.method)


@dataclass(frozen=True, slots=True)
class NodeAddress:
    """A parsed IP or IP6.

    Attributes:
        wanted: False for ``none``.
        address: given explicitly; None to detect it. prefixlen: given with it, None to look it up on the host.
    """

    wanted: bool = True
    address: Address | None = None
    prefixlen: int | None = None


@dataclass(frozen=True, slots=True)
class PoolRange:
    """A parsed CALICO_IPV4POOL_CIDR or CALICO_IPV6POOL_CIDR.

    Attributes:
        wanted: False for ``none``. cidr: None to choose one.
    """

    wanted: bool = True
    cidr: Network | None = None


_TRUE = frozenset({"true", "1", "yes", "y", "t", "on"})
_FALSE = frozenset({"false", "0", "no", "n", "f", "off"})


def text(value: str) -> str:
    """Any text."""
    return value


def name(value: str) -> str:
    """A DNS name, as Kubernetes names nodes (RFC 1123)."""
    if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", value):
        raise SpellingError("the name of a Kubernetes node: lower-case letters, digits, '-' and '.'")
    return value


def boolean(value: str) -> bool:
    """True or false in any case."""
    if value.lower() in _TRUE | _FALSE:
        return value.lower() in _TRUE
    raise SpellingError("true (1, yes, y, t, on) or false (0, no, n, f, off)")


def one_of(enum: type[E]) -> Callable[[str], E]:
    """A parser of the values of an enumeration, in any case."""
    by_spelling = {str(member).lower(): member for member in enum}

    def parse(value: str) -> E:
        found = by_spelling.get(value.lower())
        if found is None:
            raise SpellingError("one of " + ", ".join(enum))
        return found

    return parse


def log_level(value: str) -> LogLevel:
    """Our own levels, and Felix's others as the nearest of them."""
    nearest = {"trace": "debug", "verbose": "debug", "warn": "warning", "fatal": "error", "none": "error"}
    return one_of(LogLevel)(nearest.get(value.lower(), value))


def number(low: int, high: int) -> Callable[[str], int]:
    """A parser of integers within bounds."""

    def parse(value: str) -> int:
        if not re.fullmatch(r"[0-9]{1,10}", value) or not low <= int(value) <= high:
            raise SpellingError(f"a number from {low} to {high}")
        return int(value)

    return parse


def mark_bit(value: str) -> int:
    """The mark in which that bit is set; 0 for ``none``."""
    if value == "none":
        return 0
    try:
        return 1 << number(0, 31)(value)
    except SpellingError:
        raise SpellingError("a bit from 0 to 31, or none") from None


_ENCAPSULATIONS: Mapping[str, EncapMode] = {
    "": EncapMode.NEVER,
    "off": EncapMode.NEVER,
    "never": EncapMode.NEVER,
    "always": EncapMode.ALWAYS,
    "crosssubnet": EncapMode.CROSS_SUBNET,
    "cross-subnet": EncapMode.CROSS_SUBNET,
}


def encapsulation(value: str) -> EncapMode:
    """Always, CrossSubnet or Never, in any case and with Calico's other spellings."""
    found = _ENCAPSULATIONS.get(value.lower())
    if found is None:
        raise SpellingError("one of Always, CrossSubnet (cross-subnet), Never (off), in any case")
    return found


def network(family: Family) -> Callable[[str], Network]:
    """A parser of networks of one family."""
    example = "192.168.0.0/16" if family == 4 else "fd00:10::/48"

    def parse(value: str) -> Network:
        try:
            found = parse_network(value, field="")
        except InvalidError as error:
            raise SpellingError(error.expected) from None
        if found.version != family:
            raise SpellingError(f"an IPv{family} network such as {example}")
        return found

    return parse


def pool_range(family: Family) -> Callable[[str], PoolRange]:
    """A parser of a pool's CIDR, ``none``, or nothing to choose one."""
    parse_cidr = network(family)

    def parse(value: str) -> PoolRange:
        if value.lower() == "none":
            return PoolRange(wanted=False)
        try:
            return PoolRange(cidr=parse_cidr(value) if value else None)
        except SpellingError as error:
            raise SpellingError(f"{error}, or none for no pool") from None

    return parse


def selector(value: str) -> str:
    """A selector over the labels of nodes."""
    try:
        parse_selector(value, field="")
    except InvalidError as error:
        raise SpellingError(error.expected) from None
    return value


def as_number(value: str) -> int | None:
    """An AS number, plain or dotted (RFC 5396); None where empty."""
    try:
        return parse_as_number(value, field="")
    except InvalidError as error:
        raise SpellingError(error.expected + ", or dotted as in 1.10") from None


def router_id(value: str) -> str:
    """Empty, ``hash``, or four bytes as an IPv4 address (RFC 6286 2.1: not zero)."""
    if value in ("", "hash"):
        return value
    try:
        if int(IPv4Address(value)):
            return value
    except ValueError:
        pass
    raise SpellingError("an IPv4 address other than 0.0.0.0, or hash")


def node_address(family: Family) -> Callable[[str], NodeAddress]:
    """A parser of IP or IP6."""
    example = "192.168.1.11/24" if family == 4 else "fd00::11/64"

    def parse(value: str) -> NodeAddress:
        if value.lower() == "none":
            return NodeAddress(wanted=False)
        if value.lower() in ("", "autodetect"):
            return NodeAddress()
        try:
            found = ip_interface(value)
        except ValueError:
            found = None
        if found is None or found.version != family:
            raise SpellingError(f"autodetect, none, or an IPv{family} address with or without prefix, as {example}")
        return NodeAddress(address=found.ip, prefixlen=found.network.prefixlen if "/" in value else None)

    return parse


_METHODS = (
    "one of default, first-found, interface=REGEX[,REGEX], skip-interface=REGEX[,REGEX], can-reach=HOST, "
    "cidr=CIDR[,CIDR], kubernetes-internal-ip"
)


def detection(family: Family) -> Callable[[str], Detection]:
    """A parser of IP_AUTODETECTION_METHOD or IP6_AUTODETECTION_METHOD."""

    def parse(value: str) -> Detection:
        spelt, given, rest = value.partition("=")
        try:
            method = Method(spelt) if spelt else Method.DEFAULT
        except ValueError:
            raise SpellingError(_METHODS) from None
        arguments = tuple(part.strip() for part in rest.split(",")) if given else ()
        takes = method in (Method.INTERFACE, Method.SKIP_INTERFACE, Method.CAN_REACH, Method.CIDR)
        if takes != bool(arguments and all(arguments)):
            raise SpellingError(_METHODS)
        if method == Method.CIDR:
            for cidr in arguments:
                network(family)(cidr)
        elif method in (Method.INTERFACE, Method.SKIP_INTERFACE):
            _check_expressions(arguments)
        elif method == Method.CAN_REACH and len(arguments) != 1:
            raise SpellingError(_METHODS)
        return Detection(method, arguments)

    return parse


def _check_expressions(expressions: tuple[str, ...]) -> None:
    for expression in expressions:
        try:
            re.compile(expression)
        except re.error as error:
            raise SpellingError(f"regular expressions separated by commas ({expression!r}: {error})") from None


def mtu(value: str) -> int | MtuPolicy:
    """``auto``, ``in-use``, or bytes: 576 is what every IPv4 host must take (RFC 791 3.1)."""
    try:
        return one_of(MtuPolicy)(value)
    except SpellingError:
        pass
    try:
        return number(576, 65535)(value)
    except SpellingError:
        raise SpellingError("auto, in-use, or a number of bytes from 576 to 65535") from None
