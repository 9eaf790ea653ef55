"""`calico-py node`: the agent of this node. Reads the settings, then hands over to agent."""

import asyncio
import errno
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from calico_py.agent.configuration.config import CONFIG_FILE, AgentConfig, ConfigError, load_config, parse_file
from calico_py.agent.configuration.settings import BY_NAME, SETTINGS
from calico_py.agent.main import run
from calico_py.agent.preflight import ForeignCalicoError
from calico_py.agent.status.health import ListenError
from calico_py.agent.undo import undo
from calico_py.kube.transport import CredentialsError

_ADVICE = {
    errno.EMFILE: "raise the agent's limit of open files (ulimit -n)",
    errno.ENFILE: "raise the node's limit of open files (fs.file-max)",
    errno.ENOMEM: "raise the agent's memory limit, or free the node's memory",
    errno.ENOBUFS: "raise the agent's memory limit, or free the node's memory",
    errno.ENOSPC: "free the disk",
}

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
    problems = asyncio.run(undo(config)) if cleanup else _run(config)
    for problem in problems:
        click.echo(f"Error: {problem}", err=True)
    sys.exit(1 if problems else 0)


def _run(config: AgentConfig) -> list[str]:
    """Run the agent to its end; what it cannot even start with, each a sentence."""
    problems: list[str] = []
    try:
        asyncio.run(run(config))
    except* (CredentialsError, ForeignCalicoError, ListenError) as errors:
        problems += _sentences(errors)
    except* OSError as errors:
        logging.getLogger(__name__).debug("the system's refusal", exc_info=errors)
        problems += _sentences(errors)
    return problems


def _sentences(group: BaseExceptionGroup[Exception]) -> Iterator[str]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _sentences(error)
        elif isinstance(error, OSError):
            what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
            advice = _ADVICE.get(
                error.errno or 0, "if that repeats, see the kernel's log (dmesg), or set CALICO_PY_LOG_LEVEL=debug"
            )
            yield f"the agent ends, to be started again, as the system refuses what it needs: {what}; {advice}"
        else:
            yield str(error)


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
