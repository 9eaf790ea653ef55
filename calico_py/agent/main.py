"""The composition root: makes the parts of the agent, joins them, and runs until told to stop.

One loop, one thread, one TaskGroup: a part that dies ends the process, and the process restarts with no packet lost.
Nothing is taken down at the end: routes, devices and sessions stay as they are.
"""

import asyncio
import contextlib
import gc
import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from calico_py.agent.absence import Absence
from calico_py.agent.address_care import AddressCare
from calico_py.agent.cluster.introduction import introduce_cluster
from calico_py.agent.cluster.work import ClusterWork
from calico_py.agent.configuration.config import AgentConfig
from calico_py.agent.configuration.spellings import Backend, Engine
from calico_py.agent.learned import Learner
from calico_py.agent.loop import Loop
from calico_py.agent.network_condition import NetworkCondition
from calico_py.agent.own_address import OwnAddress
from calico_py.agent.parts import Parts
from calico_py.agent.pod_addresses import list_pod_addresses
from calico_py.agent.pool_writer import read_cluster_cidrs, write_default_pools
from calico_py.agent.pools import Surroundings as PoolSurroundings
from calico_py.agent.pools import ula
from calico_py.agent.preflight import refuse_foreign_calico
from calico_py.agent.publish import NodePublisher
from calico_py.agent.reactions import Reactions
from calico_py.agent.receiver import wants_ipip
from calico_py.agent.status.health import make_health, make_metrics_app, serve
from calico_py.agent.status.metrics import Metrics, make_metrics
from calico_py.agent.status.report import Reporter
from calico_py.agent.tunnel_address import TunnelAddress
from calico_py.agent.view import ClusterView
from calico_py.bgp.decide import Identity
from calico_py.bgp.speaker import ExaBGPSpeaker
from calico_py.cni.deferred import DeferredDels
from calico_py.cni.installer import install_conflist
from calico_py.cni.server import Server
from calico_py.cni.verbs import Plugin, Surroundings
from calico_py.dataplane.converge import Dataplane
from calico_py.dataplane.netlink import LinuxKernel
from calico_py.dataplane.wiring import NetlinkPodWiring
from calico_py.ipam.allocator import Allocator
from calico_py.ipam.journal import Journal, JournalFile
from calico_py.ipam.warm import WarmAddresses
from calico_py.kube.backoff import Backoff
from calico_py.kube.client import KubeStore, connect
from calico_py.model.folders import RUN, STATE
from calico_py.model.kernel import Addr, Kernel
from calico_py.model.kinds import IP_POOLS
from calico_py.model.net import family
from calico_py.model.store import StoreError
from calico_py.trouble import Trouble

log = logging.getLogger(__name__)

_READY_POLL = 0.1  # seconds
_POOLS_SECONDS = 5.0  # for a pool that was made to come back by the watch
_DRAIN_SECONDS = 3.0  # for the handles that are written behind the answers


