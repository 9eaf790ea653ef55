"""The agent's HTTP: /liveness, /readiness and /status on loopback, /metrics for Prometheus."""

import contextlib
import dataclasses
import errno
from collections.abc import AsyncIterator, Callable, Sequence

from aiohttp import web

from calico_py.agent.status.metrics import CONTENT_TYPE, Metrics
from calico_py.agent.status.shape import Status

# Seconds that open requests get when the agent ends.
_SHUTDOWN = 1.0

# What the cure of another port helps against.
_OF_THE_PORT = (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES)


class ListenError(Exception):
    """A port cannot be had; the message says which and what to do."""


def make_health(
    *, not_alive: Callable[[], str], not_ready: Callable[[], Sequence[str]], status: Callable[[], Status]
) -> web.Application:
    """The application of the loopback port.

    Args:
        not_alive: why the process should be restarted, as a sentence; empty if it need not.
        not_ready: why the node is not ready, each a sentence; none if it is.
        status: the status now.
    """

    async def liveness(_: web.Request) -> web.Response:
        cause = not_alive()
        return web.Response(status=503, text=f"{cause}\n") if cause else web.Response(text="alive\n")

    async def readiness(_: web.Request) -> web.Response:
        causes = not_ready()
        return web.Response(status=503, text="\n".join(causes) + "\n") if causes else web.Response(text="ready\n")

    async def show(_: web.Request) -> web.Response:
        return web.json_response(dataclasses.asdict(status()))

    app = web.Application()
    app.router.add_get("/liveness", liveness)
    app.router.add_get("/readiness", readiness)
    app.router.add_get("/status", show)
    return app


def make_metrics_app(metrics: Metrics, refresh: Callable[[], None]) -> web.Application:
    """The application of the metrics port; ``refresh`` sets the gauges before each answer."""

    async def show(_: web.Request) -> web.Response:
        refresh()
        return web.Response(body=metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    app = web.Application()
    app.router.add_get("/metrics", show)
    return app


@contextlib.asynccontextmanager
async def serve(app: web.Application, host: str, port: int) -> AsyncIterator[int]:
    """Serve until the block ends; the port that was taken (for 0).

    Raises:
        ListenError: somebody else has the port, or the address is not this host's.
    """
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host or None, port, reuse_address=True)
        try:
            await site.start()
        except OSError as error:
            if error.errno not in _OF_THE_PORT:
                raise
            why = "another process has it" if error.errno == errno.EADDRINUSE else str(error)
            where = f"cannot listen on {host or '*'} port {port}"
            cure = "stop it, or set another (CALICO_PY_HEALTH_PORT, CALICO_PY_METRICS_PORT)"
            raise ListenError(f"{where}: {why}; {cure}") from error
        yield runner.addresses[0][1] if runner.addresses else port
    finally:
        await runner.cleanup()
