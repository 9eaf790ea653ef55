"""Why a neighbour cannot be reached, asked of the kernel. Standard library only: part of the bridge."""

import contextlib
import errno
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from calico_py.bgp.bridge import Bridge
from calico_py.bgp.bridge_session import packed

PROBE_ROUNDS = 4  # looks for an answer before there is none; the kernel takes 3 s for a silent link
PROBES = 50  # answers awaited at a time
BGP_PORT = 179
SYN_SENT, LISTEN = "02", "0A"  # net/tcp_states.h
IP_RECVERR, IPV6_RECVERR = 11, 25  # linux/in.h, linux/in6.h


class Prober:
    """Finds out why a neighbour cannot be reached; ExaBGP does not say what the kernel told it.

    A datagram to its BGP port brings an ICMP error back, or none; a TCP connection of our own would be taken for
    the neighbour's session at the other end.
    """

    def __init__(self) -> None:
        self._probes: dict[str, Probe] = {}

    def round(self, bridge: Bridge) -> None:
        """Report what is known by now, and send where an answer has come or none will."""
        quiet = bridge.unreached()
        for peer in self._probes.keys() - quiet.keys():
            self._probes.pop(peer).close()
        waiting = _syn_sent() if self._probes else set()
        for peer, probe in self._probes.items():
            bridge.probed(peer, probe.look(), waiting=packed(peer) in waiting)
        busy = sum(1 for probe in self._probes.values() if probe.pending)
        # A thousand may be down: those that were probed least come first.
        for peer in sorted(quiet, key=lambda peer: self._probes[peer].sent if peer in self._probes else 0):
            if busy < PROBES:
                busy += self._probes.setdefault(peer, Probe()).send(peer, quiet[peer])


class Probe:
    """A datagram on its way, and what came of the ones before."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._rounds = 0
        self._error = ""
        self.sent = 0

    @property
    def pending(self) -> bool:
        """There may still come an answer."""
        return self._socket is not None

    def send(self, peer: str, local: str) -> bool:
        """Send unless an answer is still awaited; True if one is awaited now that was not before."""
        if self._socket is not None:
            return False
        self._rounds = 0
        self.sent += 1
        six = ":" in peer
        try:
            self._socket = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
            # Without it ip(7) does not report that a host is unreachable.
            option = (socket.IPPROTO_IPV6, IPV6_RECVERR) if six else (socket.IPPROTO_IP, IP_RECVERR)
            self._socket.setsockopt(*option, 1)
            self._socket.setblocking(False)
            self._socket.bind((local, 0))
            self._socket.connect((peer, BGP_PORT))
            self._socket.send(b"")
        except OSError as error:
            self._error = errno.errorcode.get(error.errno or 0, "")
            self.close()
        return self._socket is not None

    def look(self) -> str:
        """Name of the errno that the last datagram met, empty for none. The kernel takes 3 s for a silent link."""
        if self._socket is not None:
            self._rounds += 1
            code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code or self._rounds >= PROBE_ROUNDS:
                self._error = errno.errorcode.get(code, "") if code else ""
                self.close()
        return self._error

    def close(self) -> None:
        """Await nothing any more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _syn_sent() -> set[bytes]:
    """Addresses to which a SYN is on its way without an answer."""
    return {remote for _, remote, _ in _sockets(SYN_SENT)}


def listening(pid: int) -> set[tuple[bytes, int]]:
    """Addresses and ports on which that process listens."""
    own = set()
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                own.add(str(entry.readlink()))
    return {local for local, _, inode in _sockets(LISTEN) if f"socket:[{inode}]" in own}


def _sockets(state: str) -> Iterator[tuple[tuple[bytes, int], bytes, str]]:
    """Own address and port, the other's address, and inode of each TCP socket in a state (proc(5), /proc/net/tcp).

    A host may have a hundred thousand, nearly all of them established: no more is read of those than their state.
    """
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            for line in Path(f"/proc/net/{name}").read_text(encoding="ascii").splitlines()[1:]:
                if line.split(maxsplit=4)[3] != state:
                    continue
                fields = line.split()
                local, _, port = fields[1].partition(":")
                yield (_address(local), int(port, 16)), _address(fields[2].partition(":")[0]), fields[9]


def _address(text: str) -> bytes:
    """Words of 32 bits in the machine's order, each shown as a number."""
    words = [int(text[i : i + 8], 16) for i in range(0, len(text), 8)]
    return b"".join(word.to_bytes(4, sys.byteorder) for word in words)
