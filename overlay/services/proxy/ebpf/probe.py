"""Can this machine carry Services at its sockets? Found out by doing it, once, with an address that nobody has."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import ExitStack, closing
from ipaddress import IPv4Address
from pathlib import Path

from overlay.errors import OverlayError
from overlay.linux import cgroups
from overlay.linux.libbpf import Link
from overlay.services.proxy.ebpf import inside, maps
from overlay.services.proxy.ebpf.book import Book, Pool
from overlay.services.proxy.ebpf.layout import Address, Virtual
from overlay.services.proxy.ebpf.programs import OBJECT, load_unpinned

_VIRTUAL = Address(IPv4Address("192.0.2.1"), 9)
"""Of documentation (RFC 5737) and the discard protocol: while the probe lasts, it is ours."""
_PATIENCE = 5.0
"""Seconds for a datagram over loopback; it takes microseconds."""


def probe(cgroup: Path | None, path: Path = OBJECT) -> str:
    """Why it cannot be; empty where it can. Blocks for about 100 ms, and leaves nothing behind.

    Args:
        cgroup: whose sockets it is for; None: the root's, so all.
    """
    try:
        with ExitStack() as stack:
            place = cgroup or cgroups.root()
            loaded = stack.enter_context(closing(load_unpinned(path)))
            directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, directory)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as backend:
                backend.bind(("127.0.0.1", 0))
                backend.settimeout(_PATIENCE)
                at = Address(IPv4Address("127.0.0.1"), backend.getsockname()[1])
                writes = Book().start({Virtual(_VIRTUAL, "UDP"): Pool("probe", (at,))}, 0.0)
                maps.carry_out(loaded.maps, writes)
                maps.admit(loaded.maps, {inside.own_cookie()})
                for program in loaded.programs.values():
                    stack.enter_context(closing(Link.to_cgroup(program, directory)))
                return _there_and_back(backend) if cgroups.holds(place) else ""
    except OverlayError as error:
        return f"{error.about}: {error.cause}" if error.about else error.cause
    except OSError as error:
        if error.errno == errno.ENOPROTOOPT:
            return "network namespaces have no numbers that sockets tell (SO_NETNS_COOKIE): Linux 5.14 is needed"
        return f"cgroups or sockets cannot be used: {error.strerror or error}"


def _there_and_back(backend: socket.socket) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(_PATIENCE)
        wanted = (str(_VIRTUAL.ip), _VIRTUAL.port)
        try:
            client.connect(wanted)
        except OSError as error:
            return f"programs are attached, but a connect was not translated: {error.strerror}"
        if client.getsockname()[0] != "127.0.0.1":
            return "programs are attached, but a connect was not translated"
        if client.getpeername() != wanted:
            return "a connected socket does not tell its virtual address (getpeername: Linux 5.8)"
        client.send(b"there")
        _, source = backend.recvfrom(16)
        backend.sendto(b"back", source)
        _, source = client.recvfrom(16)
        return "" if source == wanted else "an answer was not translated"
