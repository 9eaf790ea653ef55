"""Why a session is not up, in a sentence with a cure, from what ExaBGP tells of it. Pure."""

import re
from typing import Any

from calico_py.model.bgp import Peer

# RFC 4271 4.5; 4 and 6 have sentences of their own
_CODES = {
    1: "a message header was damaged",
    2: "the OPEN was refused",
    3: "an UPDATE was malformed",
    5: "a message came out of turn",
    7: "a route refresh was malformed",
}
# RFC 4271 6.2, RFC 5492 5, RFC 9234 4.2
_OPEN = {
    1: "the BGP version",
    4: "an optional parameter",
    6: "the hold time",
    7: "a capability that it wants or does not want",
    11: "the BGP role",
}
_BACK = "the session comes back by itself"
# RFC 4486 4, RFC 8538 3.1, RFC 9384 3: the cause and the cure
_CEASE = {
    1: ("too many prefixes", "raise its limit, or let this node announce fewer"),
    2: ("shut down by its administrator", "enable the session there again"),
    3: ("this node is not configured there", "add this node there as a neighbour"),
    4: ("reset by its administrator", _BACK),
    5: ("connection refused", "see the log of its BGP speaker"),
    6: ("its configuration changed", _BACK),
    7: ("a second connection was open", f"{_BACK}; if not, see which other program of this node connects to it"),
    8: ("out of resources", "give it memory, or raise its limits"),
    9: ("hard reset", f"{_BACK}; if not, see the log of its BGP speaker"),
    10: ("BFD says that the way is down", "check that packets pass between the two"),
}
_AS_CURE = (
    "correct the AS number of one of the two (annotation projectcalico.org/ASNumber of its Node, "
    "or spec.asNumber of BGPConfiguration)"
)
_ROUTER_ID_CURE = "give one of the two another router id (CALICO_ROUTER_ID)"


# How ExaBGP 5.0.15 begins what it says of a session that it ends by itself: a neighbour changed, or a collision.
_OWN_ENDS = {
    "graceful restarted negotiated, closing": _CEASE[6][0],
    "closing outgoing connection as we have another": _CEASE[7][0],
    "connection received before we could": _CEASE[7][0],
}
_SENT = re.compile(r"notification sent \((\d+),(\d+)\)")


def why_down(record: dict[str, Any], peer: Peer) -> str:
    """The sentence for a session record of the bridge's that is not up.

    Args:
        record: as bgp/bridge writes it, with peer, reason, asn, open, notification.
        peer: as configured.
    """
    address = record["peer"]
    opened, received, reason = record["open"], record["notification"], str(record["reason"])
    if received:
        return _received(address, int(received["code"]), int(received["subcode"]), peer)
    if reason.startswith("notification sent (2,2)") and opened:
        expected = record["asn"][1]
        return f"{address} says that its AS is {opened['asn']}, but {expected} is configured: {_AS_CURE}"
    if reason.startswith("notification sent (2,3)"):
        return f"{address} has the same router id as this node, {opened.get('router_id')}: {_ROUTER_ID_CURE}"
    if reason.startswith("notification sent (4,"):
        return (
            f"nothing was heard of {address} for the whole hold time: "
            f"check that the node is alive and that packets reach it"
        )
    if sent := _SENT.match(reason):
        code, subcode = int(sent[1]), int(sent[2])
        if code == 6:  # the peer did nothing wrong
            why = _CEASE[subcode][0] if subcode in _CEASE else f"cease, subcode {subcode}"
            return f"this node's BGP speaker ended the session with {address} ({why}): {_BACK}"
        what = _CODES.get(code, "unknown error")
        return f"{address} broke the protocol: {what} ({code},{subcode}); see the log of its BGP speaker"
    for beginning, why in _OWN_ENDS.items():
        if reason.startswith(beginning):
            return f"this node's BGP speaker ended the session with {address} ({why}): {_BACK}"
    if not opened:
        return (
            f"no TCP connection to {address} port {peer.port}: check that its BGP speaker runs there "
            f"and that no firewall closes the port"
        )
    if not reason:  # ExaBGP 5.0.15 met a defect of its own where it should have sent a NOTIFICATION
        return (
            f"this node's BGP speaker gave the session up because of a message of {address}: "
            f"see the logs of both BGP speakers"
        )
    return f"{address} closed the connection: see the log of its BGP speaker"


def why_unreached(peer: Peer, error: str, *, waiting: bool, tried: bool, deaf: bool) -> str:
    """The sentence for a peer with which no BGP message is exchanged.

    Args:
        peer: as configured.
        error: name of the errno that a datagram to it met, or empty.
        waiting: a SYN to it has no answer yet.
        tried: a connection was attempted or accepted, and closed before the first message.
        deaf: ExaBGP does not listen where it should.
    """
    where = f"{peer.address} port {peer.port}"
    if error == "ENETUNREACH":
        return f"there is no route to {peer.address}: add one, or correct the address"
    if error in ("EHOSTUNREACH", "EHOSTDOWN"):
        return f"{peer.address} does not answer on its link: the node is down, or has another address now"
    if error == "EADDRNOTAVAIL":
        return f"this node no longer has the address {peer.local_address}: give it back, or correct the node's address"
    if error in ("EACCES", "EPERM"):
        return f"this node's own firewall forbids packets to {peer.address}: allow TCP port {peer.port}"
    if deaf and peer.passive:
        return (
            f"this node cannot listen on {peer.local_address} port {peer.listen_port}, "
            f"to which {peer.address} connects: another program has the port (stop it), "
            f"or the address is not usable yet"
        )
    if waiting:
        password = (
            "; both ends must have the same password or none" if not peer.password else ", or the passwords differ"
        )
        return (
            f"no answer from {where}: a firewall drops the packets (allow TCP port {peer.port} between nodes){password}"
        )
    if tried and not peer.passive:
        return (
            f"{where} refuses the connection: its BGP speaker does not run, "
            f"or does not have {peer.local_address} as a neighbour"
        )
    return (
        f"{peer.address} has not connected to {peer.local_address} port {peer.listen_port}: its BGP speaker does not "
        f"run or does not have this node as a neighbour, a firewall closes the port, or the passwords differ"
    )


def _received(address: str, code: int, subcode: int, peer: Peer) -> str:
    if (code, subcode) == (2, 2):
        return f"{address} refuses our AS {peer.local_as}, it expects another: {_AS_CURE}"
    if (code, subcode) == (2, 3):
        return f"{address} refuses our router id {peer.router_id}, as if it were its own: {_ROUTER_ID_CURE}"
    if code == 2:
        what = _OPEN.get(subcode, "something in it")
        return f"{address} refuses our OPEN: {what} (2,{subcode}); see its configuration for this node, and its log"
    if code == 6:
        cause, cure = _CEASE.get(subcode, (f"cease, subcode {subcode}", "see the log of its BGP speaker"))
        return f"{address} ended the session: {cause}; {cure}"
    if code == 4:
        return f"{address} heard nothing of this node for its hold time: check that packets reach it"
    return f"{address} ended the session: {_CODES.get(code, f'code {code}')} ({code},{subcode}); see its log"
