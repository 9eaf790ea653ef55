"""Which objects a request is about, and what a watch sees of a change through its selection. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from calico_py.lab.api import selectors
from calico_py.lab.api.errors import Object
from calico_py.lab.api.resources import Resource
from calico_py.lab.api.storage import Change


@dataclass(frozen=True, slots=True)
class Selection:
    """Which objects of a resource a request is about."""

    namespace: str = ""
    labels: str = ""
    fields: str = ""

    def predicate(self, resource: Resource) -> selectors.Predicate | None:
        """The test for one object; None where all of the namespace are meant.

        Raises:
            ApiError: 400 for a selector that cannot be read.
        """
        return selectors.predicate(
            selectors.parse_labels(self.labels), selectors.parse_fields(self.fields, resource.selectable)
        )


@dataclass(frozen=True, slots=True)
class Event:
    """What a watch with a selection sees of a change: entering it is ADDED, leaving it is DELETED."""

    type: str
    version: int
    object: Object


def in_version(resource: Resource, obj: Object) -> Object:
    """The stored object as that version of its kind; all versions have one form."""
    if obj["apiVersion"] == resource.api_version:
        return obj
    return {**obj, "apiVersion": resource.api_version}


def told(resource: Resource, selection: Selection, changes: Iterable[Change]) -> list[Event]:
    """What a watch tells of these changes."""
    matches = selection.predicate(resource)
    return [event for change in changes for event in _told(resource, selection.namespace, matches, change)]


def _told(resource: Resource, namespace: str, matches: selectors.Predicate | None, change: Change) -> Iterator[Event]:
    obj, previous = change.object, change.previous
    if namespace and obj["metadata"].get("namespace") != namespace:
        return
    was = previous is not None and (matches is None or matches(previous))
    now = not change.removed and (matches is None or matches(obj))
    if now:
        yield Event("MODIFIED" if was else "ADDED", change.version, in_version(resource, obj))
    elif was and previous is not None:
        last = {**previous, "metadata": {**previous["metadata"], "resourceVersion": str(change.version)}}
        yield Event("DELETED", change.version, in_version(resource, last))
