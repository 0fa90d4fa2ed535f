"""Which worker gets which packet, so that one flow, in one direction, stays on one worker and in order.

*Out*: the TUN hands each packet to the queue that :func:`queue_program` chooses by the inner addresses and ports. Left
to itself it would follow the queue that a flow's answers are written to (drivers/net/tun.c, ``tun_flow_update``), which
moves a flow back and forth as long as answers arrive by different workers.

*In*: all workers of a node receive on one port (SO_REUSEPORT), and :func:`socket_program` chooses by the outer source
address and port. Each worker sends from a port of its own, so what one worker of a peer sends reaches one worker here.
Choosing by the inner packet would not do: the kernel puts datagrams of one outer source together (UDP_GRO) before it
chooses.

Nobody looks at a datagram's source port but routers, who quote it when it is too big: those of the kernel datapath's
flows have no socket, and what is said about them is handed to the slow path (overlay.bpf.c, ``path_mtu``). So no worker
sends from one of :data:`FLOW_PORTS`, unless it is the tunnel's own port. (Agents of an older version tell kernels from
sockets by them.)
"""

from __future__ import annotations

import ctypes
import os
import platform
import socket
import struct
from collections.abc import Iterator

from overlay.datapath.spec import ASIDE
from overlay.linux import libc
from overlay.linux.sockopt import SO_ATTACH_FILTER, SO_ATTACH_REUSEPORT_CBPF

MAX_WORKERS = 64
"""Also the distance of the ports that one worker may send from."""
MAX_TRIES = 256
"""Ports that are tried for one worker."""
FLOW_PORTS = 0xC000
"""The first of the ports that the kernel datapath sends from, and that tell it of another (overlay.bpf.c): 49152, up to
65535, IANA's dynamic ports (RFC 6335)."""
FIRST_SOURCE_PORT = FLOW_PORTS - 47040
"""2112, well above the privileged ports. 47040, as many as workers choose from, is a multiple of MAX_WORKERS, so that
beginning again never leads to another worker's ports, and of 1 to 8, the usual numbers of workers, so that ports which
follow each other around the end still reach different workers of a peer."""


