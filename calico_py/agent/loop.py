"""Loop: from all that is known to all that should be, to what is done about it; again at every change.

Nothing is written before API in-sync. Whatever happens only marks dirty; one pass takes it all together.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from ipaddress import IPv4Address

from calico_py.agent.configuration.config import AgentConfig
from calico_py.agent.learned import Learner
from calico_py.agent.mtu import uplink_mtu
from calico_py.agent.own_address import OwnAddress
from calico_py.agent.publish import NodePublisher
from calico_py.agent.receiver import Receiver, find_senders, resume, step, wants_ipip
from calico_py.agent.sending import compute_sending
from calico_py.agent.tunnel_address import TunnelAddress
from calico_py.agent.view import ClusterView
from calico_py.bgp.decide import Identity
from calico_py.dataplane.converge import Applied, Dataplane, Devices, read_devices
from calico_py.dataplane.ipip import Engine
from calico_py.model.bgp import LearnedRoutes
from calico_py.model.cluster import ClusterState, Local
from calico_py.model.intent import Intent, RouteClass, RouteIntent
from calico_py.model.kernel import Kernel, RouteKey
from calico_py.model.names import (
    IPIP_DEVICE,
    NODE_AS_NUMBER,
    NODE_IPV4_IPIP_TUNNEL,
    NODE_SENDING,
    NODE_TUNNEL_ENGINE_LABEL,
)
from calico_py.model.net import Family, Network, family
from calico_py.model.node_codec import encode_sending
from calico_py.model.nodes import Node, Sending
from calico_py.model.speaker import Speaker
from calico_py.routing.compute import intent_steps
from calico_py.routing.mesh import as_number
from calico_py.steps import finish_in_slices
from calico_py.waiting import came

log = logging.getLogger(__name__)

DEBOUNCE = 0.01  # seconds: a burst of events is one pass
LONGEST_PASS = 180.0  # seconds, beyond everything that a pass waits for; with 10,000 routes it takes one
LONGEST_PAUSE = 0.5  # seconds; up to this a pass is followed by a pause of its own length, for all that is not a pass
RETRY = 1.0  # seconds after a pass that left something undone
LONGEST_RETRY = 30.0  # seconds; so far that grows, by doubling, while the same stays undone and nothing else happens


@dataclass(frozen=True, slots=True)
class Pass:
    """What one pass knew, wanted and did."""

    state: ClusterState
    learned: LearnedRoutes
    intent: Intent
    applied: Applied
    receiver: Receiver


class Loop:
    """The convergence of one node.

    Attributes:
        last: the latest pass; None before the first.
        problem: why there is no pass, as a sentence; empty if there are.
        observe: called after each pass with the seconds of compute and of apply, and whether something was left undone.
        uplinks: the devices with the node's addresses. uplink_mtu: their bytes. devices: names by ifindex.
    """

    def __init__(
        self,
        config: AgentConfig,
        *,
        view: ClusterView,
        kernel: Kernel,
        dataplane: Dataplane,
        learner: Learner,
        speaker: Speaker,
        publisher: NodePublisher,
        own: OwnAddress,
        tunnel_address: TunnelAddress,
    ) -> None:
        self.last: Pass | None = None
        self.observe: Callable[[float, float, bool], None] = _unobserved
        self.problem = "not in sync with the API server yet"
        self.uplinks: frozenset[str] = frozenset()
        self.uplink_mtu: dict[Family, int] = {}
        self.devices: dict[int, str] = {}
        self._config = config
        self._view = view
        self._kernel = kernel
        self._dataplane = dataplane
        self._learner = learner
        self._speaker = speaker
        self._publisher = publisher
        self._own = own
        self._tunnel_address = tunnel_address
        self._receiver: Receiver | None = None
        self._announced = False
        self._kernel_tunnel = False
        self._sending: Mapping[str, Sending] | None = None
        self._pause = DEBOUNCE
        self._retry = RETRY
        self._began: float | None = None
        self._dirty = asyncio.Event()

    def mark(self) -> None:
        """Something changed: a pass is due."""
        self._dirty.set()

    @property
    def stuck(self) -> str:
        """That a pass has not ended for so long that only a new process can help, as a sentence; empty if none has."""
        lasts = time.monotonic() - self._began if self._began is not None else 0.0
        if lasts <= LONGEST_PASS:
            return ""
        return (
            f"a pass over this node's kernel has not ended for {lasts:.0f} s: restart the agent, as the kubelet does; "
            "if that repeats, see which program or disk hangs (`ps -eo pid,stat,args`: state D)"
        )

    async def run(self) -> None:
        """Wait for API in-sync, then converge, for ever."""
        await self._view.wait_in_sync()
        self.mark()
        while True:
            await self._due()
            self._dirty.clear()
            began = self._began = time.monotonic()
            await self._once()
            self._began = None
            self._pause = min(max(DEBOUNCE, time.monotonic() - began), LONGEST_PAUSE)

    async def _due(self) -> None:
        """Return when a pass is due: something changed, something failed, or a receiver's time is up."""
        if await came(self._dirty, within=self._patience()):
            await asyncio.sleep(self._pause)

    def _patience(self) -> float | None:
        if self.problem:
            return RETRY  # without a pass no receiver takes its step, however long its time is up
        waits = []
        if self.last is not None and (self.last.applied.failures or self.last.applied.problems):
            waits.append(self._retry)
        if self._receiver is not None and self._receiver.deadline is not None:
            waits.append(max(0.0, self._receiver.deadline - time.monotonic()))
        return min(waits, default=None)

    async def _once(self) -> None:
        state = self._state()
        if state is None:
            return
        self.problem = ""
        devices = await self._look_at_devices()
        receiver = self._step(state)
        local = Local(
            node=self._config.node,
            ipip_address=self._ipip_address(state),
            ipip_address_gone=self._tunnel_address.known and self._tunnel_address.address is None,
            ipip_receiver=receiver.open,
            uplinks=self.uplinks,
            uplink_mtu=self.uplink_mtu,
            bgp=self._config.bgp,
            router_id=self._config.router_id,
            service_mark=self._config.service_mark,
        )
        learned, own = self._learner.learned(), self._own.addresses()
        started = time.monotonic()
        intent = await finish_in_slices(intent_steps(state, learned, local))
        computed = time.monotonic()
        applied = await self._dataplane.apply(intent, learned, own, devices)
        self.observe(computed - started, time.monotonic() - computed, bool(applied.failures or applied.problems))
        same = self.last is not None and _undone(self.last.applied) == _undone(applied)
        self._retry = min(2 * self._retry, LONGEST_RETRY) if same else RETRY
        self.last = Pass(state, learned, intent, applied, receiver)
        self._publish(self.last)
        self._speaker.set(peers=intent.peers, advertisements=intent.advertisements)
        identity = Identity(
            as_number=as_number(state, state.nodes[self._config.node]),
            router_ids=frozenset(peer.router_id for peer in intent.peers),
            addresses=own,
        )
        if self._learner.configure(identity, frozenset(peer.address for peer in intent.peers)):
            self.mark()

    def _state(self) -> ClusterState | None:
        """The cluster with this node's own addresses as they are, whatever its annotations say by now."""
        state = self._view.state()
        me = state.nodes.get(self._config.node)
        if me is None or not self._own.addresses():
            self.problem = self._own.problem or f"Node {self._config.node} does not exist yet"
            return None
        mine = replace(me, ipv4=self._own.ipv4, ipv6=self._own.ipv6, as_number=self._config.as_number or me.as_number)
        return replace(state, nodes={**state.nodes, me.name: mine})

    def _step(self, state: ClusterState) -> Receiver:
        now = time.monotonic()
        announced = _is_announced(state.nodes[self._config.node])
        if self._receiver is None:
            self._receiver = resume(announced=announced, now=now, was_open=self._was_open(state))
        wanted = wants_ipip(state.pools.values())
        # This node counts too: what it still sends needs the device, its repair and its engine as much.
        senders = find_senders("", state.nodes.values(), state.pools.values())
        following = step(self._receiver, wanted=wanted, senders=bool(senders), now=now, announced=announced)
        if following.phase != self._receiver.phase:
            log.info("IPIP receiver: %s, was %s", following.phase, self._receiver.phase)
        self._receiver = following
        return following

    def _was_open(self, state: ClusterState) -> bool:
        """The engine's label stands while the receiver is open; the kernel's own engine costs nothing to leave open."""
        labelled = NODE_TUNNEL_ENGINE_LABEL in state.nodes[self._config.node].meta.labels
        return labelled or self._kernel_tunnel

    def _ipip_address(self, state: ClusterState) -> IPv4Address | None:
        """Until IPAM has answered after a start, the one that was announced before: a restart withdraws nothing."""
        found = self._tunnel_address
        return found.address if found.known else state.nodes[self._config.node].ipip_tunnel

    async def _look_at_devices(self) -> Devices:
        found = await read_devices(self._kernel)
        own = self._own.addresses()
        links = {link.ifindex: link for link in found.links}
        uplinks = [addr for addr in found.addrs if addr.interface.ip in own and addr.ifindex in links]
        self._kernel_tunnel = any(
            link.kind == "ipip" and link.name == IPIP_DEVICE and link.up for link in links.values()
        )
        self.devices = {ifindex: link.name for ifindex, link in links.items()}
        self.uplinks = frozenset(links[addr.ifindex].name for addr in uplinks)
        self.uplink_mtu = {family(addr.interface): uplink_mtu(links[addr.ifindex], links.values()) for addr in uplinks}
        return found

    def _as_annotation(self) -> dict[str, str]:
        """The AS number that a person set for this node; without one the annotation stays as it is."""
        number = self._config.as_number
        return {NODE_AS_NUMBER: str(number)} if number is not None else {}

    def _publish(self, done: Pass) -> None:
        """Tell the others what is now true: after apply, never before.

        What was said before is remembered, and read from the annotations only by the first pass. They are seen later
        than they are written: what is said by what is seen would follow itself round for ever.
        """
        me = done.state.nodes[self._config.node]
        ipip = done.applied.ipip
        if self._sending is None:
            self._sending, self._announced = me.sending, _is_announced(me)
        up = ipip.ready and done.applied.filtered
        # An engine that restarts does not take the announcement back: it is there again in a moment.
        self._announced = done.receiver.announced and ipip.address is not None and (up or self._announced)
        sending = self._sending = compute_sending(
            _tunnel_routes(done.applied),
            done.intent.destinations,
            done.state.pools,
            previous=self._sending,
            now=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        labels: dict[str, str | None] = {NODE_TUNNEL_ENGINE_LABEL: None}
        if done.receiver.open and ipip.engine == Engine.USERSPACE:
            labels[NODE_TUNNEL_ENGINE_LABEL] = "userspace"
        elif done.receiver.open and ipip.engine == Engine.NONE:
            labels = {}  # the device is made again: until then the engine that serves it waits for it
        self._publisher.set(
            annotations={
                NODE_IPV4_IPIP_TUNNEL: str(ipip.address) if self._announced else None,
                NODE_SENDING: encode_sending(sending),
                **self._as_annotation(),
            },
            labels=labels,
        )


def _unobserved(_compute: float, _apply: float, _undone: bool) -> None:
    """Nobody measures."""


def _undone(applied: Applied) -> tuple[Mapping[RouteKey, str], tuple[str, ...]]:
    """What a pass left undone, as sentences."""
    return applied.failures, applied.problems


def _is_announced(me: Node) -> bool:
    """Whether the annotation stands, as far as is known."""
    return me.ipip_tunnel is not None


def _tunnel_routes(applied: Applied) -> dict[Network, RouteIntent]:
    """The routes through the tunnel that the kernel has."""
    return {
        key.dst: RouteIntent(key.dst, RouteClass.TUNNEL, device=IPIP_DEVICE)
        for key, route in applied.installed.items()
        if any(hop.ifindex == applied.ipip.ifindex for hop in route.next_hops)
    }
