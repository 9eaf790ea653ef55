"""The verbs over HTTP: a request becomes a call of verbs, the outcome an answer in the form asked for."""

import base64
import json
import random
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from aiohttp import web

from calico_py.lab.api import errors, patches, tables
from calico_py.lab.api.errors import ApiError, Cause, Object, bad_request
from calico_py.lab.api.negotiation import Form, Target, choose_form, parse_body, parse_object
from calico_py.lab.api.resources import Resource
from calico_py.lab.api.selection import Selection
from calico_py.lab.api.strategic import strategically_merged
from calico_py.lab.api.verbs import Options, Verbs
from calico_py.lab.api.watching import Watches, WatchRequest

_MEDIA = "application/json"
_VALIDATIONS = ("", "Ignore", "Strict", "Warn")
_OPTION_KINDS = {"POST": "CreateOptions", "PUT": "UpdateOptions", "DELETE": "DeleteOptions"}


def answer(obj: Object, *, status: int = 200, options: Options | None = None, media: str = _MEDIA) -> web.Response:
    """A JSON answer, with the warnings that the request collected."""
    response = web.Response(
        body=json.dumps(obj, separators=(",", ":")).encode(), status=status, headers={"Content-Type": media}
    )
    for text in options.warnings if options else ():
        quoted = text.replace("\\", "\\\\").replace('"', '\\"')
        response.headers.add("Warning", f'299 - "{quoted}"')
    return response


