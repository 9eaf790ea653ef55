"""`calico-py ipam`: pools, blocks and addresses of the cluster, as the API has them."""

import asyncio
import dataclasses
import json
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import click
from rich import box
from rich.console import Console
from rich.table import Table

from calico_py.agent.pods import Pods
from calico_py.ipam.allocator import Allocator
from calico_py.ipam.audit import Cluster, Finding, audit, why_leaked
from calico_py.ipam.blocks import Allocation, allocations
from calico_py.ipam.census import AddressUse, use_of_addresses, use_of_blocks, use_of_pools
from calico_py.ipam.collector import DEFAULT_GRACE
from calico_py.ipam.garbage import Judgement, View, judge, living_addresses
from calico_py.ipam.requests import IPAMError, Release
from calico_py.ipam.rules import cooldown_of
from calico_py.kube.client import connect
from calico_py.kube.transport import CredentialsError
from calico_py.model.blocks import IPAMBlock, IPAMConfiguration
from calico_py.model.controllers import KUBE_CONTROLLERS_CONFIGURATIONS
from calico_py.model.kinds import BLOCK_AFFINITIES, IP_POOLS, IPAM_BLOCKS, IPAM_CONFIGURATIONS, IPAM_HANDLES, NODES
from calico_py.model.meta import Meta
from calico_py.model.names import warm_handle
from calico_py.model.net import Address, InvalidError, parse_address
from calico_py.model.store import Kind, Listing, NotFoundError, Store, StoreError

T = TypeVar("T")

SETTLE_SECONDS = 3.0  # what is on its way is gone at a second look

_WIDE = 160  # characters, where the output is no terminal
_ONLY_JSON = ("handle", "since")

_kubeconfig = click.option(
    "--kubeconfig", envvar="KUBECONFIG", help="How the API server is reached; else the pod's service account."
)
_output = click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)


@click.group()
def command() -> None:
    """Pools, blocks and who has which address."""


@command.command()
@click.argument("address", nargs=-1)
@click.option("--blocks", "with_blocks", is_flag=True, help="Each block too.")
@click.option("--addresses", "with_addresses", is_flag=True, help="Each address that is not free too.")
@_output
@_kubeconfig
def show(
    address: tuple[str, ...], with_blocks: bool, with_addresses: bool, output: str, kubeconfig: str | None
) -> None:
    """How the pools are used, or who has an ADDRESS."""
    wanted = {str(_address(text)) for text in address}
    cluster = run_with_store(kubeconfig, read_cluster)
    blocks = [block for block in cluster.view.blocks if not block.deleted]
    found: dict[str, list[dict[str, Any]]] = {}
    if not wanted:
        found["pools"] = [dataclasses.asdict(use) for use in use_of_pools(blocks, cluster.pools)]
    if with_blocks:
        found["blocks"] = [dataclasses.asdict(use) for use in use_of_blocks(blocks, cluster.pools)]
    uses = {use.address: use for use in use_of_addresses(blocks, cluster.pools)}
    if with_addresses or (wanted and output == "json"):
        found["addresses"] = [dataclasses.asdict(use) for text, use in uses.items() if not wanted or text in wanted]
    _print(found, output)
    if output == "text":
        for text in sorted(wanted):
            click.echo(_sentence(uses[text]) if text in uses else f"{text} is free: nobody has it")


def _sentence(use: AddressUse) -> str:
    whose = f" by {use.owner}" if use.owner else ""
    node = f" on node {use.node}" if use.node else ""
    handle = f", handle {use.handle}" if use.handle else ""
    since = f", since {use.since}" if use.since else ""
    return f"{use.address} is {use.state}{whose}{node} (pool {use.pool or 'none'}, block {use.block}{handle}{since})"


@command.command()
@click.option("--once", is_flag=True, help="Look once: what is on its way is found too.")
@_output
@_kubeconfig
def check(once: bool, output: str, kubeconfig: str | None) -> None:
    """Find what contradicts itself; exit status 1 if anything does."""

    async def look(store: Store) -> list[Finding]:
        found = audit(await read_cluster(store))
        if found and not once:
            await asyncio.sleep(SETTLE_SECONDS)
            again = audit(await read_cluster(store))
            found = [finding for finding in again if finding in found]
        return found

    found = run_with_store(kubeconfig, look)
    if output == "json":
        click.echo(json.dumps([dataclasses.asdict(finding) for finding in found], indent=2))
    else:
        for finding in found:
            click.echo(f"{finding.kind} {finding.name}: {finding.reason}: {finding.message}")
        click.echo(f"{len(found)} findings" if found else "all addresses, blocks, claims and handles agree")
    if found:
        raise SystemExit(1)


