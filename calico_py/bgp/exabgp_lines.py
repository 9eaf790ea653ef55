"""The agent's end of the bridge's lines: records to events, and desired state to commands. Pure.

The bridge (bgp/bridge.py) says what the records are. What ExaBGP puts into attributes is understood here, and here
only. A record that makes no sense is a BadLine, a value: whatever a peer sends, nothing raises.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

from calico_py.bgp.reasons import why_down, why_unreached
from calico_py.model.bgp import Advertisement, Origin, Path, Peer, SessionState
from calico_py.model.net import Address, Family, Network
from calico_py.model.speaker import EndOfRib, PathAnnounced, PathWithdrawn, ReplayComplete, SessionChanged

AnnouncementKey = tuple[str, str]  # scope (empty: all peers, or an address), prefix


@dataclass(frozen=True, slots=True)
class Hello:
    """The bridge's greeting: ExaBGP runs with the configuration of that digest."""

    digest: str
    complete: bool


@dataclass(frozen=True, slots=True)
class Announced:
    """An announcement that the bridge holds."""

    scope: str
    nlri: str
    attributes: str


@dataclass(frozen=True, slots=True)
class Configured:
    """ExaBGP has loaded the configuration of that digest."""

    digest: str


@dataclass(frozen=True, slots=True)
class Retired:
    """What we had announced to that peer is withdrawn and sent."""

    peer: Address


@dataclass(frozen=True, slots=True)
class Unreached:
    """Why no BGP message is exchanged with a peer. It says nothing of a session that is up."""

    peer: Address
    reason: str


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that makes no sense, and why."""

    line: str
    reason: str


Record = (
    Hello
    | Announced
    | Configured
    | Retired
    | Unreached
    | BadLine
    | SessionChanged
    | PathAnnounced
    | PathWithdrawn
    | EndOfRib
    | ReplayComplete
)

_FAMILIES: dict[str, Family] = {"ipv4 unicast": 4, "ipv6 unicast": 6}


def parse(line: str, peers: Mapping[Address, Peer]) -> Record:
    """One line of the bridge's.

    Args:
        line: without its line break.
        peers: as configured, to say what a session expected.
    """
    try:
        record = json.loads(line)
        return _parse(record, peers)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return BadLine(line[:200], f"{type(error).__name__}: {error}")


def _parse(record: dict[str, Any], peers: Mapping[Address, Peer]) -> Record:
    match record["kind"]:
        case "path":
            return PathAnnounced(_path(record))
        case "gone":
            return PathWithdrawn(_address(record["peer"]), _network(record["nlri"]), _number(record["id"]))
        case "session":
            return _session(record, peers)
        case "probe":
            return _probe(record, peers)
        case "eor":
            return EndOfRib(_address(record["peer"]), _FAMILIES[record["family"]])
        case "hello":
            return Hello(str(record["digest"]), bool(record["complete"]))
        case "announced":
            return Announced(str(record["scope"]), str(record["nlri"]), str(record["attributes"]))
        case "replayed":
            return ReplayComplete()
        case "configured":
            return Configured(str(record["digest"]))
        case "retired":
            return Retired(_address(record["peer"]))
        case other:
            raise ValueError(f"kind is {other!r}")


def _session(record: dict[str, Any], peers: Mapping[Address, Peer]) -> SessionChanged:
    peer = _address(record["peer"])
    opened = record["open"]
    up = record["state"] == "up"
    ours = peers[peer].hold_time if peer in peers else 0
    return SessionChanged(
        peer=peer,
        state=SessionState.ESTABLISHED if up else SessionState.CONNECT,
        reason=why_down(record, peers[peer]) if not up and peer in peers else "",
        hold_time=min(ours, _number(opened["hold_time"])) if up else 0,
        restart_time=_number(opened["restart_time"] if up else record["keep"]),
        forwarding=bool(opened["forwarding"]) if up else False,
        age=float(record["age"]),
    )


def _probe(record: dict[str, Any], peers: Mapping[Address, Peer]) -> Unreached:
    peer = _address(record["peer"])
    configured = peers.get(peer)
    reason = ""
    if configured is not None:
        reason = why_unreached(
            configured, str(record["error"]), waiting=record["waiting"], tried=record["tried"], deaf=record["deaf"]
        )
    return Unreached(peer, reason)


def _path(record: dict[str, Any]) -> Path:
    attributes = record["attributes"]
    ours, theirs = record["asn"]
    return Path(
        nlri=_network(record["nlri"]),
        peer=_address(record["peer"]),
        next_hop=_address(record["hop"]),
        path_id=_number(record["id"]),
        origin=Origin(attributes.get("origin", Origin.INCOMPLETE)),
        as_path=_as_path(attributes.get("as-path", {})),
        local_pref=_optional(attributes.get("local-preference")),
        med=_optional(attributes.get("med")),
        communities=tuple(_community(value) for value in attributes.get("community", ())),
        originator_id=_router_id(attributes.get("originator-id", "")),
        cluster_list=tuple(_router_id(value) for value in attributes.get("cluster-list", ())),
        peer_as=_number(theirs),
        peer_router_id=_router_id(record["router_id"]),
        ebgp=ours != theirs,
    )


def _address(text: object) -> Address:
    if not isinstance(text, str):
        raise TypeError(f"address {text!r}")
    return ip_address(text)


def _network(text: object) -> Network:
    """Bits behind the prefix mean nothing (RFC 4271 4.3), and ExaBGP shows them as they came."""
    if not isinstance(text, str):
        raise TypeError(f"prefix {text!r}")
    return ip_network(text, strict=False)


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**32:
        raise ValueError(f"number {value!r}")
    return value


def _optional(value: object) -> int | None:
    return None if value is None else _number(value)


def _router_id(value: object) -> str:
    """Four octets, as of an IPv4 address; empty where there is none."""
    text = str(value)
    if text and ip_address(text).version != 4:
        raise ValueError(f"router id {text!r}")
    return text


def _community(value: object) -> str:
    """ExaBGP gives a pair of numbers, or a name for the well-known ones."""
    if isinstance(value, list):
        return ":".join(str(_number(part)) for part in value)
    return str(value)


def _as_path(value: object) -> tuple[int | tuple[int, ...], ...]:
    """Segments by position; those of a confederation (RFC 5065 5.3) do not count in the length."""
    if not isinstance(value, dict):
        raise TypeError(f"as-path {value!r}")
    hops: list[int | tuple[int, ...]] = []
    for position in sorted(value, key=int):
        segment = value[position]
        numbers = tuple(_number(number) for number in segment["value"])
        if segment["element"] == "as-sequence":
            hops.extend(numbers)
        elif segment["element"] == "as-set":
            hops.append(tuple(sorted(numbers)))
    return tuple(hops)


# Commands


def announcements(wanted: Iterable[Advertisement]) -> dict[AnnouncementKey, str]:
    """Attributes in ExaBGP's words, by scope and prefix. Of two with the same key the one that sorts first stands."""
    table: dict[AnnouncementKey, str] = {}
    for advertisement in sorted(wanted, key=repr, reverse=True):
        hop = "self" if advertisement.next_hop is None else str(advertisement.next_hop)
        attributes = f"next-hop {hop}"
        if advertisement.communities:
            listed = " ".join(_checked_community(community) for community in sorted(advertisement.communities))
            attributes += f" community [{listed}]"
        for scope in [str(peer) for peer in advertisement.peers] or [""]:
            table[scope, str(advertisement.nlri)] = attributes
    return table


