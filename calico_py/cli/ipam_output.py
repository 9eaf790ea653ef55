"""How commands print what they found: tables for people, JSON and YAML for programs."""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import click
import yaml
from rich import box
from rich.console import Console
from rich.table import Table

_WIDE = 160  # characters, where the output is no terminal
_LONG = 10**9  # a number beyond is for people as good as its power of ten

output_option = click.option(
    "-o", "--output", type=click.Choice(["text", "json", "yaml"]), default="text", show_default=True
)
kubeconfig_option = click.option(
    "--kubeconfig", envvar="KUBECONFIG", help="How the API server is reached; else the pod's service account."
)


def is_text(output: str) -> bool:
    """Whether a person reads it."""
    return output == "text"


def echo_data(found: object, output: str) -> None:
    """Print for programs."""
    if output == "yaml":
        click.echo(yaml.safe_dump(found, sort_keys=False), nl=False)
    else:
        click.echo(json.dumps(found, indent=2))


def console() -> Console:
    """Where tables go: as wide as the terminal, or wide enough for whole names where grep reads them."""
    found = Console(soft_wrap=False)
    return found if found.is_terminal else Console(width=_WIDE)


def echo_tables(found: Mapping[str, Sequence[Mapping[str, Any]]], *, hidden: Collection[str] = ()) -> None:
    """Print tables; those without rows, and the hidden columns, are left out."""
    out = console()
    for title, rows in found.items():
        if not rows:
            continue
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
        shown = [column for column in rows[0] if column not in hidden]
        for column in shown:
            table.add_column(
                column.replace("_", " "),
                justify="right" if _is_number(rows[0][column]) else "left",
                overflow="fold",
            )
        for row in rows:
            table.add_row(*(cell(row[column]) for column in shown))
        out.print(table)


def cell(value: object) -> str:
    """A value as people read it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and value >= _LONG:
        return f"{value:.2g}"
    return str(value)


def share(part: int, whole: int) -> str:
    """A number with its part of another, in percent; some is never 0%, and not all never 100%."""
    percent = 100 * part / whole if whole else 0.0
    if 0 < percent < 1:
        return f"{cell(part)} (<1%)"
    if 99 < percent < 100 or (part < whole and round(percent) == 100):
        return f"{cell(part)} (>99%)"
    return f"{cell(part)} ({percent:.0f}%)"


def counted(number: int, what: str) -> str:
    """A number of things, such as ``1 block`` or ``2 blocks``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _is_number(value: object) -> bool:
    is_share = isinstance(value, str) and value.endswith("%)")
    return is_share or (isinstance(value, int) and not isinstance(value, bool))
