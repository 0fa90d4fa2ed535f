"""IPVS, the kernel's load balancer (``net/netfilter/ipvs``): written by netlink, read from /proc. IPv4 alone.

A *virtual service* is an address, a port and a protocol, with a scheduler; its *servers* are where a connection may
end, each with a weight: with 0 it gets no new connections, and keeps those that it has. Packets are translated (NAT).

/proc has all services and servers in one text. What it does not have is a service's flags, by which ours are known.
"""

from __future__ import annotations

import errno
import socket
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeAlias

from overlay.errors import NodeError
from overlay.linux.pyroute import IPVS, IPVSDest, IPVSService, NetlinkError
from overlay.linux.routes import refusal

PROTOCOLS = {"TCP": socket.IPPROTO_TCP, "UDP": socket.IPPROTO_UDP, "SCTP": socket.IPPROTO_SCTP}
_NAMES = {number: name for name, number in PROTOCOLS.items()}

LISTING = Path("/proc/thread-self/net/ip_vs")
"""All services and servers of this network namespace; not there where the module is not loaded."""

SETTINGS = Path("/proc/sys/net/ipv4/vs")
"""Of this network namespace (kernel ``Documentation/networking/ipvs-sysctl.rst``)."""

_OURS = 0x6F76_0000
"""Flags of a service that the kernel keeps and gives no meaning (uapi/linux/ip_vs.h has 0x3f): it was made here."""

_PERSISTENT, _ALL_FLAGS = 0x1, 0xFFFF_FFFF
_NAT = 0
"""IP_VS_CONN_F_MASQ."""
_PATIENCE = 10.0
"""Seconds for modprobe(8)."""


class Virtual(NamedTuple):
    """Where a service is met. ``protocol``: as in :data:`PROTOCOLS`."""

    protocol: str
    address: str
    port: int

    def __str__(self) -> str:
        return f"{self.address}:{self.port}/{self.protocol}"


Real: TypeAlias = tuple[str, int]
"""A server's address and port."""


@dataclass(frozen=True, slots=True)
class Server:
    """What a service has of a server. ``connections``: those that are remembered, also when they have ended lately."""

    weight: int = 1
    connections: int = 0


@dataclass(frozen=True, slots=True)
class Service:
    """A virtual service.

    Attributes:
        persistence: for how many seconds a client gets the server that it had; None: not at all.
        ours: whether it was made here.
    """

    scheduler: str
    persistence: int | None = None
    ours: bool = True
    servers: Mapping[Real, Server] = field(default_factory=dict)


def is_loaded() -> bool:
    """Whether this kernel has IPVS now; loads nothing."""
    return LISTING.exists()


class Ipvs:
    """This network namespace's; a context manager, for one thread at a time.

    Raises:
        NodeError: this kernel has no IPVS. The kernel loads it itself where there is the module.
    """

    def __init__(self) -> None:
        if not is_loaded():
            with suppress(OSError, subprocess.SubprocessError):
                subprocess.run(["modprobe", "-q", "ip_vs"], check=False, timeout=_PATIENCE)
        try:
            self._netlink: Any = IPVS()
        except NetlinkError as error:
            if error.code != errno.ENOENT:
                raise refusal(error.code, str(error.args[-1]), "IPVS") from error
            raise NodeError("this kernel has no IPVS", about="module ip_vs", remedy="modprobe ip_vs") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._netlink.close()

    def services(self) -> dict[Virtual, Service]:
        """All of IPv4 that have an address. Raises NodeError."""
        with _explained("IPVS"):
            ours = {virtual for message in self._netlink.service("dump") if (virtual := _ours(message)) is not None}
        return {virtual: replace(each, ours=virtual in ours) for virtual, each in listed().items()}

    def add_service(self, virtual: Virtual, scheduler: str, persistence: int | None) -> None:
        """A new one of ours, without servers. Raises NodeError: there is one, or the kernel has no such scheduler."""
        with _explained(f"virtual service {virtual} ({scheduler})"):
            self._netlink.service("add", service=_service(virtual, scheduler, persistence))

    def set_service(self, virtual: Virtual, scheduler: str, persistence: int | None) -> None:
        """Changes how one chooses; connections stay. Raises NodeError."""
        with _explained(f"virtual service {virtual} ({scheduler})"):
            self._netlink.service("set", service=_service(virtual, scheduler, persistence))

    def delete_service(self, virtual: Virtual) -> None:
        """With its servers; none is right as well. Raises NodeError."""
        with _explained(f"virtual service {virtual}", errno.ESRCH):
            self._netlink.service("del", service=_service(virtual))

    def add_server(self, virtual: Virtual, real: Real, weight: int) -> None:
        """Raises NodeError."""
        self._change("add", virtual, real, weight)

    def set_server(self, virtual: Virtual, real: Real, weight: int) -> None:
        """Raises NodeError."""
        self._change("set", virtual, real, weight)

    def delete_server(self, virtual: Virtual, real: Real) -> None:
        """What connections it has go with it; none is right as well. Raises NodeError."""
        self._change("del", virtual, real, 0, errno.ENOENT, errno.ESRCH)

    def _change(self, command: str, virtual: Virtual, real: Real, weight: int, *right: int) -> None:
        address, port = real
        with _explained(f"server {address}:{port} of virtual service {virtual}", *right):
            server = IPVSDest(addr=address, port=port, fwd_method=_NAT, weight=weight)
            self._netlink.dest(command, service=_service(virtual), dest=server)


