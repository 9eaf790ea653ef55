"""The pools that the environment makes, and the three-way merge by which it changes them later. Pure.

The environment owns a pool that it made until a person edits it, field by field: the annotation
calico-py.io/pool-from-env records what the environment set (the base). A field is changed to what the environment says
today where the pool still has the base's value; else the pool wins and a Problem tells. The record also carries the
generation of the DaemonSet's template, and an older one changes nothing.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from calico_py.agent.configuration.config import PoolSettings
from calico_py.model.intent import Problem
from calico_py.model.kinds import IP_POOLS
from calico_py.model.meta import Meta
from calico_py.model.names import POOL_FROM_ENV
from calico_py.model.net import Address, Family, Network
from calico_py.model.pools import AllowedUse, IPPool

POOL_NAMES: Mapping[Family, str] = {4: "default-ipv4-ippool", 6: "default-ipv6-ippool"}

# Calico's candidates for the IPv4 pool, in order.
_CANDIDATES = (ip_network("192.168.0.0/16"), *(ip_network(f"172.{second}.0.0/16") for second in range(16, 32)))

# Fields of the spec that a setting sets, and the end of the setting's name; the first two can't be changed later.
_FIELDS: Mapping[str, str] = {
    "cidr": "CIDR",
    "blockSize": "BLOCK_SIZE",
    "ipipMode": "IPIP",
    "vxlanMode": "VXLAN",
    "natOutgoing": "NAT_OUTGOING",
    "nodeSelector": "NODE_SELECTOR",
    "disableBGPExport": "DISABLE_BGP_EXPORT",
}
_IMMUTABLE = frozenset({"cidr", "blockSize"})


@dataclass(frozen=True, slots=True)
class PoolPatch:
    """A change of an existing pool.

    Attributes:
        patch: merge patch; conditional on the resourceVersion of the pool that was looked at.
        changes: what it does, for the log, as sentences.
    """

    name: str
    patch: Mapping[str, Any]
    changes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """What the environment makes of the pools.

    Attributes:
        differences: where a pool differs from the environment and wins.
    """

    creations: tuple[IPPool, ...] = ()
    patches: tuple[PoolPatch, ...] = ()
    differences: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the choice of a CIDR looks at.

    Attributes:
        addresses: of this host.
        ipv6: the kernel has IPv6.
        cluster_cidrs: what the cluster says of its pod network (kubeadm's podSubnet).
        random_ula: gives a /48 of RFC 4193 with a random global id.
    """

    addresses: Sequence[Address]
    ipv6: bool
    random_ula: Callable[[], IPv6Network]
    cluster_cidrs: Sequence[Network] = ()


def plan_default_pools(
    existing: Iterable[IPPool], wanted: Iterable[PoolSettings], *, generation: int, surroundings: Surroundings
) -> PoolPlan:
    """What to create and to change so that the pools are what the environment says.

    Args:
        existing: all pools of the cluster.
        wanted: settings, one for each family for which a pool is wanted.
        generation: of the DaemonSet's template from which this agent comes; 0 where unknown.
        surroundings: of this host.
    """
    pools = sorted(existing, key=lambda pool: pool.name)
    creations: list[IPPool] = []
    patches: list[PoolPatch] = []
    differences: list[Problem] = []
    for settings in wanted:
        same_family = [pool for pool in pools if pool.cidr.version == settings.family and _for_pods(pool)]
        made = next((pool for pool in same_family if POOL_FROM_ENV in pool.meta.annotations), None)
        if made is not None:
            patch, told = _merge(made, settings, generation)
            differences.extend(told)
            if patch is not None:
                patches.append(patch)
        elif same_family:
            differences.extend(_ignored(same_family, settings))
        elif settings.family == 4 or surroundings.ipv6 or settings.range.cidr is not None:
            creations.append(_create(settings, generation, surroundings))
    return PoolPlan(tuple(creations), tuple(patches), tuple(differences))


def choose_ipv4_cidr(addresses: Iterable[Address]) -> IPv4Network:
    """The first of Calico's candidates in which the host has no address; if it has one in each, the first."""
    taken = [address for address in addresses if address.version == 4]
    free = (cidr for cidr in _CANDIDATES if not any(address in cidr for address in taken))
    chosen = next(free, _CANDIDATES[0])
    assert isinstance(chosen, IPv4Network)
    return chosen


def ula(random_bytes: bytes) -> IPv6Network:
    """The /48 of fd00::/8 with five bytes of global id (RFC 4193 3.1)."""
    assert len(random_bytes) == 5
    return IPv6Network((b"\xfd" + random_bytes + bytes(10), 48))


