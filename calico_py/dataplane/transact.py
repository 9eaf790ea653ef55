"""Requests on a socket of NETLINK_ROUTE, answered before the call returns.

The kernel works on a request within send(2), so that its answer waits in the socket's queue already: reading never
blocks. For what must not be interleaved with other tasks; long batches and large dumps belong to rtnl_socket.
"""

import errno
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from calico_py.dataplane import nlmsg

Pack = Callable[[int, int], bytes]
"""A message, given sequence number and further flags."""

_DATAGRAM = 64 << 10
_DUMP_ATTEMPTS = 20


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the kernel said to a batch.

    Attributes:
        refused: for each request that failed, by its position, the answer.
        replies: bodies of the messages that GET requests got.
    """

    refused: dict[int, nlmsg.Ack] = field(default_factory=dict)
    replies: list[bytes] = field(default_factory=list)

    def errno(self, position: int) -> int:
        """Of that request; 0 if it was done."""
        return self.refused[position].errno if position in self.refused else 0


def transact(sock: socket.socket, requests: Sequence[Pack]) -> Outcome:
    """Send requests at once and read all answers; each is tried whether or not those before it failed."""
    last = len(requests) - 1
    sock.send(b"".join(pack(seq, nlmsg.NLM_F_ACK if seq == last else 0) for seq, pack in enumerate(requests)))
    outcome = Outcome()
    while True:
        for message in nlmsg.iter_messages(sock.recv(_DATAGRAM)):
            if message.type != nlmsg.NLMSG_ERROR:
                outcome.replies.append(message.body)
                continue
            answer = nlmsg.parse_ack(message)
            if answer.errno:
                outcome.refused[message.seq] = answer
            if message.seq == last:
                return outcome


def dump(sock: socket.socket, request: Callable[[int], bytes]) -> list[bytes]:
    """Bodies of all messages of a dump, made again if changes interrupted it (NLM_F_DUMP_INTR).

    Raises:
        OSError: the kernel refused.
        InterruptedError: changes came too fast for all attempts.
    """
    for attempt in range(_DUMP_ATTEMPTS):
        sock.send(request(attempt))
        bodies = _read_dump(sock)
        if bodies is not None:
            return bodies
    what = f"a netlink dump was interrupted {_DUMP_ATTEMPTS} times by changes of what it lists"
    raise InterruptedError(errno.EINTR, what)


def _read_dump(sock: socket.socket) -> list[bytes] | None:
    bodies: list[bytes] = []
    interrupted = False
    while True:
        for message in nlmsg.iter_messages(sock.recv(_DATAGRAM)):
            interrupted |= bool(message.flags & nlmsg.NLM_F_DUMP_INTR)
            if message.type in (nlmsg.NLMSG_DONE, nlmsg.NLMSG_ERROR):
                answer = nlmsg.parse_ack(message)
                if answer.errno not in (0, errno.EINTR):
                    raise OSError(answer.errno, answer.reason)
                return None if interrupted or answer.errno else bodies
            bodies.append(message.body)
