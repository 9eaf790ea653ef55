"""LinuxKernel: the Kernel of model.kernel on this machine, in the network namespace of the calling thread.

Routes are packed and read by our own codec; devices, addresses, neighbours and forwarding entries are written by
pyroute2 and read by our own codec, which events need anyway; settings are files; nftables is nft(8).
"""

import asyncio
import errno
import functools
import itertools
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Self, cast

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from calico_py.dataplane import links, nft_tool, object_codec, refusals, route_codec, rtnl_socket
from calico_py.dataplane.monitor import Monitor
from calico_py.model.kernel import (
    Addr,
    Change,
    FdbEntry,
    K,
    KernelError,
    KernelObject,
    Link,
    Neigh,
    NftTable,
    Put,
    Route,
    Sysctl,
)

_log = logging.getLogger(__name__)

_PROC_SYS = Path("/proc/sys")
_RT_SCOPE_LINK = 253
_PARSE_SLICE = 4096  # messages read before others may run: some 10 ms


class LinuxKernel:
    """The kernel's state of one network namespace.

    An asynchronous context manager. The namespace is that of the thread at each call, as /proc/sys and nft are
    bound to it too; it must not change while the object is in use.

    Args:
        sysctl_path: where the settings are; a container has the host's /proc/sys elsewhere.
    """

    def __init__(self, *, sysctl_path: Path = _PROC_SYS) -> None:
        self._sysctl_path = sysctl_path
        self._ipr: AsyncIPRoute | None = None
        self._monitors: list[Monitor] = []

    async def __aenter__(self) -> Self:
        self._ipr = AsyncIPRoute(ext_ack=True)
        await self._ipr.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        assert self._ipr is not None
        for monitor in self._monitors:
            monitor.close()
        await self._ipr.__aexit__(*exception)
        self._ipr = None

    async def dump(self, kind: type[K]) -> list[K]:
        """All objects of a kind.

        Raises:
            DumpRefusedError: it could not be had.
        """
        # mypy does not narrow a type variable by comparing the type.
        return cast("list[K]", await _DUMPS[kind]())

    async def sysctl(self, name: str) -> str | None:
        """The value of a setting without the line's end, None where the kernel has no such one."""
        try:
            return (self._sysctl_path / name).read_text().strip()
        except FileNotFoundError:
            return None

    async def send(self, changes: Sequence[Change]) -> list[KernelError | None]:
        """Apply changes in order; routes that follow one another by the hundred."""
        answers: list[KernelError | None] = []
        for routes, group in itertools.groupby(changes, key=lambda change: isinstance(change.object, Route)):
            if routes:
                answers += await _send_routes(list(group))
            else:
                answers += [await self._send_one(change) for change in group]
        return answers

    def events(self) -> Monitor:
        """Changes by anyone, from the call on."""
        monitor = Monitor()
        self._monitors.append(monitor)
        return monitor

    async def _send_one(self, change: Change) -> KernelError | None:
        try:
            if isinstance(change, Put):
                await self._put(change.object)
            else:
                await self._delete(change.object)
        except NetlinkError as error:
            number, text = error.code, _extended(error)
        except nft_tool.NftMissingError as error:
            number, text = errno.ENOSYS, str(error)
        except nft_tool.NftError as error:
            number, text = errno.EINVAL, str(error)
        except OSError as error:
            number, text = error.errno or errno.EIO, _own_words(error)
        else:
            return None
        if refusals.is_gone(change, number):
            return None
        return refusals.refusal(change, number, text, devices=_device_names())

    async def _put(self, obj: KernelObject) -> None:
        assert self._ipr is not None, "LinuxKernel is used outside of its context"
        match obj:
            case Link():
                await links.put_link(self._ipr, obj)
            case Addr():
                await self._ipr.addr("replace", **_addr_arguments(obj))
            case Neigh():
                await self._ipr.neigh("replace", **_neigh_arguments(obj))
            case FdbEntry():
                await self._ipr.fdb("replace", **_fdb_arguments(obj))
            case Sysctl():
                _write(self._sysctl_path / obj.name, obj.value)
            case NftTable():
                await nft_tool.put_table(obj)
            case Route():
                raise AssertionError("routes are sent in batches")

    async def _delete(self, obj: KernelObject) -> None:
        assert self._ipr is not None, "LinuxKernel is used outside of its context"
        match obj:
            case Link():
                await links.delete_link(self._ipr, obj)
            case Addr():
                await self._ipr.addr("del", **_addr_arguments(obj))
            case Neigh():
                await self._ipr.neigh(
                    "del", ifindex=obj.ifindex, dst=str(obj.address), family=_family(obj.address.version)
                )
            case FdbEntry():
                await self._ipr.fdb("del", **_fdb_arguments(obj))
            case NftTable():
                await nft_tool.delete_table(obj)
            case Sysctl() | Route():
                raise AssertionError(f"{refusals.describe(obj)} cannot be removed so")


