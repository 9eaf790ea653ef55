"""A call of the plugin, parsed and validated once: environment, network configuration and previous result.

The rules are those of the CNI specification 1.1.0, section 2 and 3, and of libcni's skel. What a call means is
verbs'. Pure.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from calico_py.cni.errors import CNIError, Code
from calico_py.cni.wire import Request
from calico_py.model.net import FAMILIES, Address, Family, InvalidError, parse_address, parse_interface

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
NEWEST = VERSIONS[-1]
_ABSENT_VERSION = "0.1.0"  # as libcni's skel; an empty string is what libcni injects for a list without one
_IPAM = "calico-ipam"  # as Calico's users write it; whatever they write, addresses are the agent's business
VALID_ATTACHMENTS = "cni.dev/valid-attachments"

Json = Mapping[str, Any]

_IDENTIFIER = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
MAC_EXPECTED = "six pairs of hexadecimal digits joined by ':', of one interface (the first is even)"

_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")
_MAX_CONTAINER_ID = 180  # fits into a device's alias, beside its addresses, and into a file name


class Verb(StrEnum):
    """CNI_COMMAND."""

    ADD = "ADD"
    DEL = "DEL"
    CHECK = "CHECK"
    GC = "GC"
    STATUS = "STATUS"
    VERSION = "VERSION"


_REQUIRED = {
    Verb.ADD: ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"),
    Verb.CHECK: ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"),
    Verb.DEL: ("CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"),
    Verb.GC: ("CNI_PATH",),
    Verb.STATUS: ("CNI_PATH",),
    Verb.VERSION: (),
}
_SINCE = {Verb.CHECK: "0.4.0", Verb.GC: "1.1.0", Verb.STATUS: "1.1.0"}


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """The part of a network configuration that calico-py acts on.

    Attributes:
        version: cniVersion, one of VERSIONS.
        mtu: of the pod's interface, bytes; 0 leaves it to the agent.
        ipv4_pools, ipv6_pools: names or CIDRs of the pools to take addresses from (of the section ipam).
        families: without those that ipam.assign_ipv4 or ipam.assign_ipv6 turns off.
        dns: passed on in the result.
        previous: prevResult.
        valid_attachments: container ids with interface names that GC leaves alone; None where the key is absent.
    """

    version: str
    name: str = ""
    mtu: int = 0
    ipv4_pools: tuple[str, ...] = ()
    ipv6_pools: tuple[str, ...] = ()
    families: tuple[Family, ...] = FAMILIES
    dns: Json = field(default_factory=dict)
    previous: Json | None = None
    valid_attachments: frozenset[tuple[str, str]] | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """A valid call.

    Attributes:
        netns: path of the pod's namespace as the runtime names it.
        namespace, pod, uid: from CNI_ARGS; empty where the runtime is not Kubernetes', or does not say.
        addresses: asked for by CNI_ARGS, by the capability ``ips``, or by the pod.
        mac: asked for likewise, or empty.
        pools: names or CIDRs of those to take addresses from; empty for any.
        families: that the pod asks for; empty for all that the node has.
        pool_families: of which family each of these pools must be, since it is named for that.
        namespace_labels: of the pod's namespace; None where they are not known.
    """

    verb: Verb
    config: NetworkConfig
    container_id: str = ""
    ifname: str = ""
    netns: str = ""
    namespace: str = ""
    pod: str = ""
    uid: str = ""
    addresses: tuple[Address, ...] = ()
    mac: str = ""
    pools: tuple[str, ...] = ()
    families: tuple[Family, ...] = ()
    pool_families: Mapping[str, Family] = field(default_factory=dict)
    namespace_labels: Mapping[str, str] | None = None


def version_of(stdin: bytes) -> str:
    """The version in which to answer: the configuration's, the newest where it has none that we know."""
    try:
        found = json.loads(stdin).get("cniVersion") or _ABSENT_VERSION
    except (ValueError, AttributeError, RecursionError):
        return NEWEST
    return found if found in VERSIONS else NEWEST


