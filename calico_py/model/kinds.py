"""The codec: each Kubernetes resource that calico-py reads or writes, to and from the model.

Decoding validates once, here; a value that cannot be right raises InvalidError with the field's path.
Unknown fields are left alone (the server prunes what its schema does not know).
"""

import json
from collections.abc import Callable, Mapping
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface
from typing import Any, TypeVar

from calico_py.model import names
from calico_py.model.bgp import BGPConfiguration, FelixConfiguration, ProgramClusterRoutes
from calico_py.model.blocks import (
    AffinityState,
    Attribute,
    BlockAffinity,
    IPAMBlock,
    IPAMConfiguration,
    IPAMHandle,
    IPReservation,
)
from calico_py.model.meta import Meta
from calico_py.model.net import InvalidError, parse_address, parse_interface, parse_network
from calico_py.model.nodes import Node, Sending
from calico_py.model.pools import AllowedUse, EncapMode, IPPool
from calico_py.model.store import Json, Kind

PAGE_SIZE = 500  # kubectl's; some 4 MB of JSON of pods
_BLOCKS_A_PAGE = 100  # 1 MB of JSON of blocks of 64 addresses, 100 MB of the largest

E_ = TypeVar("E_", bound=StrEnum)
I_ = TypeVar("I_", IPv4Interface, IPv6Interface)
T_ = TypeVar("T_")


def decode_meta(obj: Json) -> Meta:
    """The metadata of any object."""
    meta = obj.get("metadata") or {}
    return Meta(
        name=meta.get("name", ""),
        namespace=meta.get("namespace", ""),
        uid=meta.get("uid", ""),
        resource_version=meta.get("resourceVersion", ""),
        generation=meta.get("generation", 0),
        creation_timestamp=meta.get("creationTimestamp") or "",
        deleting=bool(meta.get("deletionTimestamp")),
        labels=dict(meta.get("labels") or {}),
        annotations=dict(meta.get("annotations") or {}),
    )


def _object(kind: str, meta: Meta, spec: Json, api_version: str = f"{names.GROUP}/{names.VERSION}") -> dict[str, Any]:
    out: dict[str, Any] = {"name": meta.name}
    for key, value in (
        ("namespace", meta.namespace),
        ("uid", meta.uid),
        ("resourceVersion", meta.resource_version),
        ("labels", dict(meta.labels)),
        ("annotations", dict(meta.annotations)),
    ):
        if value:
            out[key] = value
    return {"apiVersion": api_version, "kind": kind, "metadata": out, "spec": dict(spec)}


def _enum(of: type[E_], spec: Json, key: str, default: E_) -> E_:
    found = spec.get(key)
    if found in (None, ""):
        return default
    try:
        return of(found)
    except ValueError:
        raise InvalidError(f"spec.{key}", found, "one of " + ", ".join(of)) from None


def _optional_enum(of: type[E_], spec: Json, key: str) -> E_ | None:
    """None where the field is absent or holds a value of a newer Calico: the code default applies then."""
    return next((value for value in of if value == spec.get(key)), None)


def _int(spec: Json, key: str, default: int) -> int:
    found = spec.get(key)
    if found is None:
        return default
    if not isinstance(found, int) or isinstance(found, bool):
        raise InvalidError(f"spec.{key}", found, "an integer")
    return found


def _decode_pool(obj: Json) -> IPPool:
    spec = obj.get("spec") or {}
    cidr = parse_network(spec.get("cidr", ""), field="spec.cidr")
    low, high, default = (20, 32, 26) if cidr.version == 4 else (116, 128, 122)
    size = _int(spec, "blockSize", default) or default
    if not low <= size <= high:
        raise InvalidError("spec.blockSize", size, f"{low} to {high} for an IPv{cidr.version} pool")
    if cidr.prefixlen > size and not spec.get("disabled"):
        raise InvalidError("spec.cidr", str(cidr), f"a network of at least one block: /{size} or shorter")
    ipip = _enum(EncapMode, spec, "ipipMode", EncapMode.NEVER)
    vxlan = _enum(EncapMode, spec, "vxlanMode", EncapMode.NEVER)
    if cidr.version == 6 and ipip != EncapMode.NEVER:
        raise InvalidError("spec.ipipMode", str(ipip), "Never for an IPv6 pool (IPIP carries IPv4 only)")
    if EncapMode.NEVER not in (ipip, vxlan):
        raise InvalidError("spec.vxlanMode", str(vxlan), f"Never where ipipMode is {ipip}")
    return IPPool(
        meta=decode_meta(obj),
        cidr=cidr,
        block_size=size,
        ipip_mode=ipip,
        vxlan_mode=vxlan,
        nat_outgoing=bool(spec.get("natOutgoing", False)),
        disabled=bool(spec.get("disabled", False)),
        disable_bgp_export=bool(spec.get("disableBGPExport", False)),
        node_selector=spec.get("nodeSelector") or "all()",
        namespace_selector=spec.get("namespaceSelector") or "",
        allowed_uses=_allowed_uses(spec),
        assignment_mode=spec.get("assignmentMode") or "Automatic",
    )