async def run(config: AgentConfig, calls: socket.socket) -> None:
    """Run the agent until SIGTERM or SIGINT.

    Args:
        config: what it is told.
        calls: the socket of the CNI executable, which listens.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with compose(config) as agent:
        await _run_until(stop, agent, calls)


@contextlib.asynccontextmanager
async def compose(config: AgentConfig) -> AsyncIterator[Parts]:
    """All parts, joined, none running yet."""
    settings = Path(config.proc_sys)
    async with connect(config.kubeconfig) as store, LinuxKernel(sysctl_path=settings) as kernel:
        wiring = NetlinkPodWiring(proc_sys=settings)
        try:
            yield _join(config, store, kernel, wiring)
        finally:
            wiring.close()


def _join(config: AgentConfig, store: KubeStore, kernel: Kernel, wiring: NetlinkPodWiring) -> Parts:
    on_change, on_pools, on_blocks = Reactions(), Reactions(), Reactions()
    view = ClusterView(store, config.node, on_change, on_pools, on_blocks, living=partial(list_pod_addresses, kernel))
    publisher = NodePublisher(store, config.node, lambda: view.nodes.objects.get(config.node))
    own = OwnAddress(config, store, kernel, publisher, on_change=on_change)
    absence = Absence(lambda: config.node in view.nodes.objects, lambda: view.nodes.in_sync)
    allocator = Allocator(
        store,
        node=config.node,
        labels=view.labels,
        pools=view.usable_pools,
        config=view.ipam_configuration,
        now=lambda: datetime.now(UTC),
        reserved=view.reserved,
        # A block that is nobody's has no affinity, and counts as one that lends.
        taken=lambda: [*(affinity.cidr for affinity in view.affinities.objects.values()), *view.blocks()],
        gone_since=lambda: absence.since,
        affinities=lambda: view.affinities.objects,
    )
    tunnel_address = TunnelAddress(
        allocator,
        needed=lambda: config.node in view.nodes.objects and wants_ipip(view.pools.objects.values()),
        on_change=on_change,
    )
    speaker = ExaBGPSpeaker()
    learner = Learner(speaker, on_change)
    if not config.bgp:  # a speaker of before is listened to no more, only told that there are no sessions
        learner.configure(Identity(as_number=0), frozenset())
    dataplane = Dataplane(kernel, state_dir=STATE, allow_kernel_ipip=config.engine != Engine.USERSPACE)
    loop = Loop(
        config,
        view=view,
        kernel=kernel,
        dataplane=dataplane,
        learner=learner,
        speaker=speaker,
        publisher=publisher,
        own=own,
        tunnel_address=tunnel_address,
    )
    on_change += [absence.react, loop.mark, publisher.refresh, tunnel_address.react]
    on_pools += [tunnel_address.refresh]
    on_blocks += [lambda: tunnel_address.observe(view.own_blocks.objects.values())]
    return Parts(
        config=config,
        server=store.host,
        store=store,
        kernel=kernel,
        view=view,
        publisher=publisher,
        own=own,
        allocator=allocator,
        tunnel_address=tunnel_address,
        learner=learner,
        dataplane=dataplane,
        wiring=wiring,
        loop=loop,
        on_change=on_change,
        on_blocks=on_blocks,
    )


def _serve_pods(agent: Parts) -> tuple[WarmAddresses, Plugin]:
    """What answers the CNI executable, and where it has addresses from."""
    warm = WarmAddresses(
        agent.allocator,
        Journal(JournalFile(STATE / "journal")),
        base=agent.config.warm_addresses,
        families=agent.families,
        now=_steady_clock(),
        has_node=lambda: agent.has_node,
        routed=partial(list_pod_addresses, agent.kernel),
    )
    surroundings = Surroundings(
        ready=agent.not_ready,
        families=agent.families,
        mtu=agent.pod_mtu,
        pod_facts=agent.view.lookup.find,
        addressed=agent.addressed,
        free_all_but=agent.free_all_but,
    )
    deferred = DeferredDels(STATE / "del")
    return warm, Plugin(wiring=agent.wiring, addresses=warm, surroundings=surroundings, deferred=deferred)


async def _run_until(stop: asyncio.Event, agent: Parts, calls: socket.socket) -> None:
    warm, plugin = _serve_pods(agent)
    agent.allocator.give_way(plugin.calm)
    work = ClusterWork(agent, warm.problems)
    care = AddressCare(agent.allocator, warm, agent.view, agent.wiring, agent.kernel, node=agent.config.node)
    agent.on_change += [work.mark, care.mark]
    agent.on_blocks += [care.mark]
    reporter = Reporter(
        agent, leader=lambda: work.holder, own_problems=work.own_problems, address_problems=warm.problems
    )
    metrics = make_metrics()
    async with contextlib.AsyncExitStack() as ports, asyncio.TaskGroup() as tasks:
        agent.loop.observe = metrics.observe_pass
        await _listen(ports, agent.config, reporter, metrics, partial(_refresh, reporter, metrics, work, warm))
        parts = {
            "reflectors": _watch(agent),
            "kernel events": _follow_kernel(agent),
            "own address": agent.own.run(),
            "node annotations": agent.publisher.run(),
            "pod devices": agent.wiring.run(),
            "cni": Server(plugin, listener=calls, observe=_observe_cni(metrics)).serve(),
            "start": _start(agent),
            "tunnel address": _follow_tunnel_address(agent),
            "convergence": agent.loop.run(),
            "resync": _resync(agent),
            "network configuration": _install_conflist(agent),
            "addresses": care.run(),
            "warm addresses": warm.run(),
            "cluster work": work.run(),
            "bgp": agent.learner.run(),
        }
        if agent.config.backend != Backend.NONE:
            condition = NetworkCondition(
                agent.store, agent.config.node, not_ready=reporter.not_ready, marker=RUN / "ready"
            )
            parts["network condition"] = condition.run()
        running = [tasks.create_task(part, name=name) for name, part in parts.items()]
        await stop.wait()
        log.info("told to stop; routes, devices and sessions stay")
        for task in running:
            task.cancel()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(agent.allocator.drain(), _DRAIN_SECONDS)


def _refresh(reporter: Reporter, metrics: Metrics, work: ClusterWork, warm: WarmAddresses) -> None:
    reporter.refresh(metrics)
    metrics.events_dropped.set(work.events_dropped)
    metrics.observe_addresses(warm)


async def _listen(
    ports: contextlib.AsyncExitStack,
    config: AgentConfig,
    reporter: Reporter,
    metrics: Metrics,
    refresh: Callable[[], None],
) -> None:
    health = make_health(not_alive=reporter.not_alive, not_ready=reporter.not_ready, status=reporter.status)
    await ports.enter_async_context(serve(health, config.health_host, config.health_port))
    if config.metrics_port:
        scraped = make_metrics_app(metrics, refresh)
        await ports.enter_async_context(serve(scraped, config.metrics_host, config.metrics_port))


def _observe_cni(metrics: Metrics) -> Callable[[str, int, float], None]:
    def observe(verb: str, code: int, seconds: float) -> None:
        metrics.cni_seconds.labels(verb, str(code) if code else "ok").observe(seconds)

    return observe


def _steady_clock() -> Callable[[], datetime]:
    """A time that goes on evenly when somebody sets the machine's: for what begins and ends in this process."""
    start, began = datetime.now(UTC), time.monotonic()
    return lambda: start + timedelta(seconds=time.monotonic() - began)