@command.command()
@click.argument("address", nargs=-1, required=True)
@click.option("--force", is_flag=True, help="Also what a pod, a tunnel or a node's stock has.")
@_kubeconfig
def release(address: tuple[str, ...], force: bool, kubeconfig: str | None) -> None:
    """Release each ADDRESS, if nobody lives who has it."""
    wanted = [_address(text) for text in address]

    async def work(store: Store) -> list[str]:
        cluster = await read_cluster(store)
        return await release_addresses(store, cluster, wanted, force=force)

    refused = run_with_store(kubeconfig, work)
    if refused:
        raise click.ClickException("\n".join(refused))


@command.command()
@click.option("--dry-run", is_flag=True, required=True, help="Only say what would go; the leader does it.")
@click.option("--grace", type=float, help="Seconds, instead of KubeControllersConfiguration's leakGracePeriod.")
@_output
@_kubeconfig
def gc(dry_run: bool, grace: float | None, output: str, kubeconfig: str | None) -> None:
    """Say what the leader would clean up, and why."""
    del dry_run
    now = datetime.now(UTC)
    cluster, config, period = run_with_store(kubeconfig, _read_with_config)
    period = period if grace is None else timedelta(seconds=grace)
    found = plan_garbage(cluster.view, config, now=now, grace=period)
    _print({"garbage": found}, output)
    if not found and output == "text":
        click.echo("nothing is to be cleaned up")


async def read_cluster(store: Store) -> Cluster:
    """All that concerns addresses, blocks before pods: who has an address in a block by then is a pod by then."""
    invalid: list[tuple[str, str, str]] = []

    async def read(kind: Kind[Any]) -> Sequence[Any]:
        listing: Listing[Any] = await store.list(kind)
        invalid.extend((kind.kind, each.name, str(each.error)) for each in listing.invalid)
        return listing.items

    blocks, handles, affinities = await read(IPAM_BLOCKS), await read(IPAM_HANDLES), await read(BLOCK_AFFINITIES)
    pools, nodes = await read(IP_POOLS), await read(NODES)
    view = View(blocks, [node.name for node in nodes], await Pods(store).list(), handles, affinities)
    return Cluster(view, pools, invalid)


async def _read_with_config(store: Store) -> tuple[Cluster, IPAMConfiguration, timedelta]:
    """And the grace period that the leader goes by."""
    try:
        config = await store.get(IPAM_CONFIGURATIONS, "default")
    except NotFoundError:
        config = IPAMConfiguration(Meta("default"))
    try:
        period = (await store.get(KUBE_CONTROLLERS_CONFIGURATIONS, "default")).leak_grace_period
    except (NotFoundError, InvalidError):
        period = None
    return await read_cluster(store), config, DEFAULT_GRACE if period is None else period


async def release_addresses(store: Store, cluster: Cluster, wanted: Iterable[Address], *, force: bool) -> list[str]:
    """Release those that may go; why the others may not."""
    held = {a.address: a for block in cluster.view.blocks for a in allocations(block) if not a.cooling}
    due, refused = [], []
    for address in wanted:
        found = held.get(address)
        if found is None:
            refused.append(f"{address}: nobody has it")
        elif (reason := _keeps(found, cluster.view)) and not force:
            refused.append(f"{address}: {reason}; --force releases it all the same")
        else:
            due.append(Release(address, found.handle, found.sequence))
    config = IPAMConfiguration(Meta("default"))
    allocator = Allocator(
        store,
        node="",
        labels=dict,
        pools=lambda: cluster.pools,
        config=lambda: config,
        now=lambda: datetime.now(UTC),
    )
    done = await allocator.release(due)
    await allocator.drain()
    for address in done.released:
        click.echo(f"{address} is released")
    refused += [f"{address}: was released by somebody else" for address in done.unallocated]
    return [*refused, *(f"{address}: {why}" for address, why in done.refused.items())]


