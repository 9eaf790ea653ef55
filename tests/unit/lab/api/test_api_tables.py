"""What people see in tables: values by path, ages, and the forms of an answer."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from calico_py.lab.api.errors import ApiError
from calico_py.lab.api.negotiation import Target, choose_form, parse_body, parse_path
from calico_py.lab.api.tables import age, lookup

OBJECT = {
    "metadata": {"name": "x", "labels": {"a.b/c": "v"}},
    "spec": {"list": [{"type": "A", "value": 1}, {"type": "B", "value": 2}], "none": None, "zero": 0},
}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (".metadata.name", ["x"]),
        (".spec.zero", [0]),
        (".spec.none", []),
        (".spec.missing.deep", []),
        (".spec.list[0].value", [1]),
        (".spec.list[*].value", [1, 2]),
        ('.spec.list[?(@.type=="B")].value', [2]),
        (".spec.list[?(@.type == 'C')].value", []),
        (".spec.list[7].value", []),
        (".metadata.labels['a.b/c']", ["v"]),
        (r".metadata.labels.a\.b/c", ["v"]),
    ],
)
def test_paths_of_columns(path: str, found: list[Any]) -> None:
    assert list(lookup(OBJECT, path)) == found


@pytest.mark.parametrize(
    ("seconds", "text"),
    # What kubectl 1.34 prints (apimachinery, util/duration, HumanDuration).
    [
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (121, "2m1s"),
        (599, "9m59s"),
        (600, "10m"),
        (3 * 3600 - 1, "179m"),
        (3 * 3600, "3h"),
        (3 * 3600 + 60, "3h1m"),
        (8 * 3600, "8h"),
        (47 * 3600, "47h"),
        (48 * 3600, "2d"),
        (49 * 3600, "2d1h"),
        (8 * 86400, "8d"),
        (700 * 86400, "700d"),
        (-5, "0s"),
    ],
)
def test_ages(seconds: int, text: str) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert age((now - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ"), now) == text


def test_the_age_of_nonsense_is_unknown() -> None:
    assert age("yesterday", datetime.now(UTC)) == "<unknown>"


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/api/v1/nodes", Target("", "v1", "nodes")),
        ("/api/v1/nodes/n1/status", Target("", "v1", "nodes", name="n1", subresource="status")),
        ("/api/v1/namespaces", Target("", "v1", "namespaces")),
        ("/api/v1/namespaces/default", Target("", "v1", "namespaces", name="default")),
        ("/api/v1/namespaces/default/status", Target("", "v1", "namespaces", name="default", subresource="status")),
        ("/api/v1/namespaces/default/pods", Target("", "v1", "pods", "default")),
        ("/api/v1/namespaces/status/pods", Target("", "v1", "pods", "status")),
        ("/apis/g.org/v3/ippools/", Target("g.org", "v3", "ippools")),
        ("/apis/g.org/v1/namespaces/n/things/t/status", Target("g.org", "v1", "things", "n", "t", "status")),
        ("/apis/g.org/v1", None),
        ("/apis/g.org", None),
        ("/api", None),
        ("/healthz", None),
        ("/openapi/v3/apis/g.org/v1", None),
    ],
)
def test_paths_of_requests(path: str, target: Target | None) -> None:
    assert parse_path(path) == target


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", ""),
        ("*/*", ""),
        ("application/json", ""),
        ("application/vnd.kubernetes.protobuf,application/json", ""),
        ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", "Table"),
        ("application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json", ""),
        ("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", "PartialObjectMetadataList"),
        ("application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,application/json", ""),
    ],
)
def test_forms(accept: str, kind: str) -> None:
    assert choose_form(accept).kind == kind


def test_a_form_that_nobody_has() -> None:
    with pytest.raises(ApiError) as refused:
        choose_form("application/vnd.kubernetes.protobuf")
    assert refused.value.code == 406


def test_a_time_in_yaml_stays_text() -> None:
    assert parse_body(b"a: 2026-01-02T03:04:05Z", "application/apply-patch+yaml") == {"a": "2026-01-02T03:04:05Z"}


@pytest.mark.parametrize(
    "body", [b"", b"k8s\x00", b"nonsense", b"k8s\x00\x0a\x7f", b"k8s\x00\x0a\x02\x0b\x00", b"k8s\x00\xff"]
)
def test_what_is_no_protobuf_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError) as refused:
        parse_body(body, "application/vnd.kubernetes.protobuf")
    assert refused.value.code == 400


def test_an_object_in_protobuf() -> None:
    meta = b"\x0a\x02c1" + b"\x5a\x08\x0a\x01k\x12\x03v v"
    raw = b"\x0a" + bytes([len(meta)]) + meta + b"\x12\x06\x0a\x01a\x12\x01b" + b"\x20\x01"
    body = b"k8s\x00\x0a\x0f\x0a\x02v1\x12\x09ConfigMap" + b"\x12" + bytes([len(raw)]) + raw
    assert parse_body(body, "application/vnd.kubernetes.protobuf") == {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "c1", "labels": {"k": "v v"}},
        "data": {"a": "b"},
        "immutable": True,
    }
