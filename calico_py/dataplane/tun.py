"""Persistent TUN devices (linux/if_tun.h, Documentation/networking/tuntap.rst)."""

import errno
import fcntl
import os
import struct

_PATH = "/dev/net/tun"
_TUNSETIFF = 0x400454CA
_TUNSETPERSIST = 0x400454CB
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000
_IFREQ = struct.Struct("=16sH22x")


def make_persistent(name: str) -> None:
    """Make a TUN device that stays when nobody is attached, in the thread's network namespace.

    It carries bare IP packets (IFF_NO_PI). It has carrier (IFF_LOWER_UP) while a process is attached.

    Raises:
        OSError: EBUSY, a process is attached to a device of that name; EINVAL, another kind of device has the name;
            ENOENT or ENODEV, the kernel has no TUN.
    """
    try:
        descriptor = os.open(_PATH, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        words = f"there is no {_PATH}: load the module tun, or give the container that device"
        raise OSError(errno.ENOENT, words) from None
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, _IFREQ.pack(name.encode(), _IFF_TUN | _IFF_NO_PI))
        fcntl.ioctl(descriptor, _TUNSETPERSIST, 1)
    finally:
        os.close(descriptor)
