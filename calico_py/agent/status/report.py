"""Reporter: what the running agent says of itself, gathered from its parts: readiness, status, metrics."""

import importlib.metadata
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from calico_py.agent.mtu import choose_pod_mtu
from calico_py.agent.parts import Parts
from calico_py.agent.receiver import Receiver, find_senders, wants_ipip
from calico_py.agent.status.build import StatusInputs, build_status
from calico_py.agent.status.metrics import Metrics
from calico_py.agent.status.shape import Status
from calico_py.dataplane.ipip import IPIPStatus
from calico_py.model.bgp import LearnedRoutes
from calico_py.model.cluster import ClusterState
from calico_py.model.intent import Intent, Problem
from calico_py.routing.mesh import as_number, router_id


class Reporter:
    """Answers for health, status and metrics.

    Args:
        leader: name of the node whose agent leads, empty while there is none.
        own_problems: what is wrong with this node and keeps it from being ready, though pods go on.
        address_problems: what is wrong with single pods' addresses.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        leader: Callable[[], str] = str,
        own_problems: Callable[[], Sequence[Problem]] = tuple,
        address_problems: Callable[[], Sequence[Problem]] = tuple,
    ) -> None:
        self._parts = parts
        self._leader = leader
        self._own_problems = own_problems
        self._address_problems = address_problems
        self._started = time.time()
        self._version = importlib.metadata.version("calico-py")

    def not_alive(self) -> str:
        """A part that dies ends the process by itself: an agent that answers is alive, unless a pass hangs."""
        return self._parts.loop.stuck

    def not_ready(self) -> list[str]:
        """Why this node is not ready, each a sentence; none if it is."""
        parts = self._parts
        causes = [parts.not_ready(), parts.loop.problem, parts.loop.stuck, parts.publisher.last_error]
        last = parts.loop.last
        if last is not None:
            causes += last.applied.problems
            me = parts.view.nodes.objects.get(parts.config.node)
            announced = me is not None and me.ipip_tunnel is not None
            causes.append(why_not_receiving(last.receiver, last.applied.ipip, announced, parts.tunnel_address.problem))
            if wants_ipip(parts.view.pools.objects.values()) and not last.receiver.open:
                causes.append("a pool tunnels now, and the IPIP receiver is not opened yet")
        causes += [problem.message for problem in self._own_problems()]
        return list(dict.fromkeys(cause for cause in causes if cause))

    def status(self) -> Status:
        """The status of this node now."""
        parts = self._parts
        last = parts.loop.last
        state = replace(last.state if last is not None else parts.view.state(), blocks=parts.view.blocks())
        learned = last.learned if last is not None else LearnedRoutes()
        intent = last.intent if last is not None else Intent()
        me = state.nodes.get(parts.config.node)
        return build_status(
            StatusInputs(
                config=parts.config,
                version=self._version,
                now=time.time(),
                started=self._started,
                server=parts.server,
                watched=tuple(parts.view.watched()),
                state=state,
                intent=intent,
                applied=last.applied if last is not None else None,
                choices=parts.own.choices,
                receiver=last.receiver if last is not None else Receiver(),
                senders=_senders(parts.config.node, state),
                mtu=choose_pod_mtu(parts.config.mtu, parts.loop.uplink_mtu, parts.pools()),
                uplinks=dict(parts.loop.uplink_mtu),
                sessions=parts.learner.sessions(),
                in_sync_peers=learned.in_sync,
                as_number=as_number(state, me) if me is not None else 0,
                router_id=router_id(me, parts.config.router_id) if me is not None else "",
                learned=len(learned.routes),
                learned_routes=learned.routes,
                speaker_problem=parts.learner.speaker_problem,
                leader=self._leader(),
                not_ready=self.not_ready(),
                differences=parts.env_problems,
                problems=(
                    *intent.problems,
                    *parts.view.problems(),
                    *self._own_problems(),
                    *self._address_problems(),
                ),
                failures=last.applied.problems if last is not None else (),
                touched=parts.dataplane.touched(),
                devices=parts.loop.devices,
            )
        )

    def refresh(self, metrics: Metrics) -> None:
        """Set the gauges from the status now."""
        metrics.observe(self.status(), leading=self._leader() == self._parts.config.node)


def _senders(node: str, state: ClusterState) -> frozenset[str]:
    return find_senders(node, state.nodes.values(), state.pools.values())


def why_not_receiving(receiver: Receiver, ipip: IPIPStatus, announced: bool, no_address: str) -> str:
    """Why others cannot send to this node through the tunnel although they should, or may; empty if they can.

    Args:
        receiver: what should be.
        ipip: the device as it is.
        announced: the annotation stands: others send, whether or not anything takes their packets out of the device.
        no_address: why IPAM has given none.
    """
    if not receiver.announced:
        return ""
    if ipip.address is None and not announced:
        return no_address or "tunl0 has no address yet"
    if not ipip.running:
        lost = ", and what other nodes send to it is lost" if announced else ""
        return (
            f"no tunnel engine is attached to tunl0{lost}: start `calico-py tunnel`, "
            "in Kubernetes the DaemonSet calico-py-tunnel"
        )
    return "" if announced else "the IPIP receiver is up and about to be announced"
