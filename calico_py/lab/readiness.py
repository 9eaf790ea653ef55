"""Whether a lab is ready, seen from outside: each agent's own word, and the routes in each node's kernel."""

import http.client
import ipaddress
import json
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from calico_py.lab import environments, namespaces, objects, runtime
from calico_py.lab.client import Api, ApiError
from calico_py.lab.commands import LabError, run
from calico_py.lab.live import LiveLab
from calico_py.lab.logs import last_error
from calico_py.lab.topology import NodePlace, Topology
from calico_py.model.names import IPIP_DEVICE
from calico_py.model.net import Address, Network

HEALTH = ("127.0.0.1", 9099)
_TIMEOUT = 2.0  # seconds, of a request to an agent
_PAUSE = 0.1  # seconds between two looks
_UNSUPERVISED = "the lab's supervisor has ended"


@dataclass(frozen=True, slots=True)
class Answer:
    """What an agent's HTTP said; status 0 if there was no answer."""

    status: int
    body: str


def ask_agent(netns: str, path: str) -> Answer:
    """GET a path of an agent's health server, which listens on loopback in the node's namespace."""
    connection = http.client.HTTPConnection(*HEALTH, timeout=_TIMEOUT)
    try:
        with namespaces.inside(namespaces.named(netns)):
            connection.connect()
        connection.request("GET", path)
        response = connection.getresponse()
        return Answer(response.status, response.read().decode(errors="replace").strip())
    except (OSError, http.client.HTTPException, LabError) as error:
        said = "no agent listens yet" if isinstance(error, ConnectionRefusedError) else str(error)
        return Answer(0, f"{said} (http://{HEALTH[0]}:{HEALTH[1]}{path})")
    finally:
        connection.close()


def ask_status(netns: str) -> Mapping[str, Any]:
    """The agent's /status; empty if it does not answer."""
    answer = ask_agent(netns, "/status")
    try:
        found = json.loads(answer.body) if answer.status == http.client.OK else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def wait_until_ready(
    lab: LiveLab, *, within: float, progress: Callable[[Mapping[str, str]], None] = lambda _: None
) -> None:
    """Wait until every node is ready and has a working route to every other node's blocks.

    ``progress`` is told, whenever it changes, what each node still waits for (empty: nothing).

    Raises:
        LabError: not within so many seconds, with the cause of each node; or the supervisor has ended.
    """
    deadline = time.monotonic() + within
    told: Mapping[str, str] | None = None
    while True:
        causes = find_causes(lab)
        if causes != told:
            progress(causes)
            told = causes
        if not any(causes.values()):
            return
        if not is_supervised(lab):
            raise LabError(f"{_UNSUPERVISED}; its last words are in {lab.state.log('supervisor')}")
        if time.monotonic() > deadline:
            lines = [f"  {node}: {cause}" for node, cause in causes.items() if cause]
            raise LabError(f"not ready after {within:.0f} s:\n" + "\n".join(lines))
        time.sleep(_PAUSE)


def is_supervised(lab: LiveLab) -> bool:
    """Whether the lab's supervisor, without which nothing of it runs, is alive."""
    supervisor = lab.state.read_supervisor()
    return supervisor is not None and supervisor.alive


def find_causes(lab: LiveLab) -> dict[str, str]:
    """For each node why it is not ready, or an empty string."""
    try:
        affinities = list_affinities(lab.api())
        pools = {item["spec"]["cidr"] for item in lab.api().list(objects.POOLS)}
    except ApiError as error:
        cause = str(error) if is_supervised(lab) else f"{_UNSUPERVISED}; take the lab down and up again"
        return {place.name: cause for place in lab.topology.nodes}
    causes = {}
    for place in lab.topology.nodes:
        answer = ask_agent(place.netns, "/readiness")
        if answer.status == 0:
            causes[place.name] = last_error(lab.state.log(f"{place.name}-agent")) or answer.body
        elif answer.status != http.client.OK:
            causes[place.name] = answer.body or f"/readiness answers {answer.status}"
        else:
            causes[place.name] = find_break(lab.topology, place, affinities) or _find_gap(lab, place)
        for pool in lab.topology.spec.further_pools():
            if pool not in pools and not causes[place.name]:
                causes[place.name] = f"pool {pool} has not been made yet"
    return causes


