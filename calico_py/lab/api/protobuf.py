"""Reading the few objects that kubectl sends as protobuf: ``kubectl create namespace``, ``configmap``, ``secret``, ...

Pure. The envelope is that of apimachinery (pkg/runtime/serializer/protobuf): magic bytes and a runtime.Unknown. The
field numbers are those of k8s.io/api/core/v1/generated.proto. Answers are JSON always, which clients accept as well.
"""

import base64
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from calico_py.lab.api.errors import Object, bad_request

MEDIA = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\x00"
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class _Field:
    """How a field of a message becomes a member of an object."""

    name: str
    read: Callable[[Any], Any]
    many: bool = False
    keyed: bool = False


_Message = Mapping[int, _Field]


def _text(raw: bytes) -> str:
    return raw.decode()


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _time(raw: bytes) -> str | None:
    seconds = dict(_fields(raw)).get(1, 0)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if seconds else None


def _message(fields: _Message) -> Callable[[bytes], Object]:
    return lambda raw: _decode(raw, fields)


_META: _Message = {
    1: _Field("name", _text),
    2: _Field("generateName", _text),
    3: _Field("namespace", _text),
    5: _Field("uid", _text),
    6: _Field("resourceVersion", _text),
    7: _Field("generation", int),
    8: _Field("creationTimestamp", _time),
    11: _Field("labels", _text, keyed=True),
    12: _Field("annotations", _text, keyed=True),
    14: _Field("finalizers", _text, many=True),
}
_METADATA = _Field("metadata", _message(_META))
_REFERENCE: _Message = {1: _Field("kind", _text), 2: _Field("namespace", _text), 3: _Field("name", _text)}
_KINDS: Mapping[tuple[str, str], _Message] = {
    ("v1", "Namespace"): {1: _METADATA, 2: _Field("spec", _message({1: _Field("finalizers", _text, many=True)}))},
    ("v1", "ConfigMap"): {
        1: _METADATA,
        2: _Field("data", _text, keyed=True),
        3: _Field("binaryData", _base64, keyed=True),
        4: _Field("immutable", bool),
    },
    ("v1", "Secret"): {
        1: _METADATA,
        2: _Field("data", _base64, keyed=True),
        3: _Field("type", _text),
        4: _Field("stringData", _text, keyed=True),
        5: _Field("immutable", bool),
    },
    ("v1", "ServiceAccount"): {
        1: _METADATA,
        2: _Field("secrets", _message(_REFERENCE), many=True),
        3: _Field("imagePullSecrets", _message({1: _Field("name", _text)}), many=True),
    },
}


def parse_protobuf(body: bytes) -> Object:
    """The object in a protobuf body.

    Raises:
        ApiError: 400 where it is none, or of a kind that is read from JSON and YAML alone.
    """
    try:
        if not body.startswith(_MAGIC):
            raise ValueError("the magic bytes are missing")
        unknown = dict(_fields(body[len(_MAGIC) :]))
        type_meta = dict(_fields(unknown[1]))
        version, kind = _text(type_meta[1]), _text(type_meta[2])
        fields = _KINDS.get((version, kind))
        if fields is None:
            raise bad_request(f"a {kind} of {version} is read as JSON or YAML only: send it with kubectl create -f")
        return {"apiVersion": version, "kind": kind} | _decode(unknown.get(2, b""), fields)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise bad_request(f"the body could not be read as {MEDIA}: {error}") from None


def _decode(raw: bytes, fields: _Message) -> Object:
    out: Object = {}
    for number, value in _fields(raw):
        field = fields.get(number)
        if field is None:
            continue
        if field.keyed:
            entry = dict(_fields(value))
            out.setdefault(field.name, {})[_text(entry.get(1, b""))] = field.read(entry.get(2, b""))
        elif field.many:
            out.setdefault(field.name, []).append(field.read(value))
        elif (found := field.read(value)) not in ("", None):
            # Go writes empty strings, which mean absent.
            out[field.name] = found
    return out


def _fields(raw: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a message: number, and an int or bytes (protobuf encoding, protobuf.dev)."""
    at = 0
    while at < len(raw):
        key, at = _varint(raw, at)
        form = key & 7
        if form == _VARINT:
            value, at = _varint(raw, at)
            yield key >> 3, value
            continue
        if form == _BYTES:
            size, at = _varint(raw, at)
        elif form in (_FIXED64, _FIXED32):
            size = 8 if form == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {form}")
        if at + size > len(raw):
            raise ValueError("a field is longer than its message")
        yield key >> 3, raw[at : at + size]
        at += size


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at
