"""What a pod asks for by annotations, Calico's own: addresses, pools, families, MAC. Pure.

The pod's annotation comes before its namespace's, and both before the network configuration. Addresses and a MAC that
the call itself asks for (CNI_ARGS, capabilities) come before the pod's annotation: they are this attachment's alone.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from calico_py.cni.config import MAC_EXPECTED, Call, families_of_pools, parse_mac
from calico_py.cni.errors import CNIError, Code
from calico_py.model.net import FAMILIES, Address, Family, InvalidError, family, parse_address, parse_interface

IP_ADDRS = "cni.projectcalico.org/ipAddrs"
IPV4_POOLS = "cni.projectcalico.org/ipv4pools"
IPV6_POOLS = "cni.projectcalico.org/ipv6pools"
IP_FAMILIES = "cni.projectcalico.org/ipFamilies"
HW_ADDR = "cni.projectcalico.org/hwAddr"

# What Calico has and calico-py has not: a pod that asks for it must not run without.
UNSUPPORTED = ("cni.projectcalico.org/ipAddrsNoIpam", "cni.projectcalico.org/floatingIPs")

_FAMILIES: Mapping[str, Family] = {"IPv4": 4, "IPv6": 6}


@dataclass(frozen=True, slots=True)
class PodFacts:
    """What the API says of a pod and its namespace, as far as an ADD must know it.

    Attributes:
        namespace_labels: None where they are not known.
    """

    annotations: Mapping[str, str] = field(default_factory=dict)
    namespace_annotations: Mapping[str, str] = field(default_factory=dict)
    namespace_labels: Mapping[str, str] | None = None


def with_wishes(call: Call, facts: PodFacts) -> Call:
    """The call, with all that the pod asks for.

    Raises:
        CNIError: an annotation cannot be read, or asks for what there is not.
    """
    own, around = facts.annotations, facts.namespace_annotations
    for name in UNSUPPORTED:
        if name in own:
            raise _invalid(call, name, own[name], "no such annotation: calico-py does not have this feature")
    pools = []
    for name, configured in ((IPV4_POOLS, call.config.ipv4_pools), (IPV6_POOLS, call.config.ipv6_pools)):
        value = own.get(name) or around.get(name)
        pools.append(_texts(call, name, value, "names or CIDRs of IPPools") if value else list(configured))
    families = own.get(IP_FAMILIES) or around.get(IP_FAMILIES)
    return replace(
        call,
        pools=(*pools[0], *pools[1]),
        pool_families=families_of_pools(*pools),
        families=_parse_families(call, families) if families else (),
        addresses=call.addresses or _parse_addresses(call, own.get(IP_ADDRS, "")),
        mac=call.mac or _parse_mac(call, own.get(HW_ADDR, "")),
        namespace_labels=facts.namespace_labels,
    )


def choose_families(call: Call, *, of_node: Sequence[Family], addressed: Sequence[Family]) -> tuple[Family, ...]:
    """The families of which the pod gets an address.

    What it asks for it must get; what the configuration turns off it may ask for. A pool that is named serves whichever
    node it selects, so it need not be of a family that has a pool for the node.

    Args:
        call: with the pod's wishes.
        of_node: those for which the node has a pool.
        addressed: those of which it has an address.

    Raises:
        CNIError: there is none, and no address is asked for by name.
    """
    possible = {of for of in call.pool_families.values() if of in addressed}.union(of_node)
    chosen = call.families or tuple(of for of in FAMILIES if of in possible.intersection(call.config.families))
    if not call.addresses and (reason := _no_family(call, chosen, possible)):
        raise CNIError(Code.ADDRESSES, "no address for the pod", reason)
    return chosen


def _no_family(call: Call, chosen: Sequence[Family], possible: Collection[Family]) -> str:
    if missing := [of for of in call.families if of not in possible]:
        return (
            f"pod {call.namespace}/{call.pod}, annotation ipFamilies: found IPv{missing[0]}, of which this node has no "
            "address or no IPPool"
        )
    if chosen:
        return ""
    if not call.config.families:
        return "ipam.assign_ipv4 and ipam.assign_ipv6 of the network configuration: found both false, expected one true"
    wanted = "" if call.config.families == FAMILIES else f"of IPv{call.config.families[0]} "
    return f"no IPPool {wanted}selects this node, or none of a family of which it has an address: apply one"


def _parse_families(call: Call, value: str) -> tuple[Family, ...]:
    names = _texts(call, IP_FAMILIES, value, "IPv4, IPv6 or both")
    if not names or not set(names) <= _FAMILIES.keys():
        raise _invalid(call, IP_FAMILIES, value, 'a JSON list of "IPv4", "IPv6" or both')
    return tuple(of for name, of in _FAMILIES.items() if name in names)


def _parse_addresses(call: Call, value: str) -> tuple[Address, ...]:
    found: list[Address] = []
    for text in _texts(call, IP_ADDRS, value, "addresses") if value else ():
        try:
            address = parse_interface(text, field="").ip if "/" in text else parse_address(text, field="")
        except InvalidError:
            raise _invalid(call, IP_ADDRS, value, f"addresses: {text!r} is none") from None
        if family(address) in [family(other) for other in found]:
            raise _invalid(call, IP_ADDRS, value, "at most one address of each family")
        found.append(address)
    return tuple(found)


def _parse_mac(call: Call, value: str) -> str:
    try:
        return parse_mac(value)
    except CNIError:
        raise _invalid(call, HW_ADDR, value, MAC_EXPECTED) from None


def _texts(call: Call, name: str, value: str, what: str) -> list[str]:
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise _invalid(call, name, value, f'a JSON list of strings, {what}, such as ["..."]')
    return found


def _invalid(call: Call, name: str, found: str, expected: str) -> CNIError:
    return CNIError(
        Code.INVALID_CONFIGURATION,
        "invalid annotation",
        f"pod {call.namespace}/{call.pod} or its namespace, annotation {name}: found {found!r}, expected {expected}",
    )
