"""The relay: bytes both ways, ends passed on, a dead destination told by a closed connection."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from calico_py.lab.api.relay import relay


@asynccontextmanager
async def relayed(host: str, port: int) -> AsyncIterator[int]:
    """The port of a relay to that address."""
    listener = socket.create_server(("127.0.0.1", 0))
    entrance = listener.getsockname()[1]
    task = asyncio.create_task(relay(listener, host, port))
    try:
        yield entrance
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_bytes_and_ends_go_both_ways() -> None:
    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read()).upper())
        writer.close()

    server = await asyncio.start_server(shout, "127.0.0.1", 0)
    async with server, relayed("127.0.0.1", server.sockets[0].getsockname()[1]) as port:

        async def ask(text: bytes) -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(text)
            writer.write_eof()
            answer = await reader.read()
            writer.close()
            return answer

        texts = [bytes([97 + number]) * 300_000 for number in range(5)]
        assert await asyncio.gather(*(ask(text) for text in texts)) == [text.upper() for text in texts]


async def test_a_destination_that_is_away_closes_the_connection_and_not_the_relay() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        free = gone.getsockname()[1]
    async with relayed("127.0.0.1", free) as port:
        for _ in range(2):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await reader.read() == b""
            writer.close()
