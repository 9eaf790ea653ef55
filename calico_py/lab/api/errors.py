"""Refusals as Kubernetes words them: each becomes a Status object (apimachinery, pkg/api/errors)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cause:
    """One thing wrong with one field.

    Attributes:
        reason: a CauseType such as ``FieldValueRequired``.
        message: what follows the field's path, such as ``Required value``.
    """

    field: str
    reason: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message


class ApiError(Exception):
    """A request that was refused.

    Attributes:
        code: HTTP status.
        reason: a StatusReason such as ``NotFound``.
    """

    def __init__(self, code: int, reason: str, message: str, details: Object | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.details = details or {}

    def status(self) -> Object:
        """The Status object that goes over the wire."""
        status: Object = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        status |= {"message": str(self), "reason": self.reason}
        if self.details:
            status["details"] = self.details
        return status | {"code": self.code}


def _named(group: str, plural: str, name: str) -> tuple[str, Object]:
    details = {"name": name, "group": group, "kind": plural}
    qualified = f"{plural}.{group}" if group else plural
    return f'{qualified} "{name}"', {key: value for key, value in details.items() if value}


def not_found(group: str, plural: str, name: str) -> ApiError:
    """No object of that name."""
    subject, details = _named(group, plural, name)
    return ApiError(404, "NotFound", f"{subject} not found", details)


def already_exists(group: str, plural: str, name: str) -> ApiError:
    """The name is taken."""
    subject, details = _named(group, plural, name)
    return ApiError(409, "AlreadyExists", f"{subject} already exists", details)


def conflict(group: str, plural: str, name: str, why: str) -> ApiError:
    """The object is not in the state that the request is for."""
    subject, details = _named(group, plural, name)
    return ApiError(409, "Conflict", f"Operation cannot be fulfilled on {subject}: {why}", details)


MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"


def invalid(group: str, kind: str, name: str, causes: Sequence[Cause]) -> ApiError:
    """The object breaks rules of its kind; one cause for each field."""
    qualified = f"{kind}.{group}" if group else kind
    texts = list(dict.fromkeys(str(cause) for cause in causes))
    joined = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    details = {
        "name": name,
        "group": group,
        "kind": kind,
        "causes": [{"reason": c.reason, "message": c.message, "field": c.field} for c in causes],
    }
    return ApiError(
        422, "Invalid", f'{qualified} "{name}" is invalid: {joined}', {k: v for k, v in details.items() if v}
    )


def bad_request(message: str) -> ApiError:
    """The request itself makes no sense."""
    return ApiError(400, "BadRequest", message)


def expired(found: int, oldest: int) -> ApiError:
    """The resourceVersion is older than the history that is kept: list again."""
    return ApiError(410, "Expired", f"too old resource version: {found} ({oldest})")
