"""Writes what the environment makes of the pools, once, when the agent starts; other nodes may do the same then."""

import logging
from collections.abc import Sequence

import yaml

from calico_py.agent.configuration.config import PoolSettings
from calico_py.agent.pools import PoolPlan, Surroundings, plan_default_pools
from calico_py.model.intent import Problem
from calico_py.model.kinds import IP_POOLS
from calico_py.model.net import InvalidError, Network, parse_network
from calico_py.model.store import (
    ConflictError,
    ExistsError,
    Json,
    Kind,
    NotFoundError,
    RefusedError,
    Store,
)

log = logging.getLogger(__name__)

# Each attempt begins with a fresh list; more than one is needed only while other nodes write the same pools.
_ATTEMPTS = 10


async def write_default_pools(
    store: Store, wanted: Sequence[PoolSettings], *, generation: int, surroundings: Surroundings
) -> tuple[Problem, ...]:
    """Create or change the pools that the environment owns.

    Returns:
        Where pools differ from the environment and win, and what the API server refused.

    Raises:
        StoreError: the API server is away, or other writers were always faster.
    """
    for _ in range(_ATTEMPTS - 1):
        try:
            return await _attempt(store, wanted, generation, surroundings)
        except (ConflictError, ExistsError, NotFoundError) as error:
            log.info("the pools changed meanwhile, looking again: %s", error)
    return await _attempt(store, wanted, generation, surroundings)


async def _attempt(
    store: Store, wanted: Sequence[PoolSettings], generation: int, surroundings: Surroundings
) -> tuple[Problem, ...]:
    listing = await store.list(IP_POOLS)
    plan = plan_default_pools(listing.items, wanted, generation=generation, surroundings=surroundings)
    refused = await _write(store, plan, taken=frozenset(invalid.name for invalid in listing.invalid))
    return (*plan.differences, *refused)


async def _write(store: Store, plan: PoolPlan, taken: frozenset[str]) -> list[Problem]:
    refused = []
    for pool in plan.creations:
        if pool.name in taken:  # it exists and cannot be used; the reflector of pools says so
            continue
        try:
            await store.create(IP_POOLS, pool)
        except RefusedError as error:
            refused.append(Problem("IPPool", pool.name, "Refused", f"{error} (from the environment's settings)"))
        else:
            log.info("made IPPool %s with CIDR %s from the environment", pool.name, pool.cidr)
    for patch in plan.patches:
        try:
            await store.patch(IP_POOLS, patch.name, patch.patch)
        except RefusedError as error:
            refused.append(Problem("IPPool", patch.name, "Refused", f"{error} (from the environment's settings)"))
        else:
            for change in patch.changes:
                log.info("changed %s", change)
    return refused


def _decode_kubeadm(obj: Json) -> tuple[Network, ...]:
    text = (obj.get("data") or {}).get("ClusterConfiguration", "")
    try:
        subnets = ((yaml.safe_load(text) or {}).get("networking") or {}).get("podSubnet") or ""
        return tuple(parse_network(cidr.strip(), field="podSubnet") for cidr in subnets.split(",") if cidr.strip())
    except (yaml.YAMLError, AttributeError, InvalidError):
        return ()


_KUBEADM: Kind[tuple[Network, ...]] = Kind(
    "ConfigMap", "", "v1", "configmaps", _decode_kubeadm, namespaced=True, namespace="kube-system"
)


async def read_cluster_cidrs(store: Store) -> tuple[Network, ...]:
    """The pod networks that kubeadm was told (podSubnet); none where the cluster is not kubeadm's.

    Raises:
        StoreError: the API server is away.
    """
    try:
        return await store.get(_KUBEADM, "kubeadm-config", namespace="kube-system")
    except (NotFoundError, RefusedError):
        return ()
