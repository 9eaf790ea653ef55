"""The seam to the API server: kinds, errors, and the Store protocol.

A Kind joins a Python type to its Kubernetes resource with the two functions of its codec (model.kinds).
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from calico_py.model.net import InvalidError

Json = Mapping[str, Any]
R = TypeVar("R")
P = TypeVar("P")


def _never(_: Any) -> dict[str, Any]:
    raise AssertionError("objects of this kind are only read and patched")


@dataclass(frozen=True, slots=True)
class Kind(Generic[R]):
    """A Kubernetes resource and the codec of its Python type.

    Attributes:
        metadata_only: list and watch ask for PartialObjectMetadata; decode sees metadata alone.
        namespace: where not empty, lists and watches are confined to that namespace.
        page_size: objects a page where all are listed, 0 for all at once: of a kind that has one for each pod or block
            of the cluster, a whole list as JSON would be gigabytes.
        decode: whole object as JSON to the type; raises InvalidError naming the field.
        encode: the type to a whole object; metadata without what the server owns. Left out for what is only read and
            patched.
    """

    kind: str
    group: str
    version: str
    plural: str
    decode: Callable[[Json], R]
    encode: Callable[[R], dict[str, Any]] = _never
    namespaced: bool = False
    metadata_only: bool = False
    namespace: str = ""
    page_size: int = 0

    @property
    def api_version(self) -> str:
        """``projectcalico.org/v3``, or ``v1`` for the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def seen_as(self, decode: Callable[[Json], P]) -> "Kind[P]":
        """The same resource for a reader whom something else of the whole objects concerns."""
        return Kind(
            self.kind,
            self.group,
            self.version,
            self.plural,
            decode,
            namespaced=self.namespaced,
            namespace=self.namespace,
            page_size=self.page_size,
        )


@dataclass(frozen=True, slots=True)
class Invalid:
    """An object that the server holds and the codec refuses: it counts as absent."""

    name: str
    error: InvalidError


@dataclass(frozen=True, slots=True)
class Listing(Generic[R]):
    """One complete list.

    Attributes:
        resource_version: where a watch goes on from.
    """

    items: Sequence[R]
    resource_version: str
    invalid: Sequence[Invalid] = ()


class EventType(StrEnum):
    """What a watch tells."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"
    BOOKMARK = "BOOKMARK"


@dataclass(frozen=True, slots=True)
class WatchEvent(Generic[R]):
    """One event of a watch.

    Attributes:
        object: None for a bookmark and for an object that the codec refuses (then invalid is set).
    """

    type: EventType
    name: str
    namespace: str
    resource_version: str
    object: R | None = None
    invalid: InvalidError | None = None


class StoreError(Exception):
    """A request to the API server did not do what it should.

    Attributes:
        cure: what a person may do if it stays, as a clause; empty where the message says it.
    """

    cure: ClassVar[str] = ""


class ConflictError(StoreError):
    """The object changed since it was read (409 Conflict), or a precondition failed."""

    cure = "see who else keeps writing it"


class NotFoundError(StoreError):
    """No such object (404)."""

    cure = "if it was deleted on purpose, with its node, stop this agent; else make it again"


class ExistsError(StoreError):
    """An object of that name exists (409 AlreadyExists)."""


class GoneError(StoreError):
    """The resourceVersion is too old (410): list again."""


class UnavailableError(StoreError):
    """The server did not answer, answered 5xx, or asked to slow down (429): try again later."""

    cure = "look at the API server and the way to it; pods that run go on meanwhile"


class UnauthenticatedError(UnavailableError):
    """The server does not know the credentials (401): they may be renewed."""

    cure = "if this node or the agent's pod was deleted, stop the agent; else renew its kubeconfig or service account"


class RefusedError(StoreError):
    """The server understood and refused (400, 422): trying again unchanged is of no use."""


class ForbiddenError(RefusedError):
    """The credentials do not give that right (403)."""

    cure = "if this node was deleted, stop its agent; else `kubectl apply -k deploy/` gives the agent its rights"


class Store(Protocol):
    """The API server as calico-py uses it.

    Every call may raise any StoreError, and InvalidError where the codec refuses the object in the answer.
    """

    async def list(self, kind: Kind[R], *, labels: str = "", fields: str = "") -> Listing[R]:
        """All objects, by label and field selectors in Kubernetes' syntax."""
        ...

    def watch(
        self, kind: Kind[R], *, resource_version: str, labels: str = "", fields: str = ""
    ) -> AsyncIterator[WatchEvent[R]]:
        """What changed after that version, until the connection ends; GoneError when it is too old."""
        ...

    async def get(self, kind: Kind[R], name: str, *, namespace: str = "") -> R:
        """One object, as the server has it now (no cache)."""
        ...

    async def create(self, kind: Kind[R], obj: R) -> R:
        """Make a new object; ExistsError if the name is taken."""
        ...

    async def update(self, kind: Kind[R], obj: R) -> R:
        """Replace the object if its resourceVersion is still that of ``obj``; ConflictError else."""
        ...

    async def patch(self, kind: Kind[R], name: str, patch: Json, *, namespace: str = "", subresource: str = "") -> R:
        """Merge patch (RFC 7386); with metadata.resourceVersion inside it is conditional."""
        ...

    async def delete(
        self, kind: Kind[R], name: str, *, namespace: str = "", uid: str = "", resource_version: str = ""
    ) -> None:
        """Delete if uid and resourceVersion (where given) still match; NotFoundError, ConflictError."""
        ...


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """The object that an Event or a log line is about."""

    kind: str
    name: str
    namespace: str = ""
    api_version: str = ""
    uid: str = field(default="", compare=False)
