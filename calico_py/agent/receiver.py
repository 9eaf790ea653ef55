"""The life of this node's tunnel receiver: it comes before the first packet and goes after the last. Pure.

Others send only while this node's annotation says that the receiver is up. So it is announced once it is up, withdrawn
when nobody has sent for a while, and closed a while after the annotation has gone: a sender that has not yet seen the
withdrawal loses nothing.

    phase       open  announced   leaves it
    DOWN        no    no          a pool tunnels: UP; somebody sends all the same, or still may: WITHDRAWN
    UP          yes   yes         no pool tunnels and nobody sends: LINGERING
    LINGERING   yes   yes         a pool tunnels or somebody sends: UP; after 60 s: WITHDRAWN
    WITHDRAWN   yes   no          a pool tunnels: UP; after 60 s without sender and annotation: DOWN
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from calico_py.model.nodes import Node
from calico_py.model.pools import EncapMode, IPPool

# Seconds without a sender, before the withdrawal and again before the end.
LINGER = 60.0


class Phase(StrEnum):
    """See the table above."""

    DOWN = "down"
    UP = "up"
    LINGERING = "lingering"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True)
class Receiver:
    """The state of the receiver.

    Attributes:
        since: monotonic time, in seconds, at which the phase began or, in WITHDRAWN, somebody last sent or might have.
    """

    phase: Phase = Phase.DOWN
    since: float = 0.0

    @property
    def open(self) -> bool:
        """Device, address and filter must be there."""
        return self.phase != Phase.DOWN

    @property
    def announced(self) -> bool:
        """The annotation may stand, once the receiver has been seen to be up."""
        return self.phase in (Phase.UP, Phase.LINGERING)

    @property
    def deadline(self) -> float | None:
        """Monotonic time at which the next step is due though nothing else happens."""
        return self.since + LINGER if self.phase in (Phase.LINGERING, Phase.WITHDRAWN) else None


def resume(*, announced: bool, now: float, was_open: bool = False) -> Receiver:
    """The state of an agent that starts: what its node still announces, or withdrew just now, must not vanish at once.

    Args:
        announced: the annotation stands.
        now: monotonic time, seconds.
        was_open: the agent before may have left the receiver open; who has not seen the withdrawal may still send.
    """
    if announced:
        return Receiver(Phase.LINGERING, now)
    return Receiver(Phase.WITHDRAWN if was_open else Phase.DOWN, now)


def step(receiver: Receiver, *, wanted: bool, senders: bool, now: float, announced: bool = False) -> Receiver:
    """The state now.

    Args:
        receiver: the state before.
        wanted: a pool tunnels by this receiver's encapsulation.
        senders: a node still sends by it.
        now: monotonic time, seconds.
        announced: the annotation stands, as far as is known: the API may be away when it is to go.
    """
    overdue = receiver.deadline is not None and now >= receiver.deadline
    match receiver.phase:
        case _ if wanted:
            following = Phase.UP
        case Phase.UP | Phase.LINGERING if senders:
            following = Phase.UP
        case Phase.UP:
            following = Phase.LINGERING
        case Phase.LINGERING:
            following = Phase.WITHDRAWN if overdue else Phase.LINGERING
        case _ if senders or announced:
            return Receiver(Phase.WITHDRAWN, now)
        case Phase.WITHDRAWN:
            following = Phase.DOWN if overdue else Phase.WITHDRAWN
        case _:
            following = Phase.DOWN
    return receiver if following == receiver.phase else Receiver(following, now)


def wants_ipip(pools: Iterable[IPPool]) -> bool:
    """Whether a pool tunnels by IPIP, to any node."""
    return any(pool.ipip_mode != EncapMode.NEVER for pool in pools)


def find_senders(own: str, nodes: Iterable[Node], pools: Iterable[IPPool], *, mode: str = "IPIP") -> frozenset[str]:
    """The other nodes that may send to this one by an encapsulation.

    A node that does not say what it sends (real Calico) counts while a pool has the mode.

    Args:
        own: name of this node; empty to count it as well.
        nodes: all of the cluster.
        pools: all of the cluster.
        mode: ``IPIP`` or ``VXLAN``.
    """
    modes = [pool.ipip_mode if mode == "IPIP" else pool.vxlan_mode for pool in pools]
    tunnels = any(found != EncapMode.NEVER for found in modes)

    def sends(node: Node) -> bool:
        if node.sending is None:
            return tunnels
        return any(sending.mode == mode for sending in node.sending.values())

    return frozenset(node.name for node in nodes if node.name != own and sends(node))