def _keeps(found: Allocation, view: View) -> str:
    """Why an address is not to be released, as far as is known."""
    if found.address in living_addresses(view.pods):
        return "a living pod has it"
    note = found.attribute.secondary
    if note.get("type") and found.node in view.nodes:
        return f"it is the {note['type']} of node {found.node}"
    if found.handle == warm_handle(found.node) and found.node in view.nodes:
        return f"it is kept warm by node {found.node}"
    pod = view.pods.get((note.get("namespace", ""), note.get("pod", "")))
    if pod is not None and not pod.finished and pod.node == found.node and not pod.addresses:
        return f"pod {note['namespace']}/{note['pod']} is starting"
    return ""


def plan_garbage(view: View, config: IPAMConfiguration, *, now: datetime, grace: timedelta) -> list[dict[str, Any]]:
    """What the leader would remove now, and what after the grace period if it stays as it is."""
    standing = dataclasses.replace(view, blocks=[block for block in view.blocks if not block.deleted])
    cooldown = cooldown_of(config)
    now_due = judge(standing, {}, now=now, grace=grace, cooldown=cooldown)
    before = judge(standing, {}, now=now - grace, grace=grace, cooldown=cooldown).memory
    later = judge(standing, before, now=now, grace=grace, cooldown=cooldown)
    held = {(a.address, a.sequence): a for block in standing.blocks for a in allocations(block)}

    def when(*, at_once: bool) -> str:
        return "now" if at_once else "after the grace period"

    found = [
        {
            "what": f"address {r.address}",
            "when": when(at_once=r in now_due.releases),
            "why": why_leaked(held[r.address, r.sequence or 0], standing).split(";")[0],
        }
        for r in later.releases
    ]
    found += [
        {"what": f"block {b.cidr}", "when": when(at_once=b in now_due.blocks), "why": _why_empty(b, standing)}
        for b in later.blocks
    ]
    found += [
        {"what": f"block {b.cidr}", "when": "with its last address", "why": f"node {b.node} does not exist"}
        for b in _to_be_emptied(standing, later)
    ]
    found += [
        {"what": f"handle {h.meta.name}", "when": when(at_once=h in now_due.handles), "why": "it holds no address"}
        for h in later.handles
    ]
    found += [
        {
            "what": f"affinity {a.meta.name}",
            "when": when(at_once=a in now_due.affinities),
            "why": f"it is {a.state}, and its block is not {a.node}'s or nobody goes on with it",
        }
        for a in later.affinities
    ]
    return found


def _to_be_emptied(view: View, later: Judgement) -> Iterator[IPAMBlock]:
    """Blocks of deleted nodes in which nobody will have an address."""
    leaving = {release.address for release in later.releases}
    for block in view.blocks:
        stays = [a for a in allocations(block) if not a.cooling and a.address not in leaving]
        if block.node in later.gone and block not in later.blocks and not stays:
            yield block


def _why_empty(block: IPAMBlock, view: View) -> str:
    gone = "" if block.node in view.nodes else ", which does not exist"
    return f"it is empty, and not the last of node {block.node}{gone}"


def _address(text: str) -> Address:
    try:
        return parse_address(text, field="ADDRESS")
    except InvalidError as error:
        raise click.BadParameter(str(error)) from None


def run_with_store(kubeconfig: str | None, work: Callable[[Store], Awaitable[T]]) -> T:
    """What the work finds.

    Raises:
        click.ClickException: the API cannot be asked, or refuses.
    """

    async def connected() -> T:
        async with connect(kubeconfig) as store:
            return await work(store)

    try:
        return asyncio.run(connected())
    except (CredentialsError, StoreError, IPAMError) as error:
        raise click.ClickException(str(error)) from None


def _print(found: Mapping[str, Sequence[Mapping[str, Any]]], output: str) -> None:
    if output == "json":
        click.echo(json.dumps(found, indent=2))
        return
    console = Console(soft_wrap=False)
    if not console.is_terminal:
        console = Console(width=_WIDE)
    for title, rows in found.items():
        if not rows:
            continue
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
        shown = [column for column in rows[0] if column not in _ONLY_JSON]
        for column in shown:
            number = isinstance(rows[0][column], int) and not isinstance(rows[0][column], bool)
            table.add_column(column.replace("_", " "), justify="right" if number else "left", overflow="fold")
        for row in rows:
            table.add_row(*(_cell(row[column]) for column in shown))
        console.print(table)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
