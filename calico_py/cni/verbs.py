"""What ADD, DEL, CHECK, STATUS and GC do: addresses from IPAM, an interface from the wiring, in the right order.

Each verb leaves nothing half done: an ADD that fails gives back what it took, a DEL that the API cannot hear is kept
for later (deferred). Calls for one container follow each other; different containers go in parallel.
"""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from calico_py.cni.attachments import add_result, host_ifname, new_link, previous_link
from calico_py.cni.config import VALID_ATTACHMENTS, Call, Verb, parse_call
from calico_py.cni.deferred import DeferredDels
from calico_py.cni.errors import CNIError, Code
from calico_py.cni.results import render_add, render_versions
from calico_py.cni.turns import Turns
from calico_py.cni.wire import Request
from calico_py.cni.wishes import PodFacts, choose_families, with_wishes
from calico_py.ipam.requests import Assigned, AssignRequest, ContendedError, IPAMError, Release, Released
from calico_py.model import names
from calico_py.model.net import FAMILIES, Family, InvalidError
from calico_py.model.store import StoreError
from calico_py.model.wiring import Attachment, NamespaceError, PodLink, PodWiring, WiringError
from calico_py.trouble import Trouble

READY_SECONDS = 5.0  # as long as the shim waits for an agent: this one may have begun just now
_LOOK_AGAIN = 0.02  # seconds
ASSIGN_SECONDS = 60.0  # below the shim's patience, so that a failed ADD is told and undone
RELEASE_SECONDS = 5.0
FACTS_SECONDS = 10.0

_LATER = (StoreError, ContendedError, TimeoutError)  # what passes by itself

_log = logging.getLogger(__name__)


class Addresses(Protocol):
    """The part of ipam.Allocator that pods need."""

    async def assign(self, request: AssignRequest) -> Sequence[Assigned]:
        """All of the addresses, or an IPAMError or StoreError."""
        ...

    async def release(self, releases: Sequence[Release]) -> Released:
        """Free these, where they still are what was assigned."""
        ...

    async def lookup(self, handle_id: str) -> Sequence[Assigned]:
        """All that the handle holds, as the API has it."""
        ...

    async def release_handle(self, handle_id: str) -> int:
        """Free all that the handle holds; how many there were."""
        ...


async def _no_facts(_namespace: str, _name: str, _uid: str) -> PodFacts:
    return PodFacts()


async def _free_nothing(_living: Collection[str]) -> None:
    """Where nobody knows the addresses."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the agent knows and an ADD must ask at the time.

    Attributes:
        ready: a sentence why no ADD can be served now; empty if it can.
        families: those for which this node has a pool.
        addressed: those of which it has an address.
        free_all_but: frees the addresses that this node's pods have, but for these containers'; may raise StoreError or
            IPAMError.
        mtu: of pods' interfaces, bytes.
        pod_facts: what the API says of a pod, by namespace, name and uid; may raise StoreError.
    """

    ready: Callable[[], str]
    families: Callable[[], tuple[Family, ...]]
    mtu: Callable[[], int]
    pod_facts: Callable[[str, str, str], Awaitable[PodFacts]] = _no_facts
    addressed: Callable[[], tuple[Family, ...]] = lambda: FAMILIES
    free_all_but: Callable[[Collection[str]], Awaitable[object]] = _free_nothing