async def _watch(agent: Parts) -> None:
    """Nothing is in sync, and so nothing is written, before the cluster is known to be ours to use."""
    await refuse_foreign_calico(agent.store)
    await agent.view.run()


async def _start(agent: Parts) -> None:
    """What is done once, when the API is in sync: the environment's pools, and what Calico's tools look for."""
    await agent.view.wait_in_sync()
    wanted = {pool.family for pool in agent.config.pools}
    agent.pools_settled = wanted <= {family(pool.cidr) for pool in agent.view.pools.objects.values()}
    await agent.own.wait()
    backoff, trouble = Backoff(), Trouble(log)
    while True:
        try:
            agent.env_problems = await write_default_pools(
                agent.store,
                agent.config.pools,
                generation=agent.config.generation,
                surroundings=await _pool_surroundings(agent),
            )
            for problem in agent.env_problems:
                log.warning("%s", problem.message)
            await _see_pools(agent)
            agent.pools_settled = True
            await introduce_cluster(agent.store, guid=secrets.token_hex(16))
        except StoreError as error:
            trouble.tell("the environment's pools are not looked after yet", error)
            await asyncio.sleep(backoff.wait())
        else:
            trouble.over()
            break
    # What is there by now stays: a collection that walks through all of it would hold up an ADD for tens of ms.
    gc.collect()
    gc.freeze()


async def _see_pools(agent: Parts) -> None:
    """What was made just now comes back by the watch: a pod that is faster would lack a family for all its life."""
    made = {pool.name for pool in (await agent.store.list(IP_POOLS)).items}
    for _ in range(round(_POOLS_SECONDS / _READY_POLL)):
        if made <= agent.view.pools.objects.keys():
            return
        await asyncio.sleep(_READY_POLL)


async def _install_conflist(agent: Parts) -> None:
    """With the network configuration in place the node becomes Ready: not before ADD can be served."""
    while reason := agent.not_ready():
        log.debug("network configuration not written yet: %s", reason)
        await asyncio.sleep(_READY_POLL)
    config = agent.config
    conflist = Path(config.cni_conf_dir) / config.cni_conf_name
    backoff, trouble = Backoff(), Trouble(log)
    while True:
        try:
            written = install_conflist(
                conflist.parent, bin_directory=Path(config.cni_bin_dir), name=config.cni_conf_name
            )
        except OSError as error:
            trouble.tell(f"{conflist} cannot be written", f"{error}; free or mend its disk, the node gets no pods yet")
            await asyncio.sleep(backoff.wait())
            continue
        trouble.over()
        if written:
            log.info("wrote %s", conflist)
        return


async def _pool_surroundings(agent: Parts) -> PoolSurroundings:
    addresses = [addr.interface.ip for addr in await agent.kernel.dump(Addr)]
    return PoolSurroundings(
        addresses=addresses,
        ipv6=agent.own.address(6) is not None,
        random_ula=lambda: ula(os.urandom(5)),
        cluster_cidrs=await read_cluster_cidrs(agent.store),
    )


async def _follow_kernel(agent: Parts) -> None:
    async for event in agent.kernel.events():
        if agent.dataplane.on_event(event):
            agent.loop.mark()
        agent.own.on_event(event)


async def _follow_tunnel_address(agent: Parts) -> None:
    """The tunnel's address comes from IPAM, which needs the pools."""
    await agent.view.wait_in_sync()
    agent.tunnel_address.refresh()
    await agent.tunnel_address.run()


async def _resync(agent: Parts) -> None:
    """Read the whole kernel again now and then: what no event told."""
    while True:
        await asyncio.sleep(agent.config.resync_interval)
        await agent.dataplane.resync()
        agent.tunnel_address.refresh()
        agent.loop.mark()