def _allowed_uses(spec: Json) -> tuple[AllowedUse, ...]:
    found = spec.get("allowedUses") or (AllowedUse.WORKLOAD, AllowedUse.TUNNEL)
    try:
        return tuple(AllowedUse(use) for use in found)
    except ValueError:
        raise InvalidError("spec.allowedUses", found, "a list of " + ", ".join(AllowedUse)) from None


def _encode_pool(pool: IPPool) -> dict[str, Any]:
    spec = {
        "cidr": str(pool.cidr),
        "blockSize": pool.block_size,
        "ipipMode": str(pool.ipip_mode),
        "vxlanMode": str(pool.vxlan_mode),
        "natOutgoing": pool.nat_outgoing,
        "nodeSelector": pool.node_selector,
        "allowedUses": [str(use) for use in pool.allowed_uses],
        "assignmentMode": pool.assignment_mode,
    }
    if pool.disabled:
        spec["disabled"] = True
    if pool.disable_bgp_export:
        spec["disableBGPExport"] = True
    if pool.namespace_selector:
        spec["namespaceSelector"] = pool.namespace_selector
    return _object("IPPool", pool.meta, spec)


def _decode_affinity(obj: Json) -> BlockAffinity:
    spec = obj.get("spec") or {}
    return BlockAffinity(
        meta=decode_meta(obj),
        cidr=parse_network(spec.get("cidr", ""), field="spec.cidr"),
        node=spec.get("node", ""),
        state=_enum(AffinityState, spec, "state", AffinityState.PENDING),
        type=spec.get("type") or "host",
        deleted=_bool(spec.get("deleted")),
    )


def _encode_affinity(affinity: BlockAffinity) -> dict[str, Any]:
    spec = {
        "cidr": str(affinity.cidr),
        "node": affinity.node,
        "state": str(affinity.state),
        "type": affinity.type,
        "deleted": affinity.deleted,
    }
    return _object("BlockAffinity", affinity.meta, spec)


def _bool(found: object) -> bool:
    """Calico's older objects spell booleans as strings."""
    return found is True or found == "true"


def _decode_block(obj: Json) -> IPAMBlock:
    spec = obj.get("spec") or {}
    cidr = parse_network(spec.get("cidr", ""), field="spec.cidr")
    allocations = tuple(spec.get("allocations") or ())
    if len(allocations) != cidr.num_addresses:
        raise InvalidError("spec.allocations", len(allocations), f"{cidr.num_addresses} entries for {cidr}")
    return IPAMBlock(
        meta=decode_meta(obj),
        cidr=cidr,
        affinity=spec.get("affinity"),
        allocations=allocations,
        unallocated=tuple(spec.get("unallocated") or ()),
        attributes=tuple(
            Attribute(
                handle_id=attr.get("handle_id"),
                secondary=attr.get("secondary") or {},
                alternate=attr.get("alternateOwnerAttrs") or {},
                released_at=attr.get("releasedAt") or "",
            )
            for attr in spec.get("attributes") or ()
        ),
        sequence_number=_int(spec, "sequenceNumber", 0),
        sequence_numbers={int(k): v for k, v in (spec.get("sequenceNumberForAllocation") or {}).items()},
        affinity_claim_time=spec.get("affinityClaimTime") or "",
        strict_affinity=bool(spec.get("strictAffinity", False)),
        deleted=_bool(spec.get("deleted")),
    )


