"""Table and PartialObjectMetadata: the forms in which kubectl and metadata reflectors ask for objects.

Pure; the age of an object is told by the server (meta.k8s.io/v1 Table), so the time is a parameter.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from calico_py.lab.api.errors import Object
from calico_py.lab.api.resources import Column, Resource

_STEP = re.compile(
    r"""\.?(?:
        \[\?\(@\.(?P<key>[\w.-]+)\s*==\s*(?P<quote>["'])(?P<value>.*?)(?P=quote)\)\]   # [?(@.type=="Ready")]
      | \[(?P<index>\d+)\]
      | (?P<all>\[\*\])
      | \['(?P<quoted>[^']+)'\]
      | (?P<name>(?:[\w/-]|\\\.)+)
    )""",
    re.VERBOSE,
)
_NAME = Column("Name", "string", ".metadata.name", format="name", description="Name of the object")


def lookup(obj: Any, path: str) -> Iterator[Any]:
    """The values at a JSONPath such as printer columns use: names, indexes, ``[*]``, equality filters."""
    found = [obj]
    for step in _STEP.finditer(path):
        found = [member for each in found for member in _step(each, step)]
    yield from found


def _step(value: Any, step: re.Match[str]) -> Iterable[Any]:
    name = step["name"] or step["quoted"]
    if name is not None:
        name = name.replace("\\.", ".")
        return [value[name]] if isinstance(value, dict) and value.get(name) is not None else []
    if not isinstance(value, list):
        return []
    if step["index"] is not None:
        return value[int(step["index"]) : int(step["index"]) + 1]
    if step["all"] is not None:
        return value
    return [each for each in value if isinstance(each, dict) and str(each.get(step["key"])) == step["value"]]


def age(timestamp: str, now: datetime) -> str:
    """How long ago, as kubectl writes it: ``12s``, ``3m4s``, ``5h``, ``3d2h`` (apimachinery, util/duration)."""
    try:
        since = datetime.fromisoformat(timestamp)
    except (TypeError, ValueError):
        return "<unknown>"
    seconds = max(0, int((now - since.astimezone(UTC)).total_seconds()))
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    for text, fits in (
        (f"{seconds}s", minutes < 2),
        (f"{minutes}m{seconds % 60}s" if seconds % 60 else f"{minutes}m", minutes < 10),
        (f"{minutes}m", hours < 3),
        (f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h", hours < 8),
        (f"{hours}h", hours < 48),
        (f"{days}d{hours % 24}h" if hours % 24 else f"{days}d", days < 8),
    ):
        if fits:
            return text
    return f"{days}d"


def _cell(column: Column, obj: Object, now: datetime) -> Any:
    value = column.value(obj) if column.value else next(lookup(obj, column.path), None)
    if column.type == "date":
        return "<unknown>" if value is None else age(str(value), now)
    if value is None:
        return None
    if column.type == "string":
        return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    return value if isinstance(value, bool | int | float) else None


def metadata_of(obj: Object) -> Object:
    """The object as PartialObjectMetadata."""
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}


def metadata_list(objects: Iterable[Object], meta: Object) -> Object:
    """The objects as PartialObjectMetadataList."""
    items = [metadata_of(obj) for obj in objects]
    return {"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": meta, "items": items}


def _embedded(obj: Object, include: str) -> Object | None:
    if include == "None":
        return None
    return obj if include == "Object" else metadata_of(obj)


def table(resource: Resource, objects: Sequence[Object], meta: Object, *, include: str, now: datetime) -> Object:
    """The objects as Table; ``include`` says what a row carries beside its cells: None, Metadata or Object."""
    columns = (_NAME, *resource.columns)
    rows = [
        {"cells": [_cell(column, obj, now) for column in columns], "object": _embedded(obj, include)} for obj in objects
    ]
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": meta,
        "columnDefinitions": [
            {
                "name": column.name,
                "type": column.type,
                "format": column.format,
                "description": column.description,
                "priority": column.priority,
            }
            for column in columns
        ],
        "rows": rows,
    }
