"""The codecs of IPAM: BlockAffinity, IPAMBlock, IPAMHandle, IPAMConfiguration, IPReservation.

Each ``decode_`` raises InvalidError with the path of a field that cannot be right; each ``encode_`` gives all of it.
"""

from typing import Any

from calico_py.model.blocks import (
    AffinityState,
    Attribute,
    BlockAffinity,
    IPAMBlock,
    IPAMConfiguration,
    IPAMHandle,
    IPReservation,
)
from calico_py.model.codec import decode_meta, encode_object, read_bool, read_enum, read_int, shared
from calico_py.model.meta import NOTHING
from calico_py.model.net import InvalidError, parse_interface, parse_network
from calico_py.model.store import Json

_NAMES = frozenset({"node", "namespace", "pod"})


def decode_affinity(obj: Json) -> BlockAffinity:
    """Read a BlockAffinity."""
    spec = obj.get("spec") or {}
    return BlockAffinity(
        meta=decode_meta(obj),
        cidr=parse_network(spec.get("cidr", ""), field="spec.cidr"),
        node=spec.get("node", ""),
        state=read_enum(AffinityState, spec, "state", AffinityState.PENDING),
        type=spec.get("type") or "host",
        deleted=read_bool(spec.get("deleted")),
    )


def encode_affinity(affinity: BlockAffinity) -> dict[str, Any]:
    """Write a BlockAffinity."""
    spec = {
        "cidr": str(affinity.cidr),
        "node": affinity.node,
        "state": str(affinity.state),
        "type": affinity.type,
        "deleted": affinity.deleted,
    }
    return encode_object("BlockAffinity", affinity.meta, spec)


def decode_block(obj: Json) -> IPAMBlock:
    """Read an IPAMBlock."""
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
                handle_id=shared(attr.get("handle_id")),
                secondary=_notes(attr.get("secondary")),
                alternate=_notes(attr.get("alternateOwnerAttrs")),
                released_at=attr.get("releasedAt") or "",
            )
            for attr in spec.get("attributes") or ()
        ),
        sequence_number=read_int(spec, "sequenceNumber", 0),
        sequence_numbers={int(k): v for k, v in (spec.get("sequenceNumberForAllocation") or {}).items()},
        affinity_claim_time=spec.get("affinityClaimTime") or "",
        strict_affinity=bool(spec.get("strictAffinity", False)),
        deleted=read_bool(spec.get("deleted")),
    )


def _notes(found: Json | None) -> Json:
    """An owner's; its pod and its node have the same names."""
    return {key: shared(value) if key in _NAMES else value for key, value in found.items()} if found else NOTHING


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


def encode_block(block: IPAMBlock) -> dict[str, Any]:
    """Write an IPAMBlock."""
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
    return encode_object("IPAMBlock", block.meta, spec)


def decode_handle(obj: Json) -> IPAMHandle:
    """Read an IPAMHandle."""
    spec = obj.get("spec") or {}
    return IPAMHandle(
        meta=decode_meta(obj),
        handle_id=shared(spec.get("handleID", "")),
        blocks={parse_network(k, field="spec.block"): v for k, v in (spec.get("block") or {}).items()},
        deleted=read_bool(spec.get("deleted")),
    )


def encode_handle(handle: IPAMHandle) -> dict[str, Any]:
    """Write an IPAMHandle."""
    spec = {
        "handleID": handle.handle_id,
        "block": {str(k): v for k, v in handle.blocks.items()},
        "deleted": handle.deleted,
    }
    return encode_object("IPAMHandle", handle.meta, spec)


def decode_ipam_configuration(obj: Json) -> IPAMConfiguration:
    """Read an IPAMConfiguration."""
    spec = obj.get("spec") or {}
    cooldown = spec.get("ipCooldownSeconds")
    return IPAMConfiguration(
        meta=decode_meta(obj),
        strict_affinity=bool(spec.get("strictAffinity", False)),
        auto_allocate_blocks=bool(spec.get("autoAllocateBlocks", True)),
        max_blocks_per_host=read_int(spec, "maxBlocksPerHost", 0),
        ip_cooldown_seconds=cooldown if isinstance(cooldown, int) else None,
    )


def encode_ipam_configuration(config: IPAMConfiguration) -> dict[str, Any]:
    """Write an IPAMConfiguration."""
    spec: dict[str, Any] = {
        "strictAffinity": config.strict_affinity,
        "autoAllocateBlocks": config.auto_allocate_blocks,
        "maxBlocksPerHost": config.max_blocks_per_host,
    }
    if config.ip_cooldown_seconds is not None:
        spec["ipCooldownSeconds"] = config.ip_cooldown_seconds
    return encode_object("IPAMConfiguration", config.meta, spec)


def decode_reservation(obj: Json) -> IPReservation:
    """As in Calico a CIDR with host bits, which the schema lets pass, is the network in which the address lies."""
    cidrs = (obj.get("spec") or {}).get("reservedCIDRs") or ()
    return IPReservation(
        meta=decode_meta(obj),
        reserved_cidrs=tuple(parse_interface(cidr, field="spec.reservedCIDRs").network for cidr in cidrs),
    )


def encode_reservation(reservation: IPReservation) -> dict[str, Any]:
    """Write an IPReservation."""
    spec = {"reservedCIDRs": [str(cidr) for cidr in reservation.reserved_cidrs]}
    return encode_object("IPReservation", reservation.meta, spec)