def parse_call(request: Request) -> Call:
    """The call, validated in the order in which libcni's skel does it.

    Raises:
        CNIError: with the specification's code.
    """
    env = request.env
    verb = _parse_verb(env)
    missing = [name for name in _REQUIRED[verb] if not env.get(name)]
    if missing:
        raise CNIError(Code.INVALID_ENVIRONMENT, f"required env variables [{','.join(missing)}] missing")
    if verb == Verb.VERSION:
        return Call(verb, NetworkConfig(version_of(request.stdin)))
    document = _parse_document(request.stdin)
    config = _parse_config(verb, document)
    if verb in (Verb.GC, Verb.STATUS):
        return Call(verb, config)
    _check_identifiers(env)
    args = _parse_args(env.get("CNI_ARGS", ""), strict=verb != Verb.DEL)
    runtime = _mapping(document, "runtimeConfig")
    return Call(
        verb,
        config,
        container_id=env["CNI_CONTAINERID"],
        ifname=env["CNI_IFNAME"],
        netns=env.get("CNI_NETNS", ""),
        namespace=args.get("K8S_POD_NAMESPACE", ""),
        pod=args.get("K8S_POD_NAME", ""),
        uid=args.get("K8S_POD_UID", ""),
        addresses=_parse_addresses(args, runtime, document, config.version) if verb == Verb.ADD else (),
        mac=parse_mac(args.get("MAC") or runtime.get("mac") or "") if verb == Verb.ADD else "",
        pools=(*config.ipv4_pools, *config.ipv6_pools),
        pool_families=families_of_pools(config.ipv4_pools, config.ipv6_pools),
    )


def _parse_verb(env: Mapping[str, str]) -> Verb:
    found = env.get("CNI_COMMAND", "")
    try:
        return Verb(found)
    except ValueError:
        raise CNIError(
            Code.INVALID_ENVIRONMENT, "unknown CNI_COMMAND", f"found {found!r}, expected one of {', '.join(Verb)}"
        ) from None


def _parse_document(stdin: bytes) -> Json:
    try:
        document = json.loads(stdin)
    except (ValueError, RecursionError) as error:
        raise CNIError(Code.DECODE_FAILURE, "the network configuration is no JSON", str(error)) from None
    if not isinstance(document, dict):
        raise CNIError(Code.DECODE_FAILURE, "the network configuration is no JSON object")
    return document


def _parse_config(verb: Verb, document: Json) -> NetworkConfig:
    version = document.get("cniVersion") or _ABSENT_VERSION
    if version not in VERSIONS:
        raise CNIError(
            Code.INCOMPATIBLE_VERSION,
            "incompatible CNI versions",
            f"cniVersion: found {version!r}, expected one of {', '.join(VERSIONS)}",
        )
    since = _SINCE.get(verb, VERSIONS[0])
    if VERSIONS.index(version) < VERSIONS.index(since):
        raise CNIError(
            Code.INCOMPATIBLE_VERSION,
            f"config version does not allow {verb}",
            f"cniVersion: found {version}, expected {since} or newer",
        )
    name = document.get("name", "")
    if not isinstance(name, str) or not _IDENTIFIER.fullmatch(name):
        raise _invalid("name", name, "letters, digits, '_', '.', '-'")
    mtu = document.get("mtu", 0)
    if not isinstance(mtu, int) or isinstance(mtu, bool) or not (mtu == 0 or 68 <= mtu <= 65535):
        raise _invalid("mtu", mtu, "0 (the agent's choice) or 68 to 65535")
    ipam = _mapping(document, "ipam").get("type") or _IPAM
    if verb == Verb.ADD and ipam != _IPAM:
        raise _invalid("ipam.type", ipam, f"{_IPAM!r}, or none: addresses come from IPPools")
    return NetworkConfig(
        version,
        name=name,
        mtu=mtu,
        ipv4_pools=_parse_pools(document, "ipv4_pools"),
        ipv6_pools=_parse_pools(document, "ipv6_pools"),
        families=_parse_families(document),
        dns=_mapping(document, "dns"),
        previous=_parse_previous(verb, document),
        valid_attachments=_parse_attachments(document) if verb == Verb.GC else None,
    )


def _parse_pools(document: Json, key: str) -> tuple[str, ...]:
    found = _mapping(document, "ipam").get(key) or []
    if not isinstance(found, list) or not all(isinstance(pool, str) for pool in found):
        raise _invalid(f"ipam.{key}", found, "a list of names or CIDRs of IPPools")
    return tuple(found)


def families_of_pools(ipv4: Sequence[str], ipv6: Sequence[str]) -> dict[str, Family]:
    """The family for which each pool is named."""
    return dict.fromkeys(ipv4, FAMILIES[0]) | dict.fromkeys(ipv6, FAMILIES[1])


def _parse_families(document: Json) -> tuple[Family, ...]:
    """Calico's switches are strings; a family is on unless its switch is off."""
    ipam = _mapping(document, "ipam")
    families = []
    for of in FAMILIES:
        key = f"assign_ipv{of}"
        found = ipam.get(key, True)
        if found not in (True, False, "true", "false"):
            raise _invalid(f"ipam.{key}", found, '"true" or "false"')
        if found in (True, "true"):
            families.append(of)
    return tuple(families)