def _create(settings: PoolSettings, generation: int, surroundings: Surroundings) -> IPPool:
    cidr = settings.range.cidr or next(
        (cidr for cidr in surroundings.cluster_cidrs if cidr.version == settings.family), None
    )
    if cidr is None:
        cidr = choose_ipv4_cidr(surroundings.addresses) if settings.family == 4 else surroundings.random_ula()
    pool = IPPool(
        meta=Meta(POOL_NAMES[settings.family]),
        cidr=cidr,
        block_size=settings.block_size,
        ipip_mode=settings.ipip_mode,
        vxlan_mode=settings.vxlan_mode,
        nat_outgoing=settings.nat_outgoing,
        node_selector=settings.node_selector,
        disable_bgp_export=settings.disable_bgp_export,
    )
    record = _encode_record(generation, _fields_of(pool))
    return dataclasses.replace(pool, meta=Meta(pool.name, annotations={POOL_FROM_ENV: record}))


def _merge(pool: IPPool, settings: PoolSettings, generation: int) -> tuple[PoolPatch | None, tuple[Problem, ...]]:
    """The patch that brings the pool to the environment's values where nobody has edited it."""
    recorded, base = _decode_record(pool.meta.annotations[POOL_FROM_ENV])
    if 0 < generation < recorded:
        return None, ()
    may_change = generation > recorded or recorded == 0
    live, env = _fields_of(pool), _fields_of_settings(settings)
    spec: dict[str, Any] = {}
    record = dict(base)
    changes: list[str] = []
    differences: list[Problem] = []
    for field, value in env.items():
        was = live[field]
        if was == value:
            record[field] = value
        elif field in _IMMUTABLE:
            differences.append(_differs(pool, settings, field, _UNCHANGEABLE))
        elif was != base.get(field):
            differences.append(_differs(pool, settings, field, _EDITED))
        elif not may_change:
            why = f"the pool follows the environment of template generation {recorded}; this agent's is {generation}"
            differences.append(_differs(pool, settings, field, why))
        else:
            spec[field] = record[field] = value
            name = _named(settings, field)
            changes.append(f"IPPool {pool.name}: spec.{field} {_spelt(was)} becomes {_spelt(value)} ({name})")
    if not may_change or (record == base and generation == recorded):
        return None, tuple(differences)
    annotations = {POOL_FROM_ENV: _encode_record(generation, record)}
    patch: dict[str, Any] = {"metadata": {"resourceVersion": pool.meta.resource_version, "annotations": annotations}}
    if spec:
        patch["spec"] = spec
    return PoolPatch(pool.name, patch, tuple(changes)), tuple(differences)


_UNCHANGEABLE = "the field cannot be changed; make another pool and disable this one"
_EDITED = "the pool was edited since and wins; set the field in the pool, or the environment back"
_FOREIGN = "the environment has not made this pool, which wins; set the field in the pool"


def _ignored(pools: Sequence[IPPool], settings: PoolSettings) -> Iterator[Problem]:
    """The environment's explicit values that a pool does not have; people made these pools, and they win."""
    named = next((pool for pool in pools if pool.name == POOL_NAMES[settings.family]), None)
    pool = named or next((pool for pool in pools if pool.cidr == settings.range.cidr), pools[0])
    live = _fields_of(pool)
    for field, value in _fields_of_settings(settings).items():
        if _named(settings, field) in settings.explicit and live[field] != value:
            yield _differs(pool, settings, field, _FOREIGN)


def _differs(pool: IPPool, settings: PoolSettings, field: str, why: str) -> Problem:
    live, env = _fields_of(pool)[field], _fields_of_settings(settings)[field]
    message = f"IPPool {pool.name}: spec.{field} is {_spelt(live)}, {_named(settings, field)} is {_spelt(env)}: {why}"
    return Problem("IPPool", pool.name, "DiffersFromEnvironment", message)


def _spelt(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _named(settings: PoolSettings, field: str) -> str:
    return f"CALICO_IPV{settings.family}POOL_{_FIELDS[field]}"


def _fields_of(pool: IPPool) -> dict[str, Any]:
    spec = IP_POOLS.encode(pool)["spec"]
    return {field: spec.get(field, False) for field in _FIELDS}


def _fields_of_settings(settings: PoolSettings) -> dict[str, Any]:
    """The same of the environment, without a CIDR where it leaves the choice to us."""
    fields = {
        "cidr": str(settings.range.cidr) if settings.range.cidr is not None else None,
        "blockSize": settings.block_size,
        "ipipMode": str(settings.ipip_mode),
        "vxlanMode": str(settings.vxlan_mode),
        "natOutgoing": settings.nat_outgoing,
        "nodeSelector": settings.node_selector,
        "disableBGPExport": settings.disable_bgp_export,
    }
    return {field: value for field, value in fields.items() if value is not None}


def _encode_record(generation: int, fields: Mapping[str, Any]) -> str:
    return json.dumps({"generation": generation, "spec": dict(sorted(fields.items()))})


def _decode_record(text: str) -> tuple[int, dict[str, Any]]:
    """A record that cannot be read counts as one that set nothing: then every difference is the pool's."""
    try:
        record = json.loads(text)
        return int(record["generation"]), dict(record["spec"])
    except (ValueError, KeyError, TypeError):
        return 0, {}


def _for_pods(pool: IPPool) -> bool:
    return AllowedUse.LOAD_BALANCER not in pool.allowed_uses
