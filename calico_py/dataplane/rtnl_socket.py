"""Sockets of NETLINK_ROUTE (netlink(7)) on the event loop: requests with their answers, dumps, multicast.

A request has a socket of its own, closed behind it: what a cancelled task leaves unread is gone with it. Sockets
belong to the network namespace in which the thread is when they are opened.
"""

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Callable, Sequence

from calico_py.dataplane import nlmsg

SOL_NETLINK = 270
_ADD_MEMBERSHIP = 1
_CAP_ACK = 10  # the kernel does not repeat the failed request
_EXT_ACK = 11  # but says in words what it minds
_GET_STRICT_CHK = 12  # reads the filters of a dump, and dumps no cached exceptions

_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33  # asm-generic/socket.h
_BUFFER = 8 << 20
DATAGRAM = 64 << 10  # the kernel fills 32 KiB at most when it dumps (netlink_dump)
_BATCH = 256  # requests in one send: beyond some hundreds nothing is gained, and the loop waits longer
_DUMP_ATTEMPTS = 20  # one right after the other
_PAUSE, _LONGEST_PAUSE = 0.01, 0.5  # seconds between those that follow

_log = logging.getLogger(__name__)


class DumpRefusedError(OSError):
    """The kernel ended a dump with an error."""


def open_socket(groups: Sequence[int] = (), *, protocol: int = socket.NETLINK_ROUTE) -> socket.socket:
    """A non-blocking netlink socket, member of the protocol's multicast groups (enum rtnetlink_groups)."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    try:
        sock.setblocking(False)
        with contextlib.suppress(PermissionError):  # without CAP_NET_ADMIN the default sizes must do
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
            sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _BUFFER)
        for option in (_CAP_ACK, _EXT_ACK, _GET_STRICT_CHK):
            sock.setsockopt(SOL_NETLINK, option, 1)
        sock.bind((0, 0))
        for group in groups:
            sock.setsockopt(SOL_NETLINK, _ADD_MEMBERSHIP, group)
    except BaseException:
        sock.close()
        raise
    return sock


async def dump(request: Callable[[int], bytes]) -> list[nlmsg.Message]:
    """All messages of a dump, complete: one that was interrupted by a change (NLM_F_DUMP_INTR) is made again.

    However often that is: changes by the thousand end some time.

    Args:
        request: packs the request, given its sequence number.

    Raises:
        DumpRefusedError: the kernel ended it with an error.
    """
    attempt, pause = 0, 0.0
    while True:
        attempt += 1
        with open_socket() as sock:
            sock.send(request(attempt))
            messages = await _read_dump(sock)
        if messages is not None:
            return messages
        if attempt == _DUMP_ATTEMPTS:
            _log.warning("a netlink dump was interrupted %d times by changes of what it lists; it goes on", attempt)
            pause = _PAUSE
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


async def _read_dump(sock: socket.socket) -> list[nlmsg.Message] | None:
    """The messages up to NLMSG_DONE; None if the dump was interrupted."""
    messages: list[nlmsg.Message] = []
    interrupted = False
    while True:
        for message in nlmsg.iter_messages(await receive(sock)):
            interrupted |= bool(message.flags & nlmsg.NLM_F_DUMP_INTR)
            if message.type in (nlmsg.NLMSG_DONE, nlmsg.NLMSG_ERROR):
                ack = nlmsg.parse_ack(message)
                if ack.errno and ack.errno != errno.EINTR:
                    raise DumpRefusedError(ack.errno, ack.reason)
                return None if interrupted or ack.errno else messages
            messages.append(message)
        await asyncio.sleep(0)  # a large dump is always ready to be read: let others run


async def exchange(requests: Sequence[Callable[[int, int], bytes]]) -> list[nlmsg.Ack]:
    """Send requests, some hundreds at once, and return the kernel's answer to each, in order.

    Args:
        requests: each packs its message, given sequence number and further flags.
    """
    answers: list[nlmsg.Ack] = []
    with open_socket() as sock:
        for start in range(0, len(requests), _BATCH):
            answers += await _exchange_batch(sock, requests[start : start + _BATCH])
            await asyncio.sleep(0)
    return answers


async def _exchange_batch(sock: socket.socket, requests: Sequence[Callable[[int, int], bytes]]) -> list[nlmsg.Ack]:
    """Errors always come; success is only asked for on the last, whose answer ends the batch."""
    answers = [nlmsg.Ack(seq, 0) for seq in range(len(requests))]
    last = len(requests) - 1
    sock.send(b"".join(pack(seq, nlmsg.NLM_F_ACK if seq == last else 0) for seq, pack in enumerate(requests)))
    while True:
        for message in nlmsg.iter_messages(await receive(sock)):
            if message.type == nlmsg.NLMSG_ERROR:
                answers[message.seq] = nlmsg.parse_ack(message)
                if message.seq == last:
                    return answers


async def receive(sock: socket.socket) -> bytes:
    """The next datagram.

    Raises:
        OSError: ENOBUFS when the kernel had more to say than the buffer holds.
    """
    return await asyncio.get_running_loop().sock_recv(sock, DATAGRAM)
