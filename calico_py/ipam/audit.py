"""What contradicts itself in the addresses of a cluster, each with what it means and what to do. Pure.

Warm addresses belong to no pod and are no finding. What is on its way (a handle is written behind its address) is for
the caller to tell apart: it is gone at a second look.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from calico_py.ipam.blocks import WINDOWS_RESERVED, Allocation, allocations, block_problems, borrowed
from calico_py.ipam.choice import pool_of
from calico_py.ipam.garbage import Verdict, View, living_addresses, verdict
from calico_py.model.blocks import AffinityState, BlockAffinity, IPAMBlock
from calico_py.model.names import LABEL_BORROWED, handle_name
from calico_py.model.net import Address, Network
from calico_py.model.pools import IPPool

_MEND = {
    "IPAMBlock": "mend it, or delete the pods that have its addresses, then the block; what it holds is not judged"
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One contradiction.

    Attributes:
        kind, name: the object concerned.
        reason: CamelCase word. message: what was found, what was expected, what to do.
    """

    kind: str
    name: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Cluster:
    """All that an audit looks at.

    Attributes:
        view: blocks (those marked deleted too), nodes, pods, handles, affinities.
        invalid: what the codec refuses: kind, name and why.
    """

    view: View
    pools: Sequence[IPPool]
    invalid: Sequence[tuple[str, str, str]] = field(default=())


def audit(cluster: Cluster) -> list[Finding]:
    """All findings, objects first."""
    view = cluster.view
    standing = [block for block in view.blocks if not block.deleted]
    held = [(block, a) for block in standing for a in allocations(block) if not a.cooling]
    return [
        *(
            Finding(kind, name, "Invalid", f"cannot be read: {why}; {_MEND.get(kind, 'mend or delete it')}")
            for kind, name, why in cluster.invalid
        ),
        *_pools(cluster.pools),
        *_blocks(view.blocks, cluster.pools),
        *_affinities(standing, view),
        *_leaks(held, view),
        *_pods(held, view),
        *(_handles(held, view) if view.complete else ()),
    ]


def _pools(pools: Sequence[IPPool]) -> Iterator[Finding]:
    for i, pool in enumerate(pools):
        for other in pools[:i]:
            if pool.cidr.overlaps(other.cidr):
                yield Finding(
                    "IPPool",
                    pool.name,
                    "PoolsOverlap",
                    f"{pool.cidr} overlaps with {other.cidr} of IPPool {other.name}; the younger of the two is not "
                    "used: delete it, or give it a network of its own",
                )


def _blocks(blocks: Iterable[IPAMBlock], pools: Sequence[IPPool]) -> Iterator[Finding]:
    seen: list[IPAMBlock] = []
    for block in sorted(blocks, key=lambda b: (b.cidr.version, int(b.cidr.network_address), b.cidr.prefixlen)):
        name = block.meta.name
        if block.deleted:
            yield Finding("IPAMBlock", name, "HalfDeleted", "is marked deleted; the leader removes it, or delete it")
            continue
        for problem in block_problems(block):
            message = f"{problem}; a foreign writer made it so: stop it, delete the block's pods, then the block"
            yield Finding("IPAMBlock", name, "Arithmetic", message)
        if seen and seen[-1].cidr.version == block.cidr.version and seen[-1].cidr.overlaps(block.cidr):
            yield Finding(
                "IPAMBlock",
                name,
                "BlocksOverlap",
                f"overlaps with {seen[-1].cidr}: addresses may be given twice; of the two delete the pods of the one "
                "that has not its pool's size, then that block",
            )
        seen.append(block)
        pool = pool_of(pools, block.cidr)
        if pool is None:
            yield Finding(
                "IPAMBlock",
                name,
                "NoPool",
                "no IPPool contains it; it goes with its last address: make the pool again, or delete those pods",
            )
        elif pool.block_size != block.cidr.prefixlen:
            yield Finding(
                "IPAMBlock",
                name,
                "BlockSize",
                f"is a /{block.cidr.prefixlen}, IPPool {pool.name} has /{pool.block_size}; the pool was made anew",
            )
        lent = block.meta.labels.get(LABEL_BORROWED) == "true"
        if lent != bool(borrowed(block)):
            yield Finding(
                "IPAMBlock",
                name,
                "BorrowedLabel",
                f"label {LABEL_BORROWED} is {'true' if lent else 'absent'}, though {len(borrowed(block))} addresses "
                "are borrowed; the leader mends it within a second: is one running?",
            )


