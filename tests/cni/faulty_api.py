"""An API server that is slow, fails, or is away: a proxy before a real one, whose faults a test sets at any time."""

import asyncio
import random
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, TCPConnector, web

from tests.contract.servers import ApiUnderTest

WATCH_SECONDS = 2.0  # after which a watch that runs may be cut
_HOP = {"connection", "content-encoding", "content-length", "host", "keep-alive", "transfer-encoding"}


@dataclass
class FaultyApi:
    """The faults of one API server.

    Attributes:
        url: where it listens.
        failing: share of the requests that fail: a third each is answered 503, is cut before the server hears of it,
            and is cut after the server has done it. Of the watches that run as many are cut every two seconds, amid an
            event.
        delayed: share of the others that take up to ``delay`` seconds longer, and of what watches tell.
        away: every request is cut, watches that run too.
        done: how many requests passed, failed and were delayed.
    """

    api: ApiUnderTest
    dice: random.Random
    url: str = ""
    failing: float = 0.0
    delayed: float = 0.0
    delay: float = 0.4
    done: Counter[str] = field(default_factory=Counter)
    _gone: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def away(self) -> bool:
        """Whether nobody can reach it."""
        return self._gone.is_set()

    @away.setter
    def away(self, value: bool) -> None:
        (self._gone.set if value else self._gone.clear)()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator["FaultyApi"]:
        """Serve within the block, on a port of the caller's loopback."""
        context = ssl.create_default_context(cafile=self.api.authority) if self.api.authority else True
        limits = ClientTimeout(total=None)
        async with ClientSession(connector=TCPConnector(limit=0, ssl=context), timeout=limits) as self._session:
            application = web.Application(client_max_size=1 << 23)
            application.router.add_route("*", "/{path:.*}", self._handle)
            runner = web.AppRunner(application, access_log=None, shutdown_timeout=0)
            await runner.setup()
            listener = socket.create_server(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            try:
                await web.SockSite(runner, listener).start()
                yield self
            finally:
                self.away = True
                await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if self.away:
            return self._cut(request, "away")
        fault = self.dice.choice(("503", "before", "after")) if self.dice.random() < self.failing else ""
        if not fault and self.dice.random() < self.delayed:
            self.done["delayed"] += 1
            await asyncio.sleep(self.dice.uniform(0, self.delay))
        body = await request.read()
        if fault == "503":
            self.done[fault] += 1
            return web.json_response({"kind": "Status", "code": 503, "message": "the test's fault"}, status=503)
        if fault == "before":
            return self._cut(request, fault)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
        headers |= {"Authorization": f"Bearer {self.api.token}"} if self.api.token else {}
        try:
            async with self._session.request(
                request.method, self.api.url + request.path_qs, data=body, headers=headers
            ) as answer:
                if fault:
                    if "watch" not in request.query:
                        await answer.read()
                    return self._cut(request, fault)
                self.done["passed"] += 1
                return await self._pass_on(request, answer)
        except (ClientError, ConnectionError):
            return self._cut(request, "broken")

    async def _pass_on(self, request: web.Request, answer: ClientResponse) -> web.StreamResponse:
        passed = web.StreamResponse(
            status=answer.status, headers={"Content-Type": answer.headers.get("Content-Type", "")}
        )
        await passed.prepare(request)
        watches = "watch" in request.query
        end = asyncio.ensure_future(self._end(watches=watches))
        try:
            while chunk := await self._unless(end, answer):
                if watches and self.dice.random() < self.delayed:
                    await asyncio.sleep(self.dice.uniform(0, self.delay))
                await passed.write(chunk)
            if end.done() and not self.away:
                await passed.write(b'{"type":"MODIFIED","object":{"metadata":{"na')
        finally:
            end.cancel()
        if end.done():
            return self._cut(request, "away" if self.away else "watch")
        await passed.write_eof()
        return passed

    async def _end(self, *, watches: bool) -> None:
        """Return when an answer that is under way is to be cut."""
        while not self.away:
            try:
                async with asyncio.timeout(WATCH_SECONDS):
                    await self._gone.wait()
            except TimeoutError:
                if watches and self.dice.random() < self.failing:
                    return

    @staticmethod
    async def _unless(end: "asyncio.Future[Any]", answer: ClientResponse) -> bytes:
        """The next bytes; none at the end, or once the answer is to be cut."""
        more = asyncio.ensure_future(answer.content.readany())
        await asyncio.wait((end, more), return_when=asyncio.FIRST_COMPLETED)
        if more.done():
            return more.result()
        more.cancel()
        return b""

    def _cut(self, request: web.Request, why: str) -> web.StreamResponse:
        self.done[why] += 1
        if request.transport is not None:
            request.transport.close()
        return web.Response()