def _encode_attribute(attr: Attribute) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if attr.handle_id is not None:
        out["handle_id"] = attr.handle_id
    if attr.secondary:
        out["secondary"] = dict(attr.secondary)
    if attr.alternate:
        out["alternateOwnerAttrs"] = dict(attr.alternate)
    if attr.released_at:
        out["releasedAt"] = attr.released_at
    return out


def _encode_block(block: IPAMBlock) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "cidr": str(block.cidr),
        "allocations": list(block.allocations),
        "unallocated": list(block.unallocated),
        "attributes": [_encode_attribute(attr) for attr in block.attributes],
        "sequenceNumber": block.sequence_number,
        "sequenceNumberForAllocation": {str(k): v for k, v in block.sequence_numbers.items()},
        "strictAffinity": block.strict_affinity,
        "deleted": block.deleted,
    }
    if block.affinity is not None:
        spec["affinity"] = block.affinity
    if block.affinity_claim_time:
        spec["affinityClaimTime"] = block.affinity_claim_time
    return _object("IPAMBlock", block.meta, spec)


def _decode_handle(obj: Json) -> IPAMHandle:
    spec = obj.get("spec") or {}
    return IPAMHandle(
        meta=decode_meta(obj),
        handle_id=spec.get("handleID", ""),
        blocks={parse_network(k, field="spec.block"): v for k, v in (spec.get("block") or {}).items()},
        deleted=_bool(spec.get("deleted")),
    )


def _encode_handle(handle: IPAMHandle) -> dict[str, Any]:
    spec = {
        "handleID": handle.handle_id,
        "block": {str(k): v for k, v in handle.blocks.items()},
        "deleted": handle.deleted,
    }
    return _object("IPAMHandle", handle.meta, spec)


def _decode_ipam_configuration(obj: Json) -> IPAMConfiguration:
    spec = obj.get("spec") or {}
    cooldown = spec.get("ipCooldownSeconds")
    return IPAMConfiguration(
        meta=decode_meta(obj),
        strict_affinity=bool(spec.get("strictAffinity", False)),
        auto_allocate_blocks=bool(spec.get("autoAllocateBlocks", True)),
        max_blocks_per_host=_int(spec, "maxBlocksPerHost", 0),
        ip_cooldown_seconds=cooldown if isinstance(cooldown, int) else None,
    )


def _encode_ipam_configuration(config: IPAMConfiguration) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "strictAffinity": config.strict_affinity,
        "autoAllocateBlocks": config.auto_allocate_blocks,
        "maxBlocksPerHost": config.max_blocks_per_host,
    }
    if config.ip_cooldown_seconds is not None:
        spec["ipCooldownSeconds"] = config.ip_cooldown_seconds
    return _object("IPAMConfiguration", config.meta, spec)


def _decode_reservation(obj: Json) -> IPReservation:
    """As in Calico a CIDR with host bits, which the schema lets pass, is the network in which the address lies."""
    cidrs = (obj.get("spec") or {}).get("reservedCIDRs") or ()
    return IPReservation(
        meta=decode_meta(obj),
        reserved_cidrs=tuple(parse_interface(cidr, field="spec.reservedCIDRs").network for cidr in cidrs),
    )


def _encode_reservation(reservation: IPReservation) -> dict[str, Any]:
    spec = {"reservedCIDRs": [str(cidr) for cidr in reservation.reserved_cidrs]}
    return _object("IPReservation", reservation.meta, spec)


# Fields of BGPConfiguration that calico-py acts on, and those that the schema itself sets; status names all others.
BGP_FIELDS = frozenset(
    {
        "asNumber",
        "listenPort",
        "logSeverityScreen",
        "nodeToNodeMeshEnabled",
        "programClusterRoutes",
        "serviceLoadBalancerAggregation",
    }
)


def _decode_bgp_configuration(obj: Json) -> BGPConfiguration:
    spec = obj.get("spec") or {}
    return BGPConfiguration(
        meta=decode_meta(obj),
        as_number=parse_as_number(spec.get("asNumber"), field="spec.asNumber"),
        listen_port=_int(spec, "listenPort", 0) or None,
        mesh_enabled=bool(spec.get("nodeToNodeMeshEnabled", True)),
        program_cluster_routes=_optional_enum(ProgramClusterRoutes, spec, "programClusterRoutes"),
        ignored=tuple(sorted(spec.keys() - BGP_FIELDS)),
    )


