"""`calico-py lab`: a whole cluster on this machine. Only options and printing; what a command does is lab's."""

import contextlib
import json
import os
import sys
from collections.abc import Mapping

import click
from rich.console import Console

from calico_py.cli.lab_options import (
    InOrder,
    errors_told,
    examples,
    name_option,
    only_option,
    output_option,
    template_options,
)
from calico_py.lab import (
    agents,
    descriptions,
    flows,
    interrupts,
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
from calico_py.model.net import Family
from calico_py.model.pools import EncapMode

_READY_WITHIN = 60.0  # seconds
_ROUTED_WITHIN = 10.0  # seconds


@click.group(
    cls=InOrder,
    epilog=examples(
        "up",
        "pod add a --node node1",
        "pod add b --node node2",
        "ping pod/a pod/b",
        "exec node1 -- ip route",
        "down",
    ),
)
def command() -> None:
    """A whole cluster on this machine (root).

    Nodes are network namespaces, the API server is built in, everything else is the product itself. Nothing of it
    touches the machine's own network.
    """


def _print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2))


@command.command(
    epilog=examples(
        "up",
        "up --nodes 4 --subnets 2 --ipip CrossSubnet",
        "up --pool 10.244.0.0/16 --pool fd00:10:244::/56",
        "up --name other --api kube",
    )
)
@name_option
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
@errors_told
def up(*, name: str, nodes: int, subnets: int, api: str, pools: tuple[str, ...], ipip: str, timeout: float) -> None:
    """Make a cluster.

    Returns when every node is ready and all pairs are routed. Interrupted, it takes the cluster down again.
    """
    spec = LabSpec(name, nodes, subnets, ApiServer(api), pools, EncapMode(ipip))
    with interrupts.as_interrupt(), progress.shown(Console(stderr=True), spec) as show:
        state = lifecycle.start(spec, show.step)
        lab = LiveLab(name)
        try:
            readiness.wait_until_ready(lab, within=timeout, progress=show.causes)
        except KeyboardInterrupt:
            with interrupts.put_off():
                lifecycle.down(name)
            click.echo(f"lab {name} is down again", err=True)
            raise
        except LabError as error:
            option = "" if name == "lab" else f" --name {name}"
            raise LabError(
                f"{error}\nThe lab is left as it is: look with `calico-py lab logs{option} node1`, "
                f"remove it with `calico-py lab down{option}`"
            ) from None
    click.echo(f"lab {name} is up: {len(lab.topology.nodes)} nodes; export KUBECONFIG={state.kubeconfig}")


@command.command(epilog=examples("down", "down --name other"))
@name_option
@errors_told
def down(name: str) -> None:
    """Take the cluster down.

    Leaves nothing, whatever state it is in.
    """
    existed = lifecycle.down(name)
    click.echo(f"lab {name} is down" if existed else f"lab {name}: there is none; nothing to do")


@command.command(epilog=examples("status", "status -o json"))
@name_option
@output_option
@errors_told
def status(name: str, output: str) -> None:
    """What runs where: nodes, processes, pods."""
    found = statuses.read_status(LiveLab(name))
    if output == "json":
        _print_json(found)
    else:
        Console().print(statuses.render_status(found))


@command.command(epilog="\b\nExamples:\n  export KUBECONFIG=$(calico-py lab kubeconfig)")
@name_option
@errors_told
def kubeconfig(name: str) -> None:
    """Path of the kubeconfig for kubectl on this machine."""
    state = StateDir(name)
    state.read_spec()
    click.echo(state.kubeconfig)


@command.group(cls=InOrder)
def pod() -> None:
    """Pods: made and removed as kubelet and runtime would."""


@pod.command("add", epilog=examples("pod add a --node node1", "pod add b"))
@click.argument("pod_name", metavar="POD")
@click.option("--node", default="", help="Where to; without it, where the fewest pods are.")
@name_option
@errors_told
def pod_add(pod_name: str, node: str, name: str) -> None:
    """Create a pod and print its addresses as JSON."""
    lab = LiveLab(name)
    record = pods.add(lab, pod_name, node)
    missing = pods.wait_until_routed(lab, record, within=_ROUTED_WITHIN)
    if missing:
        click.echo(f"no route to pod {pod_name} yet on {', '.join(missing)}; see: calico-py lab status", err=True)
    addresses = [str(address) for address in record.addresses]
    _print_json({"pod": record.name, "node": record.node, "addresses": addresses})


@pod.command("del", epilog=examples("pod del a"))
@click.argument("pod_name", metavar="POD")
@name_option
@errors_told
def pod_del(pod_name: str, name: str) -> None:
    """Remove a pod."""
    pods.delete(LiveLab(name), pod_name)


