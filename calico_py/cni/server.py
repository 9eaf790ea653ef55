"""The agent's end of the shim's socket: accepts, reads one request, lets the verbs serve it, answers, closes.

A connection that sends garbage, too much or nothing harms itself alone.
"""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

from calico_py.cni.config import NEWEST, Verb, version_of
from calico_py.cni.errors import CNIError, Code
from calico_py.cni.results import render_error
from calico_py.cni.verbs import Plugin
from calico_py.cni.wire import Request, RequestReader, VersionError, WireError, pack_answer, pack_greeting
from calico_py.model.folders import RUN
from calico_py.trouble import Trouble

SOCKET = RUN / "cni.sock"
REQUEST_SECONDS = 10.0  # for the shim to send its request, which it has whole before it connects
ANSWER_SECONDS = 10.0
DRAIN_SECONDS = 5.0
WORK_OFF_SECONDS = 10.0  # the shim may leave a DEL at any time, also just as the agent comes

_VERBS = frozenset(Verb)
_BACKLOG = 1024
_CHUNK = 64 << 10

Observe = Callable[[str, int, float], None]
"""Called after each call with its verb (``?`` if it has none that we know), code (0 for success) and seconds."""

_log = logging.getLogger(__name__)


def _ignore(_verb: str, _code: int, _seconds: float) -> None:
    """Observe nothing."""


class Server:
    """Serves the plugin on a Unix socket, for root alone.

    Args:
        path: of the socket; its directory is made where it is missing.
        listener: the socket, where it was made before: it may have calls by now.
        observe: hook for metrics.
    """

    def __init__(
        self,
        plugin: Plugin,
        *,
        path: Path = SOCKET,
        listener: socket.socket | None = None,
        observe: Observe = _ignore,
    ) -> None:
        self._plugin = plugin
        self._path = path
        self._listener = listener
        self._observe = observe
        self._trouble = Trouble(_log)

    async def serve(self) -> None:
        """Serve until cancelled; calls that have begun then get DRAIN_SECONDS to end.

        The socket's file stays: a shim that finds nobody behind it waits as if there were none.

        Raises:
            OSError: the socket cannot be made.
        """
        listener = self._listener or listen(self._path)
        connections: set[asyncio.Task[None]] = set()
        try:
            await self._plugin.start()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._work_off())
                tasks.create_task(self._accept(listener, connections))
        finally:
            listener.close()
            await _drain(connections)

    async def _work_off(self) -> None:
        while True:
            try:
                await self._plugin.work_off()
            except OSError as error:
                self._trouble.tell("cannot read the DELs that wait", error, party="DELs")
            else:
                self._trouble.over(party="DELs")
            await asyncio.sleep(WORK_OFF_SECONDS)

    async def _accept(self, listener: socket.socket, connections: set[asyncio.Task[None]]) -> None:
        """Connections are tasks of their own, outside the group, so that they outlive its cancellation.

        They are accepted as soon as the loop sees them: a task that is woken for it would be some turns later.
        """
        loop = asyncio.get_running_loop()
        while True:
            failed: asyncio.Future[OSError] = loop.create_future()
            loop.add_reader(listener, self._accept_one, listener, connections, failed)
            try:
                error = await failed
            finally:
                loop.remove_reader(listener)
            self._trouble.tell("cannot accept a CNI call", error, party="calls")
            await asyncio.sleep(0.1)  # too many open files: those in use come free

    def _accept_one(
        self, listener: socket.socket, connections: set[asyncio.Task[None]], failed: asyncio.Future[OSError]
    ) -> None:
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            if not failed.done():
                failed.set_result(error)
            return
        self._trouble.over(party="calls")
        task = asyncio.create_task(self._handle(connection))
        connections.add(task)
        task.add_done_callback(connections.discard)

    async def _handle(self, connection: socket.socket) -> None:
        """One connection, from its first byte to its last."""
        descriptors: list[int] = []
        try:
            with connection:
                connection.setblocking(False)
                try:
                    request = await _receive(connection, descriptors)
                except WireError as error:
                    await _send(connection, pack_greeting() + _refusal(error))
                    return
                await _send(connection, pack_greeting())
                await self._serve(connection, request, descriptors[0] if descriptors else None)
        except (OSError, EOFError, TimeoutError) as error:
            _log.info("a CNI call ended early: %s", error or "nothing came in time")
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    async def _serve(self, connection: socket.socket, request: Request, netns: int | None) -> None:
        start = time.monotonic()
        code, answer = await self._answer(request, netns)
        took = time.monotonic() - start
        try:
            await _send(connection, answer)
        finally:
            verb = request.env.get("CNI_COMMAND", "")
            self._observe(verb if verb in _VERBS else "?", code, took)

    async def _answer(self, request: Request, netns: int | None) -> tuple[int, bytes]:
        """Code and packed answer; a defect of ours is told and logged, and ends nothing else."""
        try:
            return 0, pack_answer(0, await self._plugin.run(request, netns))
        except CNIError as error:
            told = error
        except Exception as error:  # noqa: BLE001 - one call's defect must not end the others
            _log.exception("a CNI call met a defect")
            told = CNIError(Code.INTERNAL, "calico-py has a defect", f"{type(error).__name__}: {error}")
        return int(told.code), pack_answer(1, render_error(version_of(request.stdin), told))


def listen(path: Path) -> socket.socket:
    """A listening socket with mode 0600 that takes the place of whatever has the name.

    Raises:
        OSError: the name is too long for a Unix socket, or the directory refuses.
    """
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.bind(str(temporary))
        temporary.chmod(0o600)
        listener.listen(_BACKLOG)
        temporary.rename(path)
    except OSError:
        listener.close()
        temporary.unlink(missing_ok=True)
        raise
    return listener


async def _receive(connection: socket.socket, descriptors: list[int]) -> Request:
    """The request; descriptors that come with it are added to the list, which the caller closes.

    Raises:
        WireError: it is none. EOFError: the other side closed before it was whole.
        TimeoutError: it was not whole in time.
    """
    reader = RequestReader()
    deadline = asyncio.get_running_loop().time() + REQUEST_SECONDS
    while True:
        try:
            data, received, _, _ = socket.recv_fds(connection, _CHUNK, 1, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            async with asyncio.timeout_at(deadline):
                await _readable(connection)
            continue
        descriptors += received
        if not data:
            raise EOFError("the request was not whole")
        if (request := reader.feed(data)) is not None:
            return request


async def _readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(connection, wake)
    try:
        await ready
    finally:
        loop.remove_reader(connection)


async def _send(connection: socket.socket, data: bytes) -> None:
    """All of it. Nearly always it fits into the socket's buffer, and nothing is waited for.

    Raises:
        TimeoutError: the other side did not take it in time.
    """
    try:
        sent = connection.send(data)
    except BlockingIOError:
        sent = 0
    if sent < len(data):
        async with asyncio.timeout(ANSWER_SECONDS):
            await asyncio.get_running_loop().sock_sendall(connection, data[sent:])


def _refusal(error: WireError) -> bytes:
    """The agent installs its own shim when it starts, so that another version passes by itself."""
    code = Code.TRY_AGAIN_LATER if isinstance(error, VersionError) else Code.IO_FAILURE
    return pack_answer(1, render_error(NEWEST, CNIError(code, "the agent does not understand the request", str(error))))


async def _drain(connections: set[asyncio.Task[None]]) -> None:
    if connections:
        _, late = await asyncio.wait(connections, timeout=DRAIN_SECONDS)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
