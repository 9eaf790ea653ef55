"""What the leader writes on pools: whether addresses are handed out, and that a deleted one is kept for a while. Pure.

``kubectl get ippools`` shows the condition Allocatable. A finalizer keeps a pool for as long as pods have addresses of
it: with the pool they would lose natOutgoing and the tunnel.

Reasons are Calico's (api/pkg/apis/projectcalico/v3/ippool.go): OK, CIDROverlap, PoolDisabled, Terminating; and Invalid
for a pool that the schema let through and that cannot be used.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from calico_py.model.codec import decode_meta
from calico_py.model.kinds import IP_POOLS
from calico_py.model.meta import Meta
from calico_py.model.names import POOL_FINALIZER
from calico_py.model.net import InvalidError, Network, contains
from calico_py.model.pools import IPPool
from calico_py.model.selectors import parse_selector
from calico_py.model.store import Json, Kind
from calico_py.routing.pools import select_pools

ALLOCATABLE = "Allocatable"


@dataclass(frozen=True, slots=True)
class PoolConditions:
    """The conditions and finalizers of a pool as the API server has them, foreign ones included."""

    meta: Meta
    conditions: tuple[Mapping[str, Any], ...] = ()
    finalizers: tuple[str, ...] = ()


def _decode(obj: Json) -> PoolConditions:
    conditions = (obj.get("status") or {}).get("conditions") or ()
    return PoolConditions(decode_meta(obj), tuple(conditions), tuple(obj["metadata"].get("finalizers") or ()))


POOL_CONDITIONS: Kind[PoolConditions] = IP_POOLS.seen_as(_decode)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a pool hands out addresses, the reason in a word and in a sentence.

    Attributes:
        holds: blocks are its own, so that its deletion waits for their addresses.
    """

    allocatable: bool
    reason: str
    message: str = ""
    holds: bool = True


def judge_pools(
    pools: Iterable[IPPool], invalid: Mapping[str, InvalidError], *, in_use: Collection[Network] | None = None
) -> dict[str, Verdict]:
    """The verdict on each pool, by name; ``in_use``: blocks in which pods have addresses, None where unknown."""
    selected = select_pools(pools)
    verdicts = {
        problem.name: Verdict(False, problem.reason, problem.message, holds=False) for problem in selected.problems
    }
    for name, unreadable in invalid.items():
        why = f"IPPool {name} is not used: {unreadable}; mend or delete it"
        verdicts[name] = Verdict(False, "Invalid", why, holds=False)
    for pool in selected.usable:
        if pool.meta.deleting:
            verdicts[pool.name] = _farewell(pool, in_use)
        elif pool.disabled:
            why = f"IPPool {pool.name}: spec.disabled is true; addresses in use go on to work"
            verdicts[pool.name] = Verdict(False, "PoolDisabled", why)
        elif error := _wrong_selector(pool):
            why = f"IPPool {pool.name} gives addresses only to pods that name it: {error}"
            verdicts[pool.name] = Verdict(False, "Invalid", why)
        else:
            verdicts[pool.name] = Verdict(True, "OK")
    return verdicts


def _wrong_selector(pool: IPPool) -> InvalidError | None:
    """What is wrong with the pool's selectors, whose grammar the schema does not know."""
    try:
        parse_selector(pool.node_selector, field="spec.nodeSelector")
        parse_selector(pool.namespace_selector, field="spec.namespaceSelector")
    except InvalidError as error:
        return error
    return None


def _farewell(pool: IPPool, in_use: Collection[Network] | None) -> Verdict:
    left = [cidr for cidr in in_use or () if contains(pool.cidr, cidr)]
    message = f"IPPool {pool.name} is being deleted"
    if left:
        blocks = f"block {left[0]}" if len(left) == 1 else f"{len(left)} blocks"
        message += f": it goes with the last address that pods have in {blocks} (calico-py ipam show --addresses)"
    return Verdict(False, "Terminating", message, holds=in_use is None or bool(left))


def plan_finalizers(found: Iterable[PoolConditions], verdicts: Mapping[str, Verdict]) -> dict[str, dict[str, Any]]:
    """Merge patches that put the finalizer on pools that have blocks and take it off others, by name of the pool.

    Conditional on the version that was looked at, because the list of finalizers is replaced as a whole. An object that
    is being deleted takes no new finalizer.
    """
    patches = {}
    for pool in found:
        verdict = verdicts.get(pool.meta.name)
        if verdict is None or verdict.holds == (POOL_FINALIZER in pool.finalizers):
            continue
        if verdict.holds and pool.meta.deleting:
            continue
        others = [name for name in pool.finalizers if name != POOL_FINALIZER]
        patches[pool.meta.name] = {
            "metadata": {
                "resourceVersion": pool.meta.resource_version,
                "finalizers": [*others, POOL_FINALIZER] if verdict.holds else others,
            }
        }
    return patches


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