def _affinities(blocks: Sequence[IPAMBlock], view: View) -> Iterator[Finding]:
    owners, known = {block.cidr: block for block in blocks}, set(view.nodes)
    claims: dict[Network, list[BlockAffinity]] = {}
    for affinity in view.affinities:
        claims.setdefault(affinity.cidr, []).append(affinity)
        name, block = affinity.meta.name, owners.get(affinity.cidr)
        if affinity.node not in known and affinity.type == "host":
            yield Finding(
                "BlockAffinity", name, "NodeGone", f"node {affinity.node} does not exist; the leader frees its blocks"
            )
        elif affinity.state is not AffinityState.CONFIRMED or affinity.deleted:
            what = "is marked deleted" if affinity.deleted else f"is {affinity.state}"
            yield Finding(
                "BlockAffinity", name, "Unsettled", f"{what}; its node settles it: is the agent of {affinity.node} up?"
            )
        elif block is None and not view.complete:
            continue
        elif block is None:
            yield Finding(
                "BlockAffinity", name, "NoBlock", f"there is no block {affinity.cidr}; the node or the leader mends it"
            )
        elif block.node != affinity.node:
            yield Finding(
                "BlockAffinity",
                name,
                "OtherOwner",
                f"is {affinity.node}'s, block {block.meta.name} is {block.affinity or 'nobody'}'s; its node deletes it",
            )
    for block in blocks:
        if block.node is not None and block.node not in {claim.node for claim in claims.get(block.cidr, ())}:
            yield Finding(
                "IPAMBlock",
                block.meta.name,
                "NoAffinity",
                f"node {block.node} has no BlockAffinity for it, so nobody routes it; restart that node's agent",
            )


def _leaks(held: Iterable[tuple[IPAMBlock, Allocation]], view: View) -> Iterator[Finding]:
    living = living_addresses(view.pods)
    for block, a in held:
        found = verdict(a, view, living)
        if found is not Verdict.VALID:
            yield Finding("IPAMBlock", block.meta.name, "Leaked", f"address {a.address}: {why_leaked(a, view)}")


def why_leaked(allocation: Allocation, view: View) -> str:
    """Why nobody has a right to an address, as a sentence."""
    note, node = allocation.attribute.secondary, allocation.node
    whose = f"pod {note['namespace']}/{note['pod']}" if note.get("pod") else f"handle {allocation.handle or 'unknown'}"
    if node and node not in view.nodes:
        return f"is of {whose} on node {node}, which does not exist; the leader frees it at once"
    pod = view.pods.get((note.get("namespace", ""), note.get("pod", "")))
    if pod is None:
        why = "which does not exist"
    elif pod.finished:
        why = "which has finished"
    elif pod.node != node:
        why = f"which runs on node {pod.node or 'none'}, not on {node}"
    else:
        why = f"which reports {', '.join(sorted(str(a) for a in pod.addresses)) or 'no address'}"
    return f"is of {whose}, {why}; the leader frees it after the grace period"


def _pods(held: Iterable[tuple[IPAMBlock, Allocation]], view: View) -> Iterator[Finding]:
    owners = {a.address: a for _, a in held}
    users: dict[Address, list[str]] = {}
    for (namespace, name), pod in sorted(view.pods.items()):
        if pod.finished:
            continue
        for address in sorted(pod.addresses, key=str):
            users.setdefault(address, []).append(f"{namespace}/{name}")
            found = owners.get(address)
            if found is None and not view.complete:
                continue
            if found is None:
                message = f"has {address}, which nobody assigned: another pod may get it; delete the pod"
                yield Finding("Pod", f"{namespace}/{name}", "Unassigned", message)
                continue
            note = found.attribute.secondary
            if note.get("pod") and (note.get("namespace"), note.get("pod")) != (namespace, name):
                other = f"{note.get('namespace')}/{note.get('pod')}"
                message = f"has {address}, which is assigned to pod {other}; delete one of the two"
                yield Finding("Pod", f"{namespace}/{name}", "OthersAddress", message)
    for address, names in users.items():
        if len(names) > 1:
            yield Finding("Pod", names[1], "AddressTwice", f"has {address}, as {names[0]} has; delete one of the two")


def _handles(held: Iterable[tuple[IPAMBlock, Allocation]], view: View) -> Iterator[Finding]:
    counts: dict[str, Counter[Network]] = {}
    for block, a in held:
        if a.handle and a.handle.lower() != WINDOWS_RESERVED:
            counts.setdefault(handle_name(a.handle), Counter())[block.cidr] += 1
    for handle in view.handles:
        expected = counts.pop(handle.meta.name, Counter())
        if dict(handle.blocks) != dict(expected):
            yield Finding(
                "IPAMHandle",
                handle.meta.name,
                "HandleDiffers",
                f"says {_counted(handle.blocks)}, the blocks say {_counted(expected)}; the blocks are right, and the "
                "node's agent mends it when it starts",
            )
    for name, expected in counts.items():
        yield Finding(
            "IPAMHandle",
            name,
            "NoHandle",
            f"is missing, though it holds {_counted(expected)}; the node's agent makes it when it starts",
        )


def _counted(blocks: Mapping[Network, int]) -> str:
    return ", ".join(f"{count} in {cidr}" for cidr, count in sorted(blocks.items(), key=str)) or "nothing"
