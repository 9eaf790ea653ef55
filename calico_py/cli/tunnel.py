"""`calico-py tunnel`: the userspace tunnel engine of a node whose kernel has no ipip."""

import contextlib
import logging
import os
from pathlib import Path

import click

from calico_py.dataplane.tunnel.engine import Engine
from calico_py.dataplane.tunnel.errors import TunnelError
from calico_py.model.folders import RUN
from calico_py.model.names import IPIP_DEVICE

NICE = -10
_AUTOGROUP = Path("/proc/self/autogroup")
_TERMINAL = Path("/dev/tty")


@click.command()
@click.option("--device", default=IPIP_DEVICE, show_default=True, help="TUN device that the agent made.")
@click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    default=RUN / "tunnel.json",
    show_default=True,
    help="File that gets the counters every few seconds.",
)
def command(device: str, report: Path) -> None:
    """Carry the packets of a TUN device between nodes.

    Waits for the device, reads the kernel's routes of it, and encapsulates as the device's ifalias says. SIGTERM
    ends it and leaves device and routes; SIGUSR1 logs the counters.
    """
    if report.exists() and not report.is_file():
        raise click.UsageError(f"--report: found {report}, which is no regular file; expected one, or a new name")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    go_ahead()
    try:
        Engine(device, report=report).run()
    except TunnelError as error:
        raise click.ClickException(str(error)) from None


def go_ahead() -> None:
    """Let this process run before others, as the kernel's softirqs do: the packets of all pods wait for it.

    Where the kernel shares the processors out among sessions first (sched(7), autogroups), a process's nice value
    counts within its session only, and the session has one of its own. That of a person at a terminal is left alone.
    Without the right to do so (CAP_SYS_NICE) nothing changes.
    """
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
    with contextlib.suppress(OSError):
        if not _has_terminal():
            _AUTOGROUP.write_text(str(NICE))


def _has_terminal() -> bool:
    try:
        os.close(os.open(_TERMINAL, os.O_RDONLY | os.O_NOCTTY))
    except OSError:  # ENXIO: the session has none (tty(4)); ENOENT: nor has the container the device
        return False
    return True
