"""ExaBGP's configuration file, rendered from peers. Pure text; bgp/speaker_process starts ExaBGP with it.

What is in it and why (docs/bgp.md has each trap):

- ``listen`` per neighbour instead of ``exabgp.tcp.bind``: the port follows a reload, nothing listens without peers;
- ``description`` is a digest of the whole file: `show neighbor configuration` proves by it that a reload, which
  ExaBGP drops without a word while an UPDATE waits to be sent, has happened; it is no part of a neighbour's identity;
- ``manual-eor``: End-of-RIB is sent by the bridge after the last announcement;
- ``group-updates false``: five times faster for announcements in bulk;
- ``adj-rib-in false``: the bridge keeps that table; ``adj-rib-out true``: answers a peer's route refresh;
- no ``incoming-ttl``: it would bind all neighbours of the listening socket.

Nothing of a peer's or an object's free text gets in: addresses and numbers are typed, a password is base64.
"""

import base64
import hashlib
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from calico_py.model.bgp import Peer
from calico_py.model.folders import RUN
from calico_py.model.net import family

BRIDGE = Path(__file__).with_name("bridge_main.py")
PROCESS = "bridge"
MAX_PASSWORD = 80  # bytes, TCP_MD5SIG_MAXKEYLEN of linux/tcp.h


@dataclass(frozen=True, slots=True)
class SpeakerFiles:
    """Where agent, ExaBGP and bridge meet."""

    directory: Path = RUN

    @property
    def config(self) -> Path:
        """ExaBGP's configuration; the agent writes it, 0600 since passwords are in it."""
        return self.directory / "exabgp.conf"

    @property
    def socket(self) -> Path:
        """The bridge listens here for the agent."""
        return self.directory / "bgp.sock"

    @property
    def lock(self) -> Path:
        """Held by the speaker that runs; the next one waits for it."""
        return self.directory / "speaker.lock"

    @property
    def announced(self) -> Path:
        """The bridge's memory of the announcements. /run is empty after a boot, when they would be wrong."""
        return self.directory / "bgp-announced.json"


_FAMILY = {4: "ipv4 unicast", 6: "ipv6 unicast"}


class ConfigError(ValueError):
    """A peer that ExaBGP could not be configured with; the message names it, the field and what is expected."""


def render(peers: Iterable[Peer], *, files: SpeakerFiles) -> tuple[str, str]:
    """The file and its digest.

    Args:
        peers: all neighbours; the order makes no difference.
        files: what the bridge is started with, besides the digest.

    Raises:
        ConfigError: a peer has a field out of range.
    """
    ordered = sorted(peers, key=lambda peer: (peer.address.version, int(peer.address)))
    for peer in ordered:
        check(peer)
    arguments = (str(files.socket), str(files.announced))
    blocks = [_neighbour(peer) for peer in ordered]
    digest = hashlib.sha256("\n".join([*arguments, *blocks]).encode()).hexdigest()[:16]
    run = " ".join(_quoted(word) for word in (_interpreter(), "-I", "-S", str(BRIDGE), *arguments, digest))
    head = f"process {PROCESS} {{\n  run {run};\n  encoder json;\n}}\n"
    return head + "".join(block.replace("@DIGEST@", digest, 1) for block in blocks), digest


def _interpreter() -> str:
    """Python without the virtual environment: ExaBGP refuses a program that is not a regular file."""
    return os.path.realpath(sys.executable)


def _quoted(word: str) -> str:
    if any(c in word for c in '"\\\n'):
        raise ConfigError(f"path {word!r}: contains a quote, a backslash or a line break; use another directory")
    return f'"{word}"'


def write(path: Path, text: str) -> None:
    """Replace the file at once, readable by root alone."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    new.replace(path)


def check(peer: Peer) -> None:
    """Whether ExaBGP can be configured with the peer.

    Raises:
        ConfigError: a field is out of range.
    """

    def within(name: str, found: int, low: int, high: int) -> None:
        if not low <= found <= high:
            raise ConfigError(f"peer {peer.address}: {name} is {found}, expected {low} to {high}")

    within("local AS", peer.local_as, 1, 2**32 - 1)
    within("peer AS", peer.peer_as, 1, 2**32 - 1)
    within("port", peer.port, 1, 65535)
    within("listenPort", peer.listen_port, 1, 65535)
    within("restart time", peer.restart_time, 0, 4095)  # 12 bits, RFC 4724 3
    if peer.hold_time:
        within("hold time", peer.hold_time, 3, 65535)  # RFC 4271 4.2
    if family(peer.address) != family(peer.local_address):
        raise ConfigError(f"peer {peer.address}: local address {peer.local_address} is of the other family")
    if len(peer.password.encode()) > MAX_PASSWORD:
        raise ConfigError(f"peer {peer.address}: the password is longer than {MAX_PASSWORD} bytes")
    try:
        IPv4Address(peer.router_id)
    except ValueError:
        raise ConfigError(f"peer {peer.address}: router id is {peer.router_id!r}, expected like 10.0.0.1") from None


def _neighbour(peer: Peer) -> str:
    lines = [
        'description "@DIGEST@"',
        f"router-id {IPv4Address(peer.router_id)}",
        f"local-address {peer.local_address}",
        f"local-as {peer.local_as}",
        f"peer-as {peer.peer_as}",
        f"hold-time {peer.hold_time}",
        f"listen {peer.listen_port}",
        f"connect {peer.port}",
        f"passive {'true' if peer.passive else 'false'}",
        "manual-eor true",
        "group-updates false",
        "adj-rib-in false",
        "adj-rib-out true",
    ]
    if peer.password:
        lines += [f'md5-password "{base64.b64encode(peer.password.encode()).decode()}"', "md5-base64 true"]
    body = "".join(f"  {line};\n" for line in lines)
    restart = f"graceful-restart {peer.restart_time};" if peer.restart_time else "graceful-restart disable;"
    return (
        f"neighbor {peer.address} {{\n{body}"
        f"  family {{ {_FAMILY[family(peer.address)]}; }}\n"
        f"  capability {{ {restart} route-refresh enable; add-path receive; }}\n"
        f"  api {{ processes [ {PROCESS} ]; receive {{ parsed; update; open; notification; }} neighbor-changes; }}\n"
        "}\n"
    )
