"""What commands read of the cluster's addresses, by `list` alone: the agents' own account may do no more."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import click

from calico_py.agent.cluster.pods import Pods
from calico_py.ipam.audit import Cluster
from calico_py.ipam.collector import DEFAULT_GRACE
from calico_py.ipam.garbage import View
from calico_py.ipam.requests import IPAMError
from calico_py.kube.client import connect
from calico_py.kube.transport import CredentialsError
from calico_py.model.blocks import IPAMConfiguration
from calico_py.model.controllers import KUBE_CONTROLLERS_CONFIGURATIONS
from calico_py.model.kinds import (
    BLOCK_AFFINITIES,
    IP_POOLS,
    IP_RESERVATIONS,
    IPAM_BLOCKS,
    IPAM_CONFIGURATIONS,
    IPAM_HANDLES,
    NODES,
)
from calico_py.model.meta import Meta
from calico_py.model.net import Network
from calico_py.model.store import Kind, Listing, Store, StoreError

T = TypeVar("T")

DEFAULT = "default"


class UnreachableError(click.ClickException):
    """The API cannot be asked, or refuses: exit status 2, as for a wrong command line; 1 is an answer."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings by which addresses are given and collected.

    Attributes:
        grace: how long an address must look leaked before it is freed; zero for never.
        reserved: CIDRs of all IPReservations.
    """

    config: IPAMConfiguration
    grace: timedelta
    reserved: Collection[Network]


async def read_cluster(store: Store) -> Cluster:
    """All that concerns addresses, blocks before pods: who has an address in a block by then is a pod by then."""
    invalid: list[tuple[str, str, str]] = []

    async def read(kind: Kind[Any]) -> Sequence[Any]:
        listing: Listing[Any] = await store.list(kind)
        invalid.extend((kind.kind, each.name, str(each.error)) for each in listing.invalid)
        return listing.items

    blocks, handles, affinities = await read(IPAM_BLOCKS), await read(IPAM_HANDLES), await read(BLOCK_AFFINITIES)
    pools, nodes = await read(IP_POOLS), await read(NODES)
    names, cidrs = [node.name for node in nodes], [pool.cidr for pool in pools]
    complete = not any(kind == IPAM_BLOCKS.kind for kind, _, _ in invalid)
    view = View(blocks, names, await Pods(store).list(), handles, affinities, cidrs, complete)
    return Cluster(view, pools, invalid)


async def read_rules(store: Store) -> Rules:
    """The settings as they are in force; an object that cannot be read counts as absent, as for the agents."""
    configs = (await store.list(IPAM_CONFIGURATIONS)).items
    controllers = (await store.list(KUBE_CONTROLLERS_CONFIGURATIONS)).items
    grace = next((each.leak_grace_period for each in controllers if each.meta.name == DEFAULT), None)
    return Rules(
        config=next((each for each in configs if each.meta.name == DEFAULT), IPAMConfiguration(Meta(DEFAULT))),
        grace=DEFAULT_GRACE if grace is None else grace,
        reserved=[cidr for each in (await store.list(IP_RESERVATIONS)).items for cidr in each.reserved_cidrs],
    )


def run_with_store(kubeconfig: str | None, work: Callable[[Store], Awaitable[T]]) -> T:
    """What the work finds.

    Raises:
        UnreachableError: the API cannot be asked, or refuses.
    """

    async def connected() -> T:
        async with connect(kubeconfig) as store:
            return await work(store)

    try:
        return asyncio.run(connected())
    except (CredentialsError, StoreError, IPAMError) as error:
        raise UnreachableError(str(error)) from None
