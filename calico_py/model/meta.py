"""The part that every Kubernetes object has in common."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

NOTHING: Mapping[str, str] = MappingProxyType({})
"""Of all objects without labels or annotations: most have none, and a leader holds hundreds of thousands."""


@dataclass(frozen=True, slots=True)
class Meta:
    """Metadata of an object as far as calico-py reads or writes it.

    Attributes:
        resource_version: opaque; sent back by an update, which fails with Conflict if the object changed since.
        deleting: the object has a deletionTimestamp.
    """

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str = ""
    deleting: bool = False
    labels: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    annotations: Mapping[str, str] = field(default_factory=lambda: NOTHING)
