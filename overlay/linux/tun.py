"""The TUN device's queues: opening, offloads, persistence (Documentation/networking/tuntap.rst, linux/if_tun.h).

A queue is a descriptor: one read gives one packet that the kernel routed to the device, one write hands one to it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from contextlib import suppress
from enum import IntFlag

from overlay.errors import DeviceError, PrivilegeError

CLONE_DEVICE = "/dev/net/tun"
MAX_NAME = 15
"""IFNAMSIZ - 1."""

TUNSETIFF = 0x400454CA
TUNSETPERSIST = 0x400454CB
TUNSETOFFLOAD = 0x400454D0
TUNGETIFF = 0x800454D2
TUNSETSTEERINGEBPF = 0x800454E0
TUNGETDEVNETNS = 0x54E3
TUNSETCARRIER = 0x400454E2
SIOCGIFFLAGS = 0x8913
SIOCGIFTXQLEN = 0x8942
SIOCSIFTXQLEN = 0x8943

IFF_UP, IFF_RUNNING = 0x1, 0x40

IFF_TUN = 0x0001
IFF_MULTI_QUEUE = 0x0100
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000

_IFREQ = struct.Struct("16sH22x")
_IFREQ_INT = struct.Struct("16si20x")


class Offload(IntFlag):
    """TUN_F_*: what the reader of a queue with vnet_hdr accepts unfinished (linux/if_tun.h)."""

    NONE = 0
    CHECKSUM = 0x01
    TSO4 = 0x02
    TSO6 = 0x04
    TSO_ECN = 0x08
    USO4 = 0x20
    USO6 = 0x40


def open_queue(name: str, *, vnet_hdr: bool) -> int:
    """Opens a queue of TUN device ``name``, making the device if there is none; the descriptor does not block.

    Every packet is preceded by a 10-byte virtio_net_hdr if ``vnet_hdr``. The device keeps existing when the
    descriptor is closed only after :func:`set_persistent`. More calls open more queues of the same device.

    Raises:
        PrivilegeError: neither root nor CAP_NET_ADMIN.
        DeviceError: no /dev/net/tun, ``name`` is unfit, of another kind, or all its queues are in use.
    """
    encoded = name.encode()
    if not 0 < len(encoded) <= MAX_NAME or b"/" in encoded:
        raise DeviceError(
            "not a possible interface name", about=f"device {name!r}", remedy=f"use 1 to {MAX_NAME} characters, no /"
        )
    try:
        descriptor = os.open(CLONE_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as failure:
        raise _no_clone_device(failure) from failure
    flags = IFF_TUN | IFF_NO_PI | IFF_MULTI_QUEUE | (IFF_VNET_HDR if vnet_hdr else 0)
    try:
        fcntl.ioctl(descriptor, TUNSETIFF, _IFREQ.pack(encoded, flags))
    except OSError as failure:
        os.close(descriptor)
        raise _refused(name, failure) from failure
    return descriptor


def is_attached(queue: int) -> bool:
    """Whether the device of ``queue`` still exists; once it was removed its queues are dead for good."""
    try:
        fcntl.ioctl(queue, TUNGETIFF, bytes(_IFREQ.size))
    except OSError:
        return False
    return True


def is_elsewhere(queue: int, name: str) -> bool:
    """Whether the device of ``queue`` lives on, but not as ``name`` here: somebody has renamed it, or moved it to
    another network namespace (which Linux tells since 5.2)."""
    try:
        called, _ = _IFREQ.unpack(fcntl.ioctl(queue, TUNGETIFF, bytes(_IFREQ.size)))
        if called.rstrip(b"\0") != name.encode():
            return True
        namespace = fcntl.ioctl(queue, TUNGETDEVNETNS)
    except OSError:
        return False
    try:
        return not os.path.samestat(os.fstat(namespace), os.stat("/proc/thread-self/ns/net"))
    finally:
        os.close(namespace)


def set_persistent(queue: int, persistent: bool = True) -> None:
    """Whether the device outlives its descriptors, with its addresses, routes and counters."""
    fcntl.ioctl(queue, TUNSETPERSIST, int(persistent))


def set_offloads(queue: int, offloads: Offload) -> bool:
    """Asks for exactly ``offloads`` on the whole device; False if this kernel does not know one of them."""
    try:
        fcntl.ioctl(queue, TUNSETOFFLOAD, int(offloads))
    except OSError as failure:
        if failure.errno == errno.EINVAL:
            return False
        raise
    return True


def set_steering(queue: int, program: int) -> bool:
    """Has BPF program ``program`` (a descriptor) choose the queue of each packet; -1 for the kernel's own way.

    The device holds on to the program. False if this kernel cannot (Linux before 4.16).
    """
    try:
        fcntl.ioctl(queue, TUNSETSTEERINGEBPF, struct.pack("=i", program))
    except OSError:
        return False
    return True


def set_queue_length(name: str, packets: int) -> None:
    """How many packets wait for the reader before the device drops (SIOCSIFTXQLEN).

    Raises:
        DeviceError: no such device, or not allowed.
    """
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            fcntl.ioctl(any_socket, SIOCSIFTXQLEN, _IFREQ_INT.pack(name.encode(), packets))
    except OSError as failure:
        raise DeviceError(f"cannot set the queue length: {failure.strerror}", about=f"device {name}") from failure


def reopen_the_way(queue: int, name: str, packets: int) -> list[str]:
    """Puts right what others have set of a device that is up, and what keeps packets from ``queue``: no carrier, or a
    queue of fewer than ``packets``. Returns what was done, in words; nothing where it is right, or cannot be told."""
    done = []
    # Refused where it is gone, where this is none, and where there is no descriptor for a socket.
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        _, flags = _IFREQ.unpack(fcntl.ioctl(any_socket, SIOCGIFFLAGS, _IFREQ.pack(name.encode(), 0)))
        if flags & IFF_UP and not flags & IFF_RUNNING:
            fcntl.ioctl(queue, TUNSETCARRIER, struct.pack("=i", 1))
            done.append("carrier on")
        _, length = _IFREQ_INT.unpack(fcntl.ioctl(any_socket, SIOCGIFTXQLEN, _IFREQ_INT.pack(name.encode(), 0)))
        if length < packets:
            fcntl.ioctl(any_socket, SIOCSIFTXQLEN, _IFREQ_INT.pack(name.encode(), packets))
            done.append(f"queue of {length} → {packets} packets")
    return done


def _no_clone_device(failure: OSError) -> DeviceError | PrivilegeError:
    if failure.errno in {errno.EACCES, errno.EPERM}:
        return PrivilegeError(
            "not allowed to open it", about=CLONE_DEVICE, remedy="run as root and allow the device (DeviceAllow=)"
        )
    return DeviceError(
        f"cannot open it: {failure.strerror}",
        about=CLONE_DEVICE,
        remedy="load it with `modprobe tun`, or in a container pass --device /dev/net/tun",
    )


def _refused(name: str, failure: OSError) -> DeviceError | PrivilegeError:
    about = f"device {name}"
    match failure.errno:
        case errno.EPERM:
            return PrivilegeError("not allowed to make it", about=about, remedy="run as root or with CAP_NET_ADMIN")
        case errno.EBUSY:
            return DeviceError("in use by another process", about=about, remedy="stop the other agent")
        case errno.E2BIG:
            return DeviceError("all its queues are in use", about=about, remedy="stop the other agent")
        case errno.EINVAL:
            return DeviceError(
                "it exists, and is no multi-queue TUN device", about=about, remedy=f"remove it: ip link del {name}"
            )
        case _:
            return DeviceError(failure.strerror or "refused", about=about)
