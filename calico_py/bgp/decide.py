"""The decision process (RFC 4271 9.1 with RFC 4456 9): from candidate paths to what routing may use.

Pure and deterministic: the order in which paths came makes no difference. Paths that tie down to the router ids
share the load (ECMP); the rules below that only choose which of them is called the best.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from calico_py.model.bgp import LearnedRoute, LearnedRoutes, Origin, Path
from calico_py.model.net import Address, Network

DEFAULT_LOCAL_PREF = 100  # for paths from eBGP peers, which carry none
MAX_NEXT_HOPS = 16

_ORIGIN_RANK = {Origin.IGP: 0, Origin.EGP: 1, Origin.INCOMPLETE: 2}


class Rule(StrEnum):
    """By which rule a path won over the last that was left beside it."""

    ONLY = "only path"
    LOCAL_PREF = "higher local preference"
    AS_PATH = "shorter AS path"
    ORIGIN = "lower origin"
    MED = "lower MED"
    EBGP = "eBGP over iBGP"
    ROUTER_ID = "lower router id"
    CLUSTER_LIST = "shorter cluster list"
    PEER_ADDRESS = "lower peer address"
    PATH_ID = "lower path id"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this speaker is, to refuse what came from itself.

    Attributes:
        router_ids: of all its sessions. cluster_id: as a route reflector, or empty.
        addresses: of this node; none of them can be a next hop.
    """

    as_number: int
    router_ids: frozenset[str] = frozenset()
    cluster_id: str = ""
    addresses: frozenset[Address] = frozenset()


def why_refused(path: Path, me: Identity) -> str:
    """Why the path may not be used at all, in a sentence; empty if it may."""
    hops = (hop for step in path.as_path for hop in (step if isinstance(step, tuple) else (step,)))
    if me.as_number in hops:
        return f"{path.nlri} from {path.peer}: the AS path contains our own AS {me.as_number} (a loop)"
    if path.originator_id and path.originator_id in me.router_ids:
        return f"{path.nlri} from {path.peer}: we originated it (originator id {path.originator_id})"
    if me.cluster_id and me.cluster_id in path.cluster_list:
        return f"{path.nlri} from {path.peer}: the cluster list contains our own id {me.cluster_id} (a loop)"
    if path.next_hop in me.addresses:
        return f"{path.nlri} from {path.peer}: the next hop {path.next_hop} is this node"
    hop = path.next_hop
    if hop.version != path.nlri.version:
        return f"{path.nlri} from {path.peer}: the next hop {hop} is of the other address family"
    if hop.is_link_local:
        return f"{path.nlri} from {path.peer}: the next hop {hop} is link-local, and nothing says on which device"
    if hop.is_unspecified or hop.is_loopback or hop.is_multicast:
        return f"{path.nlri} from {path.peer}: {hop} cannot be a next hop"
    first = path.nlri.network_address
    if path.nlri.prefixlen and (first.is_loopback or first.is_multicast or first.is_link_local or first.is_unspecified):
        return f"{path.nlri} from {path.peer}: not a prefix that can be routed"
    return ""


def decide_prefix(candidates: Iterable[Path], me: Identity) -> LearnedRoute | None:
    """The best path to one prefix and its equals; None if no candidate may be used."""
    left = [path for path in candidates if not why_refused(path, me)]
    if not left:
        return None
    if len(left) == 1:
        return LearnedRoute(nlri=left[0].nlri, next_hops=(left[0].next_hop,), best=left[0], reason=Rule.ONLY)
    rule = Rule.ONLY
    for step, choose in _PREFERENCE:
        chosen = choose(left)
        if len(chosen) < len(left):
            rule, left = step, chosen
    hops = sorted({path.next_hop for path in left}, key=int)[:MAX_NEXT_HOPS]
    for step, key in _TIE_BREAK:
        chosen = _lowest(left, key)
        if len(chosen) < len(left):
            rule, left = step, chosen
    best = min(left, key=repr)  # same peer and path id: one path, whatever was handed in
    if best.next_hop not in hops:
        hops = sorted([*hops[:-1], best.next_hop], key=int)
    return LearnedRoute(nlri=best.nlri, next_hops=tuple(hops), best=best, reason=rule)


def decide(
    candidates: Mapping[Network, Iterable[Path]], me: Identity, *, in_sync: frozenset[Address] = frozenset()
) -> LearnedRoutes:
    """The Loc-RIB out of all candidates, by prefix."""
    routes: dict[Network, LearnedRoute] = {}
    for nlri, paths in candidates.items():
        route = decide_prefix(paths, me)
        if route is not None:
            routes[nlri] = route
    return LearnedRoutes(routes=routes, in_sync=in_sync)


def _lowest(paths: Sequence[Path], key: Callable[[Path], int]) -> list[Path]:
    best = min(key(path) for path in paths)
    return [path for path in paths if key(path) == best]


def _degree(path: Path) -> int:
    if path.ebgp or path.local_pref is None:
        return -DEFAULT_LOCAL_PREF
    return -path.local_pref


def _neighbour_as(path: Path) -> int | tuple[int, ...]:
    """Of the AS from which the path entered ours (RFC 4271 9.1.2.2 c); 0 for one that began here."""
    return path.as_path[0] if path.as_path else 0


def _by_med(paths: Sequence[Path]) -> list[Path]:
    """MEDs compare only among paths from the same neighbouring AS; a missing one is the lowest."""
    lowest: dict[int | tuple[int, ...], int] = {}
    for path in paths:
        of = _neighbour_as(path)
        lowest[of] = min(lowest.get(of, path.med or 0), path.med or 0)
    return [path for path in paths if (path.med or 0) == lowest[_neighbour_as(path)]]


def _router_id(path: Path) -> int:
    """ORIGINATOR_ID stands for the router id where there is one (RFC 4456 9)."""
    value = 0
    for octet in (path.originator_id or path.peer_router_id or "0.0.0.0").split("."):
        value = value << 8 | int(octet)
    return value


# Rules a to d; e, the cost of the way to the next hop, is not known here and so equal.
_PREFERENCE: tuple[tuple[Rule, Callable[[Sequence[Path]], list[Path]]], ...] = (
    (Rule.LOCAL_PREF, lambda paths: _lowest(paths, _degree)),
    (Rule.AS_PATH, lambda paths: _lowest(paths, lambda path: len(path.as_path))),
    (Rule.ORIGIN, lambda paths: _lowest(paths, lambda path: _ORIGIN_RANK[path.origin])),
    (Rule.MED, _by_med),
    (Rule.EBGP, lambda paths: _lowest(paths, lambda path: not path.ebgp)),
)

_TIE_BREAK: tuple[tuple[Rule, Callable[[Path], int]], ...] = (
    (Rule.ROUTER_ID, _router_id),
    (Rule.CLUSTER_LIST, lambda path: len(path.cluster_list)),
    (Rule.PEER_ADDRESS, lambda path: path.peer.version << 128 | int(path.peer)),
    (Rule.PATH_ID, lambda path: path.path_id),
)