class Handlers:
    """Serves requests about resources.

    Attributes:
        watches: those that are open.
    """

    def __init__(self, verbs: Verbs) -> None:
        self._verbs = verbs
        self.watches = Watches(verbs)

    async def handle(self, request: web.Request, target: Target) -> web.StreamResponse:
        """Answer a request about a resource.

        Raises:
            ApiError: refused; the caller makes the Status of it.
        """
        resource = self._verbs.registry.get(target.group, target.version, target.plural)
        if resource is None or target.subresource not in (("", "status") if resource.status else ("",)):
            raise ApiError(404, "NotFound", "the server could not find the requested resource")
        if target.namespace and not resource.namespaced:
            raise ApiError(404, "NotFound", "the server could not find the requested resource")
        if not target.name:
            return await self._collection(request, resource, target)
        return await self._object(request, resource, target)

    async def _collection(self, request: web.Request, resource: Resource, target: Target) -> web.StreamResponse:
        if request.method == "GET":
            if request.query.get("watch") in ("true", "1"):
                return await self._watch(request, resource, target)
            return self._list(request, resource, target)
        if request.method == "POST":
            obj = parse_object(await request.read(), request.headers.get("Content-Type", ""))
            options = _options(request, target)
            made = self._verbs.create(resource, target.namespace, obj, options)
            return answer(self._formed(request, resource, made), status=201, options=options)
        if request.method == "DELETE":
            return await self._delete_collection(request, resource, target)
        raise _not_allowed(request.method)

    async def _object(self, request: web.Request, resource: Resource, target: Target) -> web.Response:
        if request.method == "GET":
            found = self._verbs.get(resource, target.namespace, target.name)
            return answer(self._formed(request, resource, found))
        if request.method == "PUT":
            obj = parse_object(await request.read(), request.headers.get("Content-Type", ""))
            options = _options(request, target)
            made = self._verbs.update(resource, target.namespace, target.name, obj, options)
            return answer(self._formed(request, resource, made), options=options)
        if request.method == "PATCH":
            return await self._patch(request, resource, target)
        if request.method == "DELETE" and not target.subresource:
            return await self._delete(request, resource, target)
        raise _not_allowed(request.method)

    def _formed(self, request: web.Request, resource: Resource, obj: Object) -> Object:
        form = choose_form(request.headers.get("Accept", ""))
        return _shape(resource, form, request.query)(obj)

    def _list(self, request: web.Request, resource: Resource, target: Target) -> web.Response:
        form = choose_form(request.headers.get("Accept", ""))
        version = self._verbs.storage.version
        wanted = _number(request.query, "resourceVersion")
        if wanted > version:
            message = f"Too large resource version: {wanted}, current: {version}"
            raise ApiError(504, "Timeout", message, {"retryAfterSeconds": 1})
        found = list(self._verbs.list(resource, _selection(request.query, target)))
        meta: Object = {"resourceVersion": str(version)}
        limit, token = _number(request.query, "limit"), request.query.get("continue", "")
        if token:
            start, meta["resourceVersion"] = _read_token(token)
            found = [obj for obj in found if _position(obj) > start]
        if limit and len(found) > limit:
            meta["remainingItemCount"] = len(found) - limit
            found = found[:limit]
            meta["continue"] = _make_token(_position(found[-1]), meta["resourceVersion"])
        if form.kind == "Table":
            include = request.query.get("includeObject", "Metadata")
            return answer(tables.table(resource, found, meta, include=include, now=datetime.now(UTC)))
        if form.kind:
            return answer(tables.metadata_list(found, meta))
        return answer(
            {"apiVersion": resource.api_version, "kind": resource.list_kind, "metadata": meta, "items": found}
        )

    async def _watch(self, request: web.Request, resource: Resource, target: Target) -> web.StreamResponse:
        form = choose_form(request.headers.get("Accept", ""))
        selection = _selection(request.query, target)
        selection.predicate(resource)
        initial = request.query.get("sendInitialEvents") == "true"
        wanted = _number(request.query, "resourceVersion")
        since = None if initial else wanted or None
        seconds = _number(request.query, "timeoutSeconds")
        return await self.watches.stream(
            WatchRequest(
                resource=resource,
                selection=selection,
                since=since,
                bookmarks=request.query.get("allowWatchBookmarks") in ("true", "1"),
                initial_end=initial,
                # Without a wish the API server picks 30 to 60 minutes, so that clients don't all come back at once.
                timeout=seconds or random.uniform(1800, 3600),  # noqa: S311 - spreads load, hides nothing
                shape=_shape(resource, form, request.query),
            ),
            request,
        )

    async def _patch(self, request: web.Request, resource: Resource, target: Target) -> web.Response:
        options = _options(request, target)
        content = request.headers.get("Content-Type", "")
        patch = parse_body(await request.read(), content)
        media = content.partition(";")[0].strip()
        if media == "application/apply-patch+yaml":
            return self._apply(request, resource, target, patch)
        change = _change(resource, media, patch)
        made = self._verbs.patch(resource, target.namespace, target.name, change, options)
        return answer(self._formed(request, resource, made), options=options)

    def _apply(self, request: web.Request, resource: Resource, target: Target, config: object) -> web.Response:
        if not isinstance(config, dict):
            raise bad_request("a configuration to apply is an object")
        if not request.query.get("fieldManager"):
            raise bad_request(
                "PatchOptions.meta.k8s.io is invalid: fieldManager: Required value: is required for apply patch"
            )
        options = _options(request, target)
        force = request.query.get("force") in ("true", "1")
        made, new = self._verbs.apply(resource, target.namespace, target.name, config, options, force=force)
        return answer(self._formed(request, resource, made), status=201 if new else 200, options=options)

    async def _delete(self, request: web.Request, resource: Resource, target: Target) -> web.Response:
        options, uid, version = await _delete_options(request, target)
        gone = self._verbs.delete(
            resource, target.namespace, target.name, uid=uid, resource_version=version, options=options
        )
        if gone["metadata"].get("finalizers"):
            return answer(self._formed(request, resource, gone))
        details = {
            "name": target.name,
            "group": resource.group,
            "kind": resource.plural,
            "uid": gone["metadata"]["uid"],
        }
        return answer(_success({key: value for key, value in details.items() if value}))

    async def _delete_collection(self, request: web.Request, resource: Resource, target: Target) -> web.Response:
        options, _, _ = await _delete_options(request, target)
        for obj in self._verbs.list(resource, _selection(request.query, target)):
            meta = obj["metadata"]
            self._verbs.delete(resource, meta.get("namespace", ""), meta["name"], options=options)
        return answer(_success({"group": resource.group, "kind": resource.plural}))


