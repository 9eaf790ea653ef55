"""The frames between the shim and the agent, pure: bytes in, values out.

A request is a header of 16 bytes (version, three zero bytes, errno of opening CNI_NETNS, length of the environment,
length of stdin; the last three big-endian, 32 bits), the CNI_* variables as ``NAME=value`` each with a NUL behind it,
and stdin. A descriptor of CNI_NETNS travels beside its first byte (SCM_RIGHTS, unix(7)).

The agent greets with one byte, its version, as soon as it begins to work on a request: a connection that ends without
a greeting has changed nothing. The answer follows: exit status in one byte, length in four, JSON for stdout. Greeting
and answer have this form in every version, so that a shim of any age can print what an agent of any age says.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

VERSION = 1
ENV_MAX = 64 << 10  # bytes, as in the shim
STDIN_MAX = 4 << 20
ANSWER_MAX = 4 << 20

_HEADER = struct.Struct(">B3xIII")
_ANSWER = struct.Struct(">BI")


class WireError(ValueError):
    """The bytes are no request; the message says what was found and what was expected."""


class VersionError(WireError):
    """A shim of another wire version."""


@dataclass(frozen=True, slots=True)
class Request:
    """One call of the executable.

    Attributes:
        env: its CNI_* variables.
        netns_errno: why CNI_NETNS could not be opened; 0 if it was, or was not given.
    """

    env: Mapping[str, str] = field(default_factory=dict)
    stdin: bytes = b""
    netns_errno: int = 0


def pack_request(request: Request) -> bytes:
    """The request as the shim sends it, and as it keeps a DEL in a file."""
    env = b"".join(f"{name}={value}".encode(errors="surrogateescape") + b"\0" for name, value in request.env.items())
    return _HEADER.pack(VERSION, request.netns_errno, len(env), len(request.stdin)) + env + request.stdin


class RequestReader:
    """Collects the bytes of one request as they come."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Request | None:
        """Add bytes; the request once it is whole.

        Raises:
            VersionError: the first byte is another version.
            WireError: lengths beyond the limits, more bytes than announced, or an environment that is none.
        """
        self._data += data
        if self._data and self._data[0] != VERSION:
            raise VersionError(f"wire version: found {self._data[0]}, expected {VERSION}: shim and agent differ")
        if len(self._data) < _HEADER.size:
            return None
        _, netns_errno, env_length, stdin_length = _HEADER.unpack_from(self._data)
        if env_length > ENV_MAX or stdin_length > STDIN_MAX:
            raise WireError(
                f"lengths of environment and stdin: found {env_length} and {stdin_length}, "
                f"expected at most {ENV_MAX} and {STDIN_MAX}"
            )
        end_of_env = _HEADER.size + env_length
        end = end_of_env + stdin_length
        if len(self._data) > end:
            raise WireError(f"length of the request: found more than the {end} bytes that its header announces")
        if len(self._data) < end:
            return None
        env = _parse_environment(bytes(self._data[_HEADER.size : end_of_env]))
        return Request(env, bytes(self._data[end_of_env:]), netns_errno)


def parse_request(data: bytes) -> Request:
    """A whole request, such as a file of the DEL queue holds.

    Raises:
        WireError: it is none, or not whole.
    """
    request = RequestReader().feed(data)
    if request is None:
        raise WireError(f"length of the request: found {len(data)} bytes, expected more")
    return request


def _parse_environment(data: bytes) -> dict[str, str]:
    if data and not data.endswith(b"\0"):
        raise WireError("environment: found no NUL at its end")
    env = {}
    for entry in data.split(b"\0")[:-1]:
        name, equals, value = entry.decode(errors="surrogateescape").partition("=")
        if not equals or not name.startswith("CNI_"):
            raise WireError(f"environment: found {name[:40]!r}, expected CNI_NAME=value")
        env[name] = value
    return env


def pack_greeting() -> bytes:
    """What the agent sends when it begins to work on a request."""
    return bytes((VERSION,))


def pack_answer(status: int, body: bytes) -> bytes:
    """The answer: exit status of the executable and what it prints.

    Args:
        status: 0 to 255.
        body: at most ANSWER_MAX bytes.
    """
    assert len(body) <= ANSWER_MAX, len(body)
    return _ANSWER.pack(status, len(body)) + body


def parse_answer(data: bytes) -> tuple[int, bytes]:
    """Exit status and body of a whole exchange, greeting included.

    Raises:
        WireError: it is not whole.
    """
    if len(data) < 1 + _ANSWER.size:
        raise WireError(f"length of the answer: found {len(data)} bytes, expected {1 + _ANSWER.size} or more")
    status, length = _ANSWER.unpack_from(data, 1)
    body = data[1 + _ANSWER.size :]
    if len(body) != length:
        raise WireError(f"length of the answer: found {len(body)} bytes, expected {length}")
    return status, body