def _checked_community(text: str) -> str:
    """aa:nn (RFC 1997); aa:nn:mm has an attribute of its own that is not announced here.

    Raises:
        ValueError: it is neither, so that nothing else can get into a command.
    """
    parts = text.split(":")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() and int(part) < 2**16 for part in parts):
        raise ValueError(f"community {text!r}: expected two numbers up to 65535, such as 64512:7")
    return ":".join(str(int(part)) for part in parts)


def command_sessions(digest: str, peers: Iterable[Address]) -> str:
    """Load the configuration file, which has that digest and those neighbours."""
    return _command({"do": "sessions", "digest": digest, "peers": sorted(str(peer) for peer in peers)})


def command_watch(peers: Iterable[Peer]) -> str:
    """Find out why those of these that do not answer do not."""
    watched = sorted((str(peer.address), str(peer.local_address), peer.listen_port) for peer in peers)
    return _command({"do": "watch", "peers": watched})


def command_announce(held: Mapping[AnnouncementKey, str], wanted: Mapping[AnnouncementKey, str]) -> str:
    """The difference between what the bridge holds and what it should hold; empty if there is none."""
    to_set = [[*key, attributes] for key, attributes in wanted.items() if held.get(key) != attributes]
    to_unset = [list(key) for key in held if key not in wanted]
    if not to_set and not to_unset:
        return ""
    return _command({"do": "announce", "set": to_set, "unset": to_unset})


def command_complete() -> str:
    """All announcements have been told: End-of-RIB may be sent."""
    return _command({"do": "complete"})


def command_retire(peers: Iterable[Address]) -> str:
    """Withdraw everything from these peers and say when it is sent."""
    return _command({"do": "retire", "peers": sorted(str(peer) for peer in peers)})


def _command(message: Mapping[str, object]) -> str:
    return json.dumps(message) + "\n"
