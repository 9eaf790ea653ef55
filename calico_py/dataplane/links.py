"""Devices as they should be: make, rename, change, remove, by pyroute2."""

import errno
from typing import Any

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from calico_py.dataplane import object_codec, rtnl_socket, tun
from calico_py.dataplane.object_codec import ParsedLink
from calico_py.model.kernel import Link


async def list_links() -> list[ParsedLink]:
    """All devices of the namespace."""
    parsed = (object_codec.parse_link(m.body) for m in await rtnl_socket.dump(object_codec.pack_link_dump))
    return [link for link in parsed if link is not None]


async def put_link(ipr: AsyncIPRoute, link: Link) -> None:
    """Make the device, or make the one that is there equal.

    It is found by ifindex where that is given (and renamed), else by name. Fields that are empty or 0 are left as
    they are, but ``up`` is always made so.

    Raises:
        OSError: EEXIST, a device of another kind has the name; or what tun.make_persistent raises.
        NetlinkError: the kernel refused.
    """
    found = _find(link, await list_links())
    if found is None:
        found = await _create(ipr, link)
    if link.kind and found.kind != link.kind:
        raise OSError(errno.EEXIST, f"device {found.name} is there and of kind {found.kind or 'hardware'}")
    if found.name != link.name:
        await _rename(ipr, found, link.name)
    wanted = {"mtu": link.mtu, "ifalias": link.alias, "group": link.group, "master": link.master, "address": link.mac}
    actual = {
        "mtu": found.mtu,
        "ifalias": found.alias,
        "group": found.group,
        "master": found.master,
        "address": found.mac,
    }
    changes: dict[str, Any] = {name: value for name, value in wanted.items() if value and value != actual[name]}
    if link.up != found.up:
        changes["state"] = "up" if link.up else "down"
    if changes:
        await ipr.link("set", index=found.ifindex, **changes)


def _find(link: Link, links: list[ParsedLink]) -> Link | None:
    for parsed in links:
        if link.ifindex and parsed.link.ifindex == link.ifindex:
            return parsed.link
    for parsed in links:
        if not link.ifindex and parsed.link.name == link.name:
            return parsed.link
    return None


async def _create(ipr: AsyncIPRoute, link: Link) -> Link:
    if link.ifindex:
        raise OSError(errno.ENODEV, f"there is no device #{link.ifindex}")
    if link.kind == "tun":
        tun.make_persistent(link.name)
    else:
        await _create_by_netlink(ipr, link)
    links = await list_links()
    found = _find(link, links)
    if found is None and link.kind == "ipip":
        found = next((parsed.link for parsed in links if parsed.fallback and parsed.link.kind == "ipip"), None)
    if found is None:
        raise OSError(errno.ENODEV, "it was made and is gone again")
    return found


async def _create_by_netlink(ipr: AsyncIPRoute, link: Link) -> None:
    """RTM_NEWLINK; the request loads the kernel module of the kind where there is one.

    The module ipip makes tunl0 in every namespace as it is loaded, and refuses a second tunnel between any and any:
    EEXIST then says that the device is there, by this name or by the one that someone gave it.
    """
    try:
        await ipr.link("add", ifname=link.name, kind=link.kind)
    except NetlinkError as error:
        if error.code != errno.EEXIST:
            raise


async def _rename(ipr: AsyncIPRoute, link: Link, name: str) -> None:
    """Kernels before 6.2 rename only what is down (dev_change_name)."""
    try:
        await ipr.link("set", index=link.ifindex, ifname=name)
    except NetlinkError as error:
        if error.code != errno.EBUSY:
            raise
        await ipr.link("set", index=link.ifindex, state="down")
        await ipr.link("set", index=link.ifindex, ifname=name)
        if link.up:
            await ipr.link("set", index=link.ifindex, state="up")


async def delete_link(ipr: AsyncIPRoute, link: Link) -> None:
    """Remove the device, found by ifindex where that is given, else by name.

    The kernel's own tunl0 stays: the kernel answers success and does nothing.

    Raises:
        OSError: ENODEV, there is none.
        NetlinkError: the kernel refused.
    """
    found = _find(link, await list_links())
    if found is None:
        raise OSError(errno.ENODEV, "there is no such device")
    await ipr.link("del", index=found.ifindex)
