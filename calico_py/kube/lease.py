"""Leader election among the agents: a Lease (coordination.k8s.io/v1) that one holds and all others watch.

Nobody polls: the holder renews, the others wait for the watch to tell that the Lease was released, or for its duration
to pass without a renewal. Time is each agent's own since it last saw the Lease change, so clocks need not agree.
Every write is compare-and-swap, so that of two agents that reach for the Lease one fails.
"""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import logging
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from calico_py.kube.backoff import Backoff
from calico_py.kube.reflector import Reflector
from calico_py.model.codec import decode_meta
from calico_py.model.meta import Meta
from calico_py.model.store import (
    ConflictError,
    ExistsError,
    Json,
    Kind,
    NotFoundError,
    Store,
    StoreError,
    UnavailableError,
)
from calico_py.trouble import Trouble
from calico_py.waiting import came

log = logging.getLogger(__name__)

LEASE_NAMESPACE = "kube-system"
LEASE_NAME = "calico-py-leader"
_ONLY = f"metadata.name={LEASE_NAME}"

# Seconds. Each renewal is an event to every watching agent, and the leader's work can wait for half a minute.
DURATION = 30
RENEW_INTERVAL = 10.0
_RETRY_FIRST = 1.0
_RELEASE_TIMEOUT = 2.0

# Versions of the Lease that have been seen; an event older than the answer to a write of ours is among them.
_KNOWN_VERSIONS = 8


@dataclass(frozen=True, slots=True)
class Lease:
    """Who leads.

    Attributes:
        holder: identity of the leader; empty after it has released the Lease.
        duration: seconds after the last renewal at which others may take it.
        acquire_time, renew_time: RFC 3339 with microseconds; for people.
        transitions: how often the holder changed.
    """

    meta: Meta
    holder: str = ""
    duration: int = DURATION
    acquire_time: str = ""
    renew_time: str = ""
    transitions: int = 0


def _decode(obj: Json) -> Lease:
    spec = obj.get("spec") or {}
    return Lease(
        meta=decode_meta(obj),
        holder=spec.get("holderIdentity") or "",
        duration=spec.get("leaseDurationSeconds") or DURATION,
        acquire_time=spec.get("acquireTime") or "",
        renew_time=spec.get("renewTime") or "",
        transitions=spec.get("leaseTransitions") or 0,
    )


def _encode(lease: Lease) -> dict[str, Any]:
    meta: dict[str, Any] = {"name": lease.meta.name, "namespace": lease.meta.namespace}
    if lease.meta.resource_version:
        meta["resourceVersion"] = lease.meta.resource_version
    if lease.meta.uid:
        meta["uid"] = lease.meta.uid
    spec = {
        "holderIdentity": lease.holder,
        "leaseDurationSeconds": lease.duration,
        "leaseTransitions": lease.transitions,
    }
    times = {"acquireTime": lease.acquire_time, "renewTime": lease.renew_time}
    spec |= {key: value for key, value in times.items() if value}
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": spec}


def lease_kind(namespace: str = LEASE_NAMESPACE) -> Kind[Lease]:
    """The kind Lease, confined to a namespace."""
    return Kind("Lease", "coordination.k8s.io", "v1", "leases", _decode, _encode, namespaced=True, namespace=namespace)


