"""Playing the kubelet and the DaemonSets' controller: the processes of the lab's nodes, and its API server's.

They are started again when they end, stopped and killed when somebody asks. Used on the supervisor's loop only.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from calico_py.lab import environments
from calico_py.lab.children import GRACE, MARK, Child, reap
from calico_py.lab.commands import LabError
from calico_py.lab.nodes import LiveNode
from calico_py.lab.processes import Identity, command_line, find_by_environment
from calico_py.lab.state import StateDir, write_json
from calico_py.lab.topology import LabSpec


class Kubelet:
    """All processes of a lab but the supervisor; what it runs is written to the state directory at each change."""

    def __init__(self, spec: LabSpec, state: StateDir) -> None:
        self._spec = spec
        self._state = state
        self._children: dict[str, Child] = {}
        self._nodes: dict[str, LiveNode] = {}
        self._generations: dict[str, int] = {}
        self._extra: dict[str, dict[str, str]] = {}
        self._reaped = asyncio.Event()

    @property
    def children(self) -> tuple[Child, ...]:
        """All of them, whether they run or not."""
        return tuple(self._children.values())

    def start(self, child: Child) -> None:
        """Run one more process, and keep it running."""
        self._children[child.name] = child
        child.start()
        self._save()

    def start_node(self, node: LiveNode) -> None:
        """Run a node's processes; the tunnel only once it is wanted."""
        place = node.place
        self._nodes[place.name] = node
        for process in environments.PROCESSES:
            name = f"{place.name}-{process}"
            child = Child(
                name=name,
                node=place.name,
                process=process,
                command=lambda process=process: self._command(node, process),  # type: ignore[misc]
                environment=self._environment(place.name),
                log=self._state.log(name),
                mark=f"{self._spec.name}/{name}",
                wanted=process != environments.TUNNEL,
            )
            self._children[name] = child
            if child.wanted:
                child.start()
        self._save()

    def _command(self, node: LiveNode, process: str) -> list[str]:
        return [*node.enter(fork=False), *environments.compute_command(self._spec, process)]

    def _environment(self, node: str) -> dict[str, str]:
        return environments.compute_environment(
            self._spec,
            node,
            os.environ,
            generation=self._generations.get(node, 1),
            extra=self._extra.get(node),
        )

    def reap(self) -> None:
        """Take note of whatever has ended (SIGCHLD), and plan its restart."""
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
        if child.due and not child.pid and child.restart_at is not None:
            try:
                child.start()
            except OSError as error:
                print(f"{child.name}: {error}", file=sys.stderr)
            self._save()

    def _save(self) -> None:
        pauses = [{"node": name, "process": "pause", "pid": node.pause} for name, node in self._nodes.items()]
        write_json(self._state.processes, [*pauses, *(child.describe() for child in self._children.values())])

    def want_tunnel(self, node: str, wanted: bool) -> None:
        """Whether the userspace tunnel of a node should run; one that is still ending starts again by itself."""
        child = self._children.get(f"{node}-{environments.TUNNEL}")
        if child is None or child.wanted == wanted:
            return
        child.wanted = wanted
        if child.identity and not wanted:
            child.identity.kill(signal.SIGTERM)
        self._start_if_stopped(child)
        self._save()

    async def change(
        self, node: str, action: str, only: str, env: Mapping[str, str], generation: int | None
    ) -> Mapping[str, Any]:
        """Stop, start or restart what runs on a node; the agent's environment and generation stay for later starts.

        ``stop`` ends agent, speaker and tunnel, which stay down; ``start`` brings all back; ``restart`` ends the agent
        alone, as a rollout does, and brings all back. With ``only`` each concerns that process.

        Raises:
            LabError: it has never been started.
        """
        concerned = [self._child(node, process) for process in ([only] if only else environments.PROCESSES)]
        if action != "stop":
            self._extra.setdefault(node, {}).update(env)
            self._generations[node] = generation or self._generations.get(node, 1)
            self._child(node, environments.AGENT).environment = self._environment(node)
        if action == "stop":
            await asyncio.gather(*map(self._stop, concerned))
        elif action == "restart":
            await self._stop(self._child(node, only or environments.AGENT))
        if action != "stop":
            for child in concerned:
                child.held = False
                self._start_if_stopped(child)
        self._save()
        return {child.process: child.describe() for child in concerned}

    def _start_if_stopped(self, child: Child) -> None:
        """Run it at once, if it is to run and does not; whatever pause its failures would have cost it."""
        if child.due and not child.pid:
            child.forgive()
            child.start()

    async def _stop(self, child: Child) -> None:
        """SIGTERM, and SIGKILL for one that does not end; stays down."""
        child.held = True
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

    def kill(self, node: str, process: str) -> list[int]:
        """SIGKILL a process, found by its name or, for those that the speaker has started, by its command line.

        Raises:
            LabError: it does not run.
        """
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
        return [identity.pid for identity in found]

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
        child = self._children.get(f"{node}-{process}")
        if child is None:
            raise LabError(f"{node}: {process} has not been started yet; see: calico-py lab status")
        return child
