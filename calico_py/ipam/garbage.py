"""What the leader may clean up in the whole cluster: leaked addresses, blocks left empty, handles of nothing. Pure.

An address is valid until it is proved leaked: an owner that is not understood keeps it. Whatever an address's note
says, it is not released while a living pod has it. But for what was a deleted node's, each thing must be seen unchanged
twice, a grace period apart, and is looked at once more right before it goes. The rules are Calico's
(design/ipam/ipam-gc.md).

The addresses of a deleted node cool down from its deletion on: since then no node has had a route to them.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum

from calico_py.ipam.blocks import WINDOWS_RESERVED, Allocation, allocations, borrowed, is_empty, parse_time, thaw
from calico_py.ipam.requests import Release
from calico_py.model.blocks import AffinityState, BlockAffinity, IPAMBlock, IPAMHandle
from calico_py.model.names import LABEL_BORROWED, warm_handle
from calico_py.model.net import Address, Network, contains

MOST_RELEASES = 10_000
VM_GRACE = timedelta(minutes=5)  # a KubeVirt machine that migrates or restarts keeps its address meanwhile
IDLE_AFTER = timedelta(seconds=60)  # an address this long past its cooldown lies in a block that nobody writes

PodName = tuple[str, str]
Subject = tuple[str, str, int]
Memory = Mapping[Subject, datetime]


@dataclass(frozen=True, slots=True)
class PodView:
    """A pod as far as its address is concerned; pods on the host's network are left out.

    Attributes:
        addresses: that its status reports; empty while it starts.
        finished: it succeeded or failed, and never runs again.
    """

    node: str
    addresses: frozenset[Address] = frozenset()
    finished: bool = False


@dataclass(frozen=True, slots=True)
class View:
    """The cluster at one moment.

    Attributes:
        blocks: without those that are marked deleted. pods: by (namespace, name). handles, affinities: all of them.
        pools: CIDRs of those that are in use; None where they are not known.
        complete: no block is missing because it cannot be read: what has none is not known else.
    """

    blocks: Collection[IPAMBlock]
    nodes: Collection[str]
    pods: Mapping[PodName, PodView]
    handles: Collection[IPAMHandle] = ()
    affinities: Collection[BlockAffinity] = ()
    pools: Collection[Network] | None = None
    complete: bool = True

    def has_pool(self, block: IPAMBlock) -> bool:
        """Whether a block lies in a pool, as far as is known."""
        return self.pools is None or any(contains(cidr, block.cidr) for cidr in self.pools)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What may go now, and what is to be remembered for the next time.

    Attributes:
        memory: since when each candidate has been seen unchanged.
        gone: nodes that have something and do not exist, and since when that has been seen.
        kept_by: pods because of which addresses of such nodes stay.
        releases: leaked addresses. blocks: empty ones, to be released from their nodes.
        tidy: blocks to be written for an address that has cooled down or a label that is wrong.
        handles: that hold nothing. affinities: without a block, or on the way to a deletion that nobody goes on with.
    """

    memory: Memory
    gone: Mapping[str, datetime] = field(default_factory=dict)
    kept_by: frozenset[PodName] = frozenset()
    releases: tuple[Release, ...] = ()
    blocks: tuple[IPAMBlock, ...] = ()
    tidy: tuple[Network, ...] = ()
    handles: tuple[IPAMHandle, ...] = ()
    affinities: tuple[BlockAffinity, ...] = ()


class Verdict(Enum):
    """Of one allocation."""

    VALID = "valid"
    LEAKED = "leaked, if it stays so for the grace period"
    GONE = "leaked: its node does not exist any more"


@dataclass(slots=True)
class _Watch:
    """Which candidates have been seen unchanged for how long."""

    before: Memory
    now: datetime
    memory: dict[Subject, datetime] = field(default_factory=dict)

    def for_at_least(self, subject: Subject, grace: timedelta) -> bool:
        since = self.memory[subject] = self.before.get(subject, self.now)
        return subject in self.before and self.now - since >= grace


def judge(view: View, memory: Memory, *, now: datetime, grace: timedelta, cooldown: timedelta) -> Judgement:
    """What may be cleaned up at this moment.

    ``grace`` zero keeps all addresses but those of deleted nodes (KubeControllersConfiguration, leakGracePeriod).
    """
    watch = _Watch(memory, now)
    return Judgement(
        gone=_gone(view, watch),
        kept_by=frozenset(_keepers(view)),
        releases=tuple(_leaks(view, watch, grace))[:MOST_RELEASES],
        blocks=tuple(_empty_blocks(view, watch, grace, cooldown)),
        tidy=tuple(b.cidr for b in view.blocks if _needs_writing(b, now=now, cooldown=cooldown)),
        handles=tuple(_idle_handles(view, watch, grace)) if view.complete else (),
        affinities=tuple(_lost_affinities(view, watch, grace)) if view.complete else (),
        memory=watch.memory,
    )


def verdict(allocation: Allocation, view: View, living: Collection[Address]) -> Verdict:
    """Whether somebody still has a right to an address; ``living``: those that a pod reports as its own."""
    note, node = allocation.attribute.secondary, allocation.node
    if allocation.address in living or allocation.handle.lower() == WINDOWS_RESERVED:
        return Verdict.VALID
    gone = bool(node) and node not in view.nodes
    if is_infrastructure(allocation):
        return Verdict.GONE if gone else Verdict.VALID
    if not note.get("pod") or not note.get("namespace"):
        return Verdict.VALID
    pod = view.pods.get((note["namespace"], note["pod"]))
    if pod is not None and not pod.finished and not pod.addresses and pod.node == node:
        return Verdict.VALID
    return Verdict.GONE if gone else Verdict.LEAKED


