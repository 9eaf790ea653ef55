"""What the codecs of all kinds share: metadata, and the fields of a spec, read with a sentence for what is wrong.

Decoding validates once; a value that cannot be right raises InvalidError with the field's path. Unknown fields are left
alone (the server prunes what its schema does not know).
"""

import sys
from enum import StrEnum
from typing import Any, TypeVar

from calico_py.model import names
from calico_py.model.meta import NOTHING, Meta
from calico_py.model.net import InvalidError
from calico_py.model.store import Json

E_ = TypeVar("E_", bound=StrEnum)


def decode_meta(obj: Json) -> Meta:
    """The metadata of any object."""
    meta = obj.get("metadata") or {}
    return Meta(
        name=shared(meta.get("name", "")),
        namespace=shared(meta.get("namespace", "")),
        uid=meta.get("uid", ""),
        resource_version=meta.get("resourceVersion", ""),
        generation=meta.get("generation", 0),
        creation_timestamp=meta.get("creationTimestamp") or "",
        deleting=bool(meta.get("deletionTimestamp")),
        labels=dict(meta["labels"]) if meta.get("labels") else NOTHING,
        annotations=dict(meta["annotations"]) if meta.get("annotations") else NOTHING,
    )


def shared(found: Any) -> Any:
    """A text that many objects have, once in memory for all of them; anything else as it is."""
    return sys.intern(found) if type(found) is str else found


def encode_object(
    kind: str, meta: Meta, spec: Json, api_version: str = f"{names.GROUP}/{names.VERSION}"
) -> dict[str, Any]:
    """A whole object, its metadata without what the server owns."""
    out: dict[str, Any] = {"name": meta.name}
    for key, value in (
        ("namespace", meta.namespace),
        ("uid", meta.uid),
        ("resourceVersion", meta.resource_version),
        ("labels", dict(meta.labels)),
        ("annotations", dict(meta.annotations)),
    ):
        if value:
            out[key] = value
    return {"apiVersion": api_version, "kind": kind, "metadata": out, "spec": dict(spec)}


def read_enum(of: type[E_], spec: Json, key: str, default: E_) -> E_:
    """The value of a field; the default where it is absent or empty; InvalidError where it is none of these."""
    found = spec.get(key)
    if found in (None, ""):
        return default
    try:
        return of(found)
    except ValueError:
        raise InvalidError(f"spec.{key}", found, "one of " + ", ".join(of)) from None


def read_optional_enum(of: type[E_], spec: Json, key: str) -> E_ | None:
    """None where the field is absent or holds a value of a newer Calico: the code default applies then."""
    return next((value for value in of if value == spec.get(key)), None)


def read_int(spec: Json, key: str, default: int) -> int:
    """The same of an integer."""
    found = spec.get(key)
    if found is None:
        return default
    if not isinstance(found, int) or isinstance(found, bool):
        raise InvalidError(f"spec.{key}", found, "an integer")
    return found


def read_bool(found: object) -> bool:
    """Whether a field says true: Calico's older objects spell booleans as strings."""
    return found is True or found == "true"
