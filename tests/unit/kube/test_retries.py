"""Second tries of what only reads, against a server that fails as it is told."""

import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from calico_py.kube import retries
from calico_py.kube.client import KubeStore, connect
from calico_py.kube.retries import Budget, Tries
from calico_py.model.kinds import IP_POOLS
from calico_py.model.meta import Meta
from calico_py.model.pools import IPPool
from calico_py.model.store import NotFoundError, UnavailableError

POOL = {"metadata": {"name": "a", "resourceVersion": "5"}, "spec": {"cidr": "10.244.0.0/16"}}
ADDED = json.dumps({"type": "ADDED", "object": POOL}).encode() + b"\n"
CUT, HALF = -1, -2  # the connection ends: before an answer, amid its body
BUDGET = int(retries._BUDGET)


def each(status: int) -> int:
    """How often a try asks: aiohttp by itself goes on once where a connection ends."""
    return 2 if status == CUT else 1


@dataclass
class Server:
    """Answers one request after the other with these statuses, then with ``then`` for ever."""

    planned: list[int] = field(default_factory=list)
    then: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.method)
        status = self.planned.pop(0) if self.planned else self.then
        if status == 200:
            return web.Response(body=ADDED) if "watch" in request.query else web.json_response(POOL)
        if status > 0:
            body = {"kind": "Status", "code": status, "message": "as told"}
            return web.json_response(body, status=status, headers=self.headers)
        assert request.transport is not None
        if status == HALF:
            response = web.StreamResponse(headers={"Content-Length": "100"})
            await response.prepare(request)
            await response.write(b'{"metadata"')
        request.transport.close()
        return web.Response()


@contextlib.asynccontextmanager
async def serving(server: Server, folder: Path) -> AsyncIterator[KubeStore]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    async with TestServer(app) as running:
        config = folder / "config"
        cluster = {"name": "c", "cluster": {"server": str(running.make_url("")).rstrip("/")}}
        context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
        user = {"name": "u", "user": {}}
        described = {"current-context": "c", "contexts": [context], "clusters": [cluster], "users": [user]}
        config.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", **described}))
        async with connect(str(config)) as store:
            yield store


@pytest.mark.parametrize("failures", [[503], [500, 502], [CUT], [CUT, CUT, CUT], [HALF], [HALF, 503]])
async def test_what_reads_is_tried_again_at_once(failures: list[int], tmp_path: Path) -> None:
    server = Server(list(failures))
    async with serving(server, tmp_path) as store:
        began = time.monotonic()
        assert (await store.get(IP_POOLS, "a")).name == "a"
        assert time.monotonic() - began < 1
    assert len(server.asked) == len(failures) + 1


@pytest.mark.parametrize("failures", [[503], [CUT, CUT, CUT]])
async def test_a_watch_that_does_not_begin_is_tried_again(failures: list[int], tmp_path: Path) -> None:
    server = Server(list(failures))
    async with serving(server, tmp_path) as store:
        assert [event.name for event in [e async for e in store.watch(IP_POOLS, resource_version="1")]] == ["", "a"]
    assert len(server.asked) == len(failures) + 1


@pytest.mark.parametrize("status", [503, CUT])
async def test_the_third_failure_is_the_callers(status: int, tmp_path: Path) -> None:
    server = Server(then=status)
    async with serving(server, tmp_path) as store:
        with pytest.raises(UnavailableError, match="get IPPool a"):
            await store.get(IP_POOLS, "a")
    assert len(server.asked) == 3 * each(status)


@pytest.mark.parametrize(("status", "error"), [(404, NotFoundError), (504, UnavailableError)])
async def test_an_answer_to_be_content_with_is_asked_for_once(
    status: int, error: type[Exception], tmp_path: Path
) -> None:
    server = Server(then=status)
    async with serving(server, tmp_path) as store:
        with pytest.raises(error):
            await store.get(IP_POOLS, "a")
    assert len(server.asked) == 1


POOL_A = IPPool(Meta("a", resource_version="5"), ip_network("10.244.0.0/16"))
WRITES: dict[str, Callable[[KubeStore], Awaitable[object]]] = {
    "POST": lambda store: store.create(IP_POOLS, POOL_A),
    "PUT": lambda store: store.update(IP_POOLS, POOL_A),
    "PATCH": lambda store: store.patch(IP_POOLS, "a", {"metadata": {"labels": {}}}),
    "DELETE": lambda store: store.delete(IP_POOLS, "a"),
}


@pytest.mark.parametrize("method", WRITES)
@pytest.mark.parametrize("status", [503, 429])
async def test_what_writes_is_never_repeated_here(method: str, status: int, tmp_path: Path) -> None:
    """It may have been done: who wrote looks, or writes on a condition."""
    server = Server(then=status)
    async with serving(server, tmp_path) as store:
        with pytest.raises(UnavailableError):
            await WRITES[method](store)
    assert server.asked == [method]


async def test_a_server_with_too_much_to_do_is_given_the_time_that_it_asks_for(tmp_path: Path) -> None:
    server = Server([429], headers={"Retry-After": "1"})
    async with serving(server, tmp_path) as store:
        began = time.monotonic()
        await store.get(IP_POOLS, "a")
        assert 1 <= time.monotonic() - began < 2.5
    assert len(server.asked) == 2


@pytest.mark.parametrize("after", ["3", "3600", "Wed, 21 Oct 2026 07:28:00 GMT"])
@pytest.mark.parametrize("status", [429, 503])
async def test_a_long_time_is_left_to_the_caller(status: int, after: str, tmp_path: Path) -> None:
    server = Server(then=status, headers={"Retry-After": after})
    async with serving(server, tmp_path) as store:
        with pytest.raises(UnavailableError):
            await store.get(IP_POOLS, "a")
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("status", "header", "least", "most"),
    [(503, "", 0.02, 0.05), (429, "", 1.0, 1.5), (429, "2", 2.0, 3.0), (503, "1", 1.0, 1.5), (503, "0", 0.0, 0.0)],
)
def test_the_pauses_differ(status: int, header: str, least: float, most: float) -> None:
    pauses = [Tries(Budget(), "GET").after_answer(status, header) for _ in range(50)]
    found = [pause for pause in pauses if pause is not None]
    assert len(found) == 50
    assert least <= min(found) <= max(found) <= most
    assert len(set(found)) > 40 or not most


@pytest.mark.parametrize("status", [503, CUT])
async def test_a_server_that_is_away_is_not_hammered(status: int, tmp_path: Path) -> None:
    """The first few failures are tried again, all later ones by their callers alone, until it answers again."""
    server = Server(then=status)
    async with serving(server, tmp_path) as store:
        for _ in range(30):
            with pytest.raises(UnavailableError):
                await store.get(IP_POOLS, "a")
        assert len(server.asked) == (30 + BUDGET) * each(status)
        server.then = 200
        for _ in range(2):
            await store.get(IP_POOLS, "a")
        server.then = status
        server.asked.clear()
        for _ in range(5):
            with pytest.raises(UnavailableError):
                await store.get(IP_POOLS, "a")
        assert len(server.asked) == (5 + 2) * each(status), "two answers, two second tries"


async def test_one_failure_in_five_never_uses_the_budget_up(tmp_path: Path) -> None:
    server = Server([503 if number % 5 == 0 else 200 for number in range(100)])
    async with serving(server, tmp_path) as store:
        for _ in range(80):
            await store.get(IP_POOLS, "a")
