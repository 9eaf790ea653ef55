"""The codecs of BGPConfiguration and FelixConfiguration.

Each ``decode_`` raises InvalidError with the path of a field that cannot be right; each ``encode_`` gives all of it.
"""

from typing import Any

from calico_py.model.bgp import BGPConfiguration, FelixConfiguration, ProgramClusterRoutes
from calico_py.model.codec import decode_meta, encode_object, read_int, read_optional_enum
from calico_py.model.net import InvalidError
from calico_py.model.store import Json

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


def decode_bgp_configuration(obj: Json) -> BGPConfiguration:
    """Read a BGPConfiguration."""
    spec = obj.get("spec") or {}
    return BGPConfiguration(
        meta=decode_meta(obj),
        as_number=parse_as_number(spec.get("asNumber"), field="spec.asNumber"),
        listen_port=read_int(spec, "listenPort", 0) or None,
        mesh_enabled=bool(spec.get("nodeToNodeMeshEnabled", True)),
        program_cluster_routes=read_optional_enum(ProgramClusterRoutes, spec, "programClusterRoutes"),
        ignored=tuple(sorted(spec.keys() - BGP_FIELDS)),
    )


def encode_bgp_configuration(config: BGPConfiguration) -> dict[str, Any]:
    """Write a BGPConfiguration."""
    spec: dict[str, Any] = {"nodeToNodeMeshEnabled": config.mesh_enabled}
    if config.as_number is not None:
        spec["asNumber"] = config.as_number
    if config.listen_port is not None:
        spec["listenPort"] = config.listen_port
    if config.program_cluster_routes is not None:
        spec["programClusterRoutes"] = str(config.program_cluster_routes)
    return encode_object("BGPConfiguration", config.meta, spec)


# Fields of FelixConfiguration that calico-py acts on; status names all others that an object sets.
FELIX_FIELDS = frozenset({"programClusterRoutes"})


def decode_felix(obj: Json) -> FelixConfiguration:
    """Read a FelixConfiguration."""
    spec = obj.get("spec") or {}
    return FelixConfiguration(
        meta=decode_meta(obj),
        program_cluster_routes=read_optional_enum(ProgramClusterRoutes, spec, "programClusterRoutes"),
        ignored=tuple(sorted(set(spec) - FELIX_FIELDS)),
    )


def encode_felix(config: FelixConfiguration) -> dict[str, Any]:
    """Write a FelixConfiguration."""
    spec = {}
    if config.program_cluster_routes is not None:
        spec["programClusterRoutes"] = str(config.program_cluster_routes)
    return encode_object("FelixConfiguration", config.meta, spec)


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