def _parse_previous(verb: Verb, document: Json) -> Json | None:
    """Mandatory for CHECK; DEL does its best without (specification, section 4)."""
    previous = document.get("prevResult")
    if verb == Verb.CHECK and previous is None:
        raise _invalid("prevResult", None, "the result of ADD")
    if previous is not None and not isinstance(previous, dict):
        if verb == Verb.DEL:
            return None
        raise CNIError(Code.DECODE_FAILURE, "could not decode prevResult", f"found {previous!r}, expected an object")
    if verb == Verb.ADD and previous is not None:
        _check_previous(previous)
    return previous


def _check_previous(previous: Json) -> None:
    """What ADD's result is added to, before ADD has made anything."""
    for key in ("interfaces", "ips", "routes"):
        found = previous.get(key) or []
        if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
            raise _undecoded(key, found, "a list of objects")
    if not isinstance(previous.get("dns") or {}, dict):
        raise _undecoded("dns", previous["dns"], "an object")


def _undecoded(key: str, found: object, expected: str) -> CNIError:
    return CNIError(
        Code.DECODE_FAILURE, "could not decode prevResult", f"prevResult.{key}: found {found!r}, expected {expected}"
    )


def _parse_attachments(document: Json) -> frozenset[tuple[str, str]] | None:
    """An empty list comes from libcni as null; it leaves the key out where its caller gave none."""
    if VALID_ATTACHMENTS not in document:
        return None
    found = document[VALID_ATTACHMENTS]
    try:
        return frozenset((str(each["containerID"]), str(each["ifname"])) for each in found or ())
    except (TypeError, KeyError):
        raise _invalid(VALID_ATTACHMENTS, found, "a list of objects with containerID and ifname") from None


def _check_identifiers(env: Mapping[str, str]) -> None:
    container, ifname = env["CNI_CONTAINERID"], env["CNI_IFNAME"]
    if not _IDENTIFIER.fullmatch(container) or len(container) > _MAX_CONTAINER_ID:
        raise CNIError(
            Code.INVALID_ENVIRONMENT,
            "invalid CNI_CONTAINERID",
            f"found {container!r}, expected up to {_MAX_CONTAINER_ID} letters, digits, '_', '.', '-'",
        )
    if len(ifname.encode(errors="surrogateescape")) > 15 or ifname in (".", "..") or re.search(r"[/:\s]", ifname):
        raise CNIError(
            Code.INVALID_ENVIRONMENT,
            "invalid CNI_IFNAME",
            f"found {ifname!r}, expected 1 to 15 bytes without '/', ':' and spaces",
        )


def _parse_args(text: str, *, strict: bool) -> dict[str, str]:
    """CNI_ARGS: ``K=V;K=V``. A DEL must not fail for what its ADD was given."""
    args = {}
    for pair in filter(None, text.split(";")):
        key, equals, value = pair.partition("=")
        if not equals and strict:
            raise CNIError(Code.INVALID_ENVIRONMENT, "invalid CNI_ARGS", f"found {pair!r}, expected KEY=VALUE")
        args[key] = value
    return args


def _parse_addresses(args: Mapping[str, str], runtime: Json, document: Json, version: str) -> tuple[Address, ...]:
    """By the capability ``ips``, by the label args.cni.ips, or by the old CNI_ARGS IP."""
    label = _mapping(_mapping(document, "args"), "cni").get("ips")
    found = runtime.get("ips") or label or [ip for ip in args.get("IP", "").split(",") if ip]
    if not isinstance(found, list):
        raise _invalid("ips", found, "a list of addresses")
    addresses: list[Address] = []
    for text in found:
        try:
            addresses.append(parse_interface(text, field="ips").ip if "/" in text else parse_address(text, field="ips"))
        except (InvalidError, TypeError):
            raise _invalid("ips", text, "an IPv4 or IPv6 address") from None
    if VERSIONS.index(version) < VERSIONS.index("0.3.0") and len({a.version for a in addresses}) < len(addresses):
        raise _invalid("ips", found, f"one address of each family: a result of cniVersion {version} holds no more")
    return tuple(addresses)


def parse_mac(found: object) -> str:
    """A MAC address in lower case; empty for none.

    Raises:
        CNIError: it is something else.
    """
    if found and not (isinstance(found, str) and _MAC.fullmatch(found) and int(found[:2], 16) % 2 == 0):
        raise _invalid("mac", found, MAC_EXPECTED)
    return str(found).lower()


def _mapping(document: Json, key: str) -> Json:
    found = document.get(key)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise _invalid(key, found, "an object")
    return found


def _invalid(name: str, found: object, expected: str) -> CNIError:
    return CNIError(
        Code.INVALID_CONFIGURATION, "invalid network configuration", f"{name}: found {found!r}, expected {expected}"
    )