@command.command(
    "exec",
    context_settings={"ignore_unknown_options": True},
    epilog=examples("exec node1 -- ip route", "exec pod/a -- ip address", "exec node1 -- calico-py status"),
)
@name_option
@click.argument("where", metavar="nodeN|pod/POD")
@click.argument("argv", metavar="-- CMD", nargs=-1, required=True, type=click.UNPROCESSED)
@errors_told
def exec_(name: str, where: str, argv: tuple[str, ...]) -> None:
    """Run a command in a node or pod.

    In a pod it has the pod's network and its node's files. The exit code is the command's.
    """
    endpoint = LiveLab(name).endpoint(where)
    sys.stdout.flush()
    os.execvpe("nsenter", [*endpoint.enter(), *argv], endpoint.environment())  # noqa: S606 - the command takes this one's place


@command.command(epilog=examples("ping pod/a pod/b", "ping node1 pod/b -c 10 -o json", "ping pod/a 10.244.0.1"))
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option("-c", "--count", type=click.IntRange(min=1), default=3, show_default=True, help="How many.")
@click.option("-4", "family", flag_value="4", help="IPv4 (the default where TO has it).")
@click.option("-6", "family", flag_value="6", help="IPv6.")
@name_option
@output_option
@errors_told
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


@command.command(epilog=examples("flow pod/a pod/b", "flow node1 pod/b --seconds 30 --rate 100 -6"))
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option("--seconds", type=float, default=5.0, show_default=True)
@click.option(
    "--rate", type=click.IntRange(min=1), default=1000, show_default=True, help="Datagrams a second, each way."
)
@click.option("--size", type=click.IntRange(min=16), default=64, show_default=True, help="Bytes of UDP payload.")
@click.option("-6", "family", flag_value="6", help="IPv6.")
@name_option
@output_option
@errors_told
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


@command.group(cls=InOrder)
def agent() -> None:
    """Stop, start, restart what runs on a node."""


@agent.command(
    "stop", epilog=examples("agent stop node1", "agent stop node1 --only agent", "agent stop node2 --only speaker")
)
@click.argument("node")
@only_option
@name_option
@errors_told
def agent_stop(node: str, only: str | None, name: str) -> None:
    """Stop agent, speaker and tunnel of a node (SIGTERM).

    They stay down until `start` or `restart`.
    """
    agents.change(LiveLab(name), node, "stop", only=only or "")


@agent.command("start", epilog=examples("agent start node1", "agent start node1 --env CALICO_IPV4POOL_IPIP=Never"))
@click.argument("node")
@only_option
@template_options
@name_option
@errors_told
def agent_start(node: str, only: str | None, env: Mapping[str, str], generation: int | None, name: str) -> None:
    """Start what was stopped on a node."""
    agents.change(LiveLab(name), node, "start", only=only or "", env=env, generation=generation)


@agent.command(
    "restart",
    epilog=examples("agent restart node1", "agent restart node1 --env CALICO_IPV4POOL_IPIP=Never --generation 2"),
)
@click.argument("node")
@only_option
@template_options
@name_option
@errors_told
def agent_restart(node: str, only: str | None, env: Mapping[str, str], generation: int | None, name: str) -> None:
    """Stop the agent of a node and start it again.

    As a rollout of its DaemonSet does: speaker and tunnel go on. With --only it is of another process.
    """
    agents.change(LiveLab(name), node, "restart", only=only or "", env=env, generation=generation)


@command.command(epilog=examples("kill node1 agent", "kill node2 exabgp"))
@click.argument("node")
@click.argument("process", type=click.Choice(agents.KILLABLE))
@name_option
@errors_told
def kill(node: str, process: str, name: str) -> None:
    """SIGKILL a process of a node.

    The supervisor starts it again.
    """
    pids = agents.kill(LiveLab(name), node, process)
    click.echo(f"{node}: killed {process}, process {', '.join(map(str, pids))}")


@command.command(epilog=examples("logs node1 -f", "logs node1 --process speaker"))
@click.argument("node")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option("--process", type=click.Choice(log_files.PROCESSES), help="Only of this one.")
@name_option
@errors_told
def logs(node: str, follow: bool, process: str | None, name: str) -> None:
    """Print what the processes of a node have logged."""
    with contextlib.suppress(KeyboardInterrupt):
        for line in log_files.read_lines(LiveLab(name), node, process or "", follow=follow):
            click.echo(line)


@command.command(epilog=examples("cni node1"))
@click.argument("node")
@name_option
@errors_told
def cni(node: str, name: str) -> None:
    """What a runtime needs to call the plugin, as JSON."""
    _print_json(descriptions.describe_cni(LiveLab(name).node(node)))


@command.command(epilog=examples("demo", "demo --picture cluster.svg"))
@click.option("--name", default=demonstration.NAME, show_default=True, help="Name of the demo's own lab.")
@click.option("--picture", default="calico-py-demo.svg", show_default=True, help="Where to write the picture.")
@errors_told
def demo(name: str, picture: str) -> None:
    """IPIP, then BGP, without a lost packet: in a minute."""
    demonstration.run(name, picture, Console())


def _family(text: str | None) -> Family | None:
    return None if text is None else 4 if text == "4" else 6
