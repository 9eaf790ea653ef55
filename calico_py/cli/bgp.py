"""`calico-py bgp`: asks the agent of this node for its sessions, paths and announcements."""

import datetime as dt
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from calico_py.cli.ipam_output import console
from calico_py.cli.status import ask


@click.command()
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Where the agent serves /status.")
@click.option("--port", default=9099, show_default=True, help="Its port.")
def command(output: str, host: str, port: int) -> None:
    """Sessions, paths and announcements of this node."""
    status = ask(host, port)
    if output == "json":
        click.echo(json.dumps(status["bgp"], indent=2))
    else:
        console().print(render(status["bgp"], now=status["now"]))


def render(bgp: Mapping[str, Any], *, now: str) -> RenderableType:
    """The three tables. A session that is not up says below its table why not and what to do."""
    if bgp["backend"] != "bird":
        return Text(f"BGP is off: CALICO_NETWORKING_BACKEND is {bgp['backend']}")
    parts: list[RenderableType] = [Text(f"AS {bgp['as_number']}, router id {bgp['router_id']}")]
    if bgp["speaker_problem"]:
        parts.append(Text(bgp["speaker_problem"], style="bold red"))
    sessions = [
        (
            peer["address"],
            peer["as_number"],
            peer["state"],
            _duration(peer["since"], now),
            peer["received"],
            _yes(peer["in_sync"]),
        )
        for peer in bgp["peers"]
    ]
    parts += _table("Sessions", ("peer", "AS", "state", "for", "paths", "complete"), sessions)
    told = ("", bgp["speaker_problem"])
    parts += [
        Text(f"  {peer['address']}: {peer['last_error']}") for peer in bgp["peers"] if peer["last_error"] not in told
    ]
    paths = [
        (
            path["prefix"],
            ", ".join(path["next_hops"]),
            path["peer"],
            path["as_path"],
            path["reason"] + (", stale" if path["stale"] else ""),
        )
        for path in bgp["paths"]
    ]
    parts += _table("Learned", ("prefix", "next hops", "from", "AS path", "chosen as"), paths)
    parts += _table("Announced", ("prefix",), [(prefix,) for prefix in bgp["announced"]])
    return Group(*parts)


def _duration(since: str, now: str) -> str:
    """Between two RFC 3339 times, in the largest unit that fits."""
    if not since:
        return ""
    seconds = int((dt.datetime.fromisoformat(now) - dt.datetime.fromisoformat(since)).total_seconds())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{max(seconds, 0)} s"


def _yes(truth: object) -> str:
    return "yes" if truth else "no"


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> list[RenderableType]:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    shown: RenderableType = table if table.row_count else Text("  none")
    return [Text(), Text(title, style="bold"), shown]