def default_workers() -> int:
    """For this machine: one worker for every two cores that we may use, since the kernel's half of the work and the
    applications need the others, and eight at most."""
    return max(1, min(8, len(os.sched_getaffinity(0)) // 2))


def source_ports(port: int, worker: int) -> Iterator[int]:
    """Ports that ``worker``, from 1 on, may send from, as it prefers: neither the tunnel's own, nor FLOW_PORTS.

    The first choices of a node's workers follow each other, so that they reach different workers of a peer.
    """
    for step in range(MAX_TRIES):
        number = port + ASIDE + worker + MAX_WORKERS * step
        candidate = FIRST_SOURCE_PORT + (number - FIRST_SOURCE_PORT) % (FLOW_PORTS - FIRST_SOURCE_PORT)
        if candidate != port:
            yield candidate


SKF_NET_OFF = 0xFFF00000
"""-0x100000, the offset of the network header for loads (linux/filter.h)."""
SOURCE_ADDRESS, SOURCE_PORT = SKF_NET_OFF + 12, SKF_NET_OFF + 20
"""Of an outer packet without IP options; one with options goes to another worker and no further wrong comes of it."""

LD_W_ABS, LD_H_ABS, TAX, ADD_X, MOD_K, RET_A, RET_K = 0x20, 0x28, 0x07, 0x0C, 0x94, 0x16, 0x06
"""Classic BPF (linux/bpf_common.h): class, size and mode, or class, operation and source."""

_CLASSIC = struct.Struct("=HBBI")
_CLASSIC_PROGRAM = struct.Struct("@HP")


def worker_for(source: int, source_port: int, workers: int) -> int:
    """What :func:`socket_program` computes."""
    return (source + source_port & 0xFFFFFFFF) % workers


def socket_program(workers: int) -> bytes:
    """Classic BPF instructions that return the number of the socket that a datagram is for."""
    instructions = (
        (LD_W_ABS, SOURCE_ADDRESS),
        (TAX, 0),
        (LD_H_ABS, SOURCE_PORT),
        (ADD_X, 0),
        (MOD_K, workers),
        (RET_A, 0),
    )
    return b"".join(_CLASSIC.pack(code, 0, 0, operand) for code, operand in instructions)


def steer_sockets(first: socket.socket, workers: int) -> None:
    """Attaches :func:`socket_program` to the group of ``first``, whose sockets were bound in the order of the workers.

    Raises:
        OSError: the kernel refused it.
    """
    _attach(first, SO_ATTACH_REUSEPORT_CBPF, socket_program(workers))


def deafen(udp: socket.socket) -> None:
    """Has the kernel drop every datagram that comes to ``udp``; errors about what it sent still do.

    Raises:
        OSError: the kernel refused it.
    """
    _attach(udp, SO_ATTACH_FILTER, _CLASSIC.pack(RET_K, 0, 0, 0))


def _attach(udp: socket.socket, option: int, program: bytes) -> None:
    code = ctypes.create_string_buffer(program, len(program))
    udp.setsockopt(
        socket.SOL_SOCKET, option, _CLASSIC_PROGRAM.pack(len(program) // _CLASSIC.size, ctypes.addressof(code))
    )


BPF_PROG_LOAD = 5
BPF_PROG_TYPE_SOCKET_FILTER = 1
SYSCALLS = {"x86_64": 321, "aarch64": 280}
"""Numbers of bpf(2)."""
GOLDEN_RATIO = 0x61C88647
"""Linux's GOLDEN_RATIO_32 (linux/hash.h): spreads sums that differ by little."""

_EXTENDED = struct.Struct("=BBhi")
_LOAD = struct.Struct("=IIQQ")
_LOAD_SIZE = 48
"""Bytes of ``union bpf_attr`` up to and with ``prog_flags``; what is not packed is 0."""


def queue_for(packet: bytes) -> int:
    """What :func:`queue_program` computes; the kernel takes it modulo the number of queues."""
    total = int.from_bytes(packet[12:16], "big") + int.from_bytes(packet[16:20], "big")
    whole = int.from_bytes(packet[6:8], "big") & 0x3FFF == 0
    if packet[0] == 0x45 and packet[9] in {6, 17} and whole:
        total += int.from_bytes(packet[20:22], "big") + int.from_bytes(packet[22:24], "big")
    return (total * GOLDEN_RATIO & 0xFFFFFFFF) >> 16


def queue_program() -> bytes:
    """Extended BPF instructions that turn an inner packet into a number: addresses, and ports if all packets have them.

    Registers: 0 what was loaded and the result, 1 the context that is handed in, 6 the context for loads, 7 the sum.
    A load beyond the packet's end ends the program with 0.
    """
    move, move32, add, multiply, shift = 0xBF, 0xBC, 0x0F, 0x24, 0x74
    byte, half, word = 0x30, 0x28, 0x20
    is_equal, is_not, is_set, leave = 0x15, 0x55, 0x45, 0x95

    def load(size: int, at: int) -> tuple[int, int, int, int]:
        return size, 0, 0, at

    result, total = 0, 7
    instructions = (
        (move, 6 | 1 << 4, 0, 0),
        load(word, 12),
        (move, total, 0, 0),
        load(word, 16),
        (add, total, 0, 0),
        load(byte, 0),
        (is_not, result, 9, 0x45),  # to the end: 9 instructions on
        load(half, 6),
        (is_set, result, 7, 0x3FFF),
        load(byte, 9),
        (is_equal, result, 1, 6),
        (is_not, result, 4, 17),
        load(half, 20),
        (add, total, 0, 0),
        load(half, 22),
        (add, total, 0, 0),
        (multiply, total, 0, GOLDEN_RATIO),
        (shift, total, 0, 16),
        (move32, result | total << 4, 0, 0),
        (leave, 0, 0, 0),
    )
    return b"".join(_EXTENDED.pack(*instruction) for instruction in instructions)


def load_queue_program() -> int:
    """Loads :func:`queue_program`; returns its descriptor.

    Raises:
        OSError: no right to, or a kernel without bpf(2).
    """
    number = SYSCALLS.get(platform.machine())
    if number is None:
        raise OSError(f"bpf(2) has no number here for {platform.machine()}")
    code, license_name = ctypes.create_string_buffer(queue_program()), ctypes.create_string_buffer(b"Apache-2.0")
    count = (len(code) - 1) // _EXTENDED.size
    attributes = _LOAD.pack(
        BPF_PROG_TYPE_SOCKET_FILTER, count, ctypes.addressof(code), ctypes.addressof(license_name)
    ).ljust(_LOAD_SIZE, b"\0")
    return libc.bpf(number, BPF_PROG_LOAD, attributes)
