"""The C library's calls that Python's own modules lack: the one place that opens it.

Each raises OSError with the kernel's errno.
"""

from __future__ import annotations

import ctypes
import os
from ctypes import c_int, c_uint, c_ulong, c_void_p

CLONE_NEWNET = 0x40000000
"""A network namespace (linux/sched.h), for :func:`unshare` and :func:`enter`."""

PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 1, 22, 24, 38, 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
SECCOMP_MODE_FILTER = 2

_CAPABILITY_VERSION_3 = 0x20080522
_STATFS_SIZE = 256
"""More bytes than ``struct statfs`` has on any architecture; it begins with f_type, a long."""

_libc = ctypes.CDLL(None, use_errno=True)

recvmmsg = _libc.recvmmsg
"""recvmmsg(2) as it is: for who calls it for every packet, and reads :func:`last_error` itself."""
recvmmsg.argtypes = (c_int, c_void_p, c_uint, c_int, c_void_p)

sendmmsg = _libc.sendmmsg
"""sendmmsg(2), in the same way."""
sendmmsg.argtypes = (c_int, c_void_p, c_uint, c_int)


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapabilityData(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", c_void_p))


def last_error() -> OSError:
    """What the last call of this thread failed for."""
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def prctl(option: int, argument: int, *more: int) -> None:
    """prctl(2) with integers alone."""
    arguments = (argument, *more, 0, 0, 0)[:4]
    _check(_libc.prctl(option, *(c_ulong(each) for each in arguments)))


def drop_capabilities() -> None:
    """capset(2): none is left in any set of this thread."""
    _check(
        _libc.capset(ctypes.byref(_CapabilityHeader(_CAPABILITY_VERSION_3, 0)), ctypes.byref((_CapabilityData * 2)()))
    )


def filter_system_calls(program: bytes) -> None:
    """Puts a seccomp filter (``struct sock_filter`` after ``struct sock_filter``) on this thread, for good."""
    held = ctypes.create_string_buffer(program, len(program))
    wanted = _Program(len(program) // 8, ctypes.addressof(held))
    zero = c_ulong(0)
    _check(_libc.prctl(PR_SET_SECCOMP, c_ulong(SECCOMP_MODE_FILTER), ctypes.byref(wanted), zero, zero))


def unshare(kind: int) -> None:
    """Gives the calling thread a namespace of its own."""
    _check(_libc.unshare(kind))


def enter(descriptor: int, kind: int) -> None:
    """Moves the calling thread into a namespace (``os.setns`` comes with Python 3.12 only)."""
    _check(_libc.setns(descriptor, kind))


def mount(source: str, target: str, file_system: str, options: str) -> None:
    """mount(2) without flags."""
    _check(
        _libc.mount(os.fsencode(source), os.fsencode(target), file_system.encode(), c_ulong(0), os.fsencode(options))
    )


def file_system_magic(path: str) -> int:
    """Which file system ``path`` is on: its number in linux/magic.h, by statfs(2)."""
    buffer = ctypes.create_string_buffer(_STATFS_SIZE)
    _check(_libc.statfs(os.fsencode(path), buffer))
    return ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF


def bpf(number: int, command: int, attributes: bytes) -> int:
    """bpf(2), whose number is not the same everywhere."""
    return _check(_libc.syscall(number, command, attributes, len(attributes)))


def mallopt(option: int, value: int) -> None:
    """mallopt(3), which glibc alone has; elsewhere nothing happens."""
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(option, value)


def _check(result: int) -> int:
    if result < 0:
        raise last_error()
    return result
