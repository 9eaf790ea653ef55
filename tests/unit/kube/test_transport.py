"""The transport against a server that misbehaves in one way at a time."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from calico_py.kube import retries, transport
from calico_py.kube.client import KubeStore, connect
from calico_py.kube.transport import CredentialsError, to_error
from calico_py.model.kinds import IP_POOLS
from calico_py.model.pools import IPPool
from calico_py.model.store import (
    ConflictError,
    EventType,
    ExistsError,
    ForbiddenError,
    GoneError,
    NotFoundError,
    RefusedError,
    StoreError,
    UnauthenticatedError,
    UnavailableError,
    WatchEvent,
)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
POOL = {"metadata": {"name": "a", "resourceVersion": "5"}, "spec": {"cidr": "10.244.0.0/16"}}


def write_kubeconfig(path: Path, url: str, token: str = "") -> Path:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {"token": token} if token else {}}],
    }
    path.write_text(json.dumps(config))
    return path


@contextlib.asynccontextmanager
async def server(handler: Handler) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    async with TestServer(app) as running:
        yield str(running.make_url("")).rstrip("/")


@contextlib.asynccontextmanager
async def store_on(handler: Handler, folder: Path) -> AsyncIterator[KubeStore]:
    async with server(handler) as url, connect(str(write_kubeconfig(folder / "config", url))) as store:
        yield store


def answering(status: int, body: str, content_type: str = "application/json") -> Handler:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=status, text=body, content_type=content_type)

    return handler


def streaming(*chunks: bytes, then: Callable[[web.StreamResponse], Awaitable[None]] | None = None) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk)
        if then is not None:
            await then(response)
        return response

    return handler


def line(type_: str, obj: object) -> bytes:
    return json.dumps({"type": type_, "object": obj}).encode() + b"\n"


async def watch(store: KubeStore) -> list[WatchEvent[IPPool]]:
    return [event async for event in store.watch(IP_POOLS, resource_version="1")]


@pytest.mark.parametrize(
    ("status", "reason", "expected"),
    [
        (400, "BadRequest", RefusedError),
        (403, "Forbidden", ForbiddenError),
        (404, "NotFound", NotFoundError),
        (409, "Conflict", ConflictError),
        (409, "AlreadyExists", ExistsError),
        (410, "Expired", GoneError),
        (422, "Invalid", RefusedError),
        (429, "TooManyRequests", UnavailableError),
        (500, "InternalError", UnavailableError),
        (503, "ServiceUnavailable", UnavailableError),
        (504, "Timeout", UnavailableError),
    ],
)
async def test_each_status_is_its_error_with_the_server_s_sentence(
    status: int, reason: str, expected: type[StoreError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "_ASKED", 0.0)
    body = json.dumps({"kind": "Status", "reason": reason, "message": "because of this", "code": status})
    async with store_on(answering(status, body), tmp_path) as store:
        with pytest.raises(expected, match="get IPPool a: because of this") as caught:
            await store.get(IP_POOLS, "a")
        assert type(caught.value) is expected
        with pytest.raises(expected):
            await watch(store)


async def test_a_proxy_s_page_is_quoted(tmp_path: Path) -> None:
    async with store_on(answering(502, "<html>bad gateway</html>", "text/html"), tmp_path) as store:
        with pytest.raises(UnavailableError, match="bad gateway"):
            await store.get(IP_POOLS, "a")


async def test_an_answer_that_is_no_object_is_named_not_a_crash(tmp_path: Path) -> None:
    async with store_on(answering(200, "<html>login</html>", "text/html"), tmp_path) as store:
        with pytest.raises(ValueError, match=r"spec\.cidr"):
            await store.get(IP_POOLS, "a")


async def test_a_watch_tells_events_and_ends_with_the_connection(tmp_path: Path) -> None:
    chunks = [
        line("ADDED", POOL),
        line("BOOKMARK", {"metadata": {"resourceVersion": "9"}}),
        line("LATER", {}),
        line("DELETED", POOL),
    ]
    async with store_on(streaming(*chunks), tmp_path) as store:
        events = await watch(store)
    assert [event.type for event in events] == ["BOOKMARK", "ADDED", "BOOKMARK", "DELETED"]
    assert [event.resource_version for event in events] == ["1", "5", "9", "5"]


async def test_events_may_arrive_in_any_pieces(tmp_path: Path) -> None:
    async def rest(response: web.StreamResponse) -> None:
        await asyncio.sleep(0.02)
        await response.write(line("ADDED", POOL)[10:] + line("DELETED", POOL))

    async with store_on(streaming(line("ADDED", POOL)[:10], then=rest), tmp_path) as store:
        assert [event.type for event in await watch(store)] == ["BOOKMARK", "ADDED", "DELETED"]


@pytest.mark.parametrize(("code", "expected"), [(410, GoneError), (500, UnavailableError), (403, ForbiddenError)])
async def test_an_error_inside_a_watch_is_its_error(code: int, expected: type[StoreError], tmp_path: Path) -> None:
    status = {"kind": "Status", "code": code, "message": "too old resource version"}
    async with store_on(streaming(line("ADDED", POOL), line("ERROR", status)), tmp_path) as store:
        with pytest.raises(expected, match="too old"):
            await watch(store)


async def test_a_connection_that_breaks_amid_an_event(tmp_path: Path) -> None:
    async with store_on(streaming(line("ADDED", POOL), line("ADDED", POOL)[:20]), tmp_path) as store:
        with pytest.raises(UnavailableError, match="broke amid an event"):
            await watch(store)


async def test_a_connection_that_is_reset(tmp_path: Path) -> None:
    async def reset(response: web.StreamResponse) -> None:
        assert response._req is not None
        assert response._req.transport is not None
        response._req.transport.abort()

    async with store_on(streaming(line("ADDED", POOL), then=reset), tmp_path) as store:
        with pytest.raises(
            UnavailableError, match=r"watch ippools: .* cannot be reached: the connection broke amid its"
        ):
            await watch(store)


async def test_a_watch_that_falls_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_WATCH_TIMEOUT", aiohttp.ClientTimeout(total=None, sock_read=0.1))

    async def silence(_: web.StreamResponse) -> None:
        await asyncio.sleep(1)

    async with store_on(streaming(line("ADDED", POOL), then=silence), tmp_path) as store:
        with pytest.raises(UnavailableError, match="did not answer in time"):
            await watch(store)


async def test_lines_that_are_no_events(tmp_path: Path) -> None:
    async with store_on(streaming(b"what is this\n"), tmp_path) as store:
        with pytest.raises(UnavailableError, match="sent no event"):
            await watch(store)


async def test_a_token_that_was_renewed_in_the_file_is_read_again(tmp_path: Path) -> None:
    seen: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization", ""))
        good = seen[-1] == "Bearer new"
        return web.json_response(POOL if good else {"message": "Unauthorized"}, status=200 if good else 401)

    async with server(handler) as url:
        path = write_kubeconfig(tmp_path / "config", url, token="old")
        async with connect(str(path)) as store:
            write_kubeconfig(path, url, token="new")
            assert (await store.get(IP_POOLS, "a")).name == "a"
    assert seen == ["Bearer old", "Bearer new"]


async def test_a_token_that_stays_wrong_is_told_once_and_retried_later(tmp_path: Path) -> None:
    calls = 0

    async def handler(_: web.Request) -> web.Response:
        nonlocal calls
        calls += 1
        return web.json_response({"message": "Unauthorized"}, status=401)

    async with server(handler) as url, connect(str(write_kubeconfig(tmp_path / "config", url, token="x"))) as store:
        for _ in range(3):
            with pytest.raises(UnauthenticatedError, match="does not accept the credentials"):
                await store.get(IP_POOLS, "a")
    assert calls == 3


@pytest.mark.parametrize("text", ["", "{", "a: b", "[]"])
async def test_a_kubeconfig_that_cannot_be_used_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(CredentialsError, match=str(path)):
        async with connect(str(path)):
            pass


async def test_a_kubeconfig_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CredentialsError, match="cannot be read: No such file or directory; correct KUBECONFIG"):
        async with connect(str(tmp_path / "none")):
            pass


async def test_outside_a_pod_without_kubeconfig(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(CredentialsError, match="no kubeconfig is given"):
        async with connect(None):
            pass


def test_an_empty_answer_still_says_its_status() -> None:
    assert "answered 503" in str(to_error(503, {}, "get x"))


def test_event_types_are_those_of_kubernetes() -> None:
    assert {str(type_) for type_ in EventType} == {"ADDED", "MODIFIED", "DELETED", "BOOKMARK"}
