"""The condition Allocatable of pools, by which ``kubectl get ippools`` shows whether addresses are handed out. Pure.

Reasons are Calico's (api/pkg/apis/projectcalico/v3/ippool.go): OK, CIDROverlap, PoolDisabled, Terminating; and Invalid
for a pool that the schema let through and that cannot be used.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from calico_py.model.codec import decode_meta
from calico_py.model.kinds import IP_POOLS
from calico_py.model.meta import Meta
from calico_py.model.net import InvalidError
from calico_py.model.pools import IPPool
from calico_py.model.store import Json, Kind
from calico_py.routing.pools import select_pools

ALLOCATABLE = "Allocatable"


@dataclass(frozen=True, slots=True)
class PoolConditions:
    """The conditions of a pool as the API server has them, foreign ones included."""

    meta: Meta
    conditions: tuple[Mapping[str, Any], ...] = ()


def _decode(obj: Json) -> PoolConditions:
    return PoolConditions(decode_meta(obj), tuple((obj.get("status") or {}).get("conditions") or ()))


def _never(_: PoolConditions) -> dict[str, Any]:
    raise AssertionError("conditions are only read and patched")


POOL_CONDITIONS: Kind[PoolConditions] = Kind(
    IP_POOLS.kind, IP_POOLS.group, IP_POOLS.version, IP_POOLS.plural, _decode, _never
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a pool hands out addresses, the reason in a word and in a sentence."""

    allocatable: bool
    reason: str
    message: str = ""


def judge_pools(pools: Iterable[IPPool], invalid: Mapping[str, InvalidError]) -> dict[str, Verdict]:
    """The verdict on each pool, by name."""
    selected = select_pools(pools)
    verdicts = {problem.name: Verdict(False, problem.reason, problem.message) for problem in selected.problems}
    for name, error in invalid.items():
        verdicts[name] = Verdict(False, "Invalid", f"IPPool {name} is not used: {error}")
    for pool in selected.usable:
        if pool.meta.deleting:
            verdicts[pool.name] = Verdict(False, "Terminating", f"IPPool {pool.name} is being deleted")
        elif pool.disabled:
            why = f"IPPool {pool.name}: spec.disabled is true; addresses in use go on to work"
            verdicts[pool.name] = Verdict(False, "PoolDisabled", why)
        else:
            verdicts[pool.name] = Verdict(True, "OK")
    return verdicts


def plan_conditions(
    found: Iterable[PoolConditions], verdicts: Mapping[str, Verdict], *, now: str
) -> dict[str, dict[str, Any]]:
    """Merge patches of the status of those pools whose condition differs, by name of the pool.

    Conditional on the version that was looked at, because the list of conditions is replaced as a whole.

    Args:
        found: all pools as the API server has them.
        verdicts: what their conditions should say; a pool without one is left alone.
        now: RFC 3339 time, for conditions whose status changes.
    """
    patches = {}
    for pool in found:
        verdict = verdicts.get(pool.meta.name)
        if verdict is None:
            continue
        before = next((entry for entry in pool.conditions if entry.get("type") == ALLOCATABLE), {})
        wanted = {
            "type": ALLOCATABLE,
            "status": "True" if verdict.allocatable else "False",
            "reason": verdict.reason,
            "message": verdict.message,
        }
        if all(before.get(key) == value for key, value in wanted.items()):
            continue
        changed = before.get("status") != wanted["status"]
        wanted["lastTransitionTime"] = now if changed else before.get("lastTransitionTime", now)
        entry = {**wanted, "observedGeneration": pool.meta.generation}
        others = [dict(other) for other in pool.conditions if other.get("type") != ALLOCATABLE]
        patches[pool.meta.name] = {
            "metadata": {"resourceVersion": pool.meta.resource_version},
            "status": {"conditions": [*others, entry]},
        }
    return patches
