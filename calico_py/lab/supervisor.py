"""The one process that owns a lab: first process of the lab's PID namespace, so that nothing outlives it.

It makes the namespaces, starts the API server, registers the nodes, has their processes run (kubelet) and answers
commands. Started by lifecycle as ``python -m calico_py.lab.supervisor NAME``; stays in the host's network and mount
namespace.

Children are reaped with waitpid(-1) between the callbacks of the loop; so a command that is run to its end must be
run on the loop's own thread.
"""

import asyncio
import contextlib
import dataclasses
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from calico_py.cni.installer import InstallError, ensure_shim, install_shim
from calico_py.lab import apiservers, control, network, objects
from calico_py.lab.api.definitions import shipped
from calico_py.lab.api.kubeconfig import write_kubeconfig
from calico_py.lab.cache import cache_directory
from calico_py.lab.client import Api, ApiError
from calico_py.lab.commands import LabError
from calico_py.lab.kubelet import Kubelet
from calico_py.lab.namespaces import CLONE_NEWPID, unshare
from calico_py.lab.nodes import KUBECONFIG, LiveNode
from calico_py.lab.pauses import start_pause
from calico_py.lab.processes import Identity
from calico_py.lab.readiness import list_affinities
from calico_py.lab.router_routes import RouterRoute, apply_router_routes, compute_router_routes
from calico_py.lab.state import StateDir, base_lock, write_json
from calico_py.lab.topology import LabSpec, NodePlace, compute_topology
from calico_py.model import names
from calico_py.model.net import Network

_API_START = 30.0  # seconds
_API_RESTARTS = 3
_LOOK_AGAIN = 0.5  # seconds


