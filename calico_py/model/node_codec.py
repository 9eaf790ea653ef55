"""The codec of Node, whose facts are annotations, and of the one that is JSON itself."""

import json
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface
from typing import Any, TypeVar

from calico_py.model import names
from calico_py.model.bgp_codec import parse_as_number
from calico_py.model.codec import decode_meta, encode_object
from calico_py.model.net import InvalidError, parse_address, parse_interface
from calico_py.model.nodes import Node, Sending
from calico_py.model.store import Json

I_ = TypeVar("I_", IPv4Interface, IPv6Interface)
T_ = TypeVar("T_")


def decode_sending(text: str, *, field: str) -> dict[str, Sending]:
    """The annotation calico-py.io/sending.

    Raises:
        InvalidError: no JSON object of {pool: {mode, since}}.
    """
    try:
        return {k: Sending(mode=v["mode"], since=v["since"]) for k, v in json.loads(text).items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InvalidError(field, text, 'a JSON object such as {"pool": {"mode": "IPIP", "since": "..."}}') from None


def encode_sending(sending: dict[str, Sending]) -> str:
    """The value of the annotation calico-py.io/sending, keys sorted."""
    return json.dumps({k: {"mode": v.mode, "since": v.since} for k, v in sorted(sending.items())})


def decode_node(obj: Json) -> Node:
    """A node by its annotations, each by itself.

    Anybody who may annotate a Node may break one; what the others say must not fall with it, or all nodes would take
    the routes to this one away, and its own agent could not mend what it does not see.
    """
    meta = decode_meta(obj)
    notes = _Annotations(meta.annotations)
    ipv4 = notes.read(names.NODE_IPV4_ADDRESS, _interface_of(IPv4Interface))
    ipv6 = notes.read(names.NODE_IPV6_ADDRESS, _interface_of(IPv6Interface))
    tunnel = notes.read(names.NODE_IPV4_IPIP_TUNNEL, _ipv4_address)
    vxlan = {
        4: notes.read(names.NODE_IPV4_VXLAN_TUNNEL, parse_address),
        6: notes.read(names.NODE_IPV6_VXLAN_TUNNEL, parse_address),
    }
    macs = {4: meta.annotations.get(names.NODE_VXLAN_MAC), 6: meta.annotations.get(names.NODE_VXLAN_MAC_V6)}
    return Node(
        meta=meta,
        ipv4=ipv4,
        ipv6=ipv6,
        ipip_tunnel=tunnel,
        vxlan_tunnels={f: a for f, a in vxlan.items() if a is not None},  # type: ignore[misc]  # keys are 4 and 6
        vxlan_macs={f: m for f, m in macs.items() if m},  # type: ignore[misc]  # keys are 4 and 6
        as_number=notes.read(names.NODE_AS_NUMBER, parse_as_number),
        rr_cluster_id=meta.annotations.get(names.NODE_RR_CLUSTER_ID, ""),
        sending=notes.read(names.NODE_SENDING, decode_sending),
        invalid=tuple(notes.invalid),
    )


class _Annotations:
    """Annotations read one by one.

    Attributes:
        invalid: what was found and expected, a sentence for each that could not be read.
    """

    def __init__(self, notes: Mapping[str, str]) -> None:
        self.invalid: list[str] = []
        self._notes = notes

    def read(self, name: str, parse: Callable[..., T_ | None]) -> T_ | None:
        """The value of one, None where it is absent or invalid."""
        if not self._notes.get(name):
            return None
        try:
            return parse(self._notes[name], field=f"metadata.annotations[{name}]")
        except InvalidError as error:
            self.invalid.append(str(error))
            return None


def _interface_of(of: type[I_]) -> Callable[..., I_]:
    def parse(text: str, *, field: str) -> I_:
        found = parse_interface(text, field=field)
        if not isinstance(found, of):
            raise InvalidError(field, text, f"an {of.__name__}")
        return found

    return parse


def _ipv4_address(text: str, *, field: str) -> IPv4Address:
    found = parse_address(text, field=field)
    if not isinstance(found, IPv4Address):
        raise InvalidError(field, text, "an IPv4Address")
    return found


def encode_node(node: Node) -> dict[str, Any]:
    """Only for fakes: agents write a Node by patches alone."""
    out = encode_object("Node", node.meta, {}, api_version="v1")
    del out["spec"]
    return out
