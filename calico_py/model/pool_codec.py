"""The codec of IPPool."""

from typing import Any

from calico_py.model.codec import decode_meta, encode_object, read_enum, read_int
from calico_py.model.net import InvalidError, parse_network
from calico_py.model.pools import AllowedUse, EncapMode, IPPool
from calico_py.model.store import Json


def decode_pool(obj: Json) -> IPPool:
    """An IPPool; InvalidError names the field that cannot be right."""
    spec = obj.get("spec") or {}
    cidr = parse_network(spec.get("cidr", ""), field="spec.cidr")
    low, high, default = (20, 32, 26) if cidr.version == 4 else (116, 128, 122)
    size = read_int(spec, "blockSize", default) or default
    if not low <= size <= high:
        raise InvalidError("spec.blockSize", size, f"{low} to {high} for an IPv{cidr.version} pool")
    if cidr.prefixlen > size and not spec.get("disabled"):
        raise InvalidError("spec.cidr", str(cidr), f"a network of at least one block: /{size} or shorter")
    ipip = read_enum(EncapMode, spec, "ipipMode", EncapMode.NEVER)
    vxlan = read_enum(EncapMode, spec, "vxlanMode", EncapMode.NEVER)
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


def encode_pool(pool: IPPool) -> dict[str, Any]:
    """The whole object."""
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
    return encode_object("IPPool", pool.meta, spec)