class Plugin:
    """The verbs. `start` must have been called.

    Attributes:
        calm: set while no ADD is being served.
    """

    def __init__(
        self, *, wiring: PodWiring, addresses: Addresses, surroundings: Surroundings, deferred: DeferredDels
    ) -> None:
        self._wiring = wiring
        self._addresses = addresses
        self._around = surroundings
        self._deferred = deferred
        self._attached: dict[str, Attachment] = {}
        self._turns = Turns()
        self._worked_off = asyncio.Event()
        self._adding = 0
        self.calm = asyncio.Event()
        self.calm.set()
        self._trouble = Trouble(_log)

    async def start(self) -> None:
        """Learn from the kernel which containers are attached."""
        self._attached = await self._wiring.list_containers()

    async def run(self, request: Request, netns: int | None) -> bytes:
        """Serve a call; what to print.

        Args:
            request: as it came.
            netns: descriptor of the pod's namespace, None if there is none; the caller closes it.

        Raises:
            CNIError: what to tell instead.
        """
        call = parse_call(request)
        match call.verb:
            case Verb.ADD:
                with self._busy():
                    return await self._add(call, request, netns)
            case Verb.DEL:
                await self._delete(call, request)
            case Verb.CHECK:
                await self._check(call, request, netns)
            case Verb.STATUS:
                if reason := self._around.ready():
                    raise CNIError(Code.NOT_AVAILABLE, "calico-py cannot serve ADD on this node", reason)
            case Verb.GC:
                await self._collect(call)
            case Verb.VERSION:
                return render_versions(call.config.version)
        return b""

    @contextmanager
    def _busy(self) -> Iterator[None]:
        self._adding += 1
        self.calm.clear()
        try:
            yield
        finally:
            self._adding -= 1
            if not self._adding:
                self.calm.set()

    async def work_off(self) -> None:
        """Do the DELs that wait: all interfaces, and the addresses as long as the API hears."""
        try:
            api = True
            for request in list(self._deferred.pending()):
                api = await self._work_off_one(request, api=api)
        finally:
            self._worked_off.set()

    async def _work_off_one(self, request: Request, *, api: bool) -> bool:
        """Whether the API is there, as far as is known then."""
        try:
            call = parse_call(request)
        except CNIError as error:
            _log.warning("a DEL that waited is dropped: %s", error)
            self._deferred.done(request)
            return api
        async with self._turns.of(call.container_id):
            try:
                return await self._work_off_in_turn(call, request, api=api)
            except Exception:  # noqa: BLE001 - it must not keep the agent from starting, again and again
                _log.exception("a DEL of container %s met a defect and goes on waiting", call.container_id)
                return api

    async def _work_off_in_turn(self, call: Call, request: Request, *, api: bool = True) -> bool:
        """The same. Looks again first: the DEL may be done by now, and the container attached anew."""
        if not self._deferred.holds(request):
            self._trouble.over(party=call.container_id)
            return api
        try:
            if self._is_of_another_interface(call):
                self._deferred.done(request)
                return api
            await self._wiring.unwire(host_ifname(call), call.container_id)
            self._attached.pop(call.container_id, None)
            if api:
                await self._release(call.container_id)
                self._deferred.done(request)
                self._trouble.over(party=call.container_id)
        except (*_LATER, WiringError) as error:
            waiting = f"a DEL of container {call.container_id} goes on waiting"
            cause = _told(error) if isinstance(error, TimeoutError) else error
            self._trouble.tell(waiting, cause, party=call.container_id)
            return api and isinstance(error, WiringError)
        return api

    async def _release(self, container_id: str) -> None:
        async with asyncio.timeout(RELEASE_SECONDS):
            await self._addresses.release_handle(names.workload_handle(container_id))

    async def _add(self, call: Call, request: Request, netns: int | None) -> bytes:
        descriptor = _require_netns(call, request, netns)
        await self._require_ready()
        await self._worked_off.wait()
        async with self._turns.of(call.container_id):
            await self._require_detached(call, request)
            call = await self._with_wishes(call)
            assigned = await self._assign(call, request)
            link = new_link(call, [one.address for one in assigned], mtu=self._around.mtu())
            try:
                interfaces = await self._wiring.wire(link, descriptor)
            except BaseException as error:
                await self._give_back(assigned, request)
                if isinstance(error, NamespaceError):
                    raise CNIError(Code.INVALID_NETNS, "no network namespace of a pod", str(error)) from None
                if isinstance(error, WiringError):
                    raise CNIError(Code.WIRING, "cannot make the pod's interface", str(error)) from None
                raise
            self._attached[call.container_id] = Attachment(link.host_ifname, link.ifname, link.network)
        return render_add(call.config.version, add_result(call, link, interfaces), call.config.previous)

    async def _require_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while reason := self._around.ready():
            if time.monotonic() > deadline:
                raise CNIError(Code.TRY_AGAIN_LATER, "calico-py cannot serve ADD yet, try again later", reason)
            await asyncio.sleep(_LOOK_AGAIN)

    async def _require_detached(self, call: Call, request: Request) -> None:
        if call.container_id in self._attached:
            raise CNIError(
                Code.WIRING,
                "the container is attached already",
                f"{call.container_id} as {self._attached[call.container_id].ifname}: DEL must come before ADD, and a "
                "container gets one interface",
            )
        if not self._deferred.holds(request):
            return
        await self._work_off_in_turn(call, request)
        if self._deferred.holds(request):
            raise CNIError(
                Code.TRY_AGAIN_LATER,
                "a DEL of this container is not done yet, try again later",
                f"{call.container_id}: its addresses could not be released so far",
            )

    async def _with_wishes(self, call: Call) -> Call:
        if not call.pod:
            return call
        try:
            async with asyncio.timeout(FACTS_SECONDS):
                facts = await self._around.pod_facts(call.namespace, call.pod, call.uid)
        except _LATER as error:
            raise CNIError(
                Code.TRY_AGAIN_LATER,
                "cannot read the pod's annotations now, try again later",
                f"pod {call.namespace}/{call.pod}: {_told(error)}",
            ) from None
        return with_wishes(call, facts)

    async def _assign(self, call: Call, request: Request) -> Sequence[Assigned]:
        families = choose_families(call, of_node=self._around.families(), addressed=self._around.addressed())
        ask = AssignRequest(
            handle_id=names.workload_handle(call.container_id),
            secondary={key: value for key, value in (("namespace", call.namespace), ("pod", call.pod)) if value},
            families=families,
            requested=call.addresses,
            pools=call.pools,
            pool_families=call.pool_families,
            namespace_labels=call.namespace_labels,
        )
        try:
            async with asyncio.timeout(ASSIGN_SECONDS):
                return await self._addresses.assign(ask)
        except _LATER as error:  # the address may be assigned all the same, if only the answer was lost
            self._undo_later(request)
            raise CNIError(
                Code.TRY_AGAIN_LATER, "cannot assign an address now, try again later", _told(error)
            ) from None
        except (IPAMError, InvalidError) as error:
            raise CNIError(Code.ADDRESSES, "no address for the pod", str(error)) from None

    async def _give_back(self, assigned: Sequence[Assigned], request: Request) -> None:
        """Release what a failed ADD took; at once, or else by a DEL of its container that waits."""
        releases = [Release(one.address, one.handle_id, one.sequence, one.block) for one in assigned]
        try:
            async with asyncio.timeout(RELEASE_SECONDS):
                await self._addresses.release(releases)
        except _LATER as error:
            _log.warning("addresses of a failed ADD are released later: %s", _told(error))
            self._undo_later(request)

    def _undo_later(self, request: Request) -> None:
        """A failed ADD's DEL, which the runtime should send as well."""
        try:
            self._deferred.keep(replace(request, env={**request.env, "CNI_COMMAND": Verb.DEL.value}))
        except OSError as error:
            _log.warning("the DEL of a failed ADD cannot be kept, the runtime's must do: %s", error)

    async def _delete(self, call: Call, request: Request) -> None:
        async with self._turns.of(call.container_id):
            if self._is_of_another_interface(call):
                return
            try:
                await self._wiring.unwire(host_ifname(call), call.container_id)
            except WiringError as error:  # the address stays the pod's as long as the pod may use it
                raise CNIError(Code.WIRING, "cannot remove the pod's interface", str(error)) from None
            self._attached.pop(call.container_id, None)
            try:
                await self._release(call.container_id)
            except _LATER as error:
                _log.warning("the addresses of container %s are released later: %s", call.container_id, _told(error))
                try:
                    self._deferred.keep(request)
                except OSError as failure:
                    raise CNIError(Code.IO_FAILURE, "cannot keep the DEL for later", str(failure)) from None

    def _is_of_another_interface(self, call: Call) -> bool:
        """Whether a DEL is the one after an ADD that was refused, since the container had an interface: that stays."""
        attached = self._attached.get(call.container_id)
        return attached is not None and attached.ifname != call.ifname

    async def _check(self, call: Call, request: Request, netns: int | None) -> None:
        descriptor = _require_netns(call, request, netns)
        link = previous_link(call)
        async with self._turns.of(call.container_id):
            try:
                found = await self._wiring.check(link, descriptor)
            except WiringError as error:
                found = [str(error)]
            found += await self._check_addresses(link)
        if found:
            raise CNIError(Code.WIRING, "the pod's interface is not as ADD made it", "; ".join(found))

    async def _check_addresses(self, link: PodLink) -> list[str]:
        """Whether IPAM knows them as the container's; an API that is away says nothing against a pod that works."""
        handle = names.workload_handle(link.container_id)
        try:
            async with asyncio.timeout(RELEASE_SECONDS):
                held = {one.address for one in await self._addresses.lookup(handle)}
        except _LATER as error:
            _log.info("CHECK of container %s did without IPAM: %s", link.container_id, _told(error))
            return []
        return [
            f"address {address.ip}: found it unassigned or another's, expected handle {handle}"
            for address in link.addresses
            if address.ip not in held
        ]

    async def _collect(self, call: Call) -> None:
        """GC: as much of this network as can be, then what went wrong.

        Without the list of what is valid nothing is certainly not.
        """
        valid = call.config.valid_attachments
        if valid is None:
            _log.info("GC without %s: nothing is removed", VALID_ATTACHMENTS)
            return
        failures = []
        for container_id, attached in (await self._wiring.list_containers()).items():
            if attached.network != call.config.name or (container_id, attached.ifname) in valid:
                continue
            try:
                async with self._turns.of(container_id):
                    await self._wiring.unwire(attached.host_ifname, container_id)
                    self._attached.pop(container_id, None)
                    await self._release(container_id)
            except (*_LATER, WiringError) as error:
                failures.append(f"{container_id}: {_told(error)}")
        try:  # also of containers whose devices went with their namespaces
            living = {*await self._wiring.list_containers(), *(container_id for container_id, _ in valid)}
            await self._around.free_all_but(living)
        except (*_LATER, IPAMError) as error:
            failures.append(f"addresses: {_told(error)}")
        if failures:
            raise CNIError(Code.TRY_AGAIN_LATER, "not all could be removed, try again later", "; ".join(failures))


def _require_netns(call: Call, request: Request, netns: int | None) -> int:
    if netns is None:
        why = os.strerror(request.netns_errno) if request.netns_errno else "no descriptor came with the call"
        raise CNIError(Code.INVALID_NETNS, "cannot open the pod's network namespace", f"{call.netns}: {why}")
    return netns


def _told(error: BaseException) -> str:
    return str(error) or "no answer in time"