class Leadership:
    """This agent's part in the election.

    Args:
        identity: name of this node, unique among the agents.
        on_change: called when ``leading`` changes; must not block.
        duration, renew_interval: seconds.
    """

    def __init__(
        self,
        store: Store,
        identity: str,
        on_change: Callable[[], None],
        *,
        kind: Kind[Lease] | None = None,
        duration: float = DURATION,
        renew_interval: float = RENEW_INTERVAL,
    ) -> None:
        self.identity = identity
        self._store = store
        self._on_change = on_change
        self._kind = kind or lease_kind()
        self._duration = duration
        self._renew_interval = renew_interval
        self._wake = asyncio.Event()
        self._seen: Lease | None = None
        self._seen_at = 0.0
        self._known: deque[str] = deque(maxlen=_KNOWN_VERSIONS)
        self._renewed_at = -math.inf
        self._told = False
        self._backoff = Backoff(_RETRY_FIRST, cap=renew_interval)
        self._trouble = Trouble(log)
        self._reflector = Reflector(store, self._kind, self._wake.set, fields=_ONLY, trouble=self._trouble)

    @property
    def leading(self) -> bool:
        """This agent holds the Lease and has renewed it lately: a third of its duration is left to the others."""
        return self.holder == self.identity and self._now() - self._renewed_at < self._duration * 2 / 3

    @property
    def holder(self) -> str:
        """Who leads, as far as is known; empty if nobody."""
        return self._seen.holder if self._seen is not None else ""

    @property
    def last_error(self) -> str:
        """Why the Lease may have changed unseen; empty while all is well."""
        return self._reflector.last_error

    async def run(self) -> None:
        """Take part for ever; on cancellation give the Lease back, so that another leads at once."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._reflector.run())
            try:
                await self._reflector.wait_in_sync()
                while True:
                    self._wake.clear()
                    self._observe()
                    delay = await self._step()
                    self._tell()
                    await came(self._wake, within=delay)
            finally:
                await self._release()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _observe(self) -> None:
        """Take what the watch told, unless it is older than what a request of ours has answered since."""
        found = next(iter(self._reflector.objects.values()), None)
        if found is not None and found.meta.resource_version not in self._known:
            self._note(found)

    def _note(self, lease: Lease | None) -> None:
        self._seen, self._seen_at = lease, self._now()
        if lease is not None:
            self._known.append(lease.meta.resource_version)

    async def _step(self) -> float:
        """Renew, take or wait; seconds until the next step if nothing is told before."""
        now = self._now()
        if self.holder == self.identity:
            due = self._renewed_at + self._renew_interval
            if now < due:
                return due - now
        elif self._seen is not None and self.holder:
            left = self._seen_at + self._seen.duration - now
            if left > 0:
                self._trouble.over()  # another one leads: nothing is to be written
                return left + random.uniform(0, 1)  # noqa: S311 - keeps the agents from reaching all at once
        if not await self._write(now):
            return self._backoff.wait()
        self._backoff.reset()
        return self._renew_interval

    async def _write(self, now: float) -> bool:
        """Take or renew; whoever has written since we last saw the Lease wins."""
        try:
            async with asyncio.timeout(self._renew_interval):
                self._note(await self._put())
        except (ConflictError, ExistsError, NotFoundError):
            await self._look()
            return False
        except StoreError as error:
            self._trouble.tell(f"Lease {LEASE_NAME} cannot be written", error)
            return False
        except TimeoutError:
            late = f"the API server did not answer within {self._renew_interval:g} s"
            self._trouble.tell(f"Lease {LEASE_NAME} cannot be written", UnavailableError(late))
            return False
        self._trouble.over()
        self._renewed_at = now
        return True

    async def _put(self) -> Lease:
        stamp = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        seen, duration = self._seen, max(1, round(self._duration))
        if seen is None:
            meta = Meta(LEASE_NAME, namespace=self._kind.namespace)
            return await self._store.create(self._kind, Lease(meta, self.identity, duration, stamp, stamp))
        taken = seen.holder != self.identity
        return await self._store.update(
            self._kind,
            dataclasses.replace(
                seen,
                holder=self.identity,
                duration=duration,
                acquire_time=stamp if taken else seen.acquire_time,
                renew_time=stamp,
                transitions=seen.transitions + taken,
            ),
        )

    async def _look(self) -> None:
        """Someone else has written: see what is there now."""
        try:
            found = (await self._store.list(self._kind, fields=_ONLY)).items  # as the watch: no right more is needed
        except StoreError as error:
            self._trouble.tell(f"Lease {LEASE_NAME} cannot be read", error)
        else:
            self._trouble.over()
            self._note(next(iter(found), None))

    def _tell(self) -> None:
        if self.leading != self._told:
            self._told = not self._told
            log.info("this agent is %s the cluster's leader", "now" if self._told else "no longer")
            self._on_change()

    async def _release(self) -> None:
        if not self.leading or self._seen is None:
            return
        given_back = dataclasses.replace(self._seen, holder="", duration=1)
        with contextlib.suppress(StoreError, TimeoutError):
            async with asyncio.timeout(_RELEASE_TIMEOUT):
                await self._store.update(self._kind, given_back)
        self._seen = None
