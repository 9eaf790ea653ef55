"""HTTP to the API server: configuration, credentials, one request, one stream of lines.

Loading of kubeconfig and in-cluster credentials, TLS and the connection pool are the official client's; its generated
model classes are not used: bodies are JSON as they came. Answers other than 2xx become the store's typed errors.
"""

import asyncio
import contextlib
import json
import os
import socket
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import yaml
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.client.rest import RESTClientObject
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

from calico_py.kube.retries import Budget, Tries
from calico_py.model.store import (
    ConflictError,
    ExistsError,
    ForbiddenError,
    GoneError,
    Json,
    NotFoundError,
    RefusedError,
    StoreError,
    UnauthenticatedError,
    UnavailableError,
)

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"

# Seconds. A watch may be silent until its server ends it, within 10 minutes: bookmarks come every minute, but none for
# a kind of which nothing changed since that server started. A dead connection is noticed by its keepalive.
_REQUEST_TIMEOUT = aiohttp.ClientTimeout(total=60, connect=10)
_WATCH_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=10, sock_read=630)

# A dead peer is noticed after 10 + 4 * 5 seconds (tcp(7)); HTTP/1.1 has no ping of its own.
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 4))

# Seconds between two readings of the credentials because of a 401.
_RELOAD_INTERVAL = 5.0

_BY_STATUS: Mapping[int, type[StoreError]] = {
    400: RefusedError,
    401: UnauthenticatedError,
    403: ForbiddenError,
    404: NotFoundError,
    405: RefusedError,
    406: RefusedError,
    409: ConflictError,
    410: GoneError,
    413: RefusedError,
    415: RefusedError,
    422: RefusedError,
}


@dataclass(frozen=True, slots=True)
class Request:
    """A request.

    Attributes:
        what: verb and object, with which the message of an error begins.
    """

    method: str
    path: str
    what: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: Json | None = None
    content_type: str = JSON
    accept: str = JSON


class CredentialsError(Exception):
    """The kubeconfig or the pod's service account cannot be used; the message says which and why."""


def to_error(code: int, status: Json, what: str) -> StoreError:
    """The typed error of a ``Status`` object (Kubernetes API conventions, "Response Status Kind").

    Args:
        code: HTTP status, or the code of a Status inside a watch.
        status: the body; may be empty.
        what: method and object, for the message.
    """
    kind = _BY_STATUS.get(code, UnavailableError)
    if code == 409 and status.get("reason") == "AlreadyExists":
        kind = ExistsError
    message = status.get("message") or f"the API server answered {code}"
    if code == 401:
        message = f"the API server does not accept the credentials (401): {message}"
    return kind(f"{what}: {message}")


