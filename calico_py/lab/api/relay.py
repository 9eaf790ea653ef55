"""``python -m calico_py.lab.api.relay``: connections that come in on one socket go on to another address.

The lab's nodes reach a kube-apiserver of the host by it: the socket was opened in their network, the process connects
in its own.
"""

import asyncio
import signal
import socket
from contextlib import suppress

import click

_CHUNK = 2**16


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what comes until it ends, and pass on the end."""
    with suppress(ConnectionError):
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


async def relay(listener: socket.socket, host: str, port: int) -> None:
    """Serve until cancelled; a connection whose destination does not answer is closed."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(host, port)
        except OSError:
            writer.close()
            return
        try:
            await asyncio.gather(_copy(reader, back), _copy(there, writer))
        finally:
            back.close()
            writer.close()

    server = await asyncio.start_server(connected, sock=listener)
    async with server:
        await server.serve_forever()


async def _run(listener: socket.socket, host: str, port: int) -> None:
    task = asyncio.ensure_future(relay(listener, host, port))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with suppress(asyncio.CancelledError):
        await task


@click.command()
@click.option("--fd", required=True, type=int, help="A descriptor that is a listening socket already.")
@click.option("--to", required=True, help="ADDRESS:PORT to connect to.")
def main(fd: int, to: str) -> None:
    """Relay TCP connections until SIGTERM."""
    host, _, port = to.rpartition(":")
    asyncio.run(_run(socket.socket(fileno=fd), host.strip("[]"), int(port)))


if __name__ == "__main__":
    main()