def is_infrastructure(allocation: Allocation) -> bool:
    """Whether it is of a node and no pod's: of a tunnel device, kept ready for pods to come, or reserved by Windows."""
    return (
        allocation.attribute.secondary.get("type", "").endswith("TunnelAddress")
        or allocation.handle == warm_handle(allocation.node)
        or allocation.handle.lower() == WINDOWS_RESERVED
    )


def living_addresses(pods: Mapping[PodName, PodView]) -> frozenset[Address]:
    """All addresses that a pod which is not finished reports."""
    return frozenset(address for pod in pods.values() if not pod.finished for address in pod.addresses)


def _gone(view: View, watch: _Watch) -> dict[str, datetime]:
    claimed = {block.node for block in view.blocks} | {affinity.node for affinity in view.affinities}
    used = {a.node for block in view.blocks for a in allocations(block)}
    gone = sorted(name for name in claimed | used if name and name not in view.nodes)
    for name in gone:
        watch.for_at_least(("node", name, 0), timedelta(0))
    return {name: watch.memory["node", name, 0] for name in gone}


def _keepers(view: View) -> Iterable[PodName]:
    living = living_addresses(view.pods)
    for block in view.blocks:
        for allocation in allocations(block):
            note = allocation.attribute.secondary
            pod = note.get("namespace", ""), note.get("pod", "")
            gone = bool(allocation.node) and allocation.node not in view.nodes and not allocation.cooling
            if gone and pod in view.pods and verdict(allocation, view, living) is Verdict.VALID:
                yield pod


def _leaks(view: View, watch: _Watch, grace: timedelta) -> Iterable[Release]:
    living = living_addresses(view.pods)
    by_handle: dict[str, list[tuple[IPAMBlock, Allocation]]] = {}
    for block in view.blocks:
        for allocation in allocations(block):
            if not allocation.cooling:
                by_handle.setdefault(allocation.handle or str(allocation.address), []).append((block, allocation))
    for held in by_handle.values():
        # All of a handle's addresses or none: else its IPAMHandle and the blocks disagree on what is left.
        confirmed = [_is_confirmed(allocation, view, living, watch, grace) for _, allocation in held]
        if all(confirmed):
            yield from (Release(a.address, a.handle, a.sequence, block.cidr) for block, a in held)


def _is_confirmed(
    allocation: Allocation, view: View, living: Collection[Address], watch: _Watch, grace: timedelta
) -> bool:
    found = verdict(allocation, view, living)
    if found is not Verdict.LEAKED or not grace:
        return found is Verdict.GONE
    virtual_machine = "vmi-name" in allocation.attribute.secondary
    subject = ("address", f"{allocation.address} {allocation.handle}", allocation.sequence)
    return watch.for_at_least(subject, max(grace, VM_GRACE) if virtual_machine else grace)


def _empty_blocks(view: View, watch: _Watch, grace: timedelta, cooldown: timedelta) -> Iterable[IPAMBlock]:
    left: dict[tuple[str, int], int] = {}
    for block in view.blocks:
        if block.node is not None and view.has_pool(block):
            left[block.node, block.cidr.version] = left.get((block.node, block.cidr.version), 0) + 1
    for block in sorted(view.blocks, key=lambda b: b.meta.name):
        if block.node is None or not is_empty(thaw(block, now=watch.now, cooldown=cooldown)):
            continue
        if block.node not in view.nodes:
            yield block
            continue
        if not watch.for_at_least(("block", block.meta.name, block.sequence_number), grace) or not grace:
            continue
        key = (block.node, block.cidr.version)
        if not view.has_pool(block):
            yield block
        elif left[key] > 1:
            left[key] -= 1
            yield block


def _needs_writing(block: IPAMBlock, *, now: datetime, cooldown: timedelta) -> bool:
    if (LABEL_BORROWED in block.meta.labels) != bool(borrowed(block)):
        return True
    return any(
        a.cooling and parse_time(a.attribute.released_at) + cooldown + IDLE_AFTER <= now for a in allocations(block)
    )


def _idle_handles(view: View, watch: _Watch, grace: timedelta) -> Iterable[IPAMHandle]:
    """Calico writes a handle before the block, so a new one may be empty for a moment: hence twice, unchanged."""
    used = {a.handle for block in view.blocks for a in allocations(block) if not a.cooling}
    for handle in view.handles:
        subject = ("handle", f"{handle.meta.name} {handle.meta.uid} {handle.meta.resource_version}", 0)
        if handle.handle_id not in used and watch.for_at_least(subject, grace):
            yield handle


def _lost_affinities(view: View, watch: _Watch, grace: timedelta) -> Iterable[BlockAffinity]:
    owners = {block.cidr: block.node for block in view.blocks}
    for affinity in view.affinities:
        if owners.get(affinity.cidr) == affinity.node and affinity.state is AffinityState.CONFIRMED:
            continue
        if affinity.type != "host":
            continue
        subject = ("affinity", f"{affinity.meta.name} {affinity.meta.resource_version}", 0)
        if affinity.node not in view.nodes or watch.for_at_least(subject, grace):
            yield affinity
