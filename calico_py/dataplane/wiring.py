"""PodWiring by hand-packed netlink: a veth pair per pod, Calico's way (docs/cni.md).

The host's end is recognised after a restart by its alias, ``calico-py pod CONTAINER_ID ADDRESS...``, which says also
what is routed to it (wiring_repair). An end that dies is renamed to ``calidel`` and its ifindex in hexadecimal and put
into the link group DYING, since the kernel takes 15 to 35 ms to remove a veth, whether one or fifty: `run` removes the
whole group at once, behind the answers.

Everything but that removal is a handful of synchronous calls: between its first and last message no other task of
the agent runs.
"""

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from calico_py.dataplane import nlmsg, object_codec, rtnl_socket, wiring_check
from calico_py.dataplane import wiring_codec as codec
from calico_py.dataplane.netns import inside, is_same, open_current
from calico_py.dataplane.transact import Outcome, transact
from calico_py.dataplane.wiring_codec import End, Pair
from calico_py.dataplane.wiring_plan import (
    ALIAS_MAX,
    HOST_IPV6,
    has_ipv6,
    host_end,
    host_reaches,
    parse_alias,
    pod_end,
    render_alias,
)
from calico_py.dataplane.wiring_repair import HostRoutes
from calico_py.model.kernel import Link
from calico_py.model.wiring import HOST_MAC, Attachment, NamespaceError, PodLink, WiredInterface, WiringError
from calico_py.trouble import Trouble

DYING = 0x63707964  # a link group: "cpyd"
DYING_PREFIX = "calidel"

_FLUSH_DELAY = 0.05  # seconds: pods die in crowds
_FLUSH_RETRY = 5.0
_CREATE_ATTEMPTS = 4  # an old device on the host, a dying one in the pod, and one for bad luck

_NO_NAMESPACE = {errno.EINVAL: "found something else"}  # setns(2)

_log = logging.getLogger(__name__)