async def _load(kubeconfig: str | None) -> Configuration:
    configuration = Configuration()
    configuration.connection_pool_maxsize = 0  # no limit: each watch keeps a connection
    try:
        if kubeconfig is None:
            load_incluster_config(client_configuration=configuration)
        else:
            path = Path(kubeconfig).expanduser()  # noqa: ASYNC240 - once, at the start
            path.read_bytes()  # the client says nothing of use about a file that is not there
            await load_kube_config(str(path), client_configuration=configuration, persist_config=False)
    except ConfigException as error:
        where = f"kubeconfig {kubeconfig}" if kubeconfig else "no kubeconfig is given, and the pod's service account"
        raise CredentialsError(f"{where}: {error}") from error
    except (OSError, yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise CredentialsError(
            f"kubeconfig {kubeconfig}: cannot be read: {why}; correct KUBECONFIG or the file"
        ) from error
    return configuration


class Transport:
    """Requests to one API server over kept connections."""

    def __init__(self, kubeconfig: str | None, configuration: Configuration, user_agent: str) -> None:
        self._kubeconfig = kubeconfig
        self._configuration = configuration
        self._user_agent = user_agent
        self._client = RESTClientObject(configuration)
        self._reloaded = float("-inf")
        self._budget = Budget()

    @property
    def host(self) -> str:
        """Base address, such as ``https://10.96.0.1:443``."""
        return str(self._configuration.host)

    @classmethod
    async def open(cls, kubeconfig: str | None, user_agent: str) -> "Transport":
        """Read the configuration; nothing is sent yet.

        Raises:
            CredentialsError: it cannot be read.
        """
        configuration = await _load(kubeconfig)
        try:
            return cls(kubeconfig, configuration, user_agent)
        except (OSError, ssl.SSLError) as error:
            where = f"kubeconfig {kubeconfig}" if kubeconfig else "the pod's service account"
            raise CredentialsError(f"{where}: a certificate cannot be read: {error}") from error

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()
        await asyncio.sleep(0)  # one turn of the loop closes the sockets

    async def request(self, request: Request) -> dict[str, Any]:
        """The JSON answer to a request.

        Raises:
            StoreError: the typed error of the answer, or UnavailableError where none came.
        """
        with self._unavailable(request.what):
            response, raw = await self._send(request, _REQUEST_TIMEOUT, whole=True)
        answer = _parse(raw)
        if response.status >= 300:
            raise to_error(response.status, answer, request.what)
        return answer

    @contextlib.asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[AsyncGenerator[dict[str, Any]]]:
        """The JSON lines of a watch that has begun, until the server ends it.

        Raises:
            StoreError: the watch did not begin, or (from the lines) its connection broke or fell silent.
        """
        with self._unavailable(request.what):
            response, _ = await self._send(request, _WATCH_TIMEOUT, whole=False)
        try:
            if response.status >= 300:
                with self._unavailable(request.what):
                    raw = await response.read()
                raise to_error(response.status, _parse(raw), request.what)
            _keep_alive(response)
            async with contextlib.aclosing(self._lines(request, response)) as lines:
                yield lines
        finally:
            _abort(response)

    async def _lines(self, request: Request, response: aiohttp.ClientResponse) -> AsyncGenerator[dict[str, Any]]:
        with self._unavailable(request.what):
            async for line in response.content:
                if not line.endswith(b"\n"):
                    raise UnavailableError(f"{request.what}: the connection broke amid an event")
                yield _parse(line)

    async def _send(
        self, request: Request, limits: aiohttp.ClientTimeout, *, whole: bool
    ) -> tuple[aiohttp.ClientResponse, bytes]:
        """The answer, after so many tries as kube.retries allows; ``whole``: with its body."""
        tries = Tries(self._budget, request.method)
        while True:
            try:
                response = await self._authorised(request, limits)
                raw = await _read(response) if whole else b""
            except TimeoutError:
                raise
            except (aiohttp.ClientError, OSError):
                wait = tries.after_failure()
                if wait is None:
                    raise
            else:
                wait = tries.after_answer(response.status, response.headers.get("Retry-After", ""))
                if wait is None:
                    return response, raw
                response.release()
            await asyncio.sleep(wait)

    async def _authorised(self, request: Request, limits: aiohttp.ClientTimeout) -> aiohttp.ClientResponse:
        response = await self._once(request, limits)
        if response.status == 401 and await self._reload():
            response.release()
            response = await self._once(request, limits)
        return response

    async def _once(self, request: Request, limits: aiohttp.ClientTimeout) -> aiohttp.ClientResponse:
        url = self.host + request.path + (f"?{urlencode(request.query)}" if request.query else "")
        headers = {"Accept": request.accept, "Content-Type": request.content_type, "User-Agent": self._user_agent}
        for setting in (await self._configuration.auth_settings()).values():
            headers[setting["key"]] = setting["value"]
        wrapped = await self._client.request(
            request.method, url, headers=headers, body=request.body, _request_timeout=limits
        )
        response = wrapped.response
        assert isinstance(response, aiohttp.ClientResponse)
        return response

    async def _reload(self) -> bool:
        """Read the credentials again: a token in a kubeconfig may have been renewed since the start."""
        if time.monotonic() - self._reloaded < _RELOAD_INTERVAL:
            return False
        self._reloaded = time.monotonic()
        try:
            fresh = await _load(self._kubeconfig)
        except CredentialsError:
            return False
        changed: bool = fresh.api_key != self._configuration.api_key
        self._configuration.api_key = fresh.api_key
        self._configuration.refresh_api_key_hook = fresh.refresh_api_key_hook
        return changed

    @contextlib.contextmanager
    def _unavailable(self, what: str) -> Iterator[None]:
        """What goes wrong below HTTP, as UnavailableError with the cause."""
        try:
            yield
        except TimeoutError as error:
            raise UnavailableError(f"{what}: the API server at {self.host} did not answer in time") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise UnavailableError(
                f"{what}: the API server at {self.host} cannot be reached: {_cause(error)}"
            ) from error
        except ConfigException as error:
            raise UnavailableError(f"{what}: the credentials cannot be read: {error}") from error


async def _read(response: aiohttp.ClientResponse) -> bytes:
    async with response:
        return await response.read()


def _parse(raw: bytes) -> dict[str, Any]:
    """A JSON object; a proxy's page of text becomes the message of a Status."""
    try:
        parsed = json.loads(raw)
    except ValueError:
        return {"message": raw.decode(errors="replace").strip()[:200]}
    return parsed if isinstance(parsed, dict) else {}


def _keep_alive(response: aiohttp.ClientResponse) -> None:
    transport = _transport(response)
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def _abort(response: aiohttp.ClientResponse) -> None:
    """Drop the connection of a watch: a farewell of TLS would wait for a server that still has events to send."""
    transport = _transport(response)
    response.close()
    if isinstance(transport, asyncio.WriteTransport):
        transport.abort()


def _transport(response: aiohttp.ClientResponse) -> asyncio.BaseTransport | None:
    return response.connection.transport if response.connection is not None else None


def _cause(error: Exception) -> str:
    """What went wrong below HTTP; the client's own texts leave the system's word out."""
    if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.errno, int) and error.errno > 0:
        return os.strerror(error.errno)
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the connection broke amid its answer"
    return str(error) or type(error).__name__
