"""Netlink's framing, pure: headers, attributes, acknowledgements. Bytes in, bytes out.

What a message of some family means (a route, a link) is its own codec's; sockets are elsewhere too.
Layouts: struct nlmsghdr, nlmsgerr and nlattr of linux/netlink.h. Everything is in the host's byte order unless an
attribute says otherwise, and padded to four bytes.
"""

import os
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass

# nlmsg_type below NLMSG_MIN_TYPE
NLMSG_NOOP = 1
NLMSG_ERROR = 2
NLMSG_DONE = 3
NLMSG_OVERRUN = 4

# nlmsg_flags
NLM_F_REQUEST = 0x01
NLM_F_MULTI = 0x02
NLM_F_ACK = 0x04
NLM_F_DUMP_INTR = 0x10
# ... of a GET request
NLM_F_DUMP = 0x300  # NLM_F_ROOT | NLM_F_MATCH
# ... of a NEW request
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_APPEND = 0x800
# ... of an acknowledgement
NLM_F_CAPPED = 0x100  # the failed request's payload is not repeated
NLM_F_ACK_TLVS = 0x200  # extended acknowledgement attributes follow

NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF

# enum nlmsgerr_attrs
NLMSGERR_ATTR_MSG = 1

HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: len, type, flags, seq, pid
ATTR = struct.Struct("=HH")  # struct nlattr: len, type
_ERROR = struct.Struct("=i")  # struct nlmsgerr: error, then the nlmsghdr of the request

HEADER_LEN = HEADER.size
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a datagram.

    Attributes:
        body: all that follows the header, padding excluded.
    """

    type: int
    flags: int
    seq: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Ack:
    """The answer to one request: an NLMSG_ERROR message, or the NLMSG_DONE at the end of a dump.

    Attributes:
        errno: positive; 0 means done as asked.
        text: the kernel's own words (extended acknowledgement), often empty.
    """

    seq: int
    errno: int
    text: str = ""

    @property
    def reason(self) -> str:
        """Why it failed, for people: the errno's meaning, and the kernel's words if it has any."""
        meaning = os.strerror(self.errno)
        return f"{meaning}: {self.text}" if self.text else meaning


class TruncatedError(ValueError):
    """A message or an attribute claims to be longer than the bytes that are there, or shorter than its header."""


def pack_attr(kind: int, payload: bytes) -> bytes:
    """An attribute, padded."""
    return ATTR.pack(4 + len(payload), kind) + payload + _PADDING[len(payload) & 3]


def pack_nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds packed attributes, marked NLA_F_NESTED."""
    payload = b"".join(attributes)
    return ATTR.pack(4 + len(payload), kind | NLA_F_NESTED) + payload


def pack_u8(kind: int, value: int) -> bytes:
    """An attribute of one byte."""
    return pack_attr(kind, bytes((value,)))


def pack_u16(kind: int, value: int) -> bytes:
    """An attribute of two bytes, host order."""
    return struct.pack("=HHHxx", 6, kind, value)


def pack_u32(kind: int, value: int) -> bytes:
    """An attribute of four bytes, host order."""
    return struct.pack("=HHI", 8, kind, value)


def pack_string(kind: int, value: str) -> bytes:
    """An attribute that holds text with the terminating zero."""
    return pack_attr(kind, value.encode() + b"\0")


def pack_message(kind: int, flags: int, seq: int, body: bytes) -> bytes:
    """A whole message, padded; nlmsg_pid 0, which the kernel fills in."""
    return HEADER.pack(HEADER_LEN + len(body), kind, flags, seq, 0) + body + _PADDING[len(body) & 3]


def iter_messages(data: bytes) -> Iterator[Message]:
    """The messages of a datagram.

    Raises:
        TruncatedError: a length does not fit.
    """
    offset, end = 0, len(data)
    while offset < end:
        if end - offset < HEADER_LEN:
            raise TruncatedError(f"{end - offset} bytes after the last netlink message, a header has {HEADER_LEN}")
        length, kind, flags, seq, _ = HEADER.unpack_from(data, offset)
        if not HEADER_LEN <= length <= end - offset:
            raise TruncatedError(f"netlink message of type {kind} says {length} bytes, {end - offset} are there")
        yield Message(kind, flags, seq, data[offset + HEADER_LEN : offset + length])
        offset += (length + 3) & ~3


def iter_attrs(data: bytes, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """Type (without its flag bits) and payload of each attribute from the offset on.

    Raises:
        TruncatedError: a length does not fit.
    """
    end = len(data)
    while end - offset >= 4:
        length, kind = ATTR.unpack_from(data, offset)
        if not 4 <= length <= end - offset:
            raise TruncatedError(f"netlink attribute {kind & NLA_TYPE_MASK} says {length} bytes, {end - offset} left")
        yield kind & NLA_TYPE_MASK, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def parse_attrs(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """Attributes by type; of a repeated one the last.

    Raises:
        TruncatedError: a length does not fit.
    """
    return dict(iter_attrs(data, offset))


def parse_u32(payload: bytes) -> int:
    """The value of an attribute of four bytes in host order."""
    return int.from_bytes(payload, sys.byteorder)


def parse_string(payload: bytes) -> str:
    """Text of an attribute, without the terminating zero; bytes that are no UTF-8 become U+FFFD."""
    return payload.split(b"\0", 1)[0].decode(errors="replace")


def parse_ack(message: Message) -> Ack:
    """The outcome that an NLMSG_ERROR or NLMSG_DONE message carries.

    Both begin with the negative errno (a dump that failed half-way says so in its NLMSG_DONE). The extended
    acknowledgement follows the request's header (with NETLINK_CAP_ACK) or the whole request; in NLMSG_DONE it
    follows the errno.
    """
    (error,) = _ERROR.unpack_from(message.body) if len(message.body) >= 4 else (0,)
    if not message.flags & NLM_F_ACK_TLVS:
        return Ack(message.seq, -error)
    offset = 4
    if message.type == NLMSG_ERROR:
        request_length = HEADER_LEN
        if not message.flags & NLM_F_CAPPED and len(message.body) >= 4 + HEADER_LEN:
            request_length = HEADER.unpack_from(message.body, 4)[0]
        offset += (request_length + 3) & ~3
    text = parse_attrs(message.body, offset).get(NLMSGERR_ATTR_MSG, b"")
    return Ack(message.seq, -error, parse_string(text))