class NetlinkPodWiring:
    """PodWiring in the network namespace in which the object is made.

    Args:
        proc_sys: /proc/sys, or where the host's is mounted; written for IPv6 alone.
    """

    def __init__(self, *, proc_sys: Path = Path("/proc/sys")) -> None:
        self._proc_sys = proc_sys
        self._netns = open_current()
        self._host = rtnl_socket.open_socket()
        self._routes = HostRoutes(self._host)
        self._dying = asyncio.Event()
        self._draining = asyncio.Lock()
        self._trouble = Trouble(_log)

    def close(self) -> None:
        """Give the descriptors back."""
        self._host.close()
        os.close(self._netns)

    async def run(self) -> None:
        """Repair host routes and remove what unwire left, for ever; begins with what an earlier run left."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._routes.keep())
            tasks.create_task(self._flush())

    async def _flush(self) -> None:
        while True:
            try:
                await self.drain()
            except OSError as error:
                self._trouble.tell("devices of pods that are gone cannot be removed", error)
                await asyncio.sleep(_FLUSH_RETRY)
                continue
            self._trouble.over()
            await self._dying.wait()
            await asyncio.sleep(_FLUSH_DELAY)

    async def drain(self) -> None:
        """Remove all dying devices now.

        The one call that blocks for long has a thread of its own, so that the loop goes on.

        Raises:
            OSError: the kernel refused.
        """
        async with self._draining:
            self._dying.clear()
            with rtnl_socket.open_socket() as sock:
                outcome = await asyncio.to_thread(transact, sock, [partial(codec.pack_delete_group, DYING)])
        if outcome.errno(0) not in (0, errno.ENODEV):
            raise OSError(outcome.errno(0), outcome.refused[0].reason)

    async def wire(self, link: PodLink, netns: int) -> tuple[WiredInterface, WiredInterface]:
        """See PodWiring."""
        if (length := len(render_alias(link).encode())) > ALIAS_MAX:
            raise WiringError(
                f"addresses of {_whose(link)}: found {len(link.addresses)}, which make an alias of "
                f"{length} bytes, expected at most {ALIAS_MAX}: ask for fewer addresses"
            )
        mac = link.mac or _random_mac()
        with self._pod_socket(link, netns) as pod:
            made = await self._create(link, mac, netns)
            try:
                if has_ipv6(link.addresses):
                    self._set_host_ipv6(link)
                _require(transact(self._host, host_end(link, made.ifindex)), f"device {link.host_ifname}")
                _require(transact(pod, pod_end(link, made.peer)), f"device {link.ifname} of {_whose(link)}")
                reaches = host_reaches(link, made.ifindex, mac)
                _require(transact(self._host, reaches), f"device {link.host_ifname}")
            except BaseException:
                self._bury(made.ifindex)
                raise
        self._routes.learn(made.ifindex, link.addresses)
        return (
            WiredInterface(link.host_ifname, HOST_MAC, link.mtu, in_pod=False),
            WiredInterface(link.ifname, mac, link.mtu, in_pod=True),
        )

    async def unwire(self, host_ifname: str, container_id: str) -> None:
        """See PodWiring."""
        found = self._find(host_ifname)
        if found is not None and _container_of(found) == container_id:
            self._bury(found.ifindex)

    async def check(self, link: PodLink, netns: int) -> list[str]:
        """See PodWiring."""
        with self._pod_socket(link, netns, prepare=False) as pod:
            return wiring_check.check(link, self._host, pod)

    async def list_containers(self) -> dict[str, Attachment]:
        """See PodWiring."""
        messages = await rtnl_socket.dump(object_codec.pack_link_dump)  # which is never interrupted for good
        parsed = (object_codec.parse_link(message.body) for message in messages)
        owners = ((parse_alias(each.link.alias), each.link.name) for each in parsed if each is not None)
        return {
            owner.container_id: Attachment(name, owner.ifname, owner.network)
            for owner, name in owners
            if owner is not None
        }

    @contextmanager
    def _pod_socket(self, link: PodLink, netns: int, *, prepare: bool = True) -> Iterator[socket.socket]:
        if is_same(netns, self._netns):
            raise NamespaceError(f"network namespace of {_whose(link)}: found the node's own, expected the pod's")
        try:
            with inside(netns, self._netns):
                sock = rtnl_socket.open_socket()
                if prepare and has_ipv6(link.addresses):
                    self._enable_pod_ipv6()
        except OSError as error:
            raise NamespaceError(
                f"network namespace of {_whose(link)}: {_NO_NAMESPACE.get(error.errno or 0, error.strerror)}: "
                "the runtime must make it before ADD and keep it until DEL"
            ) from None
        with sock:
            yield sock

    async def _create(self, link: PodLink, mac: str, netns: int) -> Pair:
        """The new pair, in place of an old device of another container of the same pod.

        A name that is taken in the pod may be that of a pair that is dying: then it is waited for.
        """
        ends = End(link.host_ifname, HOST_MAC, link.mtu), End(link.ifname, mac, link.mtu)
        requests = [partial(codec.pack_veth, *ends, netns), partial(codec.pack_get_link, link.host_ifname)]
        for _ in range(_CREATE_ATTEMPTS):
            outcome = transact(self._host, requests)
            if outcome.errno(0) != errno.EEXIST:
                _require(
                    outcome, f"veth pair {link.host_ifname} and {link.ifname} of {_whose(link)} with mtu {link.mtu}"
                )
                return codec.parse_pair(outcome.replies[0])
            found = _found(outcome)
            if found is None:
                await self.drain()
            elif _container_of(found) == link.container_id:
                raise WiringError(
                    f"device {link.host_ifname}: found it with container {link.container_id}, expected none: "
                    "DEL must come before ADD"
                )
            elif not link.namespace and _container_of(found):
                raise WiringError(
                    f"device {link.host_ifname}: found it with container {_container_of(found)}, expected none: the "
                    f"eleven characters with which {link.container_id} begins, of which the name is made, must differ"
                )
            else:
                self._bury(found.ifindex)
        raise WiringError(f"device {link.ifname} of {_whose(link)}: found one, expected none: DEL must come first")

    def _find(self, name: str) -> Link | None:
        outcome = transact(self._host, [partial(codec.pack_get_link, name)])
        if outcome.errno(0) not in (0, errno.ENODEV):
            _require(outcome, f"device {name}")
        return _found(outcome)

    def _bury(self, ifindex: int) -> None:
        """Take routes and name from the device at once; `run` removes it."""
        self._routes.forget(ifindex)
        requests = [
            partial(codec.pack_down, ifindex),
            partial(codec.pack_bury, ifindex, f"{DYING_PREFIX}{ifindex:x}", DYING),
        ]
        outcome = transact(self._host, requests)
        if outcome.errno(1) != errno.ENODEV:
            _require(outcome, f"device with index {ifindex}")
        self._dying.set()

    def _set_host_ipv6(self, link: PodLink) -> None:
        for setting, value in HOST_IPV6.items():
            self._set(f"net/ipv6/conf/{link.host_ifname}/{setting}", value)

    def _enable_pod_ipv6(self) -> None:
        """Runtimes such as Docker turn IPv6 off in a new namespace."""
        if _read(f"{self._proc_sys}/net/ipv6/conf/default/disable_ipv6") == "1":
            for name in ("default", "all"):
                self._set(f"net/ipv6/conf/{name}/disable_ipv6", "0")

    def _set(self, name: str, value: str) -> None:
        """Write a setting. A read-only /proc/sys that has the value already serves as well."""
        path = f"{self._proc_sys}/{name}"
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(descriptor, value.encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            if _read(path) == value:
                return
            raise WiringError(
                f"setting {name}: cannot become {value}: {error.strerror}: "
                "the agent needs the host's /proc/sys, writable, and a kernel with IPv6"
            ) from None


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def _found(outcome: Outcome) -> Link | None:
    """The device that a reply has."""
    parsed = (object_codec.parse_link(body) for body in outcome.replies)
    return next((each.link for each in parsed if each is not None), None)


def _container_of(device: Link) -> str:
    """Whose the device is; empty if nobody's that we know."""
    owner = parse_alias(device.alias)
    return owner.container_id if owner is not None else ""


def _require(outcome: Outcome, what: str) -> None:
    if outcome.refused:
        first: nlmsg.Ack = outcome.refused[min(outcome.refused)]
        raise WiringError(f"{what}: the kernel refused: {first.reason}")


def _whose(link: PodLink) -> str:
    return f"pod {link.namespace}/{link.pod}" if link.namespace else f"container {link.container_id}"


def _random_mac() -> str:
    """Locally administered, of one station (IEEE 802: the two low bits of the first byte)."""
    first, *rest = os.urandom(6)
    return ":".join(f"{byte:02x}" for byte in (first & 0xFC | 0x02, *rest))
