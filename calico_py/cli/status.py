"""`calico-py status`: asks the agent of this node and prints what it says."""

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import click
import yaml
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from calico_py.cli.ipam_output import console

_TIMEOUT = 5.0  # seconds


@click.command()
@click.option("-o", "--output", type=click.Choice(["text", "json", "yaml"]), default="text", show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Where the agent serves /status.")
@click.option("--port", default=9099, show_default=True, help="Its port.")
@click.option("--routes", "all_routes", is_flag=True, help="Print every destination, not only those that wait.")
@click.option("--cluster", is_flag=True, help="Each node and pool of the cluster instead, through the API.")
@click.option("--kubeconfig", envvar="KUBECONFIG", help="With --cluster: how the API server is reached.")
def command(  # noqa: PLR0917 - one for each option
    output: str, host: str, port: int, all_routes: bool, cluster: bool, kubeconfig: str | None
) -> None:
    """What this node does, and why."""
    if cluster:
        from calico_py.cli.cluster_status import show_cluster  # noqa: PLC0415 - the client of the API takes 0.4 s

        raise SystemExit(show_cluster(kubeconfig, output))
    status = ask(host, port)
    if output == "json":
        click.echo(json.dumps(status, indent=2))
    elif output == "yaml":
        click.echo(yaml.safe_dump(status, sort_keys=False), nl=False)
    else:
        console().print(render(status, all_routes=all_routes))


def ask(host: str, port: int) -> Mapping[str, Any]:
    """The status of the agent that serves there.

    Raises:
        click.ClickException: nobody answers, or not with a status.
    """
    url = f"http://{host}:{port}/status"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback is never behind a proxy
    try:
        with opener.open(url, timeout=_TIMEOUT) as answer:
            found = json.load(answer)
    except urllib.error.HTTPError as error:
        raise click.ClickException(f"the agent at {url} answers {error.code}: {error.read().decode()[:200]}") from None
    except (OSError, ValueError) as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        raise click.ClickException(
            f"no agent answers at {url} ({cause}): is calico-py node running on this node?"
        ) from None
    assert isinstance(found, dict)
    return found


def render(status: Mapping[str, Any], *, all_routes: bool = False) -> RenderableType:
    """The status as tables; sections with nothing to say are left out."""
    sections: Iterable[RenderableType | None] = (
        _head(status),
        _problems(status),
        _section("Pools", status["pools"], _POOL_COLUMNS),
        _section("Blocks of this node", status["blocks"], _BLOCK_COLUMNS),
        _tunnel(status["tunnel"]),
        _bgp(status["bgp"]),
        _routes(status["routes"], all_routes=all_routes),
        _lines("Environment", status["environment"]),
        _section("Settings of the host that calico-py changed", status["settings_touched"], _SETTING_COLUMNS),
        _lines("Without effect", [f"{name}: {why}" for name, why in status["without_effect"].items()]),
    )
    said = [section for section in sections if section is not None]
    return Group(said[0], *(line for section in said[1:] for line in (Text(), section)))


_Cell = Callable[[Mapping[str, Any]], str]
_Columns = Mapping[str, _Cell]


def _text(key: str) -> _Cell:
    return lambda row: str(row[key])


_POOL_COLUMNS: _Columns = {
    "name": _text("name"),
    "CIDR": _text("cidr"),
    "IPIP": _text("ipip_mode"),
    "VXLAN": _text("vxlan_mode"),
    "NAT": lambda row: "yes" if row["nat_outgoing"] else "no",
    "state": lambda row: "not used" if not row["used"] else "disabled" if row["disabled"] else "used",
    "sends by": _text("sending"),
}
_BLOCK_COLUMNS: _Columns = {
    "CIDR": _text("cidr"),
    "pool": _text("pool"),
    "state": _text("state"),
    "in use": lambda row: f"{row['in_use']} of {row['size']}" if row["in_use"] >= 0 else f"? of {row['size']}",
}
_PEER_COLUMNS: _Columns = {
    "peer": _text("address"),
    "AS": _text("as_number"),
    "state": _text("state"),
    "since": _text("since"),
    "paths": _text("received"),
    "complete": lambda row: "yes" if row["in_sync"] else "no",
}
_ROUTE_COLUMNS: _Columns = {
    "destination": _text("dst"),
    "node": _text("node"),
    "way": _text("way"),
    "via": _text("via"),
    "state": _text("state"),
}
_SETTING_COLUMNS: _Columns = {"name": _text("name"), "was": _text("original"), "is": _text("given")}


def _head(status: Mapping[str, Any]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("Node", f"{status['node']} (calico-py {status['version']}, started {status['started']})")
    table.add_row("Ready", Text("; ".join(status["not_ready"]) or "yes"))
    for entry in status["addresses"]:
        where = f" on {entry['device']}" if entry["device"] else ""
        table.add_row(f"IPv{entry['family']}", Text(f"{entry['address'] or 'none'}{where}: {entry['reason']}"))
    table.add_row("MTU of pods", Text(f"{status['mtu']['pod']}: {status['mtu']['reason']}"))
    table.add_row("API server", Text(_api(status["api"])))
    table.add_row("Leader", status["leader"] or "nobody")
    return table


def _api(api: Mapping[str, Any]) -> str:
    said = (watch["error"].partition(": ") for watch in api["watches"] if watch["error"])
    errors = dict.fromkeys(cause or whole for whole, _, cause in said)  # of one cause all watches have their own
    missing = [watch["plural"] for watch in api["watches"] if not watch["in_sync"]]
    state = "in sync" if api["in_sync"] else f"waiting for {', '.join(dict.fromkeys(missing)) or 'the first list'}"
    return "; ".join([f"{api['server']}, {state}", *errors])


def _tunnel(tunnel: Mapping[str, Any]) -> RenderableType | None:
    if not tunnel["device"] and tunnel["phase"] == "down":
        return None
    state = "up" if tunnel["up"] else "down"
    carried = "" if tunnel["attached"] else ", no engine attached"
    lines = [
        f"{tunnel['device'] or 'no device'} {tunnel['address'] or 'without address'}, {state}{carried}",
        f"engine {tunnel['engine']}: {tunnel['reason']}",
        f"receiver {tunnel['phase']}, {'announced' if tunnel['announced'] else 'not announced'}",
    ]
    if tunnel["senders"]:
        lines.append(f"nodes that may send: {', '.join(tunnel['senders'])}")
    if tunnel["problem"]:
        lines.append(tunnel["problem"])
    return _lines("IPIP", lines)


def _bgp(bgp: Mapping[str, Any]) -> RenderableType | None:
    if bgp["backend"] != "bird":
        return _lines("BGP", [f"off: CALICO_NETWORKING_BACKEND is {bgp['backend']}"])
    title = f"BGP: AS {bgp['as_number']}, router id {bgp['router_id']}, {len(bgp['announced'])} announced, "
    title += f"{bgp['learned']} learned"
    notes = [bgp["speaker_problem"]] if bgp["speaker_problem"] else []
    notes += [f"{row['address']}: {row['last_error']}" for row in bgp["peers"] if row["last_error"] not in ("", *notes)]
    return _section(title, bgp["peers"], _PEER_COLUMNS, notes) or _lines(title, [*notes, "no peers"])


def _routes(routes: Mapping[str, Any], *, all_routes: bool) -> RenderableType:
    shown = [row for row in routes["routes"] if all_routes or row["waiting"] or row["state"] != "installed"]
    title = f"Routes: {routes['desired']} desired, {routes['installed']} installed"
    notes = [f"{row['dst']}: {row['waiting']}" for row in shown if row["waiting"]]
    return _section(title, shown, _ROUTE_COLUMNS, notes) or Text(title, style="bold")


def _problems(status: Mapping[str, Any]) -> RenderableType | None:
    return _lines("Problems", [entry["message"] for entry in status["problems"]], style="bold red")


def _section(
    title: str, rows: Sequence[Mapping[str, Any]], columns: _Columns, notes: Sequence[str] = ()
) -> RenderableType | None:
    """A table of what is short, and below it what needs a sentence."""
    if not rows:
        return None
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell(row)) for cell in columns.values()))
    return Group(Text(title, style="bold"), table, *(Text(f"  {note}") for note in notes))


def _lines(title: str, lines: Sequence[str], *, style: str = "bold") -> RenderableType | None:
    if not lines:
        return None
    return Group(Text(title, style=style), *(Text(f"  {line}") for line in lines))
