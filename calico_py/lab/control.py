"""The supervisor's socket: one JSON line asks, JSON lines answer; the last one holds ``result`` or ``error``."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from calico_py.lab.commands import LabError

_LIMIT = 16 * 2**20  # bytes, of one line

Request = Mapping[str, Any]
Handler = Callable[[Request], AsyncIterator[Mapping[str, Any]]]


def ask(path: Path, request: Request, *, progress: Callable[[str], None] | None = None) -> Any:
    """Send a request and wait for its result; lines of progress are passed on as they come.

    Raises:
        LabError: the supervisor refused, is not there, or ended.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(path))
            connection.sendall(json.dumps(request).encode() + b"\n")
            for line in connection.makefile("rb"):
                answer = json.loads(line)
                if "error" in answer:
                    raise LabError(answer["error"])
                if "result" in answer:
                    return answer["result"]
                if progress:
                    progress(answer["progress"])
        except OSError as error:
            raise LabError(
                f"the lab's supervisor does not answer at {path} ({error}); "
                "take the lab down with `calico-py lab down` and up again"
            ) from None
    raise LabError(f"the lab's supervisor ended while it was asked; see {path.with_name('logs')}/supervisor.log")


async def serve(path: Path, handler: Handler) -> asyncio.Server:
    """Listen; each request is answered with what the handler yields."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async for line in handler(json.loads(await reader.readline())):
                writer.write(json.dumps(line).encode() + b"\n")
                await writer.drain()
        except ConnectionError:
            pass  # whoever asked went away
        except (LabError, ValueError, OSError) as error:
            writer.write(json.dumps({"error": str(error)}).encode() + b"\n")
        finally:
            writer.close()

    return await asyncio.start_unix_server(answer, path, limit=_LIMIT)
