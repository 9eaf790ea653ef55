"""What a lab's nodes have at the moment, read from their kernels and agents, for the demo and its picture."""

import json
import subprocess
from collections.abc import Callable, Mapping
from ipaddress import ip_network
from itertools import combinations
from typing import Any

from calico_py.lab.commands import LabError, require, run
from calico_py.lab.live import LiveLab
from calico_py.lab.picture import Link, NodeBox, Picture, PodBox
from calico_py.lab.readiness import ask_status
from calico_py.model.intent import PROTO_API, PROTO_BGP
from calico_py.model.names import IPIP_DEVICE
from calico_py.model.net import Network

_CAPTURE_WITHIN = 10.0  # seconds


def list_routes(netns: str) -> list[str]:
    """The lines of ``ip route`` that calico-py has made: remote blocks, local blocks, pods."""
    wanted = (f"proto {PROTO_API}", f"proto {PROTO_BGP}", "dev cali")
    return [line.strip() for line in run(["ip", "-n", netns, "route", "show"]).splitlines() if _any(wanted, line)]


def find_ways(netns: str) -> dict[Network, tuple[str, int]]:
    """Device and protocol number of the route of each remote block."""
    found: dict[Network, tuple[str, int]] = {}
    for route in json.loads(run(["ip", "-n", netns, "-N", "-j", "route", "show"]) or "[]"):
        protocol = int(route.get("protocol") or 0)
        if protocol in (PROTO_API, PROTO_BGP) and route.get("type") != "blackhole" and "dev" in route:
            found[ip_network(route["dst"])] = (route["dev"], protocol)
    return found


def capture(netns: str, device: str, expression: str, count: int, trigger: Callable[[], object]) -> list[str]:
    """The first packets on a device that match a filter of pcap-filter(7), while ``trigger`` runs.

    Raises:
        LabError: tcpdump is missing or refused the filter, or fewer packets came.
    """
    require("tcpdump")
    argv = ["ip", "netns", "exec", netns, "tcpdump", "-l", "-n", "-t", "-i", device, "-c", str(count), expression]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = ""
        while "listening on" not in said:
            line = process.stderr.readline()
            if not line:
                raise LabError(f"tcpdump: {said.strip()}")
            said += line
        try:
            trigger()
            output, _ = process.communicate(timeout=_CAPTURE_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            raise LabError(f"{netns}: no {count} packets of `{expression}` on {device}") from None
        finally:
            process.terminate()
    return output.splitlines()


def take_picture(lab: LiveLab, title: str) -> Picture:
    """The cluster as it is: pods, the ways between each pair of nodes, BGP sessions."""
    pods = lab.pods()
    places = lab.topology.nodes
    nodes = tuple(
        NodeBox(
            name=place.name,
            addresses=(str(place.ipv4.ip), str(place.ipv6.ip)),
            subnet=str(place.ipv4.network),
            pods=tuple(PodBox(pod.name, tuple(map(str, pod.addresses))) for pod in pods if pod.node == place.name),
        )
        for place in places
    )
    return Picture(title, nodes, (*_ways(lab), *_sessions(lab)))


def explain(lab: LiveLab) -> list[str]:
    """What the agents say that is not as it should be: routes that wait, sessions that are not up, problems."""
    found = []
    for place in lab.topology.nodes:
        status = ask_status(place.netns)
        bgp = status.get("bgp", {})
        found += [
            f"{place.name}: {route['dst']}: {route['waiting']}" for route in _destinations(status) if route["waiting"]
        ]
        found += [f"{place.name}: {bgp['speaker_problem']}"] if bgp.get("speaker_problem") else []
        found += [
            f"{place.name}: BGP to {peer['address']} is {peer['state']}: {peer['last_error']}"
            for peer in bgp.get("peers", [])
            if peer["state"] != "Established"
        ]
        found += [f"{place.name}: {problem}" for problem in status.get("problems", [])]
    return found


def _ways(lab: LiveLab) -> list[Link]:
    """For each pair of nodes, by which way the first sends to the second's pods."""
    found = []
    owners = {
        str(destination["dst"]): str(destination["node"])
        for place in lab.topology.nodes
        for destination in _destinations(ask_status(place.netns))
    }
    for first, second in combinations(lab.topology.nodes, 2):
        ways = find_ways(first.netns)
        devices = {device for block, (device, _) in ways.items() if owners.get(str(block)) == second.name}
        if devices:
            tunnel = IPIP_DEVICE in devices
            found.append(Link("tunnel" if tunnel else "direct", (first.name, second.name), "IPIP" if tunnel else ""))
    return found


def _sessions(lab: LiveLab) -> list[Link]:
    """For each pair of nodes their sessions, one for each family."""
    by_address = {str(a): place.name for place in lab.topology.nodes for a in (place.ipv4.ip, place.ipv6.ip)}
    states: dict[tuple[str, str], list[bool]] = {}
    for place in lab.topology.nodes:
        for peer in ask_status(place.netns).get("bgp", {}).get("peers", []):
            other = by_address.get(peer["address"], "")
            if other > place.name:
                states.setdefault((place.name, other), []).append(peer["state"] == "Established")
    return [Link("session", ends, f"{sum(up)} of {len(up)} up", all(up)) for ends, up in states.items()]


def _destinations(status: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [route for route in status.get("routes", {}).get("routes", []) if route.get("node")]


def _any(wanted: tuple[str, ...], line: str) -> bool:
    return any(words in line for words in wanted)
