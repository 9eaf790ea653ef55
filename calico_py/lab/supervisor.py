"""The one process that owns a lab: first process of the lab's PID namespace, so that nothing outlives it.

It makes the namespaces, starts the API server, registers the nodes and then plays the kubelet: it starts agent,
speaker and (where the Node has the label) tunnel, and starts them again when they end. Started by lifecycle as
``python -m calico_py.lab.supervisor NAME``; stays in the host's network and mount namespace.

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
from calico_py.lab import apiservers, control, environments, network, objects
from calico_py.lab.api.definitions import shipped
from calico_py.lab.api.kubeconfig import write_kubeconfig
from calico_py.lab.cache import cache_directory
from calico_py.lab.children import GRACE, MARK, Child, reap
from calico_py.lab.client import Api, ApiError
from calico_py.lab.commands import LabError
from calico_py.lab.namespaces import CLONE_NEWPID, unshare
from calico_py.lab.nodes import KUBECONFIG, LiveNode
from calico_py.lab.pauses import start_pause
from calico_py.lab.processes import Identity, command_line, find_by_environment
from calico_py.lab.state import StateDir, base_lock, write_json
from calico_py.lab.topology import LabSpec, NodePlace, compute_topology
from calico_py.model import names

_API_START = 30.0  # seconds
_API_RESTARTS = 3
_LOOK_AGAIN = 0.5  # seconds


class Supervisor:
    """The lab while it lives."""

    def __init__(self, spec: LabSpec, state: StateDir) -> None:
        self._spec = spec
        self._state = state
        self._topology = compute_topology(spec)
        self._children: dict[str, Child] = {}
        self._nodes: dict[str, LiveNode] = {}
        self._generations: dict[str, int] = {}
        self._extra: dict[str, dict[str, str]] = {}
        self._progress: list[str] = []
        self._changed = asyncio.Condition()
        self._reaped = asyncio.Event()
        self._outcome: dict[str, Any] | None = None

    async def run(self) -> None:
        """Bring the lab up and keep it until SIGTERM."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
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
        await self._wait_for_api(outer)
        await self._register(outer)
        shim = ensure_shim(cache_directory(os.environ) / "shim")  # on this thread: it runs a compiler to its end
        for place in self._topology.nodes:
            self._nodes[place.name] = start_pause(place, self._state)
            install_shim(shim, self._nodes[place.name].root / "opt/cni/bin")
            _give_kubeconfig(self._nodes[place.name], inner)
            self._start_node(place)
            await self._tell(f"node {place.name}")
        loop = asyncio.get_running_loop()
        for work in (lambda: self._watch_labels(outer, loop), lambda: self._add_pools(outer)):
            threading.Thread(target=work, daemon=True).start()

    async def _tell(self, line: str) -> None:
        async with self._changed:
            self._progress.append(line)
            self._changed.notify_all()
        await asyncio.sleep(0)  # what made the line held the loop

    def _start_api(self) -> tuple[Api, Api]:
        """The API server's processes; how nodes reach it, and how the host does."""
        plan = apiservers.prepare(self._topology, self._state)
        for child in plan.children:
            self._children[child.name] = child
            child.start()
        self._save()
        _write_kubeconfig(self._state.kubeconfig, plan.outer)
        return plan.inner, plan.outer

    async def _wait_for_api(self, api: Api) -> None:
        """Until it answers; a process of it that ends again and again is not waited for."""
        deadline = time.monotonic() + _API_START
        while not await asyncio.to_thread(api.is_ready):
            ended = [child for child in self._children.values() if child.restarts > _API_RESTARTS]
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

    # -- playing the kubelet

    def _start_node(self, place: NodePlace) -> None:
        for process in environments.PROCESSES:
            name = f"{place.name}-{process}"
            child = Child(
                name=name,
                node=place.name,
                process=process,
                command=lambda place=place, process=process: self._command(place, process),  # type: ignore[misc]
                environment=self._environment(place.name),
                log=self._state.log(name),
                mark=f"{self._spec.name}/{name}",
                wanted=process != environments.TUNNEL,
            )
            self._children[name] = child
            if child.wanted:
                child.start()
        self._save()

    def _command(self, place: NodePlace, process: str) -> list[str]:
        return [
            *self._nodes[place.name].enter(fork=False),
            *environments.compute_command(self._spec, process),
        ]

    def _environment(self, node: str) -> dict[str, str]:
        return environments.compute_environment(
            self._spec,
            node,
            os.environ,
            generation=self._generations.get(node, 1),
            extra=self._extra.get(node),
        )

    def _reap(self) -> None:
        ended = dict(reap())
        for child in self._children.values():
            if child.pid in ended:
                child.ended(ended[child.pid])
                self._schedule(child)
        if ended:
            self._save()
            self._reaped.set()
            self._reaped = asyncio.Event()

    def _schedule(self, child: Child) -> None:
        if child.restart_at is not None:
            delay = max(0.0, child.restart_at - time.monotonic())
            asyncio.get_running_loop().call_later(delay, self._start_if_due, child)

    def _start_if_due(self, child: Child) -> None:
        if child.wanted and not child.pid and child.restart_at is not None:
            try:
                child.start()
            except OSError as error:
                print(f"{child.name}: {error}", file=sys.stderr)
            self._save()

    def _save(self) -> None:
        pauses = [{"node": name, "process": "pause", "pid": node.pause} for name, node in self._nodes.items()]
        write_json(self._state.processes, [*pauses, *(child.describe() for child in self._children.values())])

    def _watch_labels(self, api: Api, loop: asyncio.AbstractEventLoop) -> None:
        """On a thread of its own: follow the label that asks for a userspace tunnel."""
        while True:
            with contextlib.suppress(ApiError):
                for event in api.watch(objects.NODES):
                    meta = (event.get("object") or {}).get("metadata") or {}
                    wanted = (meta.get("labels") or {}).get(names.NODE_TUNNEL_ENGINE_LABEL) == "userspace"
                    loop.call_soon_threadsafe(self._want_tunnel, meta.get("name", ""), wanted)
            time.sleep(_LOOK_AGAIN)

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

    def _want_tunnel(self, node: str, wanted: bool) -> None:
        child = self._children.get(f"{node}-{environments.TUNNEL}")
        if child is None or child.wanted == wanted:
            return
        child.wanted = wanted
        if wanted:
            child.forgive()
            child.start()
        elif child.identity:
            child.identity.kill(signal.SIGTERM)
        self._save()

    # -- answering commands

    async def _handle(self, request: control.Request) -> AsyncIterator[Mapping[str, Any]]:
        match request.get("do"):
            case "boot":
                async for line in self._follow_boot():
                    yield line
            case "agent":
                yield {"result": await self._agent(request)}
            case "kill":
                yield {"result": self._kill(request["node"], request["process"])}
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

    async def _agent(self, request: control.Request) -> Mapping[str, Any]:
        node, action = request["node"], request["action"]
        child = self._child(node, environments.AGENT)
        if action != "stop":
            self._extra.setdefault(node, {}).update(request.get("env") or {})
            self._generations[node] = request.get("generation") or self._generations.get(node, 1)
            child.environment = self._environment(node)
        if action != "start":
            await self._stop(child)
        if action != "stop" and not child.pid:
            child.wanted = True
            child.forgive()
            child.start()
        self._save()
        return child.describe()

    async def _stop(self, child: Child) -> None:
        """SIGTERM, and SIGKILL for one that does not end; stays down."""
        child.wanted = False
        child.forgive()
        if child.identity is None:
            return
        child.identity.kill(signal.SIGTERM)
        if not await self._until_ended(child, GRACE):
            child.identity.kill()
            await self._until_ended(child, GRACE)

    async def _until_ended(self, child: Child, within: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                while child.pid:
                    await self._reaped.wait()
        return not child.pid

    def _kill(self, node: str, process: str) -> Mapping[str, Any]:
        """SIGKILL a process, found by its name or, for those that the speaker has started, by its command line."""
        if process in environments.PROCESSES:
            child = self._child(node, process)
            found = [child.identity] if child.identity else []
        else:
            self._child(node, environments.SPEAKER)
            found = self._speakers_own(node, process)
        if not found:
            raise LabError(f"{node}: no process {process} runs; see: calico-py lab status")
        for identity in found:
            identity.kill()
        return {"node": node, "process": process, "pids": [identity.pid for identity in found]}

    def _speakers_own(self, node: str, process: str) -> list[Identity]:
        child = self._child(node, environments.SPEAKER)
        found = []
        for pid in find_by_environment(f"{MARK}={child.mark}"):
            if child.identity and pid == child.identity.pid:
                continue
            words = " ".join(Path(word).name for word in command_line(pid))
            if process == ("bridge" if "bridge" in words else "exabgp" if "exabgp" in words else ""):
                identity = Identity.of(pid)
                found += [identity] if identity else []
        return found

    def _child(self, node: str, process: str) -> Child:
        self._topology.node(node)
        child = self._children.get(f"{node}-{process}")
        if child is None:
            raise LabError(f"{node}: {process} has not been started yet; see: calico-py lab status")
        return child


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
