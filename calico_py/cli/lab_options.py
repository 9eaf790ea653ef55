"""What the commands of `calico-py lab` share: common options, how errors end, and what their help looks like."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click

from calico_py.lab import agents
from calico_py.lab.commands import LabError
from calico_py.model.net import InvalidError

F = TypeVar("F", bound=Callable[..., Any])


class InOrder(click.Group):
    """A group whose help lists its commands as they stand here: in the order in which a person needs them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names as they were added."""
        del ctx
        return list(self.commands)


def examples(*lines: str) -> str:
    """An epilog that click does not wrap."""
    return "\b\nExamples:\n" + "\n".join(f"  calico-py lab {line}" for line in lines)


def errors_told(function: F) -> F:
    """What goes wrong is a sentence and exit code 1, not a traceback."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except (LabError, InvalidError) as error:
            raise click.ClickException(str(error)) from None

    return wrapped  # type: ignore[return-value]  # same signature, by functools.wraps


def name_option(function: F) -> F:
    """--name of a lab."""
    return click.option("--name", default="lab", show_default=True, help="Name of the lab.")(function)


def output_option(function: F) -> F:
    """-o text or json."""
    choice = click.Choice(["text", "json"])
    return click.option("-o", "--output", type=choice, default="text", show_default=True, help="How to print.")(
        function
    )


def _pairs(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    for value in values:
        if "=" not in value:
            raise click.BadParameter(f"found {value!r}, expected K=V")
    return dict(value.split("=", 1) for value in values)


def template_options(function: F) -> F:
    """What a changed template of the DaemonSet brings: --env and --generation."""
    environment = click.option(
        "--env", multiple=True, callback=_pairs, metavar="K=V", help="Set in this node's agent from now on; repeatable."
    )
    generation = click.option("--generation", type=int, help="The DaemonSet's template generation that it comes from.")
    return environment(generation(function))


def only_option(function: F) -> F:
    """--only one of a node's processes."""
    return click.option("--only", type=click.Choice(agents.PROCESSES), help="Only this process.")(function)