def _find_gap(lab: LiveLab, place: NodePlace) -> str:
    """What a kubelet would wait for; not in a lab whose agents are somebody else's."""
    if environments.AGENT in (lab.topology.spec.commands or {}):
        return ""
    try:
        runtime.read_conflist(lab.node(place.name))
    except LabError as error:
        return str(error).removeprefix(f"{place.name}: ")
    return ""


def list_affinities(api: Api) -> dict[Network, str]:
    """Each confirmed block with its node."""
    found = {}
    for item in api.list(objects.AFFINITIES):
        spec = item["spec"]
        if spec.get("state") == "confirmed":
            found[ipaddress.ip_network(spec["cidr"])] = str(spec["node"])
    return found


def find_break(topology: Topology, place: NodePlace, owners: Mapping[Network, str] | Mapping[Address, str]) -> str:
    """Why packets of a node do not get to these blocks or addresses, each with its node; empty if they do.

    Its own kernel must have a route, and where that leads to another subnet without a tunnel, the routers too.
    """
    subnets = {node.name: node.subnet for node in topology.nodes if node != place}
    wanted: dict[Network | Address, int] = {each: subnets[node] for each, node in owners.items() if node in subnets}
    routes = find_routes(place.netns, wanted)
    missing = [each for each in wanted if each not in routes]
    if missing:
        return f"no working route to {', '.join(map(str, missing))}"
    passed = [each for each, device in routes.items() if device != IPIP_DEVICE and wanted[each] != place.subnet]
    for router in topology.routers if passed else ():
        unknown = [each for each in passed if router.subnet in (place.subnet, wanted[each])]
        unknown = [each for each in unknown if each not in find_routes(router.netns, unknown)]
        if unknown:
            return (
                f"routed to {', '.join(map(str, unknown))} without a tunnel, which {router.netns} has no route to: "
                "Never between subnets needs routers that know the pods' blocks; use ipipMode CrossSubnet or Always, "
                "or start the lab with --ipip Never"
            )
    return ""


def find_routes(netns: str, wanted: Iterable[Network | Address]) -> dict[Network | Address, str]:
    """Of these the ones that a namespace's kernel has a route of its own for, with the device that it leads to.

    The default route does not count. A route by a tunnel device counts while the device has its carrier: with a
    userspace tunnel, its engine.
    """
    wanted = list(wanted)
    if not wanted:
        return {}
    routes = _list_routes(netns)
    carrier = _has_carrier(netns)
    found = {each: _find_device(each, routes) for each in wanted}
    return {each: device for each, device in found.items() if device and (carrier or device != IPIP_DEVICE)}


def _find_device(wanted: Network | Address, routes: list[tuple[Network, str]]) -> str:
    first = wanted if isinstance(wanted, Address) else wanted.network_address
    matching = [(net, device) for net, device in routes if net.version == first.version and first in net]
    return max(matching, key=lambda entry: entry[0].prefixlen)[1] if matching else ""


def _list_routes(netns: str) -> list[tuple[Network, str]]:
    """Destinations but the default with their device (the first of several; empty for a blackhole)."""
    found: list[tuple[Network, str]] = []
    for family in ("-4", "-6"):
        for route in json.loads(run(["ip", "-n", netns, "-j", family, "route", "show"]) or "[]"):
            if route["dst"] != "default" and route.get("type") != "blackhole":
                hops = route.get("nexthops") or [route]
                found.append((ipaddress.ip_network(route["dst"]), hops[0].get("dev", "")))
    return found


def _has_carrier(netns: str) -> bool:
    """Whether the tunnel device, if there is one, is attached (IFF_LOWER_UP)."""
    with namespaces.inside(namespaces.named(netns)):
        present = IPIP_DEVICE in {name for _, name in socket.if_nameindex()}
    if not present:
        return False
    links = json.loads(run(["ip", "-n", netns, "-j", "link", "show", IPIP_DEVICE]))
    return "LOWER_UP" in links[0]["flags"]
