"""What this node sends by which encapsulation: the value of its annotation calico-py.io/sending. Pure.

Computed from the routes that apply has confirmed, never from those that are only wanted: a receiver goes by it.
"""

from collections.abc import Iterable, Mapping

from calico_py.model.intent import Destination, RouteClass, RouteIntent
from calico_py.model.names import VXLAN_DEVICE
from calico_py.model.net import Network
from calico_py.model.nodes import Sending

NONE = "None"


def compute_sending(
    applied: Mapping[Network, RouteIntent],
    destinations: Mapping[Network, Destination],
    pools: Iterable[str],
    *,
    previous: Mapping[str, Sending] | None,
    now: str,
) -> dict[str, Sending]:
    """By pool, how packets to other nodes leave; a pool with one tunnel route and many direct ones counts as tunnelled.

    Args:
        applied: the routes that the kernel is known to have.
        destinations: the Intent's; they name the pool of each prefix.
        pools: names of all pools; each gets an entry, so that others need not guess.
        previous: what the annotation says, for the time of the last change.
        now: RFC 3339 time.

    Returns:
        Entries by name of the pool; tunnel routes to a prefix outside all pools are under the empty name.
    """
    modes = dict.fromkeys(pools, NONE)
    for prefix, route in applied.items():
        if route.route_class == RouteClass.TUNNEL:
            destination = destinations.get(prefix)
            modes[destination.pool if destination is not None else ""] = _mode(route)
    sending = {}
    for pool, mode in sorted(modes.items()):
        before = (previous or {}).get(pool)
        sending[pool] = before if before is not None and before.mode == mode else Sending(mode, now)
    return sending


def _mode(route: RouteIntent) -> str:
    return "VXLAN" if route.device == VXLAN_DEVICE else "IPIP"
