"""The seam to BGP: a declarative Speaker and the events that it tells."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from calico_py.model.bgp import Advertisement, Path, Peer, SessionState
from calico_py.model.net import Address, Family, Network


@dataclass(frozen=True, slots=True)
class SessionChanged:
    """A session moved to another state.

    Attributes:
        restart_time: seconds; of an Established session the graceful restart time that the peer asked for in its
            OPEN, 0 without the capability; of one that is lost how long its paths may be kept, 0 for not at all.
        reason: why it is not up and what to do, in a sentence; hold_time: negotiated, seconds.
        forwarding: the peer says that it went on forwarding meanwhile (RFC 4724 3, the F bit).
        age: how long ago this happened, seconds; not 0 in a replay only.
    """

    peer: Address
    state: SessionState
    reason: str = ""
    hold_time: int = 0
    restart_time: int = 0
    forwarding: bool = False
    age: float = 0.0


@dataclass(frozen=True, slots=True)
class PathAnnounced:
    """A path came or replaced the one of the same (peer, nlri, path_id)."""

    path: Path


@dataclass(frozen=True, slots=True)
class PathWithdrawn:
    """A path is gone."""

    peer: Address
    nlri: Network
    path_id: int = 0


@dataclass(frozen=True, slots=True)
class EndOfRib:
    """The peer has sent all that it had (RFC 4724 2)."""

    peer: Address
    family: Family


@dataclass(frozen=True, slots=True)
class ReplayStarted:
    """The connection to the speaker is new: what follows up to ReplayComplete is its whole table."""


@dataclass(frozen=True, slots=True)
class ReplayComplete:
    """The speaker's whole table has been told."""


@dataclass(frozen=True, slots=True)
class SpeakerLost:
    """The speaker is away; paths are kept as stale until it comes back and its peers' End-of-RIB has come."""

    reason: str


SpeakerEvent = SessionChanged | PathAnnounced | PathWithdrawn | EndOfRib | ReplayStarted | ReplayComplete | SpeakerLost


class Speaker(Protocol):
    """A BGP speaker. Neither selects paths nor writes the kernel."""

    @property
    def problem(self) -> str:
        """What of the last set could not be told to it, and what to do, as a sentence; empty if all could."""
        ...

    def set(self, *, peers: frozenset[Peer], advertisements: frozenset[Advertisement]) -> None:
        """All sessions and announcements as they should be; what is unchanged is not touched."""
        ...

    def events(self) -> AsyncIterator[SpeakerEvent]:
        """What happens, for ever."""
        ...