def _service(virtual: Virtual, scheduler: str = "rr", persistence: int | None = None) -> Any:
    flags = _OURS if persistence is None else _OURS | _PERSISTENT
    return IPVSService(
        addr=virtual.address, port=virtual.port, protocol=PROTOCOLS[virtual.protocol], sched_name=scheduler,
        flags={"flags": flags, "mask": _ALL_FLAGS}, timeout=persistence or 0,
    )  # fmt: skip


def _ours(message: Any) -> Virtual | None:
    """Where a service of ours is met; None for one of others'."""
    service = message.get_attr("IPVS_CMD_ATTR_SERVICE")
    flags, protocol = service.get_attr("IPVS_SVC_ATTR_FLAGS"), service.get_attr("IPVS_SVC_ATTR_PROTOCOL")
    if flags is None or flags["flags"] & 0xFFFF_0000 != _OURS or protocol not in _NAMES:
        return None
    return Virtual(_NAMES[protocol], service.get_attr("IPVS_SVC_ATTR_ADDR"), service.get_attr("IPVS_SVC_ATTR_PORT"))


@contextmanager
def _explained(what: str, *right: int) -> Iterator[None]:
    """Turns the kernel's refusal into a clear error, but for an errno that is as good as success."""
    try:
        yield
    except NetlinkError as error:
        if error.code not in right:
            raise refusal(error.code, str(error.args[-1]), what) from error


def listed() -> dict[Virtual, Service]:
    """All of IPv4 that have an address, as :func:`listing`. Raises NodeError."""
    try:
        return listing(LISTING.read_text().splitlines())
    except OSError as error:
        raise NodeError(error.strerror or str(error), about=str(LISTING)) from error


def listing(lines: Iterable[str]) -> dict[Virtual, Service]:
    """Services of IPv4, with their servers, as /proc/net/ip_vs has them (``ip_vs_info_seq_show``)::

        TCP  0A600701:0050 rr persistent 10800 FFFFFFFF
          -> 0A000102:1F90      Masq    1      0          0

    Whose they are it does not say; so all are others'.
    """
    found: dict[Virtual, Service] = {}
    servers: dict[Real, Server] = {}
    for line in lines:
        words = line.split()
        if words[:1] == ["->"] and len(words) == 6 and words[3].isdigit() and "[" not in words[1]:
            servers[_pair(words[1])] = Server(int(words[3]), int(words[4]) + int(words[5]))
        elif words and words[0] != "->":
            servers = {}  # of a service that is none of these, they are nobody's
            if words[0] in PROTOCOLS and "[" not in words[1]:
                persistent = words.index("persistent") + 1 if "persistent" in words[3:] else None
                seconds = None if persistent is None else int(words[persistent])
                found[Virtual(words[0], *_pair(words[1]))] = Service(words[2], seconds, False, servers)
    return found


def _pair(text: str) -> Real:
    address, _, port = text.partition(":")
    return str(IPv4Address(int(address, 16))), int(port, 16)
