"""Reading a request: which object it is about, which form of answer it accepts, what its body says. Pure."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from calico_py.lab.api import protobuf
from calico_py.lab.api.errors import ApiError, Object, bad_request

_PATH = re.compile(
    r"^/(?:api/(?P<core>v1)|apis/(?P<group>[^/]+)/(?P<version>[^/]+))"
    r"(?:/namespaces/(?P<namespace>[^/]+)(?=/[^/]+))?"
    r"/(?P<plural>[^/]+)(?:/(?P<name>[^/]+)(?:/(?P<subresource>[^/]+))?)?/?$"
)


@dataclass(frozen=True, slots=True)
class Target:
    """What the path of a request names; ``name`` is empty for a collection."""

    group: str
    version: str
    plural: str
    namespace: str = ""
    name: str = ""
    subresource: str = ""


def parse_path(path: str) -> Target | None:
    """The resource that a path names, or None where it names none."""
    match = _PATH.match(path)
    if not match:
        return None
    group, version = match["group"] or "", match["core"] or match["version"]
    namespace, plural = match["namespace"] or "", match["plural"]
    name, subresource = match["name"] or "", match["subresource"] or ""
    if namespace and plural in ("status", "finalize") and not name:
        # A namespace has subresources of its own.
        return Target(group, version, "namespaces", name=namespace, subresource=plural)
    return Target(group, version, plural, namespace, name, subresource)


@dataclass(frozen=True, slots=True)
class Form:
    """The form of the answer.

    Attributes:
        kind: empty for plain objects, else Table, PartialObjectMetadata or PartialObjectMetadataList.
        parameters: of the media type that was chosen.
    """

    kind: str = ""
    parameters: Mapping[str, str] = ()  # type: ignore[assignment]  # an empty tuple is an empty mapping to dict()


_FORMS = ("Table", "PartialObjectMetadata", "PartialObjectMetadataList")


def parse_accept(header: str) -> list[tuple[str, dict[str, str]]]:
    """The media types of an Accept header with their parameters, in the client's order."""
    found = []
    for part in header.split(","):
        media, *rest = (each.strip() for each in part.split(";"))
        if media:
            found.append((media, dict(each.split("=", 1) for each in rest if "=" in each)))
    return found or [("*/*", {})]


def choose_form(header: str) -> Form:
    """The first form that the client asks for and we have.

    Raises:
        ApiError: 406 where there is none.
    """
    for media, parameters in parse_accept(header):
        if media not in ("application/json", "application/*", "*/*"):
            continue
        wanted = parameters.get("as", "")
        if not wanted:
            return Form()
        if wanted in _FORMS and parameters.get("g") == "meta.k8s.io" and parameters.get("v") == "v1":
            return Form(wanted, parameters)
    raise ApiError(
        406,
        "NotAcceptable",
        "only the following media types are accepted: application/json, also as Table, PartialObjectMetadata",
    )


class _Loader(yaml.CSafeLoader):
    """YAML as Kubernetes reads it: a timestamp is a string."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


def parse_body(body: bytes, content_type: str) -> Any:
    """The body of a request as JSON values.

    Raises:
        ApiError: 400 where it is neither JSON nor YAML, 415 for a type that is not read here.
    """
    media = content_type.partition(";")[0].strip()
    try:
        if media in ("application/json", "application/merge-patch+json", "application/json-patch+json") or (
            media in ("", "application/strategic-merge-patch+json")
        ):
            return json.loads(body)
        if media in ("application/yaml", "application/apply-patch+yaml"):
            return yaml.load(body, Loader=_Loader)  # noqa: S506 - a safe loader
        if media == protobuf.MEDIA:
            return protobuf.parse_protobuf(body)
    except (ValueError, yaml.YAMLError) as error:
        raise bad_request(f"the body could not be read as {media}: {error}") from None
    raise ApiError(
        415, "UnsupportedMediaType", f"the body of the request was in an unknown format - {media} is not accepted"
    )


def parse_object(body: bytes, content_type: str) -> Object:
    """The body as an object.

    Raises:
        ApiError: 400, 415.
    """
    found = parse_body(body, content_type)
    if not isinstance(found, dict):
        raise bad_request("the body is no object")
    return found
