"""Who holds which prefix: blocks by their confirmed affinities, borrowed addresses by the blocks that lend them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from calico_py.model.blocks import AffinityState, BlockAffinity, IPAMBlock
from calico_py.model.intent import Problem
from calico_py.model.net import Network, host_network


@dataclass(frozen=True, slots=True)
class Holder:
    """A prefix and the node behind it.

    Attributes:
        borrowed: a single address out of a block whose affinity is another node's.
    """

    prefix: Network
    node: str
    borrowed: bool = False


@dataclass(frozen=True, slots=True)
class Holders:
    """All holders, one for each prefix, and the claims that contradict each other."""

    by_prefix: Mapping[Network, Holder]
    problems: tuple[Problem, ...]


def find_holders(affinities: Iterable[BlockAffinity], blocks: Mapping[Network, IPAMBlock], me: str = "") -> Holders:
    """Confirmed claims of hosts, then borrowed addresses.

    Where two nodes hold confirmed claims on one block, the block itself says whose it is if this node sees it. This
    node sees all blocks of its own, so one that it does not see is the other's; else the older claim counts. Pending
    claims and claims being deleted are not routed (Calico's rule).

    Args:
        affinities: of the cluster.
        blocks: this node's own and those that lend addresses.
        me: name of this node.
    """
    found: dict[Network, BlockAffinity] = {}
    problems: list[Problem] = []
    confirmed = (a for a in affinities if a.state == AffinityState.CONFIRMED and not a.deleted and a.type == "host")
    for claim in sorted(confirmed, key=lambda a: (a.meta.creation_timestamp, a.meta.name)):
        rival = found.get(claim.cidr)
        if rival is None:
            found[claim.cidr] = claim
            continue
        block = blocks.get(claim.cidr)
        holder = block.node if block is not None else None
        winner = claim if holder == claim.node or (block is None and rival.node == me) else rival
        found[claim.cidr] = winner
        loser = rival if winner is claim else claim
        problems.append(
            Problem(
                "BlockAffinity",
                loser.meta.name,
                "DuplicateAffinity",
                f"BlockAffinity {loser.meta.name}: block {claim.cidr} is claimed by {loser.node} and by {winner.node} "
                f"(BlockAffinity {winner.meta.name}); it is routed to {winner.node}; delete the wrong claim",
            )
        )
    by_prefix = {cidr: Holder(cidr, claim.node) for cidr, claim in found.items()}
    for block in blocks.values():
        by_prefix.update(_borrowed(block))
    return Holders(by_prefix, tuple(problems))


def _borrowed(block: IPAMBlock) -> dict[Network, Holder]:
    """The addresses of a block that live on another node than the block's own."""
    nodes = [attr.secondary.get("node") for attr in block.attributes]
    if block.deleted or all(node in (None, block.node) for node in nodes):
        return {}
    out = {}
    for ordinal, index in enumerate(block.allocations):
        node = nodes[index] if index is not None and index < len(nodes) else None
        if node is None or node == block.node or block.attributes[index or 0].released_at:
            continue
        prefix = host_network(block.cidr[ordinal])
        out[prefix] = Holder(prefix, node, borrowed=True)
    return out