def _not_allowed(method: str) -> ApiError:
    return ApiError(405, "MethodNotAllowed", f"the server does not allow {method} on the requested resource")


def _success(details: Object) -> Object:
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}


def _number(query: Mapping[str, str], name: str) -> int:
    """A whole number in the query; 0 where it is absent."""
    text = query.get(name) or "0"
    if not text.isascii() or not text.isdigit():
        raise bad_request(f'{name}: Invalid value: "{text}": must be a number, 0 or more')
    return int(text)


def _selection(query: Mapping[str, str], target: Target) -> Selection:
    return Selection(target.namespace, query.get("labelSelector", ""), query.get("fieldSelector", ""))


def _options(request: web.Request, target: Target) -> Options:
    query = request.query
    dry_run, validation = query.get("dryRun", ""), query.get("fieldValidation", "")
    for field, found, supported in (("dryRun", dry_run, ("", "All")), ("fieldValidation", validation, _VALIDATIONS)):
        if found not in supported:
            listed = ", ".join(f'"{each}"' for each in supported)
            message = f'Unsupported value: "{found}": supported values: {listed}'
            cause = Cause(field, "FieldValueNotSupported", message)
            raise errors.invalid("meta.k8s.io", _OPTION_KINDS.get(request.method, "PatchOptions"), "", [cause])
    return Options(
        dry_run=bool(dry_run),
        validation=validation or "Warn",
        subresource=target.subresource,
        manager=query.get("fieldManager") or request.headers.get("User-Agent", "unknown").partition("/")[0],
    )


async def _delete_options(request: web.Request, target: Target) -> tuple[Options, str, str]:
    """What DeleteOptions say; propagation needs no heed, since nothing here owns anything."""
    body = await request.read()
    said = parse_object(body, request.headers.get("Content-Type", "")) if body else {}
    options = _options(request, target)
    if said.get("dryRun") == ["All"]:
        options = Options(dry_run=True)
    preconditions = said.get("preconditions") or {}
    return options, preconditions.get("uid") or "", preconditions.get("resourceVersion") or ""


def _shape(resource: Resource, form: Form, query: Mapping[str, str]) -> Callable[[Object], Object]:
    """The function that brings one object into the form asked for."""
    if form.kind == "Table":
        include = query.get("includeObject", "Metadata")

        def tabled(obj: Object) -> Object:
            meta = {"resourceVersion": obj["metadata"]["resourceVersion"]}
            return tables.table(resource, [obj], meta, include=include, now=datetime.now(UTC))

        return tabled
    if form.kind == "PartialObjectMetadata":
        return tables.metadata_of
    return lambda obj: obj


def _change(resource: Resource, media: str, patch: object) -> Callable[[Object], Object]:
    if media == "application/merge-patch+json":
        if not isinstance(patch, dict):
            raise bad_request("a merge patch of an object is an object")
        return lambda obj: patches.merged(obj, patch)
    if media == "application/json-patch+json":
        return lambda obj: patches.operated(obj, patch)
    if media == "application/strategic-merge-patch+json" and resource.strategic:
        return lambda obj: strategically_merged(obj, patch)
    accepted = ["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"]
    raise ApiError(
        415,
        "UnsupportedMediaType",
        f"the body of the request was in an unknown format - accepted media types include: {', '.join(accepted)}",
    )


def _position(obj: Object) -> tuple[str, str]:
    return obj["metadata"].get("namespace", ""), obj["metadata"]["name"]


def _make_token(position: tuple[str, str], version: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([*position, version]).encode()).decode()


def _read_token(token: str) -> tuple[tuple[str, str], str]:
    """Where the list goes on, and the version that its first page had.

    The pages are not one snapshot; but a watch from the first page's version tells all that changed between them.
    """
    try:
        namespace, name, version = json.loads(base64.urlsafe_b64decode(token))
    except ValueError:
        raise bad_request("continue key is not valid") from None
    return (namespace, name), version
