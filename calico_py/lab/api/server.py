"""ApiServer: the embedded API server as an HTTP service on sockets that it is given.

It asks for no authentication: its sockets are on loopback or inside the lab's own network.
"""

import asyncio
import logging
import socket
from collections.abc import Iterable

from aiohttp import web

from calico_py.lab.api import discovery, openapi
from calico_py.lab.api.errors import ApiError
from calico_py.lab.api.handlers import Handlers, answer
from calico_py.lab.api.lifecycle import Cluster
from calico_py.lab.api.negotiation import parse_accept, parse_path
from calico_py.lab.api.resources import Resource
from calico_py.lab.api.storage import Storage

log = logging.getLogger(__name__)

_MAX_BODY = 16 * 2**20
_AGGREGATED_MEDIA = "application/json;g=apidiscovery.k8s.io;v={};as=APIGroupDiscoveryList"
_VERSION = {"major": "1", "minor": "34", "gitVersion": "v1.34.0-calico-py-lab", "platform": "linux/amd64"}
_HEALTH = ("/healthz", "/livez", "/readyz")


class ApiServer:
    """Serves the objects of a storage; several sockets, one set of objects."""

    def __init__(self, storage: Storage) -> None:
        self.cluster = Cluster(storage)
        self._handlers = Handlers(self.cluster.verbs)
        self._runner: web.AppRunner | None = None

    async def start(self, sockets: Iterable[socket.socket]) -> None:
        """Serve on sockets that are bound already, in whichever namespaces; they are closed by ``stop``."""
        app = web.Application(client_max_size=_MAX_BODY)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.2)
        await self._runner.setup()
        for each in sockets:
            await web.SockSite(self._runner, each).start()

    async def stop(self) -> None:
        """End all watches and connections."""
        self._handlers.watches.end()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._dispatch(request)
        except ApiError as error:
            return answer(error.status(), status=error.code)
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception:
            log.exception("%s %s failed", request.method, request.rel_url)
            failure = ApiError(500, "InternalError", "an error of the embedded API server; its log has the trace")
            return answer(failure.status(), status=500)

    async def _dispatch(self, request: web.Request) -> web.StreamResponse:
        target = parse_path(request.path)
        if target is not None:
            return await self._handlers.handle(request, target)
        path = request.path.rstrip("/")
        if path in _HEALTH:
            return web.Response(text="ok")
        if path == "/version":
            return answer(dict(_VERSION))
        found = self._discover(request, path)
        if found is None:
            raise ApiError(404, "NotFound", "the server could not find the requested resource")
        return found

    def _discover(self, request: web.Request, path: str) -> web.Response | None:
        registry = self.cluster.registry
        if path in ("/api", "/apis"):
            version = _aggregated(request.headers.get("Accept", ""))
            if version:
                document = discovery.aggregated(registry, version, core=path == "/api")
                return answer(document, media=_AGGREGATED_MEDIA.format(version))
            return answer(discovery.api_versions() if path == "/api" else discovery.group_list(registry))
        parts = path.split("/")[1:]
        served = registry.all()
        if parts[:2] == ["openapi", "v3"]:
            return _openapi(served, parts[2:])
        if parts == ["api", "v1"]:
            return answer(discovery.resource_list("v1", [each for each in served if not each.group]))
        if len(parts) == 2 and parts[0] == "apis":
            found = [each for each in served if each.group == parts[1]]
            return answer(discovery.group(parts[1], found)) if found else None
        if len(parts) == 3 and parts[0] == "apis":
            found = [each for each in served if [each.group, each.version] == parts[1:]]
            return answer(discovery.resource_list("/".join(parts[1:]), found)) if found else None
        return None


def _openapi(served: list[Resource], parts: list[str]) -> web.Response | None:
    if not parts:
        return answer(openapi.index(served))
    group, version = ("", parts[-1]) if parts[0] == "api" else (parts[1], parts[-1])
    found = [each for each in served if (each.group, each.version) == (group, version)]
    return answer(openapi.document(found)) if found else None


def _aggregated(accept: str) -> str:
    """The version of aggregated discovery that comes first in an Accept header, or empty for the plain documents."""
    for media, parameters in parse_accept(accept):
        if media != "application/json":
            continue
        if parameters.get("as") == "APIGroupDiscoveryList":
            if parameters.get("v") in discovery.AGGREGATED:
                return parameters["v"]
            continue
        return ""
    return ""
