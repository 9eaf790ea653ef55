"""Prometheus metrics of the agent, in a registry of their own.

Names are calico_py_*; where Felix has a metric of the same meaning its name is there too, so that dashboards go on.
"""

from dataclasses import asdict, dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from calico_py.agent.status.shape import Status
from calico_py.ipam.warm import WarmAddresses
from calico_py.model.net import FAMILIES

CONTENT_TYPE = CONTENT_TYPE_LATEST

# Seconds: a CNI call takes about a millisecond, an apply of thousands of routes tens of them.
_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


@dataclass(frozen=True, slots=True)
class Metrics:
    """The metrics and their registry.

    Attributes:
        apply_seconds, compute_seconds: one apply to the kernel, one computation of the Intent.
        apply_failures: applies after which something is not as it should be.
        cni_seconds: by verb and outcome (``ok``, or the CNI error's code).
        events_dropped: Events that were not posted, because too many were.
        address_events: by ipam.warm.Counts.
    """

    registry: CollectorRegistry
    compute_seconds: Histogram
    apply_seconds: Histogram
    apply_failures: Counter
    cni_seconds: Histogram
    events_dropped: Gauge
    leader: Gauge
    ready: Gauge
    api_in_sync: Gauge
    watch_objects: Gauge
    routes_desired: Gauge
    routes_installed: Gauge
    routes_waiting: Gauge
    blocks: Gauge
    addresses_in_use: Gauge
    addresses_warm: Gauge
    address_events: Gauge
    peers: Gauge
    peers_established: Gauge
    paths_received: Gauge
    problems: Gauge
    felix_routes: Gauge
    felix_hosts: Gauge

    def observe_pass(self, compute: float, apply: float, undone: bool) -> None:
        """One pass of the convergence: seconds of its two halves, and whether something was left undone."""
        self.compute_seconds.observe(compute)
        self.apply_seconds.observe(apply)
        if undone:
            self.apply_failures.inc()

    def observe(self, status: Status, *, leading: bool) -> None:
        """Set the gauges from the status."""
        self.leader.set(leading)
        self.ready.set(not status.not_ready)
        self.api_in_sync.set(status.api.in_sync)
        objects: dict[str, int] = {}
        for watch in status.api.watches:  # blocks have two watches
            objects[watch.plural] = objects.get(watch.plural, 0) + watch.objects
        for plural, number in objects.items():
            self.watch_objects.labels(plural).set(number)
        self.felix_hosts.set(objects.get("nodes", 0))
        self.routes_desired.set(status.routes.desired)
        self.routes_installed.set(status.routes.installed)
        self.felix_routes.set(status.routes.installed)
        self.routes_waiting.set(sum(1 for route in status.routes.routes if route.waiting))
        self.blocks.set(len(status.blocks))
        self.addresses_in_use.set(sum(max(0, block.in_use) for block in status.blocks))
        self.peers.set(len(status.bgp.peers))
        self.peers_established.set(sum(1 for peer in status.bgp.peers if peer.state == "Established"))
        self.paths_received.set(sum(peer.received for peer in status.bgp.peers))
        self.problems.set(len(status.problems))

    def observe_addresses(self, warm: WarmAddresses) -> None:
        """Set the gauges of the warm addresses."""
        for of in FAMILIES:
            self.addresses_warm.labels(str(of)).set(warm.count(of))
        for event, number in asdict(warm.counts).items():
            self.address_events.labels(event).set(number)

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)


def make_metrics() -> Metrics:
    """A fresh registry with all metrics at zero."""
    registry = CollectorRegistry()

    def gauge(name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=registry)

    def histogram(name: str, text: str, *labels: str) -> Histogram:
        return Histogram(name, text, labels, buckets=_BUCKETS, registry=registry)

    return Metrics(
        registry=registry,
        compute_seconds=histogram("calico_py_compute_seconds", "Time of one computation of the intent."),
        apply_seconds=histogram("calico_py_apply_seconds", "Time of one apply to the kernel."),
        apply_failures=Counter("calico_py_apply_failures", "Applies that left something undone.", registry=registry),
        cni_seconds=histogram("calico_py_cni_seconds", "Time of one CNI call in the agent.", "verb", "outcome"),
        events_dropped=gauge("calico_py_events_dropped", "Events not posted because too many were."),
        leader=gauge("calico_py_leader", "1 on the agent that does the cluster-wide work."),
        ready=gauge("calico_py_ready", "1 while the node is ready."),
        api_in_sync=gauge("calico_py_api_in_sync", "1 once every kind has been listed."),
        watch_objects=gauge("calico_py_watch_objects", "Objects that are watched.", "resource"),
        routes_desired=gauge("calico_py_routes_desired", "Routes that should be in the kernel."),
        routes_installed=gauge("calico_py_routes_installed", "Those that are."),
        routes_waiting=gauge("calico_py_routes_waiting", "Destinations whose best way is not to be had."),
        blocks=gauge("calico_py_ipam_blocks", "Blocks of this node."),
        addresses_in_use=gauge("calico_py_ipam_addresses_in_use", "Addresses allocated in them."),
        addresses_warm=gauge("calico_py_ipam_addresses_warm", "Addresses reserved for pods to come.", "family"),
        address_events=gauge(
            "calico_py_ipam_address_events",
            "What became of addresses: ADDs served warm and missed; warm ones dropped; pods' reclaimed and lost.",
            "event",
        ),
        peers=gauge("calico_py_bgp_peers", "BGP peers that are configured."),
        peers_established=gauge("calico_py_bgp_peers_established", "Those whose session is Established."),
        paths_received=gauge("calico_py_bgp_paths_received", "Paths received from all peers."),
        problems=gauge("calico_py_problems", "Problems that a person must mend."),
        felix_routes=gauge("felix_route_table_num_routes", "Routes in the kernel; Felix's name."),
        felix_hosts=gauge("felix_cluster_num_hosts", "Nodes of the cluster; Felix's name."),
    )
