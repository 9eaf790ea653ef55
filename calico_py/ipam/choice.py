"""Which pools may serve a request, in order, and why the others may not. Pure."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from calico_py.ipam.requests import AssignRequest, PoolError
from calico_py.model.net import Address, Family, InvalidError, Network, contains
from calico_py.model.pools import AllowedUse, IPPool
from calico_py.model.selectors import parse_selector


@dataclass(frozen=True, slots=True)
class Choice:
    """The pools of one family for one request.

    Attributes:
        pools: in the order in which they are tried; never empty.
        refused: why each other pool of the family was left out, by name.
    """

    pools: tuple[IPPool, ...]
    refused: Mapping[str, str] = field(default_factory=dict)


def pool_of(pools: Iterable[IPPool], inner: Address | Network) -> IPPool | None:
    """The pool in which an address or block lies; None if there is none."""
    return next((pool for pool in pools if contains(pool.cidr, inner)), None)


def selects_node(pool: IPPool, labels: Mapping[str, str]) -> bool:
    """Whether the pool's nodeSelector holds for a node with these labels; one that is no selector holds for none."""
    try:
        return parse_selector(pool.node_selector, field="spec.nodeSelector").matches(labels)
    except InvalidError:
        return False


def choose_pools(
    pools: Sequence[IPPool], request: AssignRequest, family: Family, *, node: str, labels: Mapping[str, str]
) -> Choice:
    """The pools of a family that the request may take from.

    Pools that the request names are taken unless disabled, on their way out, or not meant for the use; else all
    that are none of this, nor ``Manual``, and whose selectors match, by name.

    Raises:
        PoolError: there is none; the message has the reason for each pool of the family.
    """
    ours = sorted((pool for pool in pools if pool.cidr.version == family), key=lambda pool: pool.name)
    named = _named(pools, request, family)
    refused: dict[str, str] = {}
    chosen = []
    for pool in named or ours:
        reason = _use_refusal(pool, request.use)
        if not reason and not named:
            reason = _selection_refusal(pool, labels, request.namespace_labels)
        if reason:
            refused[pool.name] = reason
        else:
            chosen.append(pool)
    if not chosen:
        raise PoolError(_no_pool(node, family, request.use, refused))
    return Choice(tuple(chosen), refused)


def _named(pools: Collection[IPPool], request: AssignRequest, family: Family) -> list[IPPool]:
    found = []
    for name in request.pools:
        pool = next((p for p in pools if not closed_because(p) and name in (p.name, str(p.cidr))), None)
        if pool is None:
            raise PoolError(f"the given pool ({name}) does not exist, or is not enabled")
        if (expected := request.pool_families.get(name, pool.cidr.version)) != pool.cidr.version:
            raise PoolError(f"the given pool ({name}) is of IPv{pool.cidr.version}, expected one of IPv{expected}")
        if pool.cidr.version == family:
            found.append(pool)
    return found


def closed_because(pool: IPPool) -> str:
    """Why nobody gets an address of the pool any more, whoever asks; empty if it is open."""
    if pool.meta.deleting:
        return "it is being deleted"
    return "spec.disabled is true" if pool.disabled else ""


def _use_refusal(pool: IPPool, use: AllowedUse) -> str:
    if reason := closed_because(pool):
        return reason
    if use not in pool.allowed_uses:
        return f"spec.allowedUses has {', '.join(pool.allowed_uses)}, not {use}"
    return ""


def _selection_refusal(pool: IPPool, labels: Mapping[str, str], namespace_labels: Mapping[str, str] | None) -> str:
    if pool.assignment_mode != "Automatic":
        return f"spec.assignmentMode is {pool.assignment_mode}"
    try:
        if not parse_selector(pool.node_selector, field="spec.nodeSelector").matches(labels):
            return f"spec.nodeSelector {pool.node_selector!r} does not match this node's labels"
        if not pool.namespace_selector:
            return ""
        selector = parse_selector(pool.namespace_selector, field="spec.namespaceSelector")
    except InvalidError as error:
        return str(error)
    if namespace_labels is None:
        return f"spec.namespaceSelector {pool.namespace_selector!r}, but the namespace's labels are not known"
    if not selector.matches(namespace_labels):
        return f"spec.namespaceSelector {pool.namespace_selector!r} does not match the namespace's labels"
    return ""


def _no_pool(node: str, family: Family, use: AllowedUse, refused: Mapping[str, str]) -> str:
    if not refused:
        return f"no configured Calico pools for node {node}: there is no IPv{family} IPPool; create one"
    reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
    return f"cannot find a qualified ippool for an IPv{family} address of use {use} on node {node} ({reasons})"
