"""``python -m calico_py.lab.api``: the embedded API server as a process."""

import asyncio
import logging
import signal
import socket
from pathlib import Path

import click

from calico_py.lab.api.definitions import shipped
from calico_py.lab.api.server import ApiServer
from calico_py.lab.api.storage import WINDOW, Storage


def _listen(text: str) -> socket.socket:
    host, _, port = text.rpartition(":")
    host = host.strip("[]")
    return socket.create_server((host, int(port)), family=socket.AF_INET6 if ":" in host else socket.AF_INET)


async def _run(server: ApiServer, sockets: list[socket.socket], port_file: Path | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await server.start(sockets)
    if port_file is not None:
        # Written whole or not at all: whoever waits for the file may read it as soon as it is there.
        half = port_file.with_name(port_file.name + ".half")
        half.write_text("".join(f"{each.getsockname()[1]}\n" for each in sockets))
        half.rename(port_file)
    await stop.wait()
    await server.stop()


@click.command()
@click.option("--db", default=":memory:", show_default=True, help="SQLite file that holds the objects.")
@click.option("--listen", multiple=True, help="ADDRESS:PORT to listen on, port 0 for any; may be given several times.")
@click.option("--fd", multiple=True, type=int, help="A descriptor that is a listening socket already.")
@click.option("--port-file", type=click.Path(path_type=Path), help="Gets the ports, one a line, once they answer.")
@click.option("--crds/--no-crds", default=True, show_default=True, help="Define calico-py's own kinds.")
@click.option("--window", default=WINDOW, show_default=True, help="How many changes a watch can go back.")
def main(
    db: str, listen: tuple[str, ...], fd: tuple[int, ...], port_file: Path | None, *, crds: bool, window: int
) -> None:
    """Serve the Kubernetes API of a lab until SIGTERM."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    sockets = [_listen(each) for each in listen] + [socket.socket(fileno=each) for each in fd]
    if not sockets:
        raise click.UsageError("nothing to listen on: give --listen or --fd")
    storage = Storage(db, window=window)
    server = ApiServer(storage)
    if crds:
        for crd in shipped():
            server.cluster.define(crd)
    asyncio.run(_run(server, sockets, port_file))
    storage.close()


main()
