"""`calico-py lab`: a whole cluster on this machine. Only options and printing; what a command does is lab's."""

import contextlib
import functools
import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click
from rich.console import Console

from calico_py.lab import (
    agents,
    descriptions,
    flows,
    lifecycle,
    pings,
    pods,
    progress,
    readiness,
    statuses,
)
from calico_py.lab import demo as demonstration
from calico_py.lab import logs as log_files
from calico_py.lab.commands import LabError
from calico_py.lab.live import LiveLab
from calico_py.lab.state import StateDir
from calico_py.lab.topology import DEFAULT_POOL, ApiServer, LabSpec
from calico_py.model.net import Family, InvalidError
from calico_py.model.pools import EncapMode

F = TypeVar("F", bound=Callable[..., Any])

_READY_WITHIN = 60.0  # seconds
_ROUTED_WITHIN = 10.0  # seconds


@click.group()
def command() -> None:
    """A whole cluster on this machine.

    Nodes are network namespaces, the API server is built in, everything else is the product itself.
    """


def _errors(function: F) -> F:
    """What goes wrong is a sentence and exit code 1, not a traceback."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except (LabError, InvalidError) as error:
            raise click.ClickException(str(error)) from None

    return wrapped  # type: ignore[return-value]  # same signature, by functools.wraps


def _name(function: F) -> F:
    return click.option("--name", default="lab", show_default=True, help="Name of the lab.")(function)


def _output(function: F) -> F:
    choice = click.Choice(["text", "json"])
    return click.option("-o", "--output", type=choice, default="text", show_default=True, help="How to print.")(
        function
    )


def _print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2))


@command.command()
@_name
@click.option("--nodes", type=int, default=3, show_default=True, help="How many nodes.")
@click.option("--subnets", type=int, default=1, show_default=True, help="Among how many subnets they are spread.")
@click.option(
    "--api",
    type=click.Choice([str(each) for each in ApiServer]),
    default=str(ApiServer.EMBEDDED),
    show_default=True,
    help="The built-in API server, or etcd and a real kube-apiserver.",
)
@click.option(
    "--pool", "pools", multiple=True, default=(DEFAULT_POOL,), show_default=True, help="CIDR of pods; repeatable."
)
@click.option(
    "--ipip",
    type=click.Choice([str(each) for each in EncapMode], case_sensitive=False),
    default=str(EncapMode.ALWAYS),
    show_default=True,
    metavar="[Always|CrossSubnet|Never]",
    help="CALICO_IPV4POOL_IPIP of the agents.",
)
@click.option(
    "--timeout", type=float, default=_READY_WITHIN, show_default=True, help="Seconds until all nodes must be ready."
)
@_errors
def up(*, name: str, nodes: int, subnets: int, api: str, pools: tuple[str, ...], ipip: str, timeout: float) -> None:
    """Make a cluster.

    Returns when every node is ready and all pairs are routed.
    """
    spec = LabSpec(name, nodes, subnets, ApiServer(api), pools, EncapMode(ipip))
    with progress.shown(Console(stderr=True), spec) as show:
        state = lifecycle.start(spec, show.step)
        lab = LiveLab(name)
        try:
            readiness.wait_until_ready(lab, within=timeout, progress=show.causes)
        except LabError as error:
            option = "" if name == "lab" else f" --name {name}"
            raise LabError(
                f"{error}\nThe lab is left as it is: look with `calico-py lab logs{option} node1`, "
                f"remove it with `calico-py lab down{option}`"
            ) from None
    click.echo(f"lab {name} is up: {len(lab.topology.nodes)} nodes; export KUBECONFIG={state.kubeconfig}")


@command.command()
@_name
@_errors
def down(name: str) -> None:
    """Take the cluster down.

    Leaves nothing, whatever state it is in.
    """
    existed = lifecycle.down(name)
    click.echo(f"lab {name} is down" if existed else f"lab {name}: there is none; nothing to do")


@command.command()
@_name
@_output
@_errors
def status(name: str, output: str) -> None:
    """What runs where: nodes, processes, pods."""
    found = statuses.read_status(LiveLab(name))
    if output == "json":
        _print_json(found)
    else:
        Console().print(statuses.render_table(found))


@command.command()
@_name
@_errors
def kubeconfig(name: str) -> None:
    """Path of the kubeconfig for kubectl on this machine."""
    state = StateDir(name)
    state.read_spec()
    click.echo(state.kubeconfig)


@command.group()
def pod() -> None:
    """Pods: made and removed as kubelet and runtime would."""


@pod.command("add")
@click.argument("pod_name", metavar="POD")
@click.option("--node", default="", help="Where to; without it, where the fewest pods are.")
@_name
@_errors
def pod_add(pod_name: str, node: str, name: str) -> None:
    """Create a pod and print its addresses as JSON."""
    lab = LiveLab(name)
    record = pods.add(lab, pod_name, node)
    missing = pods.wait_until_routed(lab, record, within=_ROUTED_WITHIN)
    if missing:
        click.echo(f"no route to pod {pod_name} yet on {', '.join(missing)}; see: calico-py lab status", err=True)
    addresses = [str(address) for address in record.addresses]
    _print_json({"pod": record.name, "node": record.node, "addresses": addresses})


@pod.command("del")
@click.argument("pod_name", metavar="POD")
@_name
@_errors
def pod_del(pod_name: str, name: str) -> None:
    """Remove a pod."""
    pods.delete(LiveLab(name), pod_name)


@command.command("exec", context_settings={"ignore_unknown_options": True})
@_name
@click.argument("where", metavar="nodeN|pod/POD")
@click.argument("argv", metavar="-- CMD", nargs=-1, required=True, type=click.UNPROCESSED)
@_errors
def exec_(name: str, where: str, argv: tuple[str, ...]) -> None:
    """Run a command in a node or pod.

    In a pod it has the pod's network and its node's files. The exit code is the command's.
    """
    endpoint = LiveLab(name).endpoint(where)
    sys.stdout.flush()
    os.execvpe("nsenter", [*endpoint.enter(), *argv], endpoint.environment())  # noqa: S606 - the command takes this one's place


@command.command()
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option("-c", "--count", type=click.IntRange(min=1), default=3, show_default=True, help="How many.")
@click.option("-4", "family", flag_value="4", help="IPv4 (the default where TO has it).")
@click.option("-6", "family", flag_value="6", help="IPv6.")
@_name
@_output
@_errors
def ping(*, source: str, target: str, count: int, family: str | None, name: str, output: str) -> None:
    """Ping from a node or pod.

    TO is a node, a pod or an address. Exit code 0 if all were answered.
    """
    lab = LiveLab(name)
    result = pings.ping(lab.endpoint(source), lab.target(target, _family(family)), count=count)
    if output == "json":
        _print_json({"from": source, "to": target, **result.to_json()})
    else:
        times = " rtt min/avg/max {:.2f}/{:.2f}/{:.2f} ms".format(*result.times) if result.times else ""
        click.echo(
            f"{source} -> {target} ({result.address}): {result.received}/{result.sent} answered{times} {result.said}"
        )
    sys.exit(0 if result.ok else 1)


@command.command()
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option("--seconds", type=float, default=5.0, show_default=True)
@click.option(
    "--rate", type=click.IntRange(min=1), default=1000, show_default=True, help="Datagrams a second, each way."
)
@click.option("--size", type=click.IntRange(min=16), default=64, show_default=True, help="Bytes of UDP payload.")
@click.option("-6", "family", flag_value="6", help="IPv6.")
@_name
@_output
@_errors
def flow(
    *, source: str, target: str, seconds: float, rate: int, size: int, family: str | None, name: str, output: str
) -> None:
    """Send numbered datagrams both ways and count.

    Exit code 0 if none was lost.
    """
    lab = LiveLab(name)
    result = flows.run(
        lab.endpoint(source), lab.endpoint(target), seconds, family=_family(family), rate=rate, size=size
    )
    if output == "json":
        _print_json({"from": source, "to": target, **result.to_json()})
    else:
        for line in result.lines(source, target):
            click.echo(line)
    sys.exit(0 if result.lost == 0 else 1)


@command.group()
def agent() -> None:
    """Stop, start, restart the agent of a node."""


def _pairs(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    for value in values:
        if "=" not in value:
            raise click.BadParameter(f"found {value!r}, expected K=V")
    return dict(value.split("=", 1) for value in values)


def _template(function: F) -> F:
    environment = click.option(
        "--env", multiple=True, callback=_pairs, metavar="K=V", help="Set in this node's agent from now on; repeatable."
    )
    generation = click.option("--generation", type=int, help="The DaemonSet's template generation that it comes from.")
    return environment(generation(function))


@agent.command("restart")
@click.argument("node")
@_template
@_name
@_errors
def agent_restart(node: str, env: Mapping[str, str], generation: int | None, name: str) -> None:
    """Stop the agent of a node and start it again."""
    agents.change(LiveLab(name), node, "restart", env=env, generation=generation)


@agent.command("stop")
@click.argument("node")
@_name
@_errors
def agent_stop(node: str, name: str) -> None:
    """Stop the agent of a node (SIGTERM); it stays down. Speaker and tunnel go on."""
    agents.change(LiveLab(name), node, "stop")


@agent.command("start")
@click.argument("node")
@_template
@_name
@_errors
def agent_start(node: str, env: Mapping[str, str], generation: int | None, name: str) -> None:
    """Start the agent of a node that was stopped."""
    agents.change(LiveLab(name), node, "start", env=env, generation=generation)


@command.command()
@click.argument("node")
@click.argument("process", type=click.Choice(agents.KILLABLE))
@_name
@_errors
def kill(node: str, process: str, name: str) -> None:
    """SIGKILL a process of a node.

    The supervisor starts it again.
    """
    pids = agents.kill(LiveLab(name), node, process)
    click.echo(f"{node}: killed {process}, process {', '.join(map(str, pids))}")


@command.command()
@click.argument("node")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option("--process", type=click.Choice(log_files.PROCESSES), help="Only of this one.")
@_name
@_errors
def logs(node: str, follow: bool, process: str | None, name: str) -> None:
    """Print what the processes of a node have logged."""
    with contextlib.suppress(KeyboardInterrupt):
        for line in log_files.read_lines(LiveLab(name), node, process or "", follow=follow):
            click.echo(line)


@command.command()
@click.argument("node")
@_name
@_errors
def cni(node: str, name: str) -> None:
    """What a runtime needs to call the plugin, as JSON."""
    _print_json(descriptions.describe_cni(LiveLab(name).node(node)))


@command.command()
@click.option("--name", default=demonstration.NAME, show_default=True, help="Name of the demo's own lab.")
@click.option("--picture", default="calico-py-demo.svg", show_default=True, help="Where to write the picture.")
@_errors
def demo(name: str, picture: str) -> None:
    """IPIP, then BGP, without a lost packet: in a minute."""
    demonstration.run(name, picture, Console())


def _family(text: str | None) -> Family | None:
    return None if text is None else 4 if text == "4" else 6
