"""What ADD, DEL, CHECK, STATUS and GC do: addresses from IPAM, an interface from the wiring, in the right order.

Each verb leaves nothing half done: an ADD that fails gives back what it took, a DEL that the API cannot hear is kept
for later (deferred). Calls for one container follow each other; different containers go in parallel.
"""

import asyncio
import ipaddress
import logging
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from calico_py.cni.config import Call, Verb, parse_call
from calico_py.cni.deferred import DeferredDels
from calico_py.cni.errors import CNIError, Code
from calico_py.cni.results import AddResult, ResultInterface, render_add, render_versions
from calico_py.cni.wire import Request
from calico_py.ipam.requests import Assigned, AssignRequest, ContendedError, IPAMError, Release, Released
from calico_py.model import names
from calico_py.model.net import Family, InvalidError, family, parse_interface
from calico_py.model.store import StoreError
from calico_py.model.wiring import GATEWAYS, PodLink, PodWiring, WiredInterface, WiringError

ASSIGN_SECONDS = 60.0  # below the shim's patience, so that a failed ADD is told and undone
RELEASE_SECONDS = 5.0

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

    async def release_handle(self, handle_id: str) -> int:
        """Free all that the handle holds; how many there were."""
        ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the agent knows and an ADD must ask at the time.

    Attributes:
        ready: a sentence why no ADD can be served now; empty if it can.
        families: those for which this node has a pool.
        mtu: of pods' interfaces, bytes.
    """

    ready: Callable[[], str]
    families: Callable[[], tuple[Family, ...]]
    mtu: Callable[[], int]


class Plugin:
    """The verbs. `start` must have been called."""

    def __init__(
        self, *, wiring: PodWiring, addresses: Addresses, surroundings: Surroundings, deferred: DeferredDels
    ) -> None:
        self._wiring = wiring
        self._addresses = addresses
        self._around = surroundings
        self._deferred = deferred
        self._attached: set[str] = set()
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}
        self._worked_off = asyncio.Event()

    async def start(self) -> None:
        """Learn from the kernel which containers are attached."""
        self._attached = set(await self._wiring.list_containers())

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
        async with self._turn(call.container_id):
            return await self._work_off_in_turn(call, request, api=api)

    async def _work_off_in_turn(self, call: Call, request: Request, *, api: bool = True) -> bool:
        """The same. Looks again first: the DEL may be done by now, and the container attached anew."""
        if not self._deferred.holds(request):
            return api
        try:
            await self._wiring.unwire(_host_ifname(call), call.container_id)
            self._attached.discard(call.container_id)
            if api:
                await self._release(call.container_id)
                self._deferred.done(request)
        except _LATER as error:
            _log.warning("a DEL of container %s goes on waiting: %s", call.container_id, _told(error))
            return False
        except WiringError as error:
            _log.warning("a DEL of container %s goes on waiting: %s", call.container_id, error)
        return api

    async def _release(self, container_id: str) -> None:
        async with asyncio.timeout(RELEASE_SECONDS):
            await self._addresses.release_handle(names.workload_handle(container_id))

    async def _add(self, call: Call, request: Request, netns: int | None) -> bytes:
        if reason := self._around.ready():
            raise CNIError(Code.TRY_AGAIN_LATER, "calico-py cannot serve ADD yet, try again later", reason)
        descriptor = _require_netns(call, request, netns)
        await self._worked_off.wait()
        async with self._turn(call.container_id):
            await self._require_detached(call, request)
            assigned = await self._assign(call, request)
            link = self._link(call, assigned)
            try:
                interfaces = await self._wiring.wire(link, descriptor)
            except BaseException as error:
                await self._give_back(assigned, request)
                if isinstance(error, WiringError):
                    raise CNIError(Code.WIRING, "cannot make the pod's interface", str(error)) from None
                raise
            self._attached.add(call.container_id)
        return render_add(call.config.version, _result(call, link, interfaces), call.config.previous)

    async def _require_detached(self, call: Call, request: Request) -> None:
        if call.container_id in self._attached:
            raise CNIError(
                Code.WIRING, "the container is attached already", f"{call.container_id}: DEL must come before ADD"
            )
        await self._work_off_in_turn(call, request)
        if self._deferred.holds(request):
            raise CNIError(
                Code.TRY_AGAIN_LATER,
                "a DEL of this container is not done yet, try again later",
                f"{call.container_id}: its addresses could not be released so far",
            )

    async def _assign(self, call: Call, request: Request) -> Sequence[Assigned]:
        families = self._around.families()
        if not families and not call.addresses:
            raise CNIError(
                Code.ADDRESSES, "no address for the pod", "no IPPool is enabled and selects this node: apply one"
            )
        ask = AssignRequest(
            handle_id=names.workload_handle(call.container_id),
            secondary={key: value for key, value in (("namespace", call.namespace), ("pod", call.pod)) if value},
            families=families,
            requested=call.addresses,
            pools=call.config.pools,
        )
        try:
            async with asyncio.timeout(ASSIGN_SECONDS):
                return await self._addresses.assign(ask)
        except _LATER as error:  # the address may be assigned all the same, if only the answer was lost
            self._deferred.keep(_as_del(request))
            raise CNIError(
                Code.TRY_AGAIN_LATER, "cannot assign an address now, try again later", _told(error)
            ) from None
        except (IPAMError, InvalidError) as error:
            raise CNIError(Code.ADDRESSES, "no address for the pod", str(error)) from None

    async def _give_back(self, assigned: Sequence[Assigned], request: Request) -> None:
        """Release what a failed ADD took; at once, or else by a DEL of its container that waits."""
        releases = [Release(one.address, one.handle_id, one.sequence) for one in assigned]
        try:
            async with asyncio.timeout(RELEASE_SECONDS):
                await self._addresses.release(releases)
        except _LATER as error:
            _log.warning("addresses of a failed ADD are released later: %s", _told(error))
            self._deferred.keep(_as_del(request))

    def _link(self, call: Call, assigned: Sequence[Assigned]) -> PodLink:
        return PodLink(
            namespace=call.namespace,
            pod=call.pod or call.container_id,
            container_id=call.container_id,
            ifname=call.ifname,
            host_ifname=_host_ifname(call),
            addresses=tuple(ipaddress.ip_interface(one.address) for one in assigned),
            mtu=call.config.mtu or self._around.mtu(),
            mac=call.mac,
        )

    async def _delete(self, call: Call, request: Request) -> None:
        async with self._turn(call.container_id):
            try:
                await self._wiring.unwire(_host_ifname(call), call.container_id)
            except WiringError as error:  # the address stays the pod's as long as the pod may use it
                raise CNIError(Code.WIRING, "cannot remove the pod's interface", str(error)) from None
            self._attached.discard(call.container_id)
            try:
                await self._release(call.container_id)
            except _LATER as error:
                _log.warning("the addresses of container %s are released later: %s", call.container_id, _told(error))
                self._deferred.keep(request)

    async def _check(self, call: Call, request: Request, netns: int | None) -> None:
        descriptor = _require_netns(call, request, netns)
        async with self._turn(call.container_id):
            try:
                found = await self._wiring.check(_previous_link(call), descriptor)
            except WiringError as error:
                found = [str(error)]
        if found:
            raise CNIError(Code.WIRING, "the pod's interface is not as ADD made it", "; ".join(found))

    async def _collect(self, call: Call) -> None:
        """GC: as much as can be, then what went wrong."""
        valid = call.config.valid_attachments
        if valid is None:
            raise CNIError(
                Code.INVALID_CONFIGURATION,
                "invalid network configuration",
                "cni.dev/valid-attachments: found none, expected a list; nothing was removed",
            )
        failures = []
        for container_id, host_ifname in (await self._wiring.list_containers()).items():
            if container_id in valid:
                continue
            try:
                async with self._turn(container_id):
                    await self._wiring.unwire(host_ifname, container_id)
                    self._attached.discard(container_id)
                    await self._release(container_id)
            except (*_LATER, WiringError) as error:
                failures.append(f"{container_id}: {_told(error)}")
        if failures:
            raise CNIError(Code.TRY_AGAIN_LATER, "not all could be removed, try again later", "; ".join(failures))

    @asynccontextmanager
    async def _turn(self, container_id: str) -> AsyncIterator[None]:
        """Calls for one container, one after another in the order in which they came."""
        lock, waiting = self._locks.get(container_id, (asyncio.Lock(), 0))
        self._locks[container_id] = lock, waiting + 1
        try:
            async with lock:
                yield
        finally:
            lock, waiting = self._locks.pop(container_id)
            if waiting > 1:
                self._locks[container_id] = lock, waiting - 1


def _require_netns(call: Call, request: Request, netns: int | None) -> int:
    if netns is None:
        why = os.strerror(request.netns_errno) if request.netns_errno else "no descriptor came with the call"
        raise CNIError(Code.INVALID_NETNS, "cannot open the pod's network namespace", f"{call.netns}: {why}")
    return netns


def _as_del(request: Request) -> Request:
    return replace(request, env={**request.env, "CNI_COMMAND": Verb.DEL.value})


def _host_ifname(call: Call) -> str:
    """Calico's name: by the pod, and by the container where the runtime is not Kubernetes'."""
    if call.pod:
        return names.workload_ifname(call.namespace, call.pod)
    return names.WORKLOAD_PREFIX + call.container_id[:11]


def _result(call: Call, link: PodLink, interfaces: Sequence[WiredInterface]) -> AddResult:
    return AddResult(
        interfaces=[
            ResultInterface(each.name, each.mac, each.mtu, call.netns if each.in_pod else "") for each in interfaces
        ],
        addresses=[(address, GATEWAYS[family(address)]) for address in link.addresses],
        dns=call.config.dns,
    )


def _previous_link(call: Call) -> PodLink:
    """What ADD made, as its result tells; an MTU of 0 where the version's result has none."""
    previous: Any = call.config.previous or {}
    try:
        interfaces = list(previous.get("interfaces") or [])
        position = next(
            i for i, each in enumerate(interfaces) if each.get("sandbox") and each.get("name") == call.ifname
        )
        addresses = tuple(
            parse_interface(ip["address"], field="prevResult.ips")
            for ip in previous.get("ips") or []
            if ip.get("interface") == position
        )
        mtu, mac = int(interfaces[position].get("mtu") or 0), str(interfaces[position].get("mac") or "")
    except StopIteration:
        raise CNIError(
            Code.INVALID_CONFIGURATION,
            "invalid prevResult",
            f"interfaces: found none named {call.ifname} with a sandbox, expected the result of ADD",
        ) from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CNIError(Code.DECODE_FAILURE, "could not decode prevResult", str(error)) from None
    return PodLink(
        namespace=call.namespace,
        pod=call.pod or call.container_id,
        container_id=call.container_id,
        ifname=call.ifname,
        host_ifname=_host_ifname(call),
        addresses=addresses,
        mtu=mtu,
        mac=mac,
    )


def _told(error: BaseException) -> str:
    return str(error) or "no answer in time"
