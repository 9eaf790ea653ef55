"""This node's own Node object, read whole: its status has the InternalIPs that metadata alone does not show."""

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from calico_py.model.codec import decode_meta
from calico_py.model.meta import Meta
from calico_py.model.net import Address
from calico_py.model.store import Json, Kind


@dataclass(frozen=True, slots=True)
class OwnNode:
    """What Kubernetes says of this node beyond its metadata.

    Attributes:
        internal: InternalIPs of ``status.addresses``, in their order.
    """

    meta: Meta
    internal: tuple[Address, ...] = ()


def _decode(obj: Json) -> OwnNode:
    found = (obj.get("status") or {}).get("addresses") or ()
    texts = (entry.get("address", "") for entry in found if entry.get("type") == "InternalIP")
    return OwnNode(decode_meta(obj), tuple(address for address in map(_address, texts) if address is not None))


def _address(text: str) -> Address | None:
    """None for what is no address: a kubelet of a cloud may put a name there."""
    try:
        return ip_address(text)
    except ValueError:
        return None


def _encode(node: OwnNode) -> dict[str, Any]:
    """Only for fakes: agents write a Node by patches alone."""
    addresses = [{"type": "InternalIP", "address": str(address)} for address in node.internal]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.meta.name},
        "status": {"addresses": addresses},
    }


OWN_NODE: Kind[OwnNode] = Kind("Node", "", "v1", "nodes", _decode, _encode)
