"""`calico-py node`: the agent of this node. Reads the settings, then hands over to agent."""

import asyncio
import contextlib
import errno
import logging
import os
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from calico_py.agent.configuration.config import CONFIG_FILE, AgentConfig, ConfigError, load_config, parse_file
from calico_py.agent.configuration.settings import BY_NAME, SETTINGS
from calico_py.alone import alone
from calico_py.cni import server
from calico_py.model.folders import RUN

F = TypeVar("F", bound=Callable[..., Any])


def _flags(function: F) -> F:
    """A flag for each setting that has one."""
    for setting in reversed([setting for setting in SETTINGS if setting.flag]):
        shown = f"{setting.description} Default: {setting.default_text or setting.default}."
        function = click.option(setting.flag, setting.name, metavar="VALUE", help=shown)(function)
    return function


@click.command()
@_flags
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="NAME=VALUE",
    help="Any setting of docs/configuration.md; repeatable.",
)
@click.option(
    "--config",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path(CONFIG_FILE),
    show_default=True,
    help="File of settings; it may be absent.",
)
@click.option("--cleanup", is_flag=True, help="Remove all that the agent made on this node, restore settings, and end.")
def command(assignments: tuple[str, ...], path: Path, cleanup: bool, **flags: str | None) -> None:
    """The agent of this node.

    SIGTERM ends it and leaves routes and pods as they are.
    """
    config = _load(assignments, path, flags)
    logging.basicConfig(level=config.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for warning in config.warnings:
        logging.getLogger(__name__).warning("%s", warning)
    problems = clean(config) if cleanup else start(config)
    for problem in problems:
        click.echo(f"Error: {problem}", err=True)
    sys.exit(1 if problems else 0)


def start(config: AgentConfig) -> list[str]:
    """Run the agent to its end; why it could not begin or go on, each a sentence.

    It listens before it loads the rest of itself: whoever creates a pod meanwhile waits for that second only.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(alone(RUN / "agent.lock"))
            calls = stack.enter_context(server.listen(server.SOCKET))
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
            cure = "free or mend its disk" if full else "the agent runs as root of its node"
            return [f"{error.filename or server.SOCKET}: {error.strerror}; {cure}"]
        from calico_py.agent.process import run_to_end  # noqa: PLC0415 - the clients of API and kernel take a second

        return run_to_end(config, calls)


def clean(config: AgentConfig) -> list[str]:
    """Take back what the agent made; what could not be removed, each a sentence."""
    from calico_py.agent.undo import undo  # noqa: PLC0415 - as above

    return asyncio.run(undo(config))


def _load(assignments: tuple[str, ...], path: Path, flags: Mapping[str, str | None]) -> AgentConfig:
    given = {name: value for name, value in flags.items() if value is not None}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals or name not in BY_NAME:
            raise click.UsageError(f"--set: found {assignment!r}, expected NAME=VALUE with a setting's name")
        given[name] = value
    try:
        file = parse_file(path.read_text(), path=str(path)) if path.exists() else {}
        return load_config(os.environ, hostname=socket.gethostname(), file=file, flags=given, file_path=str(path))
    except ConfigError as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"{path}: cannot be read: {error}") from None
