"""What the leader would clean up, for `calico-py ipam gc --dry-run`. Pure."""

import dataclasses
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from calico_py.ipam.audit import why_leaked
from calico_py.ipam.blocks import allocations
from calico_py.ipam.garbage import Judgement, View, judge
from calico_py.ipam.rules import cooldown_of
from calico_py.model.blocks import IPAMBlock, IPAMConfiguration


def plan_garbage(view: View, config: IPAMConfiguration, *, now: datetime, grace: timedelta) -> list[dict[str, Any]]:
    """What the leader would remove now, and what after the grace period if it stays as it is."""
    standing = dataclasses.replace(view, blocks=[block for block in view.blocks if not block.deleted])
    cooldown = cooldown_of(config)
    now_due = judge(standing, {}, now=now, grace=grace, cooldown=cooldown)
    before = judge(standing, {}, now=now - grace, grace=grace, cooldown=cooldown).memory
    later = judge(standing, before, now=now, grace=grace, cooldown=cooldown)
    held = {(a.address, a.sequence): a for block in standing.blocks for a in allocations(block)}

    def when(*, at_once: bool) -> str:
        return "now" if at_once else "after the grace period"

    found = [
        {
            "what": f"address {r.address}",
            "when": when(at_once=r in now_due.releases),
            "why": why_leaked(held[r.address, r.sequence or 0], standing).split(";")[0],
        }
        for r in later.releases
    ]
    found += [
        {"what": f"block {b.cidr}", "when": when(at_once=b in now_due.blocks), "why": _why_empty(b, standing)}
        for b in later.blocks
    ]
    found += [
        {"what": f"block {b.cidr}", "when": "with its last address", "why": f"node {b.node} does not exist"}
        for b in _to_be_emptied(standing, later)
    ]
    found += [
        {"what": f"handle {h.meta.name}", "when": when(at_once=h in now_due.handles), "why": "it holds no address"}
        for h in later.handles
    ]
    found += [
        {
            "what": f"affinity {a.meta.name}",
            "when": when(at_once=a in now_due.affinities),
            "why": f"it is {a.state}, and its block is not {a.node}'s or nobody goes on with it",
        }
        for a in later.affinities
    ]
    return found


def _to_be_emptied(view: View, later: Judgement) -> Iterator[IPAMBlock]:
    """Blocks of deleted nodes in which nobody will have an address."""
    leaving = {release.address for release in later.releases}
    for block in view.blocks:
        stays = [a for a in allocations(block) if not a.cooling and a.address not in leaving]
        if block.node in later.gone and block not in later.blocks and not stays:
            yield block


def _why_empty(block: IPAMBlock, view: View) -> str:
    if block.node not in view.nodes:
        return f"it is empty, and node {block.node} does not exist"
    if not view.has_pool(block):
        return "it is empty, and no pool contains it"
    return f"it is empty, and not the last of node {block.node}"
