"""Attaching to a TUN device that exists (Documentation/networking/tuntap.rst); making one is the agent's."""

import contextlib
import errno
import fcntl
import os
import socket
import struct

from calico_py.dataplane.tunnel.errors import TunnelError
from calico_py.dataplane.tunnel.vnet import HEADER_SIZE

_TUN_PATH = "/dev/net/tun"
# linux/if_tun.h, linux/sockios.h
_TUNSETIFF = 0x400454CA
_TUNGETIFF = 0x800454D2
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_IFF_PERSIST = 0x0800
_TUNSETOFFLOAD = 0x400454D0
_TUNSETVNETHDRSZ = 0x400454D8
_SIOCSIFTXQLEN = 0x8943

# Packets: half a second at 10,000 a second, in case the engine has to wait for a processor.
QUEUE_LENGTH = 5000


def attach(name: str) -> int | None:
    """A descriptor that reads what the kernel sends by the device, and whose writes the kernel receives.

    Each packet has a header of vnet.HEADER_SIZE bytes in front of it. What is read is finished and cut to the MTU.

    Returns:
        The descriptor, not blocking; None if the device went away meanwhile.

    Raises:
        TunnelError: it cannot be had.
    """
    try:
        fd = os.open(_TUN_PATH, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise TunnelError(
            f"{_TUN_PATH}: {error.strerror}; load the kernel module tun, and give a container this device"
        ) from None
    try:
        if not _set_device(fd, name):
            os.close(fd)
            return None
    except TunnelError:
        os.close(fd)
        raise
    return fd


def _set_device(fd: int, name: str) -> bool:
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR))
        # Whoever was attached before may have set them otherwise.
        fcntl.ioctl(fd, _TUNSETVNETHDRSZ, struct.pack("=i", HEADER_SIZE))
        fcntl.ioctl(fd, _TUNSETOFFLOAD, 0)
    except OSError as error:
        raise TunnelError(f"{name}: {_explain(error)}") from None
    answer = fcntl.ioctl(fd, _TUNGETIFF, bytes(40))
    flags = struct.unpack_from("=H", answer, 16)[0]
    # Where no such device exists, TUNSETIFF makes one, which lives as long as the descriptor.
    return bool(flags & _IFF_PERSIST)


def _explain(error: OSError) -> str:
    if error.errno == errno.EBUSY:
        return "another process is attached to it; is a second `calico-py tunnel` running?"
    if error.errno == errno.EPERM:
        return "no permission to attach to it: the device has an owner; the process needs the capability NET_ADMIN"
    if error.errno == errno.EINVAL:
        return "the device is no single-queue TUN device; remove it, and the agent makes it anew"
    return f"cannot be attached to: {error.strerror}"


def set_queue_length(name: str, packets: int) -> None:
    """Set the device's txqueuelen; left as it is where the process lacks NET_ADMIN or the device went."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock,
        contextlib.suppress(OSError),
    ):
        fcntl.ioctl(sock, _SIOCSIFTXQLEN, struct.pack("16si20x", name.encode(), packets))