class Supervisor:
    """The lab while it lives."""

    def __init__(self, spec: LabSpec, state: StateDir) -> None:
        self._spec = spec
        self._state = state
        self._topology = compute_topology(spec)
        self._kubelet = Kubelet(spec, state)
        self._progress: list[str] = []
        self._changed = asyncio.Condition()
        self._outcome: dict[str, Any] | None = None
        self._router_routes: frozenset[RouterRoute] = frozenset()

    async def run(self) -> None:
        """Bring the lab up and keep it until SIGTERM."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        loop.add_signal_handler(signal.SIGCHLD, self._kubelet.reap)
        async with await control.serve(self._state.control, self._handle):
            await self._boot_and_tell()
            await stop.wait()

    # -- bringing up

    async def _boot_and_tell(self) -> None:
        try:
            await self._boot()
            outcome: dict[str, Any] = {"result": "up"}
        except (LabError, InstallError, OSError) as error:
            outcome = {"error": str(error)}
        except Exception as error:  # noqa: BLE001 - whoever waits must hear of it before this process ends
            traceback.print_exc()
            outcome = {"error": f"the supervisor failed: {error!r}"}
        async with self._changed:
            self._outcome = outcome
            self._changed.notify_all()

    async def _boot(self) -> None:
        for netns in network.build(self._topology):
            await self._tell(f"network namespace {netns}")
        inner, outer = self._start_api()
        await self._tell(f"API server at {outer.server}")
        nodes = [await self._make_node(place) for place in self._topology.nodes]  # while that one starts
        await self._wait_for_api(outer)
        await self._register(outer)
        for node in nodes:
            _give_kubeconfig(node, inner)  # with the authority, which is there once the server runs
            self._kubelet.start_node(node)
        loop = asyncio.get_running_loop()
        works = (
            lambda: self._watch_labels(outer, loop),
            lambda: self._watch_blocks(outer, loop),
            lambda: self._add_pools(outer),
        )
        for work in works:
            threading.Thread(target=work, daemon=True).start()

    async def _make_node(self, place: NodePlace) -> LiveNode:
        """Its file system, with what an init container would have put there."""
        shim = ensure_shim(cache_directory(os.environ) / "shim")  # on this thread: it runs a compiler to its end
        node = start_pause(place, self._state)
        install_shim(shim, node.root / "opt/cni/bin")
        await self._tell(f"node {place.name}")
        return node

    async def _tell(self, line: str) -> None:
        async with self._changed:
            self._progress.append(line)
            self._changed.notify_all()
        await asyncio.sleep(0)  # what made the line held the loop

    def _start_api(self) -> tuple[Api, Api]:
        """The API server's processes; how nodes reach it, and how the host does."""
        plan = apiservers.prepare(self._topology, self._state)
        for child in plan.children:
            self._kubelet.start(child)
        _write_kubeconfig(self._state.kubeconfig, plan.outer)
        return plan.inner, plan.outer

    async def _wait_for_api(self, api: Api) -> None:
        """Until it answers; a process of it that ends again and again is not waited for."""
        deadline = time.monotonic() + _API_START
        while not await asyncio.to_thread(api.is_ready):
            ended = [child for child in self._kubelet.children if child.restarts > _API_RESTARTS]
            if ended:
                raise LabError(f"{ended[0].name} ends again and again:\n{_tail(ended[0].log)}")
            if time.monotonic() > deadline:
                raise LabError(
                    f"the API server is not ready after {_API_START:.0f} s:\n{_tail(self._state.log('api'))}"
                )
            await asyncio.sleep(0.05)

    async def _register(self, api: Api) -> None:
        """Namespaces, CRDs and Nodes."""
        for body in objects.namespaces():
            await asyncio.to_thread(api.create, objects.NAMESPACES, body)
        for body in shipped():
            await asyncio.to_thread(api.create, objects.CRDS, body)
        for place in self._topology.nodes:
            await asyncio.to_thread(api.create, objects.NODES, objects.node(place))
            path = f"{objects.NODES}/{place.name}/status"
            await asyncio.to_thread(api.patch, path, objects.node_status(place))

    # -- following the API

    def _watch_labels(self, api: Api, loop: asyncio.AbstractEventLoop) -> None:
        """On a thread of its own: follow the label that asks for a userspace tunnel."""
        while True:
            with contextlib.suppress(ApiError):
                for event in api.watch(objects.NODES):
                    meta = (event.get("object") or {}).get("metadata") or {}
                    wanted = (meta.get("labels") or {}).get(names.NODE_TUNNEL_ENGINE_LABEL) == "userspace"
                    loop.call_soon_threadsafe(self._kubelet.want_tunnel, meta.get("name", ""), wanted)
            time.sleep(_LOOK_AGAIN)

    def _watch_blocks(self, api: Api, loop: asyncio.AbstractEventLoop) -> None:
        """On a thread of its own: let the routers know the blocks that no tunnel serves."""
        while True:
            with contextlib.suppress(ApiError):
                for _ in api.watch(objects.AFFINITIES):
                    loop.call_soon_threadsafe(self._teach_routers, list_affinities(api))
            time.sleep(_LOOK_AGAIN)

    def _teach_routers(self, blocks: Mapping[Network, str]) -> None:
        wanted = compute_router_routes(self._topology, blocks)
        try:
            apply_router_routes(wanted, self._router_routes)
        except LabError as error:
            print(f"routers: {error}", file=sys.stderr)
        self._router_routes = wanted

    def _add_pools(self, api: Api) -> None:
        """On a thread of its own: the pools that no environment names, once an agent has made those that it does.

        Before, an agent would find a pool and make none (as Calico's start-up does).
        """
        missing = objects.further_pools(self._spec)
        while missing:
            with contextlib.suppress(ApiError):
                found = {item["spec"]["cidr"] for item in api.list(objects.POOLS)}
                if {self._spec.pool(4), self._spec.pool(6)} - {""} <= found:
                    api.create(objects.POOLS, missing[0])
                    del missing[0]
                    continue
            time.sleep(_LOOK_AGAIN)

    # -- answering commands

    async def _handle(self, request: control.Request) -> AsyncIterator[Mapping[str, Any]]:
        match request.get("do"):
            case "boot":
                async for line in self._follow_boot():
                    yield line
            case "agent":
                wish = (request["action"], request.get("only", ""), request["env"], request["generation"])
                yield {"result": await self._kubelet.change(request["node"], *wish)}
            case "kill":
                yield {"result": self._kubelet.kill(request["node"], request["process"])}
            case other:
                yield {"error": f"the supervisor knows no command {other!r}"}

    async def _follow_boot(self) -> AsyncIterator[Mapping[str, Any]]:
        told = 0
        while True:
            async with self._changed:
                while told == len(self._progress) and not self._outcome:
                    await self._changed.wait()
                lines, outcome = self._progress[told:], self._outcome
            told += len(lines)
            for line in lines:
                yield {"progress": line}
            if outcome:
                yield outcome
                return


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-5:])


def _write_kubeconfig(path: Path, api: Api) -> None:
    write_kubeconfig(path, api.server, token=api.token, authority=Path(api.ca) if api.ca else None)


def _give_kubeconfig(node: LiveNode, api: Api) -> None:
    """Into the node's own file system, the authority beside it."""
    path = node.root / KUBECONFIG.lstrip("/")
    if api.ca:
        path.with_name("ca.crt").write_bytes(Path(api.ca).read_bytes())
        api = dataclasses.replace(api, ca=str(Path(KUBECONFIG).with_name("ca.crt")))
    _write_kubeconfig(path, api)


def main() -> None:
    """Become the lab's first process: a new PID namespace, a fork into it; the parent says who it is and leaves.

    The child makes nothing before that is written, and nothing at all if the lab was taken down meanwhile: so `down`
    finds whoever makes something.
    """
    state = StateDir(sys.argv[1])
    spec = state.read_spec()
    reading, writing = os.pipe()
    unshare(CLONE_NEWPID)
    child = os.fork()
    if child:
        with base_lock():
            identity = Identity.of(child)
            if identity and state.path.exists():
                write_json(state.supervisor, {"pid": identity.pid, "start": identity.start})
                os.write(writing, b"go")
        return
    os.close(writing)
    if os.read(reading, 2):
        os.close(reading)
        os.chdir("/")
        asyncio.run(Supervisor(spec, state).run())


if __name__ == "__main__":
    main()
