"""`calico-py ipam`: pools, blocks and addresses of the cluster, as the API has them.

Exit status: 0, or 1 where the answer is that something is wrong or was refused, or 2 where there is no answer.
"""

import asyncio
import dataclasses
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from calico_py.cli.ipam_output import counted, echo_data, echo_tables, is_text, kubeconfig_option, output_option
from calico_py.cli.ipam_plan import plan_garbage
from calico_py.cli.ipam_reading import Rules, read_cluster, read_rules, run_with_store
from calico_py.cli.ipam_show import borrowed_rows, configuration_rows, pool_rows, used_parts, who_has
from calico_py.ipam.allocator import Allocator
from calico_py.ipam.audit import Cluster, Finding, audit
from calico_py.ipam.blocks import Allocation, allocations
from calico_py.ipam.census import use_of_addresses, use_of_blocks
from calico_py.ipam.garbage import View, living_addresses
from calico_py.ipam.requests import Release
from calico_py.model.blocks import IPAMConfiguration
from calico_py.model.meta import Meta
from calico_py.model.names import warm_handle
from calico_py.model.net import Address, InvalidError, parse_address
from calico_py.model.store import Store

SETTLE_SECONDS = 3.0  # what is on its way is gone at a second look

_ONLY_DATA = ("handle", "since")


@click.group()
def command() -> None:
    """Pools, blocks and who has which address.

    Exit status 1 says that something is wrong or was refused, 2 that the API server gave no answer.
    """


@command.command()
@click.argument("address", nargs=-1)
@click.option("--blocks", "with_blocks", is_flag=True, help="Each block too.")
@click.option("--addresses", "with_addresses", is_flag=True, help="Each address that is not free too.")
@click.option("--borrowed", "with_borrowed", is_flag=True, help="Each address that its node has borrowed too.")
@click.option("--configuration", "with_configuration", is_flag=True, help="The settings that are in force too.")
@output_option
@kubeconfig_option
def show(  # noqa: PLR0917 - one for each option
    address: tuple[str, ...],
    with_blocks: bool,
    with_addresses: bool,
    with_borrowed: bool,
    with_configuration: bool,
    output: str,
    kubeconfig: str | None,
) -> None:
    """How the pools are used, or who has an ADDRESS."""
    wanted = {str(_address(text)) for text in address}
    cluster, rules = run_with_store(kubeconfig, _read_all)
    blocks = [block for block in cluster.view.blocks if not block.deleted]
    uses = [use for use in use_of_addresses(blocks, cluster.pools) if not wanted or use.address in wanted]
    found: dict[str, list[dict[str, Any]]] = {}
    if not wanted:
        found["pools"] = pool_rows(blocks, cluster.pools, rules.reserved)
    if with_blocks:
        found["blocks"] = [dataclasses.asdict(use) for use in use_of_blocks(blocks, cluster.pools)]
    if with_addresses or (wanted and not is_text(output)):
        found["addresses"] = [dataclasses.asdict(use) for use in uses]
    if with_borrowed:
        found["borrowed"] = borrowed_rows(blocks, uses)
    if with_configuration:
        found["configuration"] = configuration_rows(rules)
    if not is_text(output):
        echo_data(found, output)
        return
    echo_tables({title: used_parts(rows) for title, rows in found.items()}, hidden=_ONLY_DATA)
    if with_borrowed and not found["borrowed"]:
        click.echo("no address is borrowed")
    for text in sorted(wanted):
        click.echo(who_has(text, uses, cluster.pools))


@command.command()
@click.option("--once", is_flag=True, help="Look once: what is on its way is found too.")
@output_option
@kubeconfig_option
def check(once: bool, output: str, kubeconfig: str | None) -> None:
    """Find what contradicts itself, with its cure; exit status 1 if anything does."""

    async def look(store: Store) -> tuple[Cluster, list[Finding]]:
        cluster = await read_cluster(store)
        found = audit(cluster)
        if found and not once:
            await asyncio.sleep(SETTLE_SECONDS)
            cluster = await read_cluster(store)
            again = audit(cluster)
            found = [finding for finding in again if finding in found]
        return cluster, found

    cluster, found = run_with_store(kubeconfig, look)
    if is_text(output):
        for finding in found:
            click.echo(f"{finding.kind} {finding.name}: {finding.reason}: {finding.message}")
        click.echo(f"{_looked_at(cluster.view)}: {counted(len(found), 'finding') if found else 'all agree'}")
    else:
        echo_data([dataclasses.asdict(finding) for finding in found], output)
    if found:
        raise SystemExit(1)


def _looked_at(view: View) -> str:
    """What a check has compared: that it was not nothing."""
    held = sum(not a.cooling for block in view.blocks if not block.deleted for a in allocations(block))
    compared = {
        "block": len(view.blocks),
        "claim": len(view.affinities),
        "handle": len(view.handles),
        "pod": sum(not pod.finished for pod in view.pods.values()),
        "node": len(view.nodes),
    }
    return ", ".join([f"addresses: {held}", *(counted(number, what) for what, number in compared.items())])


@command.command()
@click.argument("address", nargs=-1, required=True)
@click.option("--force", is_flag=True, help="Also what a pod, a tunnel or a node's stock has.")
@kubeconfig_option
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
@output_option
@kubeconfig_option
def gc(dry_run: bool, grace: float | None, output: str, kubeconfig: str | None) -> None:
    """Say what the leader would clean up, and why."""
    del dry_run
    now = datetime.now(UTC)
    cluster, rules = run_with_store(kubeconfig, _read_all)
    period = rules.grace if grace is None else timedelta(seconds=grace)
    found = plan_garbage(cluster.view, rules.config, now=now, grace=period)
    if not is_text(output):
        echo_data({"garbage": found}, output)
    elif found:
        echo_tables({"garbage": found})
    else:
        click.echo("nothing is to be cleaned up")


async def _read_all(store: Store) -> tuple[Cluster, Rules]:
    return await read_cluster(store), await read_rules(store)


async def release_addresses(store: Store, cluster: Cluster, wanted: Iterable[Address], *, force: bool) -> list[str]:
    """Release those that may go; why the others may not."""
    held = {a.address: (block.cidr, a) for block in cluster.view.blocks for a in allocations(block) if not a.cooling}
    due, refused = [], []
    for address in wanted:
        block, found = held.get(address, (None, None))
        if found is None:
            refused.append(f"{address}: nobody has it")
        elif (reason := _keeps(found, cluster.view)) and not force:
            refused.append(f"{address}: {reason}; --force releases it all the same")
        else:
            due.append(Release(address, found.handle, found.sequence, block))
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


def _address(text: str) -> Address:
    try:
        return parse_address(text, field="ADDRESS")
    except InvalidError as error:
        raise click.BadParameter(str(error)) from None