async def _send_routes(changes: list[Change]) -> list[KernelError | None]:
    answers = await rtnl_socket.exchange([_route_request(change) for change in changes])
    refused = [
        bool(answer.errno) and not refusals.is_gone(change, answer.errno)
        for change, answer in zip(changes, answers, strict=True)
    ]
    devices = _device_names() if any(refused) else {}
    return [
        refusals.refusal(change, answer.errno, answer.text, devices=devices) if bad else None
        for change, answer, bad in zip(changes, answers, refused, strict=True)
    ]


def _device_names() -> dict[int, str]:
    """By ifindex; none where the system refuses more at the moment, since a refusal must be told all the same."""
    try:
        return dict(socket.if_nameindex())
    except OSError:
        return {}


def _route_request(change: Change) -> Callable[[int, int], bytes]:
    assert isinstance(change.object, Route)
    pack = route_codec.pack_put if isinstance(change, Put) else route_codec.pack_delete
    return functools.partial(pack, change.object)


async def _dump_routes() -> list[Route]:
    parser = route_codec.RouteParser()
    routes = []
    for number, message in enumerate(await rtnl_socket.dump(route_codec.pack_dump), start=1):
        route = parser.parse(message.body)
        if route is not None:
            routes.append(route)
        if number % _PARSE_SLICE == 0:
            await asyncio.sleep(0)
    return routes


async def _dump_links() -> list[Link]:
    return [parsed.link for parsed in await links.list_links()]


async def _dump_addrs() -> list[Addr]:
    parsed = (object_codec.parse_addr(m.body) for m in await rtnl_socket.dump(object_codec.pack_addr_dump))
    return [addr for addr in parsed if addr is not None]


async def _dump_neighs() -> list[Neigh]:
    parsed = (object_codec.parse_neigh(m.body) for m in await rtnl_socket.dump(object_codec.pack_neigh_dump))
    return [neigh.entry for neigh in parsed if neigh and neigh.permanent and isinstance(neigh.entry, Neigh)]


async def _dump_fdb() -> list[FdbEntry]:
    parsed = (object_codec.parse_neigh(m.body) for m in await rtnl_socket.dump(object_codec.pack_fdb_dump))
    return [neigh.entry for neigh in parsed if neigh and neigh.permanent and isinstance(neigh.entry, FdbEntry)]


async def _dump_tables() -> list[NftTable]:
    """None where nft cannot tell: the table is put then, and the answer to that says why."""
    try:
        return await nft_tool.list_tables()
    except nft_tool.NftError as error:
        _log.debug("cannot list nftables: %s", error)
        return []


_DUMPS: dict[type[KernelObject], Callable[[], Awaitable[Sequence[KernelObject]]]] = {
    Route: _dump_routes,
    Link: _dump_links,
    Addr: _dump_addrs,
    Neigh: _dump_neighs,
    FdbEntry: _dump_fdb,
    NftTable: _dump_tables,
}


def _addr_arguments(addr: Addr) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "index": addr.ifindex,
        "address": str(addr.interface.ip),
        "prefixlen": addr.interface.network.prefixlen,
        "family": _family(addr.interface.version),
    }
    if addr.link_scope:
        arguments["scope"] = _RT_SCOPE_LINK
    if addr.label:
        arguments["label"] = addr.label
    return arguments


def _neigh_arguments(neigh: Neigh) -> dict[str, Any]:
    return {
        "ifindex": neigh.ifindex,
        "dst": str(neigh.address),
        "lladdr": neigh.mac,
        "family": _family(neigh.address.version),
        "state": object_codec.NUD_PERMANENT,
    }


def _fdb_arguments(entry: FdbEntry) -> dict[str, Any]:
    return {
        "ifindex": entry.ifindex,
        "lladdr": entry.mac,
        "dst": str(entry.dst),
        "state": object_codec.NUD_PERMANENT,
    }


def _family(version: int) -> int:
    return route_codec.AF_INET if version == 4 else route_codec.AF_INET6


def _write(path: Path, value: str) -> None:
    """Without O_CREAT: a setting that the kernel does not have is an error and no new file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value.encode() + b"\n")
    finally:
        os.close(descriptor)


def _extended(error: NetlinkError) -> str:
    """The kernel's own words; without any pyroute2 repeats the errno's meaning."""
    text = str(error.args[1]) if len(error.args) > 1 else ""
    return "" if text == os.strerror(error.code) else text


def _own_words(error: OSError) -> str:
    return "" if error.strerror == os.strerror(error.errno or 0) else str(error.strerror)
