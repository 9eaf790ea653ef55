"""Errors as the CNI specification has them (section 5, "Error"), to be told to the runtime."""

from enum import IntEnum


class Code(IntEnum):
    """Codes of the specification, and from 100 on calico-py's own."""

    INCOMPATIBLE_VERSION = 1
    INVALID_ENVIRONMENT = 4
    IO_FAILURE = 5
    DECODE_FAILURE = 6
    INVALID_CONFIGURATION = 7
    INVALID_NETNS = 8  # libcni's
    TRY_AGAIN_LATER = 11
    NOT_AVAILABLE = 50
    WIRING = 100  # the pod's interface could not be made, or is not as it should be
    ADDRESSES = 101  # no address could be assigned
    INTERNAL = 999  # libcni's: a defect


class CNIError(Exception):
    """What the runtime is told.

    Attributes:
        message: a short sentence; details: object, field, found, expected and what to do.
    """

    def __init__(self, code: Code, message: str, details: str = "") -> None:
        super().__init__(f"{message}: {details}" if details else message)
        self.code = code
        self.message = message
        self.details = details