def _encode_bgp_configuration(config: BGPConfiguration) -> dict[str, Any]:
    spec: dict[str, Any] = {"nodeToNodeMeshEnabled": config.mesh_enabled}
    if config.as_number is not None:
        spec["asNumber"] = config.as_number
    if config.listen_port is not None:
        spec["listenPort"] = config.listen_port
    if config.program_cluster_routes is not None:
        spec["programClusterRoutes"] = str(config.program_cluster_routes)
    return _object("BGPConfiguration", config.meta, spec)


# Fields of FelixConfiguration that calico-py acts on; status names all others that an object sets.
FELIX_FIELDS = frozenset({"programClusterRoutes"})


def _decode_felix(obj: Json) -> FelixConfiguration:
    spec = obj.get("spec") or {}
    return FelixConfiguration(
        meta=decode_meta(obj),
        program_cluster_routes=_optional_enum(ProgramClusterRoutes, spec, "programClusterRoutes"),
        ignored=tuple(sorted(set(spec) - FELIX_FIELDS)),
    )


def _encode_felix(config: FelixConfiguration) -> dict[str, Any]:
    spec = {}
    if config.program_cluster_routes is not None:
        spec["programClusterRoutes"] = str(config.program_cluster_routes)
    return _object("FelixConfiguration", config.meta, spec)


def parse_as_number(found: Any, *, field: str) -> int | None:
    """An AS number as Calico writes them: an integer, or dotted as in RFC 5396; None where absent.

    Raises:
        InvalidError: out of range or no number.
    """
    if found in (None, ""):
        return None
    text = str(found)
    try:
        if "." in text:
            high, low = (int(part) for part in text.split("."))
            number = (high << 16) + low if 0 <= high <= 0xFFFF and 0 <= low <= 0xFFFF else -1
        else:
            number = int(text)
    except ValueError:
        number = -1
    if not 1 <= number <= 0xFFFFFFFF:
        raise InvalidError(field, found, "an AS number from 1 to 4294967295")
    return number


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


def _decode_node(obj: Json) -> Node:
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


def _encode_node(node: Node) -> dict[str, Any]:
    """Only for fakes: agents write a Node by patches alone."""
    out = _object("Node", node.meta, {}, api_version="v1")
    del out["spec"]
    return out


def _calico(kind: str, plural: str, decode: Any, encode: Any, *, page_size: int = 0) -> Kind[Any]:
    return Kind(kind, names.GROUP, names.VERSION, plural, decode, encode, page_size=page_size)


IP_POOLS: Kind[IPPool] = _calico("IPPool", "ippools", _decode_pool, _encode_pool)
BLOCK_AFFINITIES: Kind[BlockAffinity] = _calico("BlockAffinity", "blockaffinities", _decode_affinity, _encode_affinity)
IPAM_BLOCKS: Kind[IPAMBlock] = _calico(
    "IPAMBlock", "ipamblocks", _decode_block, _encode_block, page_size=_BLOCKS_A_PAGE
)
IPAM_HANDLES: Kind[IPAMHandle] = _calico(
    "IPAMHandle", "ipamhandles", _decode_handle, _encode_handle, page_size=PAGE_SIZE
)
IPAM_CONFIGURATIONS: Kind[IPAMConfiguration] = _calico(
    "IPAMConfiguration", "ipamconfigurations", _decode_ipam_configuration, _encode_ipam_configuration
)
IP_RESERVATIONS: Kind[IPReservation] = _calico(
    "IPReservation", "ipreservations", _decode_reservation, _encode_reservation
)
BGP_CONFIGURATIONS: Kind[BGPConfiguration] = _calico(
    "BGPConfiguration", "bgpconfigurations", _decode_bgp_configuration, _encode_bgp_configuration
)
FELIX_CONFIGURATIONS: Kind[FelixConfiguration] = _calico(
    "FelixConfiguration", "felixconfigurations", _decode_felix, _encode_felix
)
NODES: Kind[Node] = Kind("Node", "", "v1", "nodes", _decode_node, _encode_node, metadata_only=True)
